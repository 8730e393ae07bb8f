"""A config whose keys are sound one by one in; what they get wrong together out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from kernels.findings import ConfigError

from . import wildcard
from .decode import devices
from .decode.device import Device
from .mistakes import Mistake

if TYPE_CHECKING:
    from .config import Config, Mqtt, Source, Web

_ANY_HZ = 250.0
_OUTGOING = ("status", "{name}/scores", "{name}/vitals", "{name}/alert", "{name}/alert/asystole", "{name}/status")

_MENDED = {
    "name": "give each its own",
    "serial": "one port serves one source",
    "tcp": "one connection serves one source",
    "stdin": "only one source can read standard input",
    "file": "one file serves one source",
    "mqtt": "what comes under a topic serves one source",
}

Told = Iterator[tuple[str, str]]
"""A key of the table, empty for the whole table, and what is wrong."""


def rules(config: Config) -> Iterator[Mistake]:
    """Everything that one key alone does not show. Opens and reads nothing."""
    for i, source in enumerate(config.source):
        for key, words in _source(source):
            yield Mistake(("source", i, key) if key else ("source", i), words)
    yield from _unique(config)
    yield from _absent_tables(config)
    yield from _own_messages(config)
    yield from _shared(config)
    for key, words in _mqtt(config.mqtt) if config.mqtt else ():
        yield Mistake(("mqtt", key), words)
    for key, words in _web(config.web) if config.web else ():
        yield Mistake(("web", key), words)


def _source(source: Source) -> Told:
    if not source.transports:
        yield "", "give one of serial, tcp, stdin, file or mqtt, from where its bytes come"
    elif len(source.transports) > 1:
        yield "", f"{' and '.join(source.transports)} are given; keep one of them"
    else:
        yield from _name(source)
        yield from _device(source)


def _device(source: Source) -> Told:
    try:
        kind = source.kind
    except ConfigError as error:
        yield "device", str(error) if source.device else f"missing. Allowed are {', '.join(_allowed(source))}"
        return
    if kind.by_message and not source.mqtt:
        yield "device", f"{kind.name} comes in whole messages, so only over mqtt. Allowed here are {', '.join(_allowed(source))}"
        return
    yield from _fits(source, kind)
    yield from _baud(source, kind)


def _name(source: Source) -> Told:
    if source.has_wildcards and source.name:
        yield "name", "leave it out: with a wildcard the sources are named by what it matches"
    elif not source.has_wildcards and not source.name:
        yield "name", "missing; only an MQTT filter with + or # names its sources itself"


def _allowed(source: Source) -> list[str]:
    return sorted(name for name, kind in devices.DEVICES.items() if source.mqtt or not kind.by_message)


def _fits(source: Source, kind: Device) -> Told:
    """Told key by key, so that no mistake hides another."""
    if kind.says_itself and not kind.by_message:
        for key in ("leads", "rate_hz", "units_per_mv", "zero"):
            if getattr(source, key):
                yield key, f"{kind.title} say it themselves; leave it out"
        return
    rate_hz = source.rate_hz or kind.wiring.rate_hz or _ANY_HZ
    scale = source.units_per_mv or kind.wiring.units_per_mv or 1.0
    yield from _refused("rate_hz", lambda: kind.wire((), source.rate_hz, scale))
    yield from _refused("leads", lambda: kind.wire(source.leads, rate_hz, scale))
    yield from _refused("units_per_mv", lambda: kind.wire((), rate_hz, source.units_per_mv))


def _refused(key: str, wire: Callable[[], object]) -> Told:
    try:
        wire()
    except ConfigError as error:
        yield key, re.sub(rf"^{key}:? ", "", str(error).replace("--leads", "leads"))


def _baud(source: Source, kind: Device) -> Told:
    if source.baud and source.transport != "serial":
        yield "baud", f"only a serial port has one; leave it out with {source.transport}"
    elif source.transport == "serial" and not source.line_baud:
        yield "baud", f"missing; {kind.title} has no usual one"


def _unique(config: Config) -> Iterator[Mistake]:
    """Whatever brings bytes, and a name, belongs to one source."""
    of: dict[tuple[str, Hashable], list[int]] = defaultdict(list)
    for i, source in enumerate(config.source):
        for key in _MENDED:
            value = getattr(source, key)
            if value:
                of[key, value].append(i)
    for (key, _), (first, *others) in of.items():
        for i in others:
            yield Mistake(("source", i, key), f"source {first + 1} has the same; {_MENDED[key]}")


def _absent_tables(config: Config) -> Iterator[Mistake]:
    if config.mqtt is None and any(source.mqtt for source in config.source):
        yield Mistake(("mqtt",), "missing, but a source has mqtt; add the table [mqtt] with the host of the broker")
    if config.mqtt is None and config.model.engine == "remote":
        yield Mistake(
            ("mqtt",), "missing, but engine is remote: add the table [mqtt] with the host of the broker that the score-workers use"
        )
    if config.record is None and any(source.record for source in config.source):
        yield Mistake(("record",), "missing, but a source has record = true; add the table [record] with the folder for the records")


def _shared(config: Config) -> Iterator[Mistake]:
    """What hangs on this machine no other one can watch."""
    for i, source in enumerate(config.source if config.share.of > 1 else ()):
        if source.transports and not source.mqtt:
            words = f"with shard only sources over mqtt; give what comes by {source.transport} a daemon without shard, at a site of its own"
            yield Mistake(("source", i, source.transport), words)


def _own_messages(config: Config) -> Iterator[Mistake]:
    """A filter that takes what cardiogloss sends would make sources of its own scores."""
    prefix = config.mqtt.prefix if config.mqtt else "cardiogloss"
    for i, source in enumerate(config.source):
        topics = [f"{prefix}/{config.site}/{topic.format(name=source.name or 'bed1')}" for topic in _OUTGOING]
        own = [topic for topic in topics if source.mqtt and wildcard.matched(source.mqtt, topic) is not None]
        if own:
            yield Mistake(("source", i, "mqtt"), f"would take cardiogloss's own messages, such as {own[0]}; end it in a level like ecg")


def _mqtt(mqtt: Mqtt) -> Told:
    if mqtt.password_env and mqtt.password_file:
        yield "password_file", "password_env is given too; keep one of them"
    if mqtt.has_password and not mqtt.user:
        yield "user", "missing; a password belongs to a user"
    yield from _pair(mqtt)
    needs_tls = [name for name in ("ca", "certificate", "key") if getattr(mqtt, name)]
    if needs_tls and not mqtt.tls:
        yield "tls", f"must be true where {' and '.join(needs_tls)} {'is' if len(needs_tls) == 1 else 'are'} given"


def _web(web: Web) -> Told:
    if web.token_env and web.token_file:
        yield "token_file", "token_env is given too; keep one of them"
    yield from _pair(web)
    if web.is_local and not web.behind_proxy:
        return
    if not web.has_token:
        who = "the proxy" if web.behind_proxy else web.host
        yield "token_file", f"missing; whoever reaches {who} would see the signals of patients: give token_file or token_env"
    if not web.certificate and not web.behind_proxy:
        yield (
            "certificate",
            "missing; other machines are served with TLS: give certificate and key, or behind_proxy = true where a proxy does it",
        )


def _pair(table: Mqtt | Web) -> Told:
    if table.certificate and not table.key:
        yield "key", "missing; the certificate needs its private key"
    if table.key and not table.certificate:
        yield "certificate", "missing; the key belongs to one"
