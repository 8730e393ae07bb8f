"""The resampler: the same bits for any cut, the same values as scipy, and no mains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import upfirdn

from kernels.signal import HALF_LENGTH_S, LEADS, Resampler, derive_limb_leads, phase_taps, ratio, resample, to_standard_leads

RATES = [80.0, 100.0, 125.0, 128.0, 130.061, 250.0, 257.0, 300.0, 360.0, 500.0, 512.0, 1000.0]


def _noise(seconds: float, rate_hz: float, leads: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((leads, round(seconds * rate_hz))).astype(np.float32)


@given(rate_hz=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_any_cut_gives_the_same_bits(rate_hz: float, cuts: list[int]) -> None:
    x = _noise(2, rate_hz)
    resampler = Resampler(rate_hz, 100)
    parts = [resampler.feed(part) for part in np.split(x, sorted(min(c, x.shape[1]) for c in cuts), axis=1)]
    chunked = np.concatenate([*parts, resampler.flush()], axis=1)
    assert np.array_equal(chunked, resample(x, rate_hz, 100))


@pytest.mark.parametrize("rate_hz", [rate for rate in RATES if rate != 130.061])
def test_equals_scipy_away_from_the_ends(rate_hz: float) -> None:
    """Oracle: scipy's upfirdn with the same taps, put back into one prototype filter."""
    x = _noise(3, rate_hz, 1)
    step, taps = ratio(rate_hz, 100), phase_taps(rate_hz, 100)
    up, down, half = step.denominator, step.numerator, taps.shape[1] // 2
    prototype = np.zeros(taps.shape[1] * up)
    for phase in range(up):
        prototype[phase::up][: taps.shape[1]] = taps[phase][::-1]
    full = upfirdn(prototype, x[0].astype(float), up=up, down=1)
    wanted = full[half * up :: down]
    ours = resample(x, rate_hz, 100)[0]
    inner = slice(round(HALF_LENGTH_S * 100) + 1, min(len(wanted), len(ours)) - round(HALF_LENGTH_S * 100) - 1)
    assert np.abs(ours[inner] - wanted[inner]).max() < 1e-6


@pytest.mark.parametrize("rate_hz", [130.061, 250.001, 100.012])
def test_odd_rates_neither_drift_nor_blur(rate_hz: float) -> None:
    """Oracle: the sine itself, at the true time of each output, twenty minutes on."""
    t = np.arange(round(1200 * rate_hz)) / rate_hz
    out = resample(np.sin(2 * np.pi * 5 * t).astype(np.float32)[None], rate_hz, 100)[0]
    wanted = np.sin(2 * np.pi * 5 * np.arange(len(out)) / 100)
    assert np.abs(out - wanted)[-1000:-20].max() < 4e-3


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_recording_keeps_its_length(rate_hz: float) -> None:
    assert resample(_noise(10, rate_hz), rate_hz, 100).shape[1] == pytest.approx(1000, abs=1)


@pytest.mark.parametrize("rate_hz", [r for r in RATES if r > 125])
@pytest.mark.parametrize("mains_hz", [50, 60])
def test_mains_is_taken_off_by_35_dB_and_the_ecg_band_passes(rate_hz: float, mains_hz: int) -> None:
    t = np.arange(round(4 * rate_hz)) / rate_hz
    inner = slice(50, -50)
    hum = resample(np.sin(2 * np.pi * mains_hz * t, dtype=np.float32)[None], rate_hz, 100)[0, inner]
    wave = resample(np.sin(2 * np.pi * 10 * t, dtype=np.float32)[None], rate_hz, 100)[0, inner]
    assert np.abs(hum).max() < 10 ** (-35 / 20)
    assert wave.std() == pytest.approx(2**-0.5, rel=0.01)


@pytest.mark.parametrize("rate_hz", RATES)
def test_the_lag_is_at_most_100_ms(rate_hz: float) -> None:
    made = Resampler(rate_hz, 100).feed(_noise(2, rate_hz)).shape[1]
    assert 2.0 - made / 100 <= 0.1 + 2 / min(rate_hz, 100)


def test_a_constant_stays_constant_and_nan_spreads_no_further_than_the_taps() -> None:
    x = np.full((1, 720), 1.5, np.float32)
    assert np.allclose(resample(x, 360, 100), 1.5)
    x[0, 360] = np.nan
    gone = np.flatnonzero(np.isnan(resample(x, 360, 100)[0]))
    assert gone.min() >= 89
    assert gone.max() <= 111


def test_no_samples_in_none_out() -> None:
    assert resample(np.empty((2, 0), np.float32), 250, 100).shape[1] == 0
    assert Resampler(250, 100).flush().size == 0


def test_limb_leads_follow_einthoven_and_goldberger() -> None:
    i, ii = np.float32([1.0]), np.float32([3.0])
    twelve = to_standard_leads(np.stack([ii, i]), ["II", "I"])
    assert dict(zip(LEADS, twelve[:6, 0], strict=False)) == {"I": 1, "II": 3, "III": 2, "aVR": -2, "aVL": -0.5, "aVF": 2.5}
    assert np.isnan(twelve[6:]).all()


def test_a_measured_limb_lead_is_not_overwritten() -> None:
    twelve = to_standard_leads(np.float32([[1.0], [3.0], [9.0]]), ["I", "II", "aVF"])
    assert twelve[LEADS.index("aVF"), 0] == 9
    assert np.isnan(to_standard_leads(np.float32([[1.0]]), ["II"])[LEADS.index("III"), 0])
    assert np.isnan(derive_limb_leads(np.full((12, 1), np.nan, np.float32))).all()
