"""A `Ward`, and what one viewer wants to see of it, in; what to send to that viewer next out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..message import Message
from .frame import Digits, Frame, to_mask
from .ring import Layout, Ring, Run
from .ward import Note, Ward

BACK_S = 10.0
"""A strip that is shown first begins so long ago."""

LATE_S = 1.0
"""Who has not taken what was sent so long ago is late."""

_LARGEST = 1 << 15
"""Bytes of frames in one message, but for the last frame."""
_FIRST = ("hello", "source")


@dataclass(slots=True)
class _Strip:
    """How far one source was seen."""

    leads: frozenset[str]
    ring: Ring | None = None
    place: int = 0

    def take(self, ring: Ring | None) -> Iterator[Run]:
        """What came since the last time, of this or of a new ring."""
        if ring is not self.ring and ring is not None:
            self.ring, self.place = ring, ring.back(BACK_S)
        for run in ring.since(self.place) if ring else ():
            self.place = run.end
            yield run


class View:
    """What one viewer has been told and is still to be told: a serial, and a place for each strip. No I/O, clock or thread."""

    def __init__(self, ward: Ward, since_1970_s: Callable[[], float]) -> None:
        self._ward = ward
        self._since_1970_s = since_1970_s
        self._seen: int | None = None
        self._strips: dict[str, _Strip] = {}
        self._told: dict[str, Layout] = {}
        """The leads and the rate that the viewer knows of each source."""

    def watch(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Strips of these leads from now on, and no others. One whose leads are the same goes on where it is."""
        asked = {source: frozenset(leads) for source, leads in wanted.items() if leads}
        kept = {source: strip for source, strip in self._strips.items() if asked.get(source) == strip.leads}
        self._strips = {source: kept.get(source) or _Strip(leads) for source, leads in asked.items()}

    def skip(self) -> None:
        """Leave out what is old, for a viewer who is late."""
        for strip in self._strips.values():
            if strip.ring:
                strip.place = max(strip.place, strip.ring.back(LATE_S))

    def news(self) -> Iterator[str]:
        """The messages that changed. Raises Missed where the viewer must begin anew."""
        seen, (self._seen, notes) = self._seen, self._ward.news(self._seen)
        for note in sorted(notes, key=_rank) if seen is None else notes:
            yield self._tell(note)

    def strips(self) -> Iterator[str | bytes]:
        """The samples that came, in frames; a message before those whose leads or rate are others than the viewer was told."""
        frames = bytearray()
        for source, strip in self._strips.items():
            known = self._told.get(source)
            for run in strip.take(self._ward.ring(source)) if known else ():
                if run.layout != self._told[source]:
                    yield from _flush(frames)
                    yield self._tell_layout(source, run.layout)
                frames += self._frame(source, run, strip.leads)
                if len(frames) >= _LARGEST:
                    yield from _flush(frames)
        yield from _flush(frames)

    def _tell(self, note: Note) -> str:
        message = note.message
        match message["type"]:
            case "hello":
                return _json(message | {"time": round(self._since_1970_s(), 3)})
            case "source":
                self._told[message["source"]] = Layout(tuple(message["leads"]), message["rate_hz"])
            case "gone":
                self._told.pop(message["source"], None)
        return note.text

    def _tell_layout(self, source: str, layout: Layout) -> str:
        self._told[source] = layout
        last = self._ward.newest(("source", source)) or {"type": "source", "source": source}
        return _json(last | {"leads": layout.leads, "rate_hz": layout.rate_hz})

    def _frame(self, source: str, run: Run, leads: frozenset[str]) -> bytes:
        rows = [row for row, lead in enumerate(run.layout.leads) if lead in leads]
        if not rows:
            return b""
        number, digits = self._ward.number(source), Digits(run.digits.exponent, run.digits.rows[rows])
        return Frame(number, to_mask(rows), run.start_s, run.time_s, run.layout.rate_hz, digits).encode()


def _rank(note: Note) -> int:
    kind = note.message["type"]
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _flush(frames: bytearray) -> Iterator[bytes]:
    if frames:
        yield bytes(frames)
        frames.clear()


def _json(message: Message) -> str:
    return json.dumps(message, separators=(",", ":"))
