"""A `RecordingFile` and a device in; the bytes that the device would send for it, each piece with the time it is due, out."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import LEADS, Resampler, Samples, to_standard_leads

from .decode.chunk import LEFT_OUT, Chunk
from .decode.device import Device, Wiring
from .transport.file import RecordingFile

_BLOCK = 1 << 9
"""Bytes read at a time: little, so that no piece comes late."""
PIECE_S = 0.1
"""How much of the recording a piece holds, as a device sends little and often."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that a device sends at once."""

    due_s: float
    """Seconds after the beginning at which the last sample in it has been taken."""
    data: bytes


def plan(recording: RecordingFile, device: Device, leads: Sequence[str] = ()) -> Wiring:
    """How the device would be wired for this recording: its leads in order on the device's signals, at the device's rate.

    Raises ConfigError where the device has fewer signals than `leads`, or the recording none that is a lead.
    """
    first = next(recording.chunks(), None)
    if first is None:
        raise ConfigError(f"{recording.name}: holds no samples, so there is nothing to send")
    known = [lead for lead in first.leads if lead in LEADS]
    rate_hz = device.wiring.rate_hz if device.wiring.leads and device.wiring.rate_hz else first.rate_hz
    return device.wire(leads or _spread(known, device), rate_hz)


def pieces(recording: RecordingFile, device: Device, wiring: Wiring, piece_s: float = PIECE_S, repeat: bool = False) -> Iterator[Piece]:
    """The whole recording, again and again where `repeat`. A gap in it is left out, not sent; a lead it has not is sent as 0 mV."""
    encoder = device.encoder(wiring)
    size = max(round(piece_s * wiring.rate_hz), 1)
    held: Samples = np.empty((len(wiring.leads), 0), np.float32)
    sent = 0
    for samples in _rounds(recording, wiring, repeat):
        held = np.concatenate([held, samples], axis=1)
        while held.shape[1] >= size:
            sent += size
            yield Piece(sent / wiring.rate_hz, encoder.feed(held[:, :size]))
            held = held[:, size:]
    if held.shape[1]:
        yield Piece((sent + held.shape[1]) / wiring.rate_hz, encoder.feed(held))


def _spread(known: Sequence[str], device: Device) -> tuple[str, ...]:
    """As many of the leads as the device has signals, from the first on."""
    if device.signals:
        return tuple(known[: device.signals[-1]])
    most = len(device.wiring.leads)
    return (*known[:most], *[LEFT_OUT] * (most - len(known)))


def _rounds(recording: RecordingFile, wiring: Wiring, repeat: bool) -> Iterator[Samples]:
    again = True
    while again:
        again = repeat
        yield from _signals(recording.chunks(_BLOCK), wiring)


def _signals(chunks: Iterator[Chunk], wiring: Wiring) -> Iterator[Samples]:
    """[signals, n] in the order of the wiring, at its rate; as recorded where the rates agree."""
    resampler: Resampler | None = None
    for chunk in chunks:
        samples = _arrange(chunk, wiring)
        if chunk.rate_hz == wiring.rate_hz:
            yield samples
            continue
        resampler = resampler or Resampler(chunk.rate_hz, wiring.rate_hz)
        yield resampler.feed(samples)
    if resampler:
        yield resampler.flush()


def _arrange(chunk: Chunk, wiring: Wiring) -> Samples:
    standard = to_standard_leads(chunk.without_loose(), chunk.leads)
    silent = np.zeros(chunk.samples_mv.shape[1], np.float32)
    return np.stack([_of(standard, lead, silent) for lead in wiring.leads])


def _of(standard: Samples, lead: str, silent: Samples) -> Samples:
    if lead == LEFT_OUT:
        return silent
    samples = standard[LEADS.index(lead)]
    return silent if np.isnan(samples).all() else samples


@dataclass(slots=True)
class Stream:
    """One simulated device while it plays."""

    pieces: Iterator[Piece]
    send: Callable[[bytes], object]
    begin_s: float
    """When its first sample is taken, on the clock of `play`."""


def play(streams: Iterable[Stream], speed: float = 1.0) -> None:
    """Send every piece when it is due, in the order of their times, until the last has ended. Late pieces follow at once."""
    due: list[tuple[float, int, Stream, Piece]] = []
    for order, stream in enumerate(streams):
        _push(due, order, stream, speed)
    while due:
        due_s, order, stream, piece = heapq.heappop(due)
        time.sleep(max(due_s - time.monotonic(), 0.0))
        stream.send(piece.data)
        _push(due, order, stream, speed)


def _push(due: list[tuple[float, int, Stream, Piece]], order: int, stream: Stream, speed: float) -> None:
    piece = next(stream.pieces, None)
    if piece is not None:
        heapq.heappush(due, (stream.begin_s + piece.due_s / speed, order, stream, piece))
