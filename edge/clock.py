"""`Chunk`s as a decoder counts them, and when they came, in; the same chunks counted since the source began out, with its true rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from .decode.chunk import Chunk

SILENCE_S = 1.0
"""A device that sent nothing at all for so long made a gap, unless its own count says otherwise."""

_TRUST_S = 0.25
"""Times of arrival say nothing of shorter losses: a busy host delays bytes as much."""
_SETTLE_S = 0.5
"""So long what comes after a doubtful moment is held back: by then all that had only been late has come."""
_STEADY_S = 0.5
"""A chunk that comes this late tells nothing of the rate: it waited somewhere."""
_GIVE_UP_S = 5.0
"""Unless all that follow are as late."""
_PAIR_S = 5.0
_HISTORY = 120
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


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A place where more may be missing than the device counted."""

    at_s: float
    """When it came."""
    place: int
    """Its index among the chunks that are held."""
    least: int
    """Samples that are missing for certain: one, where the line was opened anew."""
    jumped: bool
    """Whether the device itself counted a loss here."""
    turn: int | None
    """How far its count could be believed then."""


class Clock:
    """Counts what a decoder cannot: samples lost while the line was closed or silent, and whole turns of a small counter.

    A gap's place is exact, its length as exact as the times of arrival. Where those raise a doubt, what comes is held
    for half a second, until it shows whether the missing samples were only late. Nothing here ever joins what a
    decoder keeps apart.
    """

    def __init__(self) -> None:
        self.lost = 0
        """Samples that only the time of arrival shows to be missing."""
        self._last: Chunk | None = None
        self._shift = 0
        self._anchor: tuple[float, int] = (0.0, 0)
        self._pairs: deque[tuple[float, int]] = deque(maxlen=_HISTORY)
        self._wall: tuple[float, float] = (0.0, 0.0)
        self._came = Arrival(b"", 0.0, 0.0)
        """The last arrival that brought chunks, with what those before it told."""
        self._opened = False
        self._silent_s = 0.0
        self._held: list[Chunk] = []
        self._doubt: _Doubt | None = None

    def feed(self, chunks: Sequence[Chunk], arrival: Arrival, turn: int | None = None) -> list[Chunk]:
        """What one arrival brought, with the right starts, or nothing yet.

        `turn` is how far the device counts before it begins anew; None where it does not count.
        """
        self._opened |= arrival.opened
        self._silent_s += arrival.silent_s
        begun: list[Chunk] = []
        for _, group in groupby(chunks, key=lambda chunk: chunk.rate_hz):
            begun += self._take(list(group), arrival, turn)
        return begun

    @property
    def is_holding(self) -> bool:
        """Whether samples wait for a doubt to settle."""
        return bool(self._held)

    def settle(self, now_s: float) -> list[Chunk]:
        """What was held back for long enough, though nothing came after it."""
        return self._release() if self._doubt and now_s - self._doubt.at_s >= _SETTLE_S else []

    def flush(self) -> list[Chunk]:
        """What is held back, at the end."""
        return self._release()

    @property
    def has_begun(self) -> bool:
        """Whether any sample has come, to tell the time by."""
        return self._last is not None

    def time_of(self, at_s: float) -> float:
        """Seconds since 1970 at this stream time, by the last arrival: neither a rate that is off nor a step of the clock adds up."""
        time_s, end_s = self._wall
        return time_s - (end_s - at_s)

    @property
    def rate_hz(self) -> float | None:
        """As measured over up to ten minutes; None before half a minute."""
        pairs = tuple(self._pairs)
        if len(pairs) < 2 or pairs[-1][0] - pairs[0][0] < _RATE_AFTER_S:
            return None
        (from_s, first), (to_s, last) = pairs[0], pairs[-1]
        return (last - first) / (to_s - from_s)

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the source runs than it says, by this host's clock."""
        measured = self.rate_hz
        return None if measured is None or self._last is None else (measured / self._last.rate_hz - 1) * 1e6

    def _take(self, chunks: list[Chunk], arrival: Arrival, turn: int | None) -> list[Chunk]:
        """Chunks of one rate, of one arrival."""
        another_rate = self._last is None or chunks[0].rate_hz != (self._held or [self._last])[-1].rate_hz
        quiet = self._silent_s - sum(chunk.samples_mv.shape[1] for chunk in chunks) / chunks[0].rate_hz >= SILENCE_S
        opened, self._opened, self._silent_s = self._opened, False, 0.0
        begun = self._release() if another_rate or opened or quiet else []
        self._came = arrival
        if another_rate:
            self._begin(chunks[0])
        else:
            self._doubt = self._doubt or self._suspect(chunks, opened, quiet, turn)
        self._held += chunks
        if self._doubt and self._missing() >= _TRUST_S * chunks[0].rate_hz and arrival.at_s - self._doubt.at_s < _SETTLE_S:
            return begun
        return begun + self._release()

    def _begin(self, chunk: Chunk) -> None:
        """The first chunk, or the first at another rate: stream time goes on."""
        start = 0 if self._last is None else round(self._last.end / self._last.rate_hz * chunk.rate_hz)
        self._shift = start - chunk.start
        self._last = replace(chunk, start=start, samples_mv=chunk.samples_mv[:, :0])
        self._anchor = (self._came.at_s - chunk.samples_mv.shape[1] / chunk.rate_hz, start)
        self._pairs.clear()

    def _suspect(self, chunks: list[Chunk], opened: bool, quiet: bool, turn: int | None) -> _Doubt | None:
        """Why more may be missing before one of these than was counted."""
        assert self._last is not None
        if opened:
            self._shift = self._last.end - chunks[0].start
        if opened or quiet:
            return _Doubt(self._came.at_s, 0, int(opened), jumped=False, turn=turn)
        before = self._held[-1].end if self._held else self._last.end - self._shift
        jumps = [i for i, (chunk, end) in enumerate(zip(chunks, [before, *(one.end for one in chunks)], strict=False)) if chunk.start > end]
        return _Doubt(self._came.at_s, len(self._held) + jumps[0], least=0, jumped=True, turn=turn) if jumps else None

    def _missing(self) -> float:
        """How many samples more should be here by now than are, from the last moment when none was."""
        since_s, since = self._anchor
        last = self._held[-1]
        return (self._came.at_s - since_s) * last.rate_hz - (last.end + self._shift - since)

    def _release(self) -> list[Chunk]:
        """Everything that is held, with whatever is missing in its place."""
        if not self._held:
            return []
        place = self._doubt.place if self._doubt else len(self._held)
        before = [self._shifted(chunk) for chunk in self._held[:place]]
        lost = _uncounted(self._doubt, self._missing(), self._held[-1].rate_hz) if self._doubt else 0
        self.lost += lost
        self._shift += lost
        released = before + [self._shifted(chunk) for chunk in self._held[place:]]
        self._held, self._doubt, self._last = [], None, released[-1]
        self._wall = (self._came.time_s, self._last.end / self._last.rate_hz)
        self._note(self._last, self._came.at_s)
        return released

    def _shifted(self, chunk: Chunk) -> Chunk:
        return replace(chunk, start=chunk.start + self._shift) if self._shift else chunk

    def _note(self, chunk: Chunk, at_s: float) -> None:
        """Keep the moment, if it came in time, to measure later ones by."""
        since_s, since = self._anchor
        late_s = (at_s - since_s) - (chunk.end - since) / chunk.rate_hz
        if late_s > _STEADY_S and chunk.end - since < _GIVE_UP_S * chunk.rate_hz:
            return
        self._anchor = (at_s, chunk.end)
        if not self._pairs or at_s - self._pairs[-1][0] >= _PAIR_S:
            self._pairs.append(self._anchor)


def _uncounted(doubt: _Doubt, missing: float, rate_hz: float) -> int:
    """Of the missing samples those that the device cannot have counted.

    One that counts, and counted nothing lost, is believed as far as it counts; one that counted a loss may have
    counted past whole turns.
    """
    if missing < _TRUST_S * rate_hz:
        return doubt.least
    if doubt.turn is not None and doubt.jumped:
        return round(missing / doubt.turn) * doubt.turn
    believed = doubt.turn is not None and missing < doubt.turn and not doubt.least
    return 0 if believed else max(round(missing), doubt.least)
