"""`Chunk`s as a decoder counts them, and when they came, in; the same chunks counted since the source began out, with its true rate."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from .decode.chunk import Chunk

SILENCE_S = 1.0
"""A device that sent nothing at all for so long made a gap, unless its own count says otherwise."""

_TRUST_S = 0.25
"""Times of arrival say nothing of shorter losses: a busy host delays bytes as much."""
_STEADY_S = 0.5
"""A chunk that comes this late tells nothing of the rate: it waited somewhere."""
_GIVE_UP_S = 5.0
"""Unless all that follow are as late."""
_PAIR_S = 1.0
_HISTORY = 600
_RATE_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes of a source, and what was known when they came."""

    data: bytes
    at_s: float
    """On a clock that never steps."""
    time_s: float
    """The same moment as seconds since 1970."""
    silent_s: float = 0.0
    """How long the line was listened to, up to now, without a byte."""
    opened: bool = False
    """Whether these are the first bytes after the line was opened, or after bytes that were thrown away."""


class Clock:
    """Counts what a decoder cannot: samples lost while the line was closed or silent, and whole turns of a small counter.

    A gap's place is exact, its length as exact as the times of arrival. Nothing here ever joins what a
    decoder keeps apart.
    """

    def __init__(self) -> None:
        self.lost = 0
        """Samples that only the time of arrival shows to be missing."""
        self._arrival = Arrival(b"", 0.0, 0.0)
        self._last: Chunk | None = None
        self._shift = 0
        self._last_at_s = 0.0
        self._anchor: tuple[float, int] = (0.0, 0)
        self._pairs: deque[tuple[float, int]] = deque(maxlen=_HISTORY)
        self._wall: tuple[float, float] = (0.0, 0.0)

    def hear(self, arrival: Arrival) -> None:
        """Note what is known of the bytes whose chunks come next."""
        self._arrival = replace(arrival, opened=arrival.opened or self._arrival.opened, silent_s=arrival.silent_s + self._arrival.silent_s)

    def feed(self, chunk: Chunk, turn: int | None) -> Chunk:
        """The chunk with the right start. `turn` is how far the device counts before it begins anew; None where it does not count."""
        fresh = self._last is None or chunk.rate_hz != self._last.rate_hz
        placed = self._begin(chunk) if fresh else self._place(chunk, turn)
        self._note(placed, restart=fresh)
        self._last, self._last_at_s = placed, self._arrival.at_s
        self._wall = (self._arrival.time_s, placed.end / placed.rate_hz)
        self._arrival = replace(self._arrival, opened=False, silent_s=0.0)
        return placed

    def time_of(self, at_s: float) -> float:
        """Seconds since 1970 at this stream time, by the last arrival: neither a rate that is off nor a step of the clock adds up."""
        time_s, end_s = self._wall
        return time_s - (end_s - at_s)

    @property
    def rate_hz(self) -> float | None:
        """As measured over up to ten minutes; None before half a minute."""
        if len(self._pairs) < 2 or self._pairs[-1][0] - self._pairs[0][0] < _RATE_AFTER_S:
            return None
        (from_s, first), (to_s, last) = self._pairs[0], self._pairs[-1]
        return (last - first) / (to_s - from_s)

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the source runs than it says, by this host's clock."""
        measured = self.rate_hz
        return None if measured is None or self._last is None else (measured / self._last.rate_hz - 1) * 1e6

    def _begin(self, chunk: Chunk) -> Chunk:
        """The first chunk, or the first at another rate: stream time goes on."""
        start = 0 if self._last is None else round(self._last.end / self._last.rate_hz * chunk.rate_hz)
        self._shift = start - chunk.start
        return replace(chunk, start=start)

    def _place(self, chunk: Chunk, turn: int | None) -> Chunk:
        assert self._last is not None
        arrival = self._arrival
        since_last = (self._last_at_s, self._last.end)
        if arrival.opened:
            self._shift = self._last.end - chunk.start
            return self._move(chunk, max(round(self._missing(chunk, arrival.at_s, *since_last)), 1))
        if chunk.start + self._shift > self._last.end:
            return self._move(chunk, self._uncounted(self._missing(chunk, arrival.at_s, *self._anchor), turn, chunk.rate_hz))
        if arrival.silent_s >= SILENCE_S:
            return self._move(chunk, self._uncounted(self._missing(chunk, arrival.at_s, *since_last), turn, chunk.rate_hz))
        return self._move(chunk, 0)

    def _missing(self, chunk: Chunk, at_s: float, since_s: float, since: int) -> float:
        """How many samples more should be here by now than are, from a moment when none was missing."""
        return (at_s - since_s) * chunk.rate_hz - (chunk.end + self._shift - since)

    @staticmethod
    def _uncounted(missing: float, turn: int | None, rate_hz: float) -> int:
        """Of the missing samples those that the device cannot have counted: all, or as many whole turns as come nearest."""
        if missing < _TRUST_S * rate_hz:
            return 0
        return round(missing) if turn is None else round(missing / turn) * turn

    def _move(self, chunk: Chunk, lost: int) -> Chunk:
        self.lost += lost
        self._shift += lost
        return replace(chunk, start=chunk.start + self._shift) if self._shift else chunk

    def _note(self, chunk: Chunk, restart: bool) -> None:
        """Keep the moment, if it came in time, to measure later ones by."""
        at_s = self._arrival.at_s
        since_s, since = self._anchor
        late_s = (at_s - since_s) - (chunk.end - since) / chunk.rate_hz
        if restart:
            self._pairs.clear()
        elif late_s > _STEADY_S and chunk.end - since < _GIVE_UP_S * chunk.rate_hz:
            return
        self._anchor = (at_s, chunk.end)
        if not self._pairs or at_s - self._pairs[-1][0] >= _PAIR_S:
            self._pairs.append(self._anchor)
