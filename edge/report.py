"""The chunks and events of a replay in; one self-contained HTML page out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kernels.bundle import Card

from . import holter_page as parts
from .decode.chunk import Chunk
from .disclosure import Disclosure
from .evaluate.interval import Interval
from .exhibit import Showcase
from .heart import trend
from .holter import Holter
from .page import PAGE_END, page_head
from .pipeline import Event

_BRIEF_S = 15.0
"""A strip shows so short a recording as a whole."""
_FINE_UNTIL_S = 900.0
_HOURLY_FROM_S = 2 * 3600.0
_WARNING = "A research tool, not a medical device. What it says is a probability, and no diagnosis; a physician must read the strips."


class Report:
    """Collects while a replay runs what its page needs: figures, strips, and the whole of a short recording."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.holter = Holter(card)
        self._showcase = Showcase(card.findings, self.holter)
        self._disclosure = Disclosure()

    def add(self, chunk: Chunk | None, events: Sequence[Event]) -> None:
        """One step of `replay`."""
        self.holter.add(chunk, events)
        self._showcase.add(chunk, events)
        self._disclosure.add(chunk)

    def page(self, title: str, path: str = "") -> str:
        """Everything in one file, which loads nothing from anywhere. `path` is where the recording lies, as the reader knows it."""
        figures, beats = self.holter.figures(), self.holter.beats()
        beats_s = beats.beats_s.tolist()
        whole = self._disclosure.strip() if figures.duration_s > _BRIEF_S else None
        steps = trend(beats, figures.duration_s, 10.0) if figures.duration_s <= _FINE_UNTIL_S else figures.minutes
        hours = trend(beats, figures.duration_s, 3600.0) if figures.duration_s >= _HOURLY_FROM_S else ()
        exhibits = self._showcase.exhibits(figures)
        shown = tuple(Interval(one.start_s, one.end_s) for one in ([whole] if whole else [exhibit.strip for exhibit in exhibits]))
        strips = _section("Strips", parts.strips(exhibits, beats_s))
        brief = figures.duration_s <= _BRIEF_S
        return "".join([
            page_head(title),
            f'<h1>{escape(title)}</h1><p class="warning">{_WARNING}</p>{parts.about(path, self._card)}',
            parts.cards(figures, shown),
            strips if brief else _section("Rhythm", parts.timeline(figures, shown, whole is not None)),
            parts.whole_strip(whole, beats_s) if whole else "",
            _section("Heart rate", parts.heart(figures, steps, hours, shown)),
            _section("Alerts", parts.alerts(figures, "physiological", shown)),
            _section("Findings", parts.burdens(figures, shown)),
            _section("Longest episodes", parts.episodes(figures, shown)),
            _section("Pauses", parts.pauses(figures, shown)),
            "" if brief else strips,
            _section("Signal", parts.quality(figures, shown)),
            parts.NOTE,
            PAGE_END,
        ])  # fmt: skip


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{title}</h2>{inside}</section>"
