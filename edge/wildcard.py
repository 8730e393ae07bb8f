"""An MQTT topic filter and a topic in; what the wildcards match, and the source's name that follows from it, out.

Source: MQTT 5.0, section 4.7 (the same in 3.1.1).
"""

from __future__ import annotations

import re

_LONGEST_BYTES = 65535


def check_filter(text: str) -> str:
    """The same filter. Raises ValueError that says what is wrong with it."""
    levels = text.split("/")
    if not text or "\0" in text or len(text.encode()) > _LONGEST_BYTES:
        raise ValueError("must be a topic filter of 1 to 65535 bytes without NUL")
    if "#" in "".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        raise ValueError("# must be the last level and stand alone in it, as in ward/#")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError("+ must stand alone in its level, as in ward/+/ecg")
    if levels[0] == "$share":
        raise ValueError("a shared subscription gives each worker only some of the samples; leave out $share and the group")
    return text


def has_wildcards(text: str) -> bool:
    """Whether a sound filter can take more than one topic."""
    return "+" in text or text.endswith("#")


def matched(text: str, topic: str) -> tuple[str, ...] | None:
    """The levels that the wildcards stand for in this topic; None where the filter does not take it."""
    levels, parts = text.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return None
    found: list[str] = []
    for i, level in enumerate(levels):
        if level == "#":
            return (*found, *parts[i:])
        if i == len(parts) or level not in ("+", parts[i]):
            return None
        found += [parts[i]] if level == "+" else []
    return tuple(found) if len(parts) == len(levels) else None


def name_source(levels: tuple[str, ...]) -> str:
    """Levels joined by `-`, with _ for what may not stand in the name of a source; `_` where nothing is left."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(level for level in levels if level))
    return re.sub(r"^\.", "_", name) or "_"
