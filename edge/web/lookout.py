"""The health of the daemon and its model, looked at now and then, in; the messages about them on a `Ward`, when they change, out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kernels.bundle import Card
from kernels.findings import in_words

from .. import technical
from ..health import Health, SourceHealth
from ..message import Message
from .ring import Layout, Ring
from .ward import Ward

_COUNTS_S = 2.0
"""Mere figures are told no more often."""

_NEWS = ("state", "why", "leads", "rate_hz", "required", "number")
"""Of a source, what is told at once."""


@dataclass(frozen=True, slots=True)
class Model:
    """What scores."""

    card: Card
    hop_s: float
    bundle: str
    """As people call it."""


@dataclass(slots=True)
class Lookout:
    """Tells a `Ward` how things are. Used by one thread at a time."""

    ward: Ward
    head: Message
    """What a hello says of the site."""
    health: Callable[[], Health]
    model: Callable[[], Model]
    figures: Callable[[], Message] = dict
    """What more the message about health holds."""
    monotonic_s: Callable[[], float] = time.monotonic
    since_1970_s: Callable[[], float] = time.time
    _session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _model: Model | None = None
    _told_s: dict[str, float] = field(default_factory=dict)
    """When the figures of each source were told, and of the daemon under an empty name."""

    def look(self) -> None:
        """Post what has changed."""
        self._greet()
        # Before the sources are asked for: a source that begins meanwhile must not be taken for one that left.
        rings = self.ward.rings()
        health = self.health()
        for source in health.sources:
            self._tell_source(source, rings.get(source.name))
        names = {source.name for source in health.sources}
        self.ward.leave(names, rings)
        self._told_s = {name: told_s for name, told_s in self._told_s.items() if name in names or not name}
        if self._is_due(""):
            self.ward.post(("health",), self.tell(health))

    def tell(self, health: Health) -> Message:
        """The daemon in figures."""
        told = {key: value for key, value in asdict(health).items() if key != "sources"}
        return {"type": "health", "time": round(self.since_1970_s(), 3), **told, **self.figures()}

    def _greet(self) -> None:
        model = self.model()
        if model != self._model:
            self._model = model
            self.ward.post(("hello",), self._hello(model))

    def _hello(self, model: Model) -> Message:
        card = model.card
        own = {"type": "hello", "version": _version(), "session": self._session, "time": round(self.since_1970_s(), 3)}
        return {
            **own,
            **self.head,
            "bundle": model.bundle,
            "window_s": card.window_s,
            "hop_s": model.hop_s,
            "findings": list(_findings(card)),
        }

    def _tell_source(self, source: SourceHealth, ring: Ring | None) -> None:
        key = ("source", source.name)
        before, now = self.ward.newest(key) or {}, self._source(source, ring.layout if ring else None)
        is_new = any(before.get(name) != now[name] for name in _NEWS)
        if is_new or (self._is_due(source.name) and now != before):
            self._told_s[source.name] = self.monotonic_s()
            self.ward.post(key, now)

    def _source(self, source: SourceHealth, layout: Layout | None) -> Message:
        return {
            "type": "source",
            "source": source.name,
            "number": self.ward.number(source.name),
            "leads": list(layout.leads) if layout else [],
            "rate_hz": layout.rate_hz if layout else None,
            "state": source.state,
            "why": source.why,
            "required": source.required,
            "lost": source.accounts["lost"],
            "samples": source.accounts["samples"],
            "rate_measured_hz": source.rate_hz,
            "drift_ppm": source.drift_ppm,
            "waiting_bytes": source.waiting_bytes,
        }

    def _is_due(self, name: str) -> bool:
        now_s = self.monotonic_s()
        if now_s - self._told_s.get(name, -_COUNTS_S) < _COUNTS_S:
            return False
        self._told_s[name] = now_s
        return True


def _findings(card: Card) -> Iterator[dict[str, Any]]:
    """Of the model, then those of the signal."""
    for kind, findings in (("physiological", card.findings), ("technical", technical.FINDINGS)):
        for finding in findings:
            told = {key: getattr(finding, key) for key in ("name", "priority", "raise_at", "clear_at")}
            yield {**told, "title": in_words(finding.name), "kind": kind}


def _version() -> str:
    try:
        return version("cardiogloss")
    except PackageNotFoundError:
        return ""
