"""Beats and heart rate: what cardiologists annotated and what wfdb's own detector finds, for any cut."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from wfdb.processing import compare_annotations, xqrs_detect

from edge.decode.chunk import Chunk
from edge.vitals import LAG_S, Monitor, Vitals
from edge.window import Resample
from kernels.signal import LEADS

from .conftest import ARCHIVE, EXCERPT, cut, heart

BEATS = set("NLRBAaJSVrFejnE/fQ?")


def _vitals(chunks: list[Chunk]) -> list[Vitals]:
    stage, monitor = Resample(100.0), Monitor(100.0)
    resampled = [c for chunk in chunks for c in stage.feed(chunk)] + list(stage.flush())
    told = [known for chunk in resampled for known in monitor.feed(chunk)] + list(monitor.flush())
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    return [vitals for _, vitals in told]


def _beats(chunks: list[Chunk]) -> np.ndarray:
    return np.sort([beat for v in _vitals(chunks) for beat in v.beats_s])


def _matched(reference_s: np.ndarray, found_s: np.ndarray) -> tuple[float, float]:
    """Sensitivity and positive predictivity within 150 ms (EC57), by wfdb's matcher, without the first five seconds."""
    reference, found = (np.round(x[x > 5] * 1000).astype(int) for x in (reference_s, found_s))
    result = compare_annotations(reference, found, 150)
    return result.sensitivity, result.positive_predictivity


def _annotated(record: str) -> np.ndarray:
    notes = wfdb.rdann(record, "atr")
    return np.array([s for s, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in BEATS]) / 360


def test_finds_the_annotated_beats_of_the_excerpt(excerpt: Chunk) -> None:
    sensitivity, predictivity = _matched(_annotated(str(EXCERPT)), _beats([excerpt]))
    assert sensitivity > 0.98
    assert predictivity > 0.98


def test_agrees_with_the_detector_of_wfdb(excerpt: Chunk) -> None:
    theirs = xqrs_detect(excerpt.samples_mv[0].astype(float), 360, verbose=False) / 360
    sensitivity, predictivity = _matched(theirs, _beats([excerpt]))
    assert sensitivity > 0.97
    assert predictivity > 0.95


@pytest.mark.skipif(not (ARCHIVE / "mitdb").is_dir(), reason="needs the MIT-BIH recordings")
@pytest.mark.parametrize("record", ["101", "106", "118", "119", "203", "208", "223"])
def test_finds_the_annotated_beats_of_whole_records(record: str) -> None:
    signals = wfdb.rdrecord(str(ARCHIVE / "mitdb" / record))
    source = Chunk(0, 360.0, ("II", "V1"), signals.p_signal.T.astype(np.float32))
    sensitivity, predictivity = _matched(_annotated(str(ARCHIVE / "mitdb" / record)), _beats([source]))
    assert sensitivity > 0.99
    assert predictivity > 0.985


@pytest.mark.skipif(not (ARCHIVE / "nstdb").is_dir(), reason="needs the noise of electrodes and muscles")
@pytest.mark.parametrize("kind", ["bw", "ma"])
def test_real_noise_of_six_decibels_costs_two_beats_in_a_hundred_at_most(kind: str) -> None:
    """As NSTDB measures it: a sine of the complexes' height has six decibels more power than the noise."""
    clean = wfdb.rdrecord(str(ARCHIVE / "mitdb" / "230"), sampto=360 * 600).p_signal.T
    noise = wfdb.rdrecord(str(ARCHIVE / "nstdb" / kind), sampto=360 * 600).p_signal.T
    beats = np.round(_annotated(str(ARCHIVE / "mitdb" / "230")) * 360).astype(int)
    beats = beats[(beats > 18) & (beats < 360 * 600 - 18)]
    height = np.mean([np.ptp(clean[:, at - 18 : at + 19], axis=1) for at in beats], axis=0)
    gain = np.sqrt(height**2 / 8 / noise.var(axis=1) / 10**0.6)
    source = Chunk(0, 360.0, ("II", "V1"), (clean + gain[:, None] * noise).astype(np.float32))
    sensitivity, predictivity = _matched(beats / 360, _beats([source]))
    assert sensitivity > 0.98
    assert predictivity > 0.98


@pytest.mark.parametrize("bpm", [30, 35, 60, 100, 150, 190, 210])
def test_the_rate_of_a_plain_heart(bpm: int) -> None:
    last = _vitals([Chunk(0, 250.0, LEADS, heart(bpm, 30, 250))])[-1]
    assert last.heart_rate_bpm == pytest.approx(bpm, rel=0.03)


@given(cuts=st.lists(st.integers(0, 360 * 40), max_size=10))
def test_the_cut_does_not_matter(excerpt: Chunk, cuts: list[int]) -> None:
    source = Chunk(0, 360.0, excerpt.leads, excerpt.samples_mv[:, 360 * 60 : 360 * 100])
    assert _vitals(cut(source, cuts)) == _vitals([source])


def test_no_heart_no_rate() -> None:
    flat = Chunk(0, 250.0, LEADS, np.zeros((12, 250 * 20), np.float32))
    assert {v.heart_rate_bpm for v in _vitals([flat])} == {None}


@pytest.mark.parametrize("leads", [1, 2, 12])
@pytest.mark.parametrize("kind", ["white", "slow", "common"])
@pytest.mark.parametrize("level_mv", [0.01, 0.03, 0.05])
def test_noise_alone_has_next_to_no_rate(leads: int, kind: str, level_mv: float) -> None:
    """Asystole is no moment to invent a pulse: a rate may stand in one second of twenty at most."""
    rng = np.random.default_rng(leads)
    noise = rng.standard_normal((1 if kind == "common" else leads, 250 * 120))
    if kind == "slow":
        noise = np.stack([np.convolve(row, np.ones(5) / 5**0.5, "same") for row in noise])
    samples = (level_mv * np.repeat(noise, leads // len(noise), axis=0)).astype(np.float32)
    told = _vitals([Chunk(0, 250.0, LEADS[:leads], samples)])
    assert np.mean([v.heart_rate_bpm is not None for v in told]) < 0.05


def test_the_rate_of_bigeminy_is_steady() -> None:
    normal, early = heart(120, 0.5, 250), heart(60 / 1.1, 1.1, 250)
    samples = np.tile(np.concatenate([normal, early], axis=1), 25)
    rates = [v.heart_rate_bpm for v in _vitals([Chunk(0, 250.0, LEADS, samples)]) if 12 < v.at_s < 38]
    assert rates == pytest.approx([75] * len(rates), rel=0.08)


def _bells(seconds: float, *bells: tuple[float, float, float]) -> Chunk:
    """Two leads of bells of this time (s), size (mV) and width (s), and a little noise."""
    t = np.arange(round(seconds * 250)) / 250
    signal = sum(size * np.exp(-(((t - at) / width) ** 2) / 2) for at, size, width in bells)
    noise = 0.005 * np.random.default_rng(0).standard_normal((2, len(t)))
    return Chunk(0, 250.0, ("I", "II"), (np.array([[0.6], [1.0]]) * signal + noise).astype(np.float32))


@pytest.mark.parametrize("t_wave_mv", [0.8, 1.15])
def test_the_large_t_wave_of_a_premature_beat_is_no_beat_whatever_the_pause_after_it(t_wave_mv: float) -> None:
    normal = np.cumsum(np.tile([1.0, 1.0, 1.0, 2.5], 12))
    early = normal[2::4] + 0.5
    bells = [(at, 1.0, 0.012) for at in normal] + [(at, 1.5, 0.035) for at in early]
    found = _beats([_bells(normal[-1] + 1, *bells, *((at + 0.24, t_wave_mv, 0.045) for at in early))])
    assert len(found) == len(normal) + len(early)
    assert found == pytest.approx(np.sort([*normal, *early]), abs=0.06)


def test_a_premature_beat_of_little_energy_is_found_in_a_pause_of_one_and_a_half_intervals() -> None:
    normal = np.cumsum(np.tile([1.0, 1.0, 1.0, 1.0, 1.6], 12))
    early = normal[3::5] + 0.62
    chunk = _bells(normal[-1] + 1, *((at, 1.0, 0.012) for at in normal), *((at, 0.26, 0.02) for at in early))
    found = _beats([chunk])
    assert np.array([np.abs(found - at).min() for at in early]) == pytest.approx(0, abs=0.06)
    assert len(found) == len(normal) + len(early)


@pytest.mark.parametrize("bpm", [180, 220, 250])
def test_wide_beats_of_a_fast_run_are_no_t_waves_though_their_size_varies(bpm: int) -> None:
    expected = np.arange(1, 30, 60 / bpm)
    chunk = _bells(31, *((at, 1.0 if i % 2 else 0.85, 0.025) for i, at in enumerate(expected)))
    assert _matched(expected, _beats([chunk])) == (1.0, 1.0)


def test_a_heart_that_stops_has_no_rate_four_seconds_later() -> None:
    samples = np.concatenate([heart(60, 20, 250), 0.005 * np.random.default_rng(0).standard_normal((12, 250 * 10))], axis=1)
    rates = {v.at_s: v.heart_rate_bpm for v in _vitals([Chunk(0, 250.0, LEADS, samples.astype(np.float32))])}
    assert rates[19.0] == pytest.approx(60, abs=2)
    assert rates[25.0] is None


@pytest.mark.parametrize(
    "artefact_mv",
    [
        np.where(np.arange(250 * 60) > 125, 10.0, 0.0),
        30.0 * (np.random.default_rng(0).random(250 * 60) - 0.5) * (np.arange(250 * 60) < 250 * 15),
        np.where(np.arange(250 * 60) % 1000 == 7, np.nan, 5.0),
    ],
    ids=["step", "storm", "offset with NaN"],
)
def test_an_artefact_blinds_it_for_seconds_not_for_good(artefact_mv: np.ndarray) -> None:
    samples = (heart(70, 60, 250) + artefact_mv).astype(np.float32)
    rates = [v.heart_rate_bpm for v in _vitals([Chunk(0, 250.0, LEADS, samples)]) if v.at_s > 25]
    assert rates == pytest.approx([70] * len(rates), rel=0.05)


def test_zeros_before_the_signal_teach_nothing() -> None:
    samples = np.concatenate([np.zeros((12, 250 * 3), np.float32), heart(70, 20, 250)], axis=1)
    told = _vitals([Chunk(0, 250.0, LEADS, samples)])
    assert {v.heart_rate_bpm for v in told if v.at_s <= 3} == {None}
    assert told[-1].heart_rate_bpm == pytest.approx(70, rel=0.03)


def test_eleven_leads_may_go_and_the_rate_comes_back() -> None:
    samples = heart(70, 60, 250)
    samples[1:, 250 * 30 :] = np.nan
    rates = {v.at_s: v.heart_rate_bpm for v in _vitals([Chunk(0, 250.0, LEADS, samples)])}
    assert rates[40.0] == pytest.approx(70, rel=0.03)


def test_every_beat_before_a_gap_is_told() -> None:
    stretches = [Chunk(250 * 20 * i, 250.0, LEADS, heart(60, 12, 250, seed=i)) for i in range(10)]
    assert len(_beats(stretches)) == pytest.approx(120, abs=10)


def test_vitals_come_each_second_and_begin_anew_after_a_gap() -> None:
    source = Chunk(0, 250.0, LEADS, heart(60, 10, 250))
    later = Chunk(250 * 20, 250.0, LEADS, heart(60, 10, 250))
    told = [v.at_s for v in _vitals([source, later])]
    assert told == [float(t) for t in [*range(1, 11), *range(21, 31)]]
    assert LAG_S < 1
