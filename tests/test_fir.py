"""The quick filter: to the bit what the plain one gives, for any cut, number of leads, rate and signal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.fir import StridedFir, resampler
from edge.vitals import _qrs_taps
from kernels.signal import PolyphaseFir, Resampler, Samples


def _samples(leads: int, n: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 10.0 ** rng.integers(-3, 3), (leads, n)).astype(np.float32)
    samples[rng.random((leads, n)) < 0.002] = np.nan
    return samples


def _fed(fir: PolyphaseFir, samples: Samples, cuts: list[int]) -> Samples:
    edges = [0, *sorted(min(at, samples.shape[1]) for at in cuts), samples.shape[1]]
    parts = [fir.feed(samples[:, a:b]) for a, b in itertools.pairwise(edges)]
    return np.concatenate([*parts, fir.flush()], axis=1)


@given(
    rate_hz=st.sampled_from([100.0, 125.0, 128.0, 200.0, 250.0, 257.3, 300.0, 360.0, 500.0, 977.0, 1000.0]),
    to_hz=st.sampled_from([100.0, 125.0, 250.0]),
    leads=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 1500), max_size=12),
    seed=st.integers(0, 1000),
)
def test_any_cut_gives_the_bits_of_the_plain_resampler(rate_hz: float, to_hz: float, leads: int, cuts: list[int], seed: int) -> None:
    samples = _samples(leads, 1500, seed)
    assert _fed(resampler(rate_hz, to_hz), samples, cuts).tobytes() == _fed(Resampler(rate_hz, to_hz), samples, []).tobytes()


@given(rate_hz=st.sampled_from([100.0, 125.0, 250.0]), cuts=st.lists(st.integers(0, 700), max_size=12), seed=st.integers(0, 1000))
def test_any_cut_gives_the_bits_of_the_plain_filter(rate_hz: float, cuts: list[int], seed: int) -> None:
    samples = _samples(12, 700, seed)
    plain = _fed(PolyphaseFir(_qrs_taps(rate_hz)), samples, [])
    assert _fed(StridedFir(_qrs_taps(rate_hz)), samples, cuts).tobytes() == plain.tobytes()


def test_sample_by_sample_gives_the_bits_of_the_whole() -> None:
    samples = _samples(12, 600, 1)
    assert _fed(resampler(250.0, 100.0), samples, list(range(600))).tobytes() == _fed(Resampler(250.0, 100.0), samples, []).tobytes()


def _cancelling(leads: int, n: int) -> Samples:
    """What the taps weigh against each other: a large alternation and a flat stretch, under a microvolt of noise."""
    samples = 50 * (-1.0) ** np.arange(n) + 1e-3 * np.random.default_rng(0).normal(size=(leads, n))
    samples[:, n // 2 : 3 * n // 4] = 0.7
    return samples.astype(np.float32)


@pytest.mark.parametrize("rate_hz", [100.0, 250.0, 360.0, 500.0, 1000.0])
def test_sums_that_nearly_cancel_are_taken_in_the_same_order(rate_hz: float) -> None:
    samples = _cancelling(12, 40_000)
    whole = _fed(Resampler(rate_hz, 100.0), samples, [])
    assert _fed(resampler(rate_hz, 100.0), samples, list(range(0, 40_000, 777))).tobytes() == whole.tobytes()


def test_what_is_summed_over_the_leads_does_not_hang_on_the_cut() -> None:
    """The layout of an output counts: NumPy adds twelve leads in the order in which they lie."""
    samples = _cancelling(12, 6000)
    plain, quick = PolyphaseFir(_qrs_taps(100.0)), StridedFir(_qrs_taps(100.0))
    whole = np.abs(plain.feed(samples)).sum(axis=0)
    parts = [np.abs(quick.feed(samples[:, i : i + 1])).sum(axis=0) for i in range(6000)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(
    rate_hz=st.sampled_from([100.0, 128.0, 250.0]),
    silent=st.lists(st.booleans(), min_size=12, max_size=12),
    begins=st.integers(0, 900),
    cuts=st.lists(st.integers(0, 1500), max_size=6),
)
def test_leads_without_signal_are_zero_and_change_no_bit_of_the_others(
    rate_hz: float, silent: list[bool], begins: int, cuts: list[int]
) -> None:
    """And whichever begins later is heard from its first sample on. A zero may bear either sign."""
    samples = _samples(12, 1500, 3)
    samples[silent] = 0
    samples[0, :begins] = 0
    plain = np.abs(_fed(Resampler(rate_hz, 100.0), samples, []))
    assert np.abs(_fed(resampler(rate_hz, 100.0), samples, cuts)).tobytes() == plain.tobytes()


@pytest.mark.parametrize("rate_hz", [100.0, 128.0, 250.0])
def test_one_lead_among_silent_ones_is_summed_as_among_others(rate_hz: float) -> None:
    samples = np.zeros((12, 20_000), np.float32)
    samples[7] = _cancelling(1, 20_000)
    whole = _fed(Resampler(rate_hz, 100.0), samples, [])
    assert np.abs(_fed(resampler(rate_hz, 100.0), samples, [333, 15_000])).tobytes() == np.abs(whole).tobytes()
