"""The calibration: square waves of known height that scipy made and filtered are measured; anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from edge.calibrate import advise, measure
from edge.decode.chunk import Chunk
from kernels.findings import ConfigError

from .conftest import ARCHIVE, heart

OVERSAMPLED = 8
"""The edges fall between the samples, and the filters are analogue ones, nearly."""


def _wave(
    rate_hz: float = 250.0,
    wave_hz: float = 1.0,
    height_mv: float = 1.0,
    seconds: float = 10.0,
    duty: float = 0.5,
    low_pass_hz: float | None = None,
    high_pass_hz: float | None = None,
    phase: float = 0.3,
) -> np.ndarray:
    """Filtered long before it begins, so that the filters have settled."""
    fine_hz = rate_hz * OVERSAMPLED
    time_s = np.arange(round((seconds + 6) * fine_hz)) / fine_hz
    wave = height_mv / 2 * signal.square(2 * np.pi * (wave_hz * time_s + phase), duty)
    for cutoff_hz, kind, order in ((low_pass_hz, "low", 2), (high_pass_hz, "high", 1)):
        if cutoff_hz is not None:
            wave = signal.sosfilt(signal.butter(order, cutoff_hz, kind, fs=fine_hz, output="sos"), wave)
    return wave[::OVERSAMPLED][-round(seconds * rate_hz) :].astype(np.float32)


def _sine(samples: np.ndarray, rate_hz: float, hz: float, size_mv: float, phase: float = 0.0) -> np.ndarray:
    return samples + np.float32(size_mv) * np.sin(2 * np.pi * (hz * np.arange(len(samples)) / rate_hz + phase)).astype(np.float32)


def _noise(samples: np.ndarray, size_mv: float, seed: int = 0) -> np.ndarray:
    return samples + np.float32(size_mv) * np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)


@given(
    rate_hz=st.sampled_from([125.0, 250.0, 256.0, 360.0, 500.0, 1000.0]),
    wave_hz=st.sampled_from([0.5, 0.977, 1.0, 1.953, 5.0]),
    height_mv=st.floats(0.01, 50),
    duty=st.sampled_from([0.5, 0.5, 0.25]),
    phase=st.floats(0, 1),
)
def test_a_clean_wave_is_measured_within_half_a_percent(
    rate_hz: float, wave_hz: float, height_mv: float, duty: float, phase: float
) -> None:
    """0.977 and 1.953 Hz are the test signals of the ADS1299 at its own clock."""
    found = measure(_wave(rate_hz, wave_hz, height_mv, duty=duty, phase=phase), rate_hz)
    assert found.height_mv == pytest.approx(height_mv, rel=0.005)
    assert found.factor == pytest.approx(1 / height_mv, rel=0.005)
    assert found.high_mv == pytest.approx(height_mv / 2, rel=0.02)
    assert found.low_mv == pytest.approx(-height_mv / 2, rel=0.02)
    assert abs(found.pulses - 10 * wave_hz) <= 1
    assert found.noise_mv < 0.001 * height_mv


@pytest.mark.parametrize("low_pass_hz", [None, 40.0, 15.0])
@pytest.mark.parametrize("high_pass_hz", [None, 0.05, 0.5])
@pytest.mark.parametrize("wave_hz", [0.977, 2.0])
@pytest.mark.parametrize("rate_hz", [125.0, 500.0])
def test_what_a_monitors_filters_do_to_it_costs_at_most_three_percent(
    rate_hz: float, wave_hz: float, high_pass_hz: float | None, low_pass_hz: float | None
) -> None:
    """A 0.5 Hz high-pass takes four fifths of a half-second level away before its end."""
    samples = _noise(_wave(rate_hz, wave_hz, 1.0, low_pass_hz=low_pass_hz, high_pass_hz=high_pass_hz), 0.02)
    assert measure(samples, rate_hz).height_mv == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
@given(phase=st.floats(0, 1), rate_hz=st.sampled_from([250.0, 360.0, 500.0]), wave_hz=st.sampled_from([0.977, 1.0, 2.0]))
def test_hum_costs_at_most_three_percent_and_is_told_as_noise(mains_hz: float, phase: float, rate_hz: float, wave_hz: float) -> None:
    found = measure(_sine(_wave(rate_hz, wave_hz), rate_hz, mains_hz, 0.1, phase), rate_hz)
    assert found.height_mv == pytest.approx(1.0, rel=0.03)
    assert found.noise_mv == pytest.approx(0.1, rel=0.3)


@given(phase=st.floats(0, 1), wander_hz=st.floats(0.05, 0.4), wave_hz=st.sampled_from([0.977, 1.0, 2.0, 5.0]))
def test_a_wandering_baseline_half_as_large_as_the_pulse_costs_at_most_five_percent(phase: float, wander_hz: float, wave_hz: float) -> None:
    found = measure(_sine(_wave(wave_hz=wave_hz), 250.0, wander_hz, 0.5, phase), 250.0)
    assert found.height_mv == pytest.approx(1.0, rel=0.05)


def test_the_fast_calibration_signal_of_an_arduino_shield_is_measured() -> None:
    """The Olimex sketch turns its pin over every twelve samples or so, at 256 a second."""
    samples = _noise(_wave(256.0, 256 / 24, 1.0, low_pass_hz=59.0), 0.02)
    assert measure(samples, 256.0).height_mv == pytest.approx(1.0, rel=0.04)


def test_the_inner_signal_of_an_ads1299_is_twice_its_amplitude_high() -> None:
    """Datasheet: plus and minus 4.5 V / 2400 at 2.048 MHz / 2^21."""
    pulse_mv = 2 * 4500 / 2400
    found = measure(_wave(250.0, 2.048e6 / 2**21, pulse_mv * 0.5), 250.0, pulse_mv)
    assert found.factor == pytest.approx(2.0, rel=0.005)


@given(scale=st.sampled_from([-1.0, 3.0, -0.25]), offset_mv=st.floats(-20, 20), seed=st.integers(0, 100))
def test_turned_over_shifted_or_enlarged_it_measures_alike(scale: float, offset_mv: float, seed: int) -> None:
    samples = _noise(_wave(height_mv=1.2, low_pass_hz=40.0, high_pass_hz=0.05), 0.02, seed)
    plain, other = measure(samples, 250.0), measure(np.float32(scale) * samples + np.float32(offset_mv), 250.0)
    assert other.height_mv == pytest.approx(abs(scale) * plain.height_mv, rel=1e-3)
    assert other.noise_mv == pytest.approx(abs(scale) * plain.noise_mv, rel=1e-2)
    assert (other.low_mv + other.high_mv) / 2 == pytest.approx(scale * (plain.low_mv + plain.high_mv) / 2 + offset_mv, abs=1e-3)


def test_artefacts_and_lost_samples_do_not_move_it() -> None:
    samples = _noise(_wave(seconds=20), 0.02)
    samples[300:303] += 40
    samples[1200:1210] -= 5
    samples[4000] = np.nan
    assert measure(samples, 250.0).height_mv == pytest.approx(1.0, rel=0.01)


@given(height_mv=st.floats(0.05, 20), units_per_mv=st.sampled_from([44.7, 200.0, 44739.24, -1000.0]))
def test_with_the_advised_scale_the_same_units_measure_right(height_mv: float, units_per_mv: float) -> None:
    found = measure(_wave(height_mv=height_mv), 250.0)
    units = _wave(height_mv=height_mv).astype(np.float64) * units_per_mv
    again = measure((units / found.units_per_mv(units_per_mv)).astype(np.float32), 250.0)
    assert again.height_mv == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("height_mv", "line"), [(0.894, "units_per_mv = 44.7"), (2.0, "units_per_mv = 100"), (0.5, "units_per_mv = 25")])
def test_the_advice_is_a_line_for_the_configuration(height_mv: float, line: str) -> None:
    text = advise(measure(_wave(height_mv=height_mv), 250.0), "II", 50.0)
    assert text.splitlines()[-1] == line
    assert "lead II" in text
    assert "edge.toml" in text


def test_a_scale_that_is_right_is_left_alone() -> None:
    text = advise(measure(_wave(height_mv=1.002), 250.0), "I", 44739.24)
    assert "may stay" in text
    assert "units_per_mv = 44740" in text


def _flat(rate_hz: float) -> np.ndarray:
    return np.full(round(10 * rate_hz), 1.65, np.float32)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (_flat(250), "flat; switch the calibration pulses on"),
        (_flat(250)[:300], "only 1.2 s of valid samples"),
        (np.full(2500, np.nan, np.float32), "only 0.0 s of valid samples"),
        (np.zeros(0, np.float32), "only 0.0 s of valid samples"),
        (_wave(wave_hz=0.15), "only 3 edges"),
        (_noise(_flat(250), 0.3), "no square wave"),
        (heart(72, 10, 250)[1], "no square wave"),
        (heart(150, 10, 250)[1], "no square wave"),
    ],
)
def test_what_is_no_square_wave_is_refused_with_a_way_to_mend_it(samples: np.ndarray, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        measure(samples, 250.0)
    assert any(way in str(error.value) for way in ("feed this lead with", "switch", "record at least"))


@pytest.mark.parametrize("hz", [0.5, 1.0, 1.3, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("kind", ["sine", "triangle", "saw"])
def test_other_waves_are_refused(kind: str, hz: float) -> None:
    phase = 2 * np.pi * hz * np.arange(5000) / 500
    wave = {"sine": np.sin(phase), "triangle": signal.sawtooth(phase, 0.5), "saw": signal.sawtooth(phase)}[kind]
    with pytest.raises(ConfigError, match=r"edges|no square wave"):
        measure(wave.astype(np.float32), 500.0)


def test_pulses_of_different_heights_are_refused() -> None:
    samples = _wave(seconds=20)
    samples *= 1 + 1.5 * np.repeat(np.arange(20) % 3, 250).astype(np.float32)
    with pytest.raises(ConfigError, match="no square wave"):
        measure(samples, 250.0)


@pytest.mark.parametrize("lead", [0, 1])
def test_a_real_ecg_is_refused(excerpt: Chunk, lead: int) -> None:
    for start in range(0, excerpt.end - 3600, 3600):
        with pytest.raises(ConfigError):
            measure(excerpt.samples_mv[lead, start : start + 3600], 360.0)


def test_of_the_mit_bih_archive_hardly_any_stretch_passes_for_a_square_wave() -> None:
    """Ten seconds from the middle of each record and lead; in a regular rhythm of wide beats one in a thousand does."""
    headers = sorted((ARCHIVE / "mitdb").glob("*.hea"))
    if not headers:
        pytest.skip("the MIT-BIH archive is not here")
    passed = 0
    for header in headers:
        samples = wfdb.rdrecord(str(header.with_suffix("")), sampfrom=300_000, sampto=303_600).p_signal.T
        passed += sum(_passes(lead.astype(np.float32)) for lead in samples)
    assert passed <= 1


def _passes(samples: np.ndarray) -> bool:
    try:
        measure(samples, 360.0)
    except ConfigError:
        return False
    return True


@given(values=st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), max_size=300), repeat=st.integers(1, 20))
def test_whatever_the_samples_the_answer_is_a_measure_or_a_configuration_error(values: list[float], repeat: int) -> None:
    samples = np.repeat(np.array(values, np.float32), repeat)
    try:
        found = measure(samples, 125.0)
    except ConfigError:
        return
    assert found.height_mv > 0
    assert found.low_mv < found.high_mv
