"""The schemas and examples of the messages, and the topics that carry them, in; the MQTT reference as Markdown out."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from .decode import fhir, frame, json_frame
from .fleet import window
from .message import SCHEMA
from .schema import schemas

Json = Mapping[str, Any]

EXAMPLES = Path("deploy/schema/examples")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a site, and how what it carries is sent."""

    pattern: str
    """Below `<prefix>/<site>/`, with a name in <> for each level that differs."""
    message: str
    """A schema's name, or what it is where there is none."""
    by: str
    to: str
    qos: Literal[0, 1]
    retained: bool = False
    expires: str = "-"
    """When a broker that could not deliver it throws it away."""
    is_numbered: bool = False
    """Whether it comes from the outbox, with a number and user properties."""


_DEVICE, _MONITOR, _ANYBODY, _NURSE = "device", "monitor", "anybody", "whoever may command"
_KEPT = "`outbox.limit_days`"

TOPICS = (
    Topic("<source>/ecg", "samples", _DEVICE, _MONITOR, 1),
    Topic("<source>/scores", "scores", _MONITOR, _ANYBODY, 0, expires="60 s"),
    Topic("<source>/vitals", "vitals", _MONITOR, _ANYBODY, 0, expires="60 s"),
    Topic("<source>/alert", "alert", _MONITOR, _ANYBODY, 1, expires=_KEPT, is_numbered=True),
    Topic("<source>/evidence", "evidence", _MONITOR, _ANYBODY, 1, expires=_KEPT, is_numbered=True),
    Topic("<source>/alert/<finding>", "alert-state", _MONITOR, _ANYBODY, 1, True, is_numbered=True),
    Topic("<source>/status", "status", _MONITOR, _ANYBODY, 1, True),
    Topic("<source>/command", "command", _NURSE, _MONITOR, 1),
    Topic("<source>/reply", "reply", _MONITOR, _NURSE, 1),
    Topic("status", "site", _MONITOR, _ANYBODY, 1, True),
    Topic("resend", "resend", _ANYBODY, _MONITOR, 1),
    Topic("resent", "resent", _MONITOR, _ANYBODY, 1, expires=_KEPT, is_numbered=True),
    Topic("shard/<i>of<n>/status", "site", "monitor with a shard", _ANYBODY, 1, True),
    Topic("shard/<i>of<n>/resend", "resend", _ANYBODY, "monitor with a shard", 1),
    Topic("shard/<i>of<n>/resent", "resent", "monitor with a shard", _ANYBODY, 1, expires=_KEPT, is_numbered=True),
    Topic("fleet/window/<gateway>", "windows", "monitor with engine `remote`", "score-worker", 1, expires="60 s"),
    Topic("fleet/result/<gateway>", "answers", "score-worker", "monitor with engine `remote`", 1, expires="60 s"),
)

_ORDER = ("scores", "vitals", "alert", "evidence", "alert-state", "status", "command", "reply", "site", "resend", "resent")

_UNITS = {"_s": "s", "_hz": "Hz", "_bpm": "1/min", "time": "s since 1970", "uv": "µV"}

_COMMON = ("schema", "site", "shard", "time", "source")
_COLUMNS = ("field", "type", "unit", "meaning")
_LINE = 100
_PLACES = {"windows": "score-workers", "answers": "score-workers"}
_FHIR = "A SampledData, bare, or one for each lead in an Observation."

_MEANT = {
    "acknowledged_by": "Who has seen it; null until somebody says so.",
    "command": "Which one.",
    "command_id": "Drawn by the sender of the command; null where it had none.",
    "evidence.decided[].at_s": "Its end.",
    "evidence.decided[].score": "What it said: a probability, or the share of what cannot be seen.",
    "finding": "By its name in the bundle, or one of the technical findings.",
    "first": "Every message from this number on is still there.",
    "last": "The last number that the outbox has given so far.",
    "leads": "Of `uv`, in its order.",
    "number": "1, 2, 3 over all alerts and evidence of an outbox: a hole means that one is missing.",
    "ok": "Whether it was obeyed.",
    "outbox": "Names the outbox that numbers messages; another one begins at 1 again.",
    "rate_hz": "Samples a second in `uv`.",
    "start_s": "Of the first sample.",
    "state": "What it is now.",
    "time": "By the clock on the wall.",
    "type": "Always this.",
    "why": "In words; null where there is no more to say.",
}
"""Of fields that say nothing themselves, or what makes sense only beside their neighbours."""

_WORDS = {"at_s": "When it was told.", "heart_rate_bpm": "The mean of ten seconds; null without enough clear beats.", "quality": "By lead."}
"""The same, for those that say nothing in one message and more in another."""

_BESIDE = {
    "alert-state": {"outbox": ("text", "Of the alert that it repeats."), "number": ("integer", "Of the alert that it repeats.")},
    "status": {
        "broken": ("integer", "Frames that a checksum or a range refused."),
        "garbage": ("integer", "Bytes outside of any frame."),
        "repeated": ("integer", "Frames that came twice or too late."),
        "restarts": ("integer", "Times that the device began to count anew."),
        "clock_steps": ("integer", "Times that the device's clock was set."),
        "unrecorded": ("integer", "Samples that are on no disk, though they were to be recorded."),
    },
}

_HEAD = f"""# MQTT reference

Made from the code by `python -m edge.mqtt_reference`; a test keeps both the same. Messages have `schema` {SCHEMA}; their JSON Schemas are
in [schema](schema), an example of each in [schema/examples](schema/examples).

[Topics](#topics), [samples](#samples), [messages](#messages), [commands](#commands), [asking again](#asking-again),
[versions](#versions), [several monitors](#several-monitors), [score-workers](#score-workers), [Home Assistant](#home-assistant)

## Topics

All topics of a site begin with `<prefix>/<site>/`: `prefix` of `[mqtt]` (`cardiogloss` where it is left out) and `site` of the config. A
source is named by the config, or by the level that stands for the `+` of a filter: `cardiogloss/home/bed7/ecg` is the source `bed7` of
the site `home`.

"""

_PROPERTIES = """
Where a device sends its samples is for `mqtt` of its `[[source]]` to say; the first line is what the documentation and the access list
use. The monitor subscribes with QoS 1, so the device decides. A retained message of samples, or a retained command, is ignored: it is old.

In MQTT 5 a message says more about itself; in 3.1.1 that is left out, and nothing depends on it:

| property | of which messages |
|---|---|
| content type `application/json` | all that a monitor sends, but windows and its last will |
| message expiry | as in the table; a retained state holds until the next |
| user properties `schema`, `id`, `seq`, `state`, `priority` | alert, evidence, alert-state and what is sent again: each that it has |

An empty retained message takes a state back: the source is watched no more. The last will of a monitor is its `status` with the state
`offline`. QoS 0 may be lost and is told once. QoS 1 may come twice: `id` and `seq` name an alert, so drop what you have seen.

## Samples

What a source with the device `auto` may send, one frame a message; `json`, `frame` and `fhir` take only their own.

"""

_MESSAGES = """## Messages

Every message is a JSON object in UTF-8. Numbers are finite. `at_s` and other seconds count from the beginning of the stream, which is when
the monitor began to watch the source; `time` is that moment by the clock on the wall. A field that is marked * may be absent.

"""

_COMMANDS = """## Commands

A command is published to `<source>/command`, with QoS 1 and not retained; what became of it comes on `<source>/reply` with the `command_id`
of the command, which its sender draws. A command for a source that nobody watches, or one that cannot be read, is answered too, with `ok`
false and `why`. Who has acknowledged an alert stands in its next message, which has the next `seq`. A monitor has no list of users: who
may publish there is for the broker's access list to say.

## Asking again

1. `number` counts the alerts and the evidence of one outbox without a hole, over all sources of the monitor; `outbox` names it.
2. Who sees a hole, or by `last` of the site's `status` that the newest is missing, publishes `{"outbox": ..., "after": N}` to `resend`.
3. The monitor sends every message after N that it still has, in order and as it was, to `resent`, not to the topics that others listen to.
4. The end is a message of `type` `resent`: `first` and `last` are the numbers that the monitor still has. What lies before is gone.
5. Asked for another outbox than its own, it sends all that it has. Asked again meanwhile, it begins again at the lower number.

`edge.subscribe` and `cardiogloss watch` do this by themselves. What the broker has acknowledged is kept for `limit_days` of `[outbox]`, and
for as long as `limit_mb` has room.

"""

_VERSIONS = f"""## Versions

`schema` is {SCHEMA}. It is raised where a field is taken away or means something else. A field may be added without that, so ignore what
you do not know; the JSON Schemas allow it. A command is the other way round: a monitor refuses a key that it does not know, and says so
in its reply. Binary frames and the windows of a fleet have versions of their own.

## Several monitors

Monitors with `shard = "1/3"`, `"2/3"` and `"3/3"` share the sources of a site by a hash of their names. The topics of a source stay as they
are. What each monitor says of itself and of its outbox is under `shard/2of3/`, and its messages hold `"shard": "2of3"`: numbers have no
hole only among those of one outbox. A command is obeyed by the monitor that has the source.

## Score-workers

Workers share what `$share/scorers/<prefix>/<site>/fleet/window/+` brings, with `+` for all sites; `<gateway>` is the `client_id` of a
monitor. A worker acknowledges a window once the broker has its answer.

"""

_HOME_ASSISTANT = """
## Home Assistant

With `discovery = true` in `[homeassistant]` a monitor publishes, retained and with QoS 1, `homeassistant/device/<id>/config` for each of
its sources, and takes it back when the source is gone. It listens to `homeassistant/status`, and says all again when Home Assistant begins
anew. `prefix` of `[homeassistant]` replaces the first level.
"""


def reference(examples: Mapping[str, str]) -> str:
    """By the names of the messages, the JSON text of an example of each."""
    known = schemas()
    samples = [("JSON", _docstring(json_frame)), ("Binary", _docstring(frame)), ("FHIR", f"{_FHIR}\n\n{_docstring(fhir)}")]
    parts = [_HEAD, _topic_table(), _PROPERTIES, *(f"### {title}\n\n{text}\n\n" for title, text in samples)]
    parts += [_MESSAGES, _common(known["alert"]), *(_message(name, known[name], examples[name]) for name in _ORDER)]
    return "".join([*parts, _COMMANDS, _VERSIONS, _docstring(window), "\n", _HOME_ASSISTANT])


def _topic_table() -> str:
    rows = [("topic below `<prefix>/<site>/`", "message", "written by", "read by", "QoS", "kept by the broker", "expires")]
    for topic in TOPICS:
        message = f"[{topic.message}](#{_PLACES.get(topic.message, topic.message)})"
        rows.append((f"`{topic.pattern}`", message, topic.by, topic.to, str(topic.qos), "yes" if topic.retained else "no", topic.expires))
    return table(*rows)


def table(*rows: tuple[str, ...]) -> str:
    """Of Markdown; the first row is its head."""
    head, *body = (f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def _docstring(module: ModuleType) -> str:
    """Without its first sentence, which is for programmers, where more follows."""
    text = inspect.getdoc(module) or ""
    first, _, rest = text.partition("\n\n")
    return rest or first


def _common(schema: Json) -> str:
    """What stands in every message of a source, told once."""
    fields = {name: schema["properties"][name] for name in _COMMON}
    required = [name for name in _COMMON if name in schema["required"]]
    return f"### Common fields\n\n{table(_COLUMNS, *_rows({'properties': fields, 'required': required}, {}))}\n"


def _message(name: str, schema: Json, example: str) -> str:
    topics = ", ".join(f"`{topic.pattern}`" for topic in TOPICS if topic.message == name)
    parts = [f"### {name}\n", f"Topic {topics}; [JSON Schema](schema/{name}.json)\n"]
    for one in _alternatives(schema):
        common = [field for field in one["properties"] if field in _COMMON]
        own = {"properties": {field: value for field, value in one["properties"].items() if field not in _COMMON}}
        parts.append(one["description"] + (f" With {', '.join(common)} as [above](#common-fields)." if common else "") + "\n")
        parts.append(table(_COLUMNS, *_rows({**one, **own}, schema.get("$defs", {})), *_more(name)))
    return "\n".join([*parts, f"```json\n{_short(example)}\n```\n\n"])


def _alternatives(schema: Json) -> list[Json]:
    """The one message, or each of several under one topic."""
    return [_resolve(part, schema.get("$defs", {})) for part in schema.get("oneOf", [schema])]


def _rows(schema: Json, parts: Json, within: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in schema["properties"].items():
        label = f"`{within}{name}`" + ("" if name in schema.get("required", ()) else "*")
        inner, suffix = _inner(field, parts)
        yield label, type_of(field, parts), _unit(name), _meaning(within + name, field) or (inner or {})["description"]
        if inner:
            yield from _rows(inner, parts, f"{within}{name}{suffix}.")


def _more(message: str) -> list[tuple[str, ...]]:
    """What a message holds that its schema only allows."""
    return [(f"`{name}`*", kind, "-", words) for name, (kind, words) in _BESIDE.get(message, {}).items()]


def _inner(field: Json, parts: Json) -> tuple[Json | None, str]:
    """The object that a field holds, or a list of such."""
    for one in field.get("anyOf", [field]):
        found = _resolve(one, parts)
        if "properties" in found:
            return found, ""
        if "$ref" in found.get("items", {}):
            return _resolve(found["items"], parts), "[]"
    return None, ""


def _resolve(field: Json, parts: Json) -> Json:
    return parts[field["$ref"].split("/")[-1]] if "$ref" in field else field


def _meaning(name: str, field: Json) -> str:
    """What is told here of the field, of its place or of its name, before what the schema says."""
    bare, own = name.rpartition(".")[2], " ".join(field.get("description", "").split())
    return _MEANT.get(name) or _MEANT.get(bare) or own or _WORDS.get(bare, "")


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "-")


def type_of(field: Json, parts: Json) -> str:
    """In a few words: `number or null`, `list of text`, `one of raised, updated, cleared`."""
    found = _resolve(field, parts)
    if "anyOf" in found:
        return " or ".join(type_of(one, parts) for one in found["anyOf"])
    if "const" in found:
        return f"`{json.dumps(found['const'])}`"
    if "enum" in found:
        return "one of " + ", ".join(found["enum"])
    if "properties" in found:
        return "object"
    if found["type"] == "array":
        return f"list of {type_of(found['items'], parts)}"
    if found["type"] == "object":
        return f"by name: {type_of(found['additionalProperties'], parts)}"
    return "text" if found["type"] == "string" else str(found["type"])


def _short(example: str) -> str:
    """What fits on a line stands on one."""

    def joined(found: re.Match[str]) -> str:
        line = " ".join(found[0].split())
        return line if len(line) <= _LINE else found[0]

    return re.sub(r"[\[{][^][{}]*[]}]", joined, example.strip())


def main(folder: Path = EXAMPLES) -> None:
    """Write the reference with the examples of this folder to standard output."""
    sys.stdout.write(reference({name: (folder / f"{name}.json").read_text(encoding="utf-8") for name in _ORDER}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
