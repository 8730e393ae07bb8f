"""Windows: exactly the resampled stream, never across a gap, whatever the cut of the chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.window import Cut, Resample, Window
from kernels.signal import LEADS, resample

from .conftest import cut, heart


def _windows(chunks: list[Chunk], samples: int = 1000, hop: int = 100) -> list[Window]:
    stage, cutter = Resample(100.0), Cut(samples, hop)
    resampled = [c for chunk in chunks for c in stage.feed(chunk)] + list(stage.flush())
    return [w for chunk in resampled for w in cutter.feed(chunk)]


def _source(seconds: float, rate_hz: float = 250.0) -> Chunk:
    return Chunk(0, rate_hz, LEADS, heart(70, seconds, rate_hz))


@given(cuts=st.lists(st.integers(0, 250 * 25), max_size=10), hop=st.sampled_from([50, 100, 300, 1000]))
def test_windows_are_slices_of_the_whole(cuts: list[int], hop: int) -> None:
    source = _source(25)
    whole = resample(source.samples_mv, 250, 100)
    windows = _windows(cut(source, cuts), hop=hop)
    assert [w.start for w in windows] == list(range(0, 2500 - 1000 + 1, hop))
    assert all(np.array_equal(w.samples_mv, whole[:, w.start : w.start + 1000]) for w in windows)


@given(lost=st.integers(1, 4000), at=st.integers(1, 250 * 24))
def test_no_window_spans_a_gap(lost: int, at: int) -> None:
    before, after = cut(_source(25), [at])
    after = Chunk(after.start + lost, after.rate_hz, after.leads, after.samples_mv)
    begun_s = after.start / 250
    for window in _windows([before, after]):
        start_s = window.start / 100
        assert window.end_s <= before.end / 250 + 0.01 or start_s >= begun_s - 0.01


def test_a_gap_shorter_than_a_sample_of_the_model_is_still_a_gap() -> None:
    before, after = cut(_source(14, 1000.0), [7000])
    assert _windows([before, Chunk(after.start + 1, after.rate_hz, after.leads, after.samples_mv)]) == []
    assert len(_windows([before, after])) == 5


def test_many_gaps_do_not_shift_the_time() -> None:
    """Six hundred single samples lost at 1 kHz: the last window still ends when the stream does."""
    pieces, start = [], 0
    for i in range(600):
        samples = 999 if i < 599 else 10_500
        pieces.append(Chunk(start, 1000.0, ("II",), np.zeros((1, samples), np.float32)))
        start += samples + 1
    windows = _windows(pieces)
    assert windows[-1].end_s <= start / 1000
    assert windows[0].start / 100 >= 599.0


def test_absent_and_loose_leads_are_nan_and_so_is_what_follows_from_them() -> None:
    source = _source(10)
    loose = Chunk(0, 250.0, ("I", "II", "V2"), source.samples_mv[[0, 1, 7]], lead_off=("I",))
    (window,) = _windows([loose])
    there = [lead for lead, x in zip(LEADS, window.samples_mv, strict=True) if not np.isnan(x).any()]
    assert there == ["II", "V2"]


def test_ten_seconds_give_exactly_one_window() -> None:
    for rate_hz in (100.0, 128.0, 257.0, 360.0, 1000.0):
        assert len(_windows([_source(10, rate_hz)])) == 1


def test_a_new_rate_begins_anew() -> None:
    slow, fast = _source(6, 250.0), _source(6, 500.0)
    assert _windows([slow, Chunk(3000, 500.0, LEADS, fast.samples_mv)]) == []
