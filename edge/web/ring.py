"""The chunks of one source as they come in; the samples of its last seconds, for whoever has seen up to a place, out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from ..decode.chunk import Chunk
from .frame import MOST_LEADS, Digits

KEPT_S = 12.0
"""Of samples; who is later than that is skipped forward."""

_MOST_PIECES = 20_000
"""However small the chunks are that a device sends."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of samples are."""

    leads: tuple[str, ...]
    rate_hz: float


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch without a gap."""

    layout: Layout
    end: int
    """The place after its last sample."""
    start_s: float
    """Seconds of the stream at its first sample."""
    time_s: float
    """The same since 1970."""
    digits: Digits
    """With a row for each lead of the layout."""


class _Piece:
    """A chunk in its place. It is rounded when somebody looks at it, and then for all who do."""

    __slots__ = ("_digits", "begin", "chunk", "end", "end_s", "time_s")

    def __init__(self, chunk: Chunk, time_s: float, begin: int, begin_s: float) -> None:
        n = chunk.samples_mv.shape[1]
        self.chunk, self.time_s = chunk, time_s
        self.begin, self.end = begin, begin + n
        self.end_s = begin_s + n / chunk.rate_hz
        self._digits: Digits | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.chunk.leads[:MOST_LEADS], self.chunk.rate_hz)

    @property
    def digits(self) -> Digits:
        if self._digits is None:
            self._digits = Digits.of(self.chunk.without_loose()[:MOST_LEADS])
        return self._digits

    def follows(self, last: _Piece) -> bool:
        """Whether both make one stretch, in one unit."""
        return self.chunk.follows(last.chunk) and self.digits.exponent == last.digits.exponent


class Ring:
    """The last samples of a source. Places count them from the first on. Any thread may use it; none holds it up for long."""

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self._end = 0
        self._end_s = 0.0
        self._lock = threading.Lock()

    def add(self, chunk: Chunk, time_s: float) -> None:
        """What came, its first sample at `time_s` since 1970. In microseconds, as whoever scores calls it."""
        piece = _Piece(chunk, time_s, self._end, self._end_s)
        with self._lock:
            self._pieces.append(piece)
            self._end, self._end_s = piece.end, piece.end_s
            while self._end_s - self._pieces[0].end_s >= KEPT_S or len(self._pieces) > _MOST_PIECES:
                self._pieces.popleft()

    @property
    def layout(self) -> Layout | None:
        """Of what came last; None before anything did."""
        with self._lock:
            return self._pieces[-1].layout if self._pieces else None

    def back(self, seconds: float) -> int:
        """The place of what came so long before the end."""
        with self._lock:
            for piece in reversed(self._pieces):
                left_s = seconds - (self._end_s - piece.end_s)
                if left_s * piece.chunk.rate_hz <= piece.end - piece.begin:
                    return piece.end - round(left_s * piece.chunk.rate_hz)
            return self._pieces[0].begin if self._pieces else 0

    def since(self, place: int) -> Iterator[Run]:
        """What came from this place on, or as much of it as is kept."""
        with self._lock:
            newest_first = takewhile(lambda piece: piece.end > place, reversed(self._pieces))
            pieces = list(newest_first)[::-1]
        while pieces:
            length = next((i for i in range(1, len(pieces)) if not pieces[i].follows(pieces[i - 1])), len(pieces))
            yield _join(pieces[:length], place)
            pieces = pieces[length:]


def _join(pieces: Sequence[_Piece], place: int) -> Run:
    first, skipped = pieces[0], max(place - pieces[0].begin, 0)
    rate_hz = first.chunk.rate_hz
    rows = np.concatenate([piece.digits.rows for piece in pieces], axis=1)[:, skipped:]
    start_s, time_s = (first.chunk.start + skipped) / rate_hz, first.time_s + skipped / rate_hz
    return Run(first.layout, pieces[-1].end, start_s, time_s, Digits(first.digits.exponent, rows))
