"""The laws of the simulated devices: what is sent is the recording, when it is due, whatever the device."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from edge.decode.chunk import LEFT_OUT, Chunk
from edge.decode.device import Device
from edge.decode.devices import DEVICES, device
from edge.simulate import Piece, Stream, pieces, plan, play
from edge.transport.file import open_recording
from edge.transport.pty import PtyDevice
from kernels.findings import ConfigError

from .conftest import EXCERPT

SECONDS = 12


def _sent(kind: Device) -> list[Piece]:
    recording = open_recording(EXCERPT)
    return list(itertools.takewhile(lambda piece: piece.due_s <= SECONDS, pieces(recording, kind, plan(recording, kind))))


def _received(kind: Device, sent: list[Piece]) -> list[Chunk]:
    decoder = kind.decoder(plan(open_recording(EXCERPT), kind))
    chunks = [chunk for piece in sent for chunk in decoder.feed(piece.data)]
    return chunks + list(decoder.flush())


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_what_a_device_sends_is_the_recording(name: str, excerpt: Chunk) -> None:
    """Resampled by scipy where the device has a rate of its own; to its resolution, and to the filters' difference."""
    kind = device(name)
    chunks = _received(kind, _sent(kind))
    lead_ii = np.concatenate([chunk.samples_mv[chunk.leads.index("II")] for chunk in chunks])
    rate_hz = chunks[0].rate_hz
    expected = excerpt.samples_mv[0, : 360 * SECONDS]
    if rate_hz != 360:
        expected = scipy.signal.resample_poly(expected, round(rate_hz), 360)
    usual = slice(round(rate_hz), round(rate_hz * (SECONDS - 1)))
    step_mv = abs(1 / plan(open_recording(EXCERPT), kind).units_per_mv) if kind.wiring.units_per_mv else 0.001
    closest = min(
        float(np.sqrt(np.mean((lead_ii[usual] - expected[usual.start + shift : usual.stop + shift]) ** 2))) for shift in range(-2, 3)
    )
    assert closest < step_mv + (0.001 if rate_hz == 360 else 0.04)
    assert all(b.start == a.end for a, b in itertools.pairwise(chunks))


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_no_sample_is_sent_before_it_has_been_taken_and_none_a_piece_later(name: str) -> None:
    kind = device(name)
    decoder = kind.decoder(plan(open_recording(EXCERPT), kind))
    came = 0
    for piece in _sent(kind):
        chunks = list(decoder.feed(piece.data))
        came += sum(chunk.samples_mv.shape[1] for chunk in chunks)
        taken = piece.due_s * (chunks[0].rate_hz if chunks else 0)
        assert not chunks or taken - 2 <= came <= taken + 1e-6


def test_the_leads_of_the_recording_take_the_first_signals_and_the_rest_stay_out() -> None:
    recording = open_recording(EXCERPT)
    assert plan(recording, device("cyton")).leads == ("II", "V1", *[LEFT_OUT] * 6)
    assert plan(recording, device("frame")).leads == ("II", "V1")
    assert plan(recording, device("ad8232")).rate_hz == 360
    with pytest.raises(ConfigError, match="has 8 signals"):
        plan(recording, device("cyton"), ("II", "V1"))


def test_a_repeated_recording_never_ends() -> None:
    recording = open_recording(EXCERPT)
    wiring = plan(recording, device("frame"))
    late = next(piece for piece in pieces(recording, device("frame"), wiring, repeat=True) if piece.due_s > 300)
    assert late.data
    assert recording.duration_s is not None and recording.duration_s < 300


def test_several_devices_play_in_the_order_of_their_times() -> None:
    heard: list[tuple[str, float]] = []
    begin_s = time.monotonic()

    def stream(name: str, later_s: float) -> Stream:
        of: Iterator[Piece] = (Piece(0.1 * (i + 1), bytes([i])) for i in range(5))
        return Stream(of, lambda data: heard.append((name, time.monotonic() - begin_s)), begin_s + later_s)

    play([stream("a", 0.0), stream("b", 0.02)], speed=2)
    assert [name for name, _ in heard] == ["a", "b"] * 5
    assert heard[-1][1] >= 0.25 + 0.02


def test_a_pseudo_terminal_waits_for_its_reader_and_loses_what_nobody_takes(tmp_path: Path) -> None:
    port = PtyDevice(tmp_path / "ttyECG")
    port.send(b"nobody is there")
    assert port.lost_bytes == 15
    with pytest.raises(TimeoutError):
        port.wait(0.05)
    fd = os.open(tmp_path / "ttyECG", os.O_RDWR | os.O_NOCTTY)
    port.wait(5)
    port.send(b"here")
    assert os.read(fd, 100) == b"here"
    port.send(bytes(100_000))
    assert port.lost_bytes > 15 + 50_000
    os.close(fd)
    port.close()
    assert not (tmp_path / "ttyECG").is_symlink()
