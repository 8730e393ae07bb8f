"""The `Frame`s of one source in the order of their arrival in; its `Chunk`s, in order and without repeats, out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from kernels.signal import Samples

from .chunk import Chunk
from .device import Tally

HOLD = 4
"""So many frames wait for one that is missing."""

SEQ_RANGE = 1 << 32
"""The counter of frames begins anew after so many."""

_NEAR = 64
"""A frame farther behind, or ahead, than this counts only if the next frame goes on from it."""
_JITTER_S = 0.02
"""Half a sample more than this a time stamp may be off, but never so much that a lost frame goes unseen."""
_FOLLOW = 0.1
"""The share of each frame's lateness by which the clock is followed, so that drift is no gap."""
_STEP_S = 0.128
"""The offset at which NTP sets a clock rather than slow it down (RFC 5905)."""
_DOUBTFUL_S = 60.0
"""Without a counter, a time stamp that goes back, or farther ahead than this, counts only if the next frame goes on from it."""
_FARTHEST_S = 86_400.0
"""A longer gap takes a counter and a clock that agree; otherwise one of them was set."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a device sends at once."""

    seq: int | None
    """One more with every frame, modulo 2^32; None where the device does not count."""
    t_s: float | None
    """Seconds since 1970 of the first sample; None where the device has no clock."""
    rate_hz: float
    leads: tuple[str, ...]
    samples_mv: Samples
    """[leads, n], n at least 1; NaN where a sample is invalid."""
    lead_off: tuple[str, ...] = ()
    """Leads whose electrode is off."""

    @property
    def samples(self) -> int:
        """Of each lead."""
        return self.samples_mv.shape[1]

    @property
    def duration_s(self) -> float:
        """From the first sample to where the next frame begins."""
        return self.samples / self.rate_hz

    @property
    def tolerance_s(self) -> float:
        """By so much its time stamp may be off."""
        return 0.5 / self.rate_hz + min(_JITTER_S, 0.4 * self.duration_s)


class Sequencer:
    """Frames by their counters and clocks -> chunks whose `start` counts every lost sample.

    A frame ahead waits until more than `HOLD` wait, then those missing before it are given up as lost. Repeats
    and latecomers are dropped. A device that begins anew, a new rate and other leads begin a new stretch, and
    stream time goes on. Holds a few frames, and the checksums of the last 64.
    """

    def __init__(self, tally: Tally) -> None:
        self.turn: int | None = None
        """How many samples the device counts before it begins anew; None where any number may be lost unseen before the last chunk."""
        self._tally = tally
        self._held: dict[int, Frame] = {}
        self._seen: dict[float, int] = {}
        self._suspect: Frame | None = None
        self._last: Frame | None = None
        self._next_seq: int | None = None
        self._next_t_s: float | None = None
        self._longest_s = 0.0
        self._end = 0

    def feed(self, frame: Frame) -> Iterator[Chunk]:
        """The chunks that this frame sets free."""
        suspect, self._suspect = self._suspect, None
        if suspect is not None and _goes_on(suspect, frame):
            yield from self._believe(suspect)
        elif suspect is not None:
            self._tally.repeated += 1
        if frame.seq is not None:
            yield from self._feed_counted(frame, frame.seq)
        else:
            yield from self._release(0)
            yield from self._feed_uncounted(frame)

    def flush(self) -> Iterator[Chunk]:
        """The frames that still waited."""
        yield from self._release(0)
        self._tally.repeated += self._suspect is not None
        self._suspect = None

    def _feed_counted(self, frame: Frame, seq: int) -> Iterator[Chunk]:
        ahead = self._ahead(seq)
        if ahead < 0:
            yield from self._feed_behind(frame, seq)
        elif ahead > _NEAR:
            self._suspect = frame
        else:
            self._tally.repeated += seq in self._held
            self._held[seq] = frame
            yield from self._release(HOLD)

    def _feed_behind(self, frame: Frame, seq: int) -> Iterator[Chunk]:
        """A repeat, a latecomer, or the first frame of a device that began anew."""
        if self._seen.get(seq) == _checksum(frame):
            self._tally.repeated += 1
        elif self._is_later(frame):
            yield from self._believe(frame)
        elif seq not in self._seen and (self._ahead(seq) >= -_NEAR or self._was_due(frame, seq)):
            self._tally.repeated += 1
        else:
            self._suspect = frame

    def _feed_uncounted(self, frame: Frame) -> Iterator[Chunk]:
        ahead_s = self._ahead_s(frame)
        if ahead_s is None:
            yield self._place(frame)
        elif frame.t_s is not None and self._seen.get(frame.t_s) == _checksum(frame):
            self._tally.repeated += 1
        elif -frame.tolerance_s <= ahead_s <= _DOUBTFUL_S:
            yield self._place(frame, self._samples(ahead_s) if ahead_s > frame.tolerance_s else 0)
        else:
            self._suspect = frame

    def _believe(self, frame: Frame) -> Iterator[Chunk]:
        """A frame from elsewhere that others go on from: after a long loss, or from a device that began anew."""
        yield from self._release(0)
        if frame.seq is not None and self._ahead(frame.seq) >= 0:
            yield self._place_counted(frame, self._ahead(frame.seq))
        else:
            yield self._begin_anew(frame)

    def _release(self, most: int) -> Iterator[Chunk]:
        """The held frames whose turn it is, and those before which too many wait."""
        while self._held and (self._next_seq is None or self._next_seq in self._held or len(self._held) > most):
            seq = min(self._held, key=self._ahead)
            yield self._place_counted(self._held.pop(seq), self._ahead(seq))

    def _place_counted(self, frame: Frame, missing: int) -> Chunk:
        lost = self._lost(frame, missing) if missing else 0
        return self._begin_anew(frame) if lost is None else self._place(frame, lost)

    def _lost(self, frame: Frame, missing: int) -> int | None:
        """Samples of so many missing frames, the clock's word where it fits; None where counter and clock do not fit at all."""
        assert self._last is not None
        by_count = missing * self._last.samples
        by_count_s = by_count / self._last.rate_hz
        ahead_s = self._ahead_s(frame)
        if ahead_s is None:
            return by_count if by_count_s <= _FARTHEST_S else None
        if abs(ahead_s - by_count_s) <= frame.tolerance_s:
            return by_count
        if self._fits(ahead_s, missing):
            return self._samples(ahead_s)
        return by_count if missing <= _NEAR else None

    def _begin_anew(self, frame: Frame) -> Chunk:
        """A gap as long as the clock says. Where it does not, one sample: a made-up length, but no window may close over it."""
        ahead_s = self._ahead_s(frame)
        known = ahead_s is not None and 0 <= ahead_s <= _FARTHEST_S
        paused = known and frame.seq is None
        self._tally.restarts += not paused
        self._seen.clear()
        return self._place(frame, self._samples(ahead_s) if ahead_s is not None and known else 0, anew=True, known=known)

    def _place(self, frame: Frame, lost: int = 0, anew: bool = False, known: bool = True) -> Chunk:
        steps = self._tally.clock_steps
        if self._last is not None:
            self._follow(frame, lost, anew)
            self._end += max(lost, int(anew))
            self._end = round(self._end / self._last.rate_hz * frame.rate_hz) if frame.rate_hz != self._last.rate_hz else self._end
        chunk = Chunk(self._end, frame.rate_hz, frame.leads, frame.samples_mv, frame.lead_off)
        # A clock that stepped, with a counter that did not, was set; or the device stood still, which only the arrivals can tell.
        vouched = known and self._tally.clock_steps == steps and (frame.seq is not None or frame.t_s is not None)
        self.turn = SEQ_RANGE if vouched else None
        self._tally.lost += lost
        self._tally.samples += frame.samples
        self._end = chunk.end
        self._note(frame)
        return chunk

    def _follow(self, frame: Frame, lost: int, anew: bool) -> None:
        """Set `_next_t_s` to where this frame begins."""
        assert self._last is not None
        due_s = None if self._next_t_s is None else self._next_t_s + lost / self._last.rate_hz
        if frame.t_s is None or due_s is None:
            self._next_t_s = frame.t_s if anew or due_s is None else due_s
        elif abs(frame.t_s - due_s) <= _STEP_S:
            self._next_t_s = due_s + _FOLLOW * (frame.t_s - due_s)
        else:
            self._tally.clock_steps += not anew
            self._next_t_s = frame.t_s

    def _note(self, frame: Frame) -> None:
        """Remember what the next frame is measured by."""
        if self._last is None:
            self._next_t_s = frame.t_s
        self._next_t_s = None if self._next_t_s is None else self._next_t_s + frame.duration_s
        self._next_seq = None if frame.seq is None else (frame.seq + 1) % SEQ_RANGE
        self._longest_s = max(self._longest_s, frame.duration_s)
        self._last = frame
        key = frame.t_s if frame.seq is None else frame.seq
        if key is not None:
            self._seen[key] = _checksum(frame)
        while len(self._seen) > _NEAR:
            del self._seen[next(iter(self._seen))]

    def _ahead(self, seq: int) -> int:
        """How many frames are missing before this one; less than 0 where it is behind."""
        return 0 if self._next_seq is None else (seq - self._next_seq + SEQ_RANGE // 2) % SEQ_RANGE - SEQ_RANGE // 2

    def _ahead_s(self, frame: Frame) -> float | None:
        """How much later its clock stands than where the last frame ended."""
        return None if frame.t_s is None or self._next_t_s is None else frame.t_s - self._next_t_s

    def _samples(self, duration_s: float) -> int:
        assert self._last is not None
        return round(duration_s * self._last.rate_hz)

    def _is_later(self, frame: Frame) -> bool:
        ahead_s = self._ahead_s(frame)
        return ahead_s is not None and ahead_s >= -frame.tolerance_s

    def _was_due(self, frame: Frame, seq: int) -> bool:
        """Whether its clock stands where it stood when the device counted so far."""
        ahead_s = self._ahead_s(frame)
        return ahead_s is not None and self._fits(-ahead_s, -self._ahead(seq))

    def _fits(self, duration_s: float, frames: int) -> bool:
        """Whether so many frames, none of them empty or twice as long as any seen, can last so long."""
        assert self._last is not None
        return frames - 0.5 <= duration_s * self._last.rate_hz and duration_s <= 2 * frames * self._longest_s


def _goes_on(last: Frame, frame: Frame) -> bool:
    """Whether it is the very next frame."""
    if last.seq is not None or frame.seq is not None:
        return last.seq is not None and frame.seq == (last.seq + 1) % SEQ_RANGE
    if last.t_s is None or frame.t_s is None:
        return False
    return abs(frame.t_s - last.t_s - last.duration_s) <= frame.tolerance_s


def _checksum(frame: Frame) -> int:
    """Tells a frame sent twice from another with the same number."""
    return zlib.crc32(frame.samples_mv.tobytes(), zlib.crc32(repr(frame.t_s).encode()))
