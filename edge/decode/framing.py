"""Bytes of a binary protocol in any cut in; its whole frames, those that can be believed, out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .chunk import Chunk
from .device import Decoder, Encoder, Stretches, Tally, Wiring


def _always(frame: bytes, head: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Shape:
    """What the frames of a protocol look like."""

    sync: bytes
    """The bytes that every frame begins with."""
    head: int
    """How many bytes, those of `sync` included, `measure` needs."""
    longest: int
    """Bytes of the longest frame."""
    measure: Callable[[bytes], int]
    """The head -> bytes of the whole frame; 0 where no frame begins so."""
    sound: Callable[[bytes], bool]
    """Whether a whole frame passes every check that the protocol has."""
    checked: bool = False
    """Whether `sound` is a checksum strong enough to believe a frame by itself."""
    follows: Callable[[bytes, bytes], bool] = _always
    """Whether the frame with this head (second) goes on from that frame (first), where the two tell."""


def fixed(sync: bytes, length: int, sound: Callable[[bytes], bool]) -> Shape:
    """Frames that all have one length and no strong checksum."""
    return Shape(sync, len(sync), length, lambda head: length, sound)


class Framer:
    """Finds frames among garbage.

    In step, where the frame before ended exactly here and this one follows it, a sound frame is believed
    at once. Out of step it is believed only once the head of the next follows it, or at once where frames
    are `checked`. A refused frame costs one byte: the search goes on right after it, so a frame spliced
    into another is found. Holds less than two of the longest frames, and takes time in proportion to the
    bytes.

    The tally counts as garbage every byte that is in no believed frame, and as broken every refused
    frame that began in step.
    """

    def __init__(self, shape: Shape, tally: Tally) -> None:
        self._shape = shape
        self._tally = tally
        self._held = bytearray()
        self._at = 0
        self._last: bytes | None = None
        """The frame that ended exactly here."""
        self._garbage = 0
        self.skipped = 0
        """Garbage bytes right before the frame that came last."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that these bytes complete."""
        self._held += data
        yield from self._frames()

    def flush(self) -> Iterator[bytes]:
        """At the end of the bytes: frames hidden by the head of one that never became whole. The rest is garbage."""
        yield from self._frames(ended=True)
        self._skip(len(self._held))
        self._drop()
        self._last = None

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._held)

    def _frames(self, ended: bool = False) -> Iterator[bytes]:
        while self._seek():
            length = self._judge()
            if length:
                yield self._take(length)
            elif length == 0 or ended:
                self._refuse()
            else:
                break
        self._drop()

    def _seek(self) -> bool:
        """Goes to the next sync bytes, or to where they may have begun; whether they are there."""
        found = self._held.find(self._shape.sync, self._at)
        self._skip(found if found >= 0 else self._unfinished_sync())
        return found >= 0

    def _unfinished_sync(self) -> int:
        sync, size = self._shape.sync, len(self._held)
        starts = range(max(size - len(sync) + 1, self._at), size)
        return next((at for at in starts if sync.startswith(self._held[at:])), size)

    def _judge(self) -> int | None:
        """Bytes of the frame that begins here; 0 where none does, None where more bytes are needed to tell."""
        length = self._measure(self._at)
        if not length:
            return length
        end = self._at + length
        if end > len(self._held):
            return None
        frame = bytes(self._held[self._at : end])
        if not self._shape.sound(frame):
            return 0
        if self._shape.checked or (self._last is not None and self._shape.follows(self._last, frame[: self._shape.head])):
            return length
        return self._measure(end, frame) and length

    def _measure(self, at: int, before: bytes | None = None) -> int | None:
        head = bytes(self._held[at : at + self._shape.head])
        if not head.startswith(self._shape.sync[: len(head)]):
            return 0
        if len(head) < self._shape.head:
            return None
        if before is not None and not self._shape.follows(before, head):
            return 0
        length = self._shape.measure(head)
        return length if self._shape.head <= length <= self._shape.longest else 0

    def _take(self, length: int) -> bytes:
        frame = bytes(self._held[self._at : self._at + length])
        self._at += length
        self._last = frame
        self.skipped, self._garbage = self._garbage, 0
        return frame

    def _refuse(self) -> None:
        self._tally.broken += self._last is not None
        self._skip(self._at + 1)

    def _skip(self, to: int) -> None:
        passed = to - self._at
        if passed:
            self._at = to
            self._last = None
            self._garbage += passed
            self._tally.garbage += passed

    def _drop(self) -> None:
        del self._held[: self._at]
        self._at = 0


class FramedDecoder(Decoder):
    """The decoder of a device whose bytes are frames, a sample or a few in each."""

    def __init__(self, wiring: Wiring, shape: Shape) -> None:
        super().__init__()
        self._framer = Framer(shape, self.tally)
        self._stretches = Stretches(wiring, self.tally)

    @abstractmethod
    def _read(self, frame: bytes) -> None:
        """Adds the samples of one frame to the stretches."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples that these bytes complete."""
        yield from self._read_all(self._framer.feed(data))

    def flush(self) -> Iterator[Chunk]:
        """Frames that were held back, at the end of the bytes."""
        yield from self._read_all(self._framer.flush())

    def _read_all(self, frames: Iterator[bytes]) -> Iterator[Chunk]:
        for frame in frames:
            self._read(frame)
        yield from self._stretches.take()


class CountedEncoder(Encoder):
    """The encoder of a device that numbers its frames, from 0."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._count = 0

    def _number(self, rows: Sequence[list[int]], pack: Callable[[int, list[int]], bytes]) -> bytes:
        """A frame for each row; `pack` makes it of its number, which the device may begin anew, and the row."""
        first, self._count = self._count, self._count + len(rows)
        return b"".join(pack(first + i, row) for i, row in enumerate(rows))


def count_lost(last: int | None, now: int, turn: int) -> int:
    """How many numbers are missing between two of a counter that begins anew after `turn`; 0 at the beginning."""
    return 0 if last is None else (now - last - 1) % turn


def join_24(fields: tuple[int, ...]) -> list[int]:
    """24-bit integers from their halves: high byte (signed), low word, high byte, and so on."""
    return [high << 16 | low for high, low in zip(fields[::2], fields[1::2], strict=True)]
