"""Signal quality: each fault is told, a clean ECG has none, and the cut of the chunks does not matter."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from edge.decode.chunk import Chunk
from edge.decode.csv import Columns
from edge.quality import Judge, judge
from edge.transport.file import open_recording
from kernels.signal import LEADS

from .conftest import ARCHIVE, cut, heart

RATE_HZ = 500.0


def _second(lead_ii: np.ndarray) -> str:
    return judge(lead_ii[None].astype(np.float32), ("II",), RATE_HZ)[LEADS.index("II")]


def _clean() -> np.ndarray:
    return heart(70, 1, RATE_HZ)[1]


def test_a_clean_second_is_good() -> None:
    assert _second(_clean()) == "good"


def test_each_fault_has_its_name() -> None:
    t = np.arange(500) / RATE_HZ
    rng = np.random.default_rng(0)
    assert _second(np.full(500, 0.3)) == "flat"
    assert _second(np.clip(_clean() + 9 * (t > 0.5), -5, 5)) == "saturated"
    assert _second(_clean() * 40) == "implausible"
    assert _second(_clean() + 0.5 * rng.standard_normal(500)) == "noise"
    assert _second(_clean() + 2 * np.sin(2 * np.pi * 50 * t)) == "mains"
    assert _second(_clean() + 2 * np.sin(2 * np.pi * 60 * t)) == "mains"
    assert _second(np.where(t > 0.9, np.nan, _clean())) == "off"


def test_absent_leads_are_absent_and_derived_leads_share_the_fault_of_their_parts() -> None:
    clean, flat = _clean(), np.zeros(500, np.float32)
    states = dict(zip(LEADS, judge(np.stack([clean, flat]).astype(np.float32), ("I", "II"), RATE_HZ), strict=True))
    assert states["I"] == "good"
    assert {states[lead] for lead in ("II", "III", "aVR", "aVL", "aVF")} == {"flat"}
    assert {states[lead] for lead in ("V1", "V6")} == {"absent"}


@given(cuts=st.lists(st.integers(0, 2500), max_size=8))
def test_the_cut_does_not_matter(cuts: list[int]) -> None:
    source = Chunk(0, RATE_HZ, LEADS, heart(70, 5, RATE_HZ))
    told, judge_whole = Judge(), Judge()
    assert [q for c in cut(source, cuts) for q in told.feed(c)] == list(judge_whole.feed(source))


def test_a_gap_begins_a_new_second_and_most_of_one_before_it_is_judged() -> None:
    """Or else a source that loses a sample each second would never be judged."""
    judge_ = Judge()
    told = [q for start in (0, 1000) for q in judge_.feed(Chunk(start, RATE_HZ, LEADS, heart(70, 0.7, RATE_HZ)))]
    assert told == []
    judge_ = Judge()
    told = [q for start in (0, 1000) for q in judge_.feed(Chunk(start, RATE_HZ, LEADS, heart(70, 0.8, RATE_HZ)))]
    assert [(q.start_s, q.end_s, set(q.states)) for q in told] == [(0.0, 0.8, {"good"})]


@pytest.mark.skipif(not (ARCHIVE / "cinc2011").is_dir(), reason="needs the CinC 2011 recordings")
def test_bad_seconds_tell_unacceptable_recordings_from_acceptable_ones() -> None:
    """Oracle: the labels of the PhysioNet/CinC Challenge 2011 (whose recordings are in units of 5 uV)."""
    bad, label = [], []
    with (ARCHIVE / "cinc2011" / "REFERENCE.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        source = open_recording(ARCHIVE / "cinc2011" / f"{row['record']}.csv", Columns(rate_hz=500.0, mv_per_unit=0.005))
        judge_ = Judge()
        seconds = [q for chunk in source.chunks() for q in judge_.feed(chunk)]
        bad.append(np.mean([state != "good" for q in seconds for state in q.states]))
        label.append(row["quality"] == "unacceptable")
    assert roc_auc_score(label, bad) > 0.8
