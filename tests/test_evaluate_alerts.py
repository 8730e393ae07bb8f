"""Judging the alarm path: every count against wfdb, scipy, scikit-learn, or the same rule written second by second."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner
from wfdb.processing import compare_annotations

from edge.alarm import Alert
from edge.decode.chunk import Chunk
from edge.evaluate import quality
from edge.evaluate.beats import count_beats, match, mean_rate
from edge.evaluate.command import evaluate_command
from edge.evaluate.draw import draw_all
from edge.evaluate.episodes import EpisodeCounts, FalseAlarm, Missed, Terms, count_episodes
from edge.evaluate.interval import Interval, shared_s, total_s, union, within, without
from edge.evaluate.noise import NoisyFile, Stress, measure_qrs, measure_rms, read_noise
from edge.evaluate.observe import Alarmed, Observed, alarm_again, pair
from edge.evaluate.study import Group, Outcome, Plan, find_records, judge_observed, judge_record, study
from edge.evaluate.table import false_table
from edge.evaluate.tally import average, gross
from edge.evaluate.truth import Truth, read_truth
from edge.evaluate.tune import GRID, count_again, to_toml, tune
from edge.quality import Quality
from edge.score import Scores
from edge.transport.file import open_recording
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.findings import ConfigError, Finding, parse_toml, read_findings

from .conftest import ARCHIVE, EXCERPT

AF, FLUTTER, PVC = "atrial_fibrillation", "atrial_flutter", "premature_ventricular_complexes"
LONG_S = 200

spans = st.lists(st.tuples(st.integers(0, LONG_S - 1), st.integers(1, 40)), max_size=5).map(
    lambda pairs: tuple(Interval(float(start), float(min(start + length, LONG_S))) for start, length in pairs)
)


def _seconds(intervals: Iterable[Interval]) -> set[int]:
    """The whole seconds that lie in any of them."""
    return {second for one in intervals for second in range(int(one.start_s), int(one.end_s))}


def _truth(rhythms: Sequence[tuple[str, Interval]] = (), beats_s: Sequence[float] = (), **more: object) -> Truth:
    empty = np.empty(0)
    blank = Truth(float(LONG_S), np.array(beats_s, float), empty, tuple(rhythms), (), ())
    return replace(blank, **more)  # type: ignore[arg-type]


def _alarmed(on: Interval, finding: str = AF, delay_s: float = 0.0) -> Alarmed:
    return Alarmed(finding, "physiological", "medium", on.start_s + delay_s, on)


def _observed(**more: object) -> Observed:
    blank = Observed("bed1", float(LONG_S), (), np.empty(0), np.empty(0), np.empty(0), ())
    return replace(blank, **more)  # type: ignore[arg-type]


def _count(
    episodes: Sequence[Interval], alerts: Sequence[Alarmed], terms: Terms = Terms(), flutter: Sequence[Interval] = ()
) -> EpisodeCounts:
    rhythms = [("AFIB", one) for one in episodes] + [("AFL", one) for one in flutter]
    return count_episodes(AF, _truth(rhythms), alerts, "100", terms)


# Intervals


@given(these=spans, those=spans)
def test_intervals_hold_the_same_seconds_as_sets_do(these: tuple[Interval, ...], those: tuple[Interval, ...]) -> None:
    frame = Interval(30.0, 150.0)
    assert _seconds(union(these)) == _seconds(these)
    assert all(a.end_s < b.start_s for a, b in itertools.pairwise(union(these)))
    assert total_s(these) == len(_seconds(these))
    assert shared_s(these, those) == len(_seconds(these) & _seconds(those))
    assert _seconds(without(these, those)) == _seconds(these) - _seconds(those)
    assert _seconds(within(these, frame)) == _seconds(these) & _seconds([frame])


# Truth


def test_rhythms_are_those_that_wfdb_gives_sample_by_sample() -> None:
    notes = wfdb.rdann(str(EXCERPT), "atr")
    truth = read_truth(EXCERPT, 270.0)
    at_each_second = []
    for second in range(270):
        before = [text for at, text in zip(notes.sample, notes.aux_note, strict=True) if text and at <= second * 360]
        at_each_second.append(before[-1].strip("(\x00") if before else "")
    told = [next((code for code, one in truth.rhythms if one.start_s <= second < one.end_s), "") for second in range(270)]
    assert told == at_each_second
    assert [round(one.start_s) for one in truth.episodes(AF)] == [0, 177]


def test_beats_are_all_annotations_that_wfdb_calls_beats() -> None:
    notes = wfdb.rdann(str(EXCERPT), "atr")
    told = [at / 360 for at, symbol in zip(notes.sample, notes.symbol, strict=True) if wfdb.io.annotation.is_qrs[_code(symbol)]]
    truth = read_truth(EXCERPT, 270.0)
    assert truth.beats_s.tolist() == pytest.approx(told)
    ventricular = notes.sample[[symbol in "VrE" for symbol in notes.symbol]]
    assert truth.ventricular_s.tolist() == pytest.approx(ventricular / 360)


def _code(symbol: str) -> int:
    table = wfdb.io.annotation.ann_label_table
    return int(table.loc[table["symbol"] == symbol, "label_store"].iloc[0])


@given(st.lists(st.integers(0, 10 * LONG_S - 1), max_size=12))
def test_an_episode_of_ventricular_beats_is_a_run_of_stretches_that_hold_one(tenths: list[int]) -> None:
    truth = _truth(beats_s=[0.5], ventricular_s=np.array(sorted(tenths)) / 10)
    wanted = {second for second in range(LONG_S) if any(tenth // 100 == second // 10 for tenth in tenths)}
    assert _seconds(truth.episodes(PVC)) == wanted
    assert truth.episodes(PVC) == union(truth.episodes(PVC))


def test_flutter_and_noise_are_read_from_their_marks(tmp_path: Path) -> None:
    samples, symbols = [360, 3600, 7200, 9000, 10800, 14400, 18000], ["+", "[", "!", "]", "~", "~", "+"]
    notes = ["(N", "", "", "", "", "", "(VFL"]
    wfdb.wrann(
        "a", "atr", np.array(samples), symbols, subtype=np.array([0, 0, 0, 0, 2, 0, 0]), aux_note=notes, fs=360, write_dir=str(tmp_path)
    )
    truth = read_truth(tmp_path / "a", 60.0)
    assert truth.fibrillation == (Interval(10.0, 25.0), Interval(50.0, 60.0))
    assert truth.noise == (Interval(30.0, 40.0),)
    assert truth.beats_s.size == 0
    assert not truth.judges(PVC)
    assert truth.judges(AF)


@pytest.mark.parametrize("code", ["(VF", "(VFIB", "(VFL"])
def test_no_beats_are_scored_in_fibrillation_however_it_is_noted(code: str, tmp_path: Path) -> None:
    """The notes of the MIT-BIH Malignant Ventricular Ectopy Database."""
    wfdb.wrann("a", "atr", np.array([360, 7200]), ["+", "+"], aux_note=[code, "(N"], fs=360, write_dir=str(tmp_path))
    assert read_truth(tmp_path / "a", 60.0).fibrillation == (Interval(1.0, 20.0),)


def test_a_premature_beat_on_a_t_wave_is_ventricular(tmp_path: Path) -> None:
    wfdb.wrann("a", "atr", np.array([360, 720, 1080, 1440]), ["N", "r", "E", "F"], fs=360, write_dir=str(tmp_path))
    assert read_truth(tmp_path / "a", 60.0).ventricular_s.tolist() == [2.0, 3.0]


def test_without_rhythm_notes_no_rhythm_is_judged() -> None:
    assert not _truth(beats_s=[1.0, 2.0]).judges(AF)
    assert _truth(beats_s=[1.0, 2.0]).judges(PVC)
    assert not _truth([("N", Interval(0.0, 1.0))]).judges("left_bundle_branch_block")


# Beats

sparse_beats = st.lists(st.integers(301, 1200), max_size=30).map(lambda gaps: np.cumsum(np.array(gaps, np.int64)))
dense_beats = st.lists(st.integers(1, 400), max_size=25).map(lambda gaps: np.cumsum(np.array(gaps, np.int64)))


@given(reference=dense_beats, found=dense_beats)
def test_no_matching_has_more_pairs(reference: np.ndarray, found: np.ndarray) -> None:
    """Oracle: the maximum matching of the graph of all beats at most 150 ms apart (scipy)."""
    is_matched, is_right = match(reference / 1000, found / 1000)
    near = np.abs(reference[:, None] - found[None, :]) <= 150
    wanted = int((maximum_bipartite_matching(csr_matrix(near)) >= 0).sum()) if near.size else 0
    assert is_matched.sum() == is_right.sum() == wanted


@given(reference=sparse_beats, found=sparse_beats)
def test_beats_match_as_wfdb_matches_them(reference: np.ndarray, found: np.ndarray) -> None:
    """EC57 takes beats that are 150 ms apart for one; wfdb those that are less far apart than it is told."""
    if len(reference) == 0 or len(found) == 0:
        return
    oracle = compare_annotations(reference, found, 151)
    is_matched, is_right = match(reference / 1000, found / 1000)
    assert is_matched.sum() == is_right.sum() == oracle.tp


def test_beats_of_a_detector_match_as_wfdb_matches_them() -> None:
    """On real beats: those of the excerpt against the same beats, shifted, some lost and some invented."""
    truth = read_truth(EXCERPT, 270.0)
    rng = np.random.default_rng(1)
    found = truth.beats_s + rng.normal(0, 0.1, len(truth.beats_s))
    found = np.sort(np.concatenate([found[rng.random(len(found)) < 0.9], rng.uniform(0, 270, 20)]))
    oracle = compare_annotations(np.round(truth.beats_s * 1000).astype(int), np.round(found * 1000).astype(int), 150)
    is_matched, is_right = match(np.round(truth.beats_s, 3), np.round(found, 3))
    assert abs(int(is_matched.sum()) - oracle.tp) <= 2  # the order in which it pairs crowded beats costs it some
    assert is_matched.sum() >= oracle.tp
    assert is_right.sum() == is_matched.sum()


def test_learning_time_and_flutter_are_not_scored() -> None:
    reference = np.arange(1.0, 200.0)
    lost = np.isin(reference, (30, 66)) | ((reference >= 100) & (reference <= 110))
    found = np.concatenate([reference[~lost], [20.5, 65.5, 150.5]])
    truth = _truth(beats_s=reference, fibrillation=(Interval(60.0, 70.0),))
    counts = count_beats(truth, _observed(beats_s=np.sort(found)), learning_s=50.0)
    assert counts.missed == 11
    assert counts.extra == 1
    assert counts.matched == 150 - 11 - 10
    assert counts.sensitivity == pytest.approx(129 / 140)
    assert counts.predictivity == pytest.approx(129 / 130)


@given(st.sets(st.integers(1, 34), max_size=30), st.integers(5, 15))
def test_the_reference_rate_is_that_of_the_beats_in_the_last_ten_seconds(halves: set[int], at_s: int) -> None:
    beats = [500 * half for half in sorted(halves)]
    recent = [beat for beat in beats if at_s * 1000 - 10_000 < beat <= at_s * 1000]
    wanted = None if len(recent) < 3 else 60_000 / np.mean(np.diff(recent))
    assert mean_rate(np.array(beats) / 1000, float(at_s)) == (None if wanted is None else pytest.approx(wanted))


def test_rate_errors_count_the_seconds_that_have_a_reference() -> None:
    vitals_s = np.arange(20.0, 60.0)
    rates = np.where(vitals_s < 40, 63.0, np.where(vitals_s < 50, 56.0, np.nan))
    truth = _truth(beats_s=np.arange(0.0, 70.0))
    counts = count_beats(truth, _observed(vitals_s=vitals_s, rates_bpm=rates), learning_s=0.0)
    assert (counts.rates, counts.told) == (_with_reference(0), 30)
    assert counts.rms_bpm == pytest.approx(np.sqrt((20 * 9 + 10 * 16) / 30))
    assert counts.mae_bpm == pytest.approx((20 * 3 + 10 * 4) / 30)
    assert count_beats(truth, _observed(vitals_s=vitals_s, rates_bpm=rates), learning_s=30.0).rates == _with_reference(30)


def _with_reference(learning_s: int) -> int:
    """Seconds of the recording that have three of the beats at 0, 1, .. 69 s in the ten seconds up to them."""
    return sum(len({*range(at_s - 9, at_s + 1)} & {*range(70)}) >= 3 for at_s in range(learning_s + 10, LONG_S + 1))


def test_a_second_without_any_word_of_the_heart_rate_counts_as_not_told() -> None:
    """A dropout of the monitor, while the reference goes on."""
    truth = _truth(beats_s=np.arange(0.0, 200.0))
    vitals_s = np.array([at_s for at_s in range(1, LONG_S + 1) if not 100 <= at_s < 150], float)
    counts = count_beats(truth, _observed(vitals_s=vitals_s, rates_bpm=np.full(len(vitals_s), 60.0)), learning_s=0.0)
    assert (counts.rates, counts.told) == (191, 141)


# Episodes


@given(episodes=spans, on=spans, flutter=spans, noise=spans)
def test_episodes_and_alarms_count_as_second_by_second(
    episodes: tuple[Interval, ...], on: tuple[Interval, ...], flutter: tuple[Interval, ...], noise: tuple[Interval, ...]
) -> None:
    """Oracle: sets of whole seconds. An alert that begins within 15 s of an end touches the seconds [start, end + 15)."""
    flutter = without(flutter, episodes)
    episodes = union(episodes)
    truth = _truth([("AFIB", one) for one in episodes] + [("AFL", one) for one in flutter], noise=noise)
    counts = count_episodes(AF, truth, [_alarmed(one) for one in on], "100")
    told, fibrillating, fluttering = _seconds(on), _seconds(episodes), _seconds(flutter)
    soon, soon_flutter = _widened(episodes), _widened(flutter)
    right = [one for one in on if _seconds([one]) & fibrillating]
    late = [one for one in on if one not in right and _seconds([one]) & soon]
    kin = [one for one in on if one not in right and one not in late and _seconds([one]) & soon_flutter]
    assert counts.detected == sum(bool(_seconds([one]) & told) for one in episodes)
    long = [one for one in episodes if one.length_s >= 30]
    assert (counts.long_episodes, counts.long_detected) == (len(long), sum(bool(_seconds([one]) & told) for one in long))
    assert (counts.alerts, counts.right, counts.late, counts.kin) == (len(on), len(right), len(late), len(kin))
    assert counts.false == len(on) - len(right) - len(late) - len(kin)
    false = [one for one in on if one not in right and one not in late and one not in kin]
    assert counts.false_in_noise == sum(bool(_seconds([one]) & _seconds(noise)) for one in false)
    assert [(one.raised_s, one.end_s) for one in counts.false_alarms] == [(one.start_s, one.end_s) for one in false]
    assert sum(one.noisy for one in counts.false_alarms) == counts.false_in_noise
    assert (counts.episode_s, counts.episode_shared_s) == (len(fibrillating), len(fibrillating & told))
    assert (counts.alert_s, counts.alert_shared_s) == (len(told - fluttering), len(told & fibrillating))
    assert counts.kin_s == len(told & fluttering)
    missed = [one for one in episodes if not (_widened([one]) & told and any(_catches(alert, one) for alert in on))]
    assert [one.start_s for one in counts.missed] == [one.start_s for one in missed]


def _widened(intervals: Iterable[Interval]) -> set[int]:
    return {second for one in intervals for second in range(int(one.start_s), int(one.end_s) + 15)}


def _catches(alert: Interval, episode: Interval) -> bool:
    return bool(_seconds([alert]) & _seconds([episode])) or 0 <= alert.start_s - episode.end_s < 15


def test_the_time_to_alarm_begins_with_the_episode_and_ends_when_it_is_told() -> None:
    episodes = [Interval(0.0, 20.0), Interval(40.0, 60.0), Interval(80.0, 85.0), Interval(120.0, 130.0), Interval(160.0, 170.0)]
    on = [Interval(2.0, 25.0), Interval(50.0, 65.0), Interval(90.0, 99.0), Interval(110.0, 140.0)]
    counts = _count(episodes, [_alarmed(one, delay_s=2.0) for one in on])
    assert counts.delays_s == (12.0, 12.0)  # the first began with the recording, the fourth under an alert
    assert counts.already_on == 1
    assert counts.late == 1
    assert (counts.detected, counts.in_time) == (3, 3)
    assert counts.missed == (Missed("100", 160.0, 170.0),)


def test_an_alarm_that_was_pending_when_the_episode_began_was_not_on() -> None:
    counts = _count([Interval(40.0, 60.0)], [_alarmed(Interval(39.0, 70.0), delay_s=2.0)])
    assert (counts.already_on, counts.delays_s) == (0, (1.0,))


def test_an_alarm_during_flutter_is_neither_right_nor_false() -> None:
    counts = _count(
        [Interval(0.0, 30.0)], [_alarmed(Interval(5.0, 31.0)), _alarmed(Interval(100.0, 120.0))], flutter=[Interval(90.0, 150.0)]
    )
    assert (counts.right, counts.kin, counts.false) == (1, 1, 0)
    assert counts.predictivity == 1.0
    assert counts.false_per_day == 0.0
    assert counts.false_or_kin_per_day == pytest.approx(24 * 3600 / LONG_S)
    assert counts.duration_predictivity == pytest.approx(25 / 26)


def test_what_lies_before_the_beginning_is_left_out() -> None:
    episodes, on = [Interval(0.0, 20.0), Interval(40.0, 90.0)], [Interval(5.0, 15.0), Interval(45.0, 70.0), Interval(150.0, 160.0)]
    counts = _count(episodes, [_alarmed(one) for one in on], Terms(from_s=50.0))
    assert (counts.episodes, counts.detected, counts.episode_s, counts.episode_shared_s) == (1, 1, 40.0, 20.0)
    assert (counts.alerts, counts.false) == (1, 1)  # the second was raised before
    assert counts.hours == pytest.approx(150 / 3600)


def test_an_alert_told_after_the_episode_detects_it_by_its_onset_but_not_in_time() -> None:
    counts = _count([Interval(40.0, 50.0), Interval(100.0, 120.0)], [_alarmed(Interval(49.0, 70.0), delay_s=8.0)])
    assert (counts.detected, counts.right, counts.in_time) == (1, 1, 0)
    counts = _count([Interval(40.0, 60.0)], [_alarmed(Interval(49.0, 70.0), delay_s=8.0), _alarmed(Interval(55.0, 70.0), delay_s=1.0)])
    assert (counts.detected, counts.in_time) == (1, 1)


def test_an_alarm_after_the_learning_time_is_right_or_late_by_an_episode_in_it() -> None:
    """The first is told when the learning time is over, of an episode that it overlaps before; the second soon after its end."""
    terms = Terms(from_s=50.0)
    counts = _count([Interval(10.0, 45.0)], [_alarmed(Interval(44.0, 60.0), delay_s=7.0), _alarmed(Interval(55.0, 65.0))], terms)
    assert (counts.alerts, counts.right, counts.late, counts.false) == (2, 1, 1, 0)
    assert (counts.episodes, counts.episode_s, counts.alert_s) == (0, 0, 15.0)
    counts = _count([], [_alarmed(Interval(40.0, 70.0), delay_s=15.0)], terms, flutter=[Interval(0.0, 45.0)])
    assert (counts.kin, counts.false) == (1, 0)


def test_an_episode_that_is_cut_does_not_begin_under_its_own_alert() -> None:
    alert = _alarmed(Interval(20.0, 90.0), delay_s=2.0)
    counts = _count([Interval(10.0, 100.0)], [alert], Terms(from_s=50.0))
    assert (counts.already_on, counts.delays_s, counts.detected) == (0, (), 1)
    assert _count([Interval(60.0, 100.0)], [alert], Terms(from_s=50.0)).already_on == 1


def test_an_episode_that_begins_as_the_learning_time_ends_is_timed() -> None:
    assert _count([Interval(50.0, 90.0)], [_alarmed(Interval(55.0, 95.0), delay_s=3.0)], Terms(from_s=50.0)).delays_s == (8.0,)


def test_false_alarms_are_listed_by_time_with_their_noise() -> None:
    truth = _truth([("N", Interval(0.0, 200.0))], noise=(Interval(100.0, 110.0),))
    alerts = [_alarmed(Interval(20.0, 30.0), delay_s=2.0), _alarmed(Interval(105.0, 120.0))]
    listed = count_episodes(AF, truth, alerts, "100").false_alarms
    assert listed == (FalseAlarm("100", 22.0, 30.0, False), FalseAlarm("100", 105.0, 120.0, True))


def test_rhythms_that_no_finding_stands_for_are_counted_by_their_code(excerpt_outcome: Outcome) -> None:
    """Two notes that touch are one episode to a finding that is watched for, and no less watched for."""
    rhythms = [("AFIB", Interval(0.0, 10.0)), ("AFIB", Interval(10.0, 20.0)), ("N", Interval(20.0, 30.0))]
    others = [("NOD", Interval(30.0, 40.0)), ("B", Interval(40.0, 50.0)), ("NOD", Interval(50.0, 60.0))]
    assert AF in excerpt_outcome.findings
    outcome = replace(excerpt_outcome, truth=_truth(rhythms + others))
    assert Group((outcome,)).unwatched == {"NOD": 2, "B": 1}
    assert "AFL" in Group((replace(outcome, findings={}, truth=_truth([("AFL", Interval(0.0, 9.0))])),)).unwatched


def test_other_findings_and_other_states_do_not_count() -> None:
    counts = _count([Interval(0.0, 30.0)], [_alarmed(Interval(5.0, 20.0), finding=FLUTTER)])
    assert (counts.alerts, counts.detected) == (0, 0)


@given(st.lists(st.tuples(spans, spans), min_size=1, max_size=4))
def test_gross_adds_counts_and_average_is_the_mean_of_shares(records: list[tuple[tuple[Interval, ...], tuple[Interval, ...]]]) -> None:
    rows = [_count(union(episodes), [_alarmed(one) for one in on]) for episodes, on in records]
    total = gross(rows)
    assert total.false == sum(row.false for row in rows)
    assert len(total.missed) == sum(len(row.missed) for row in rows)
    assert total.sensitivity == (sum(r.detected for r in rows) / n if (n := sum(r.episodes for r in rows)) else None)
    shares = [row.detected / row.episodes for row in rows if row.episodes]
    assert average(rows, "sensitivity") == (pytest.approx(np.mean(shares)) if shares else None)


def test_an_alert_lasts_from_its_onset_to_its_clearing_or_to_the_end(excerpt_outcome: Outcome, excerpt_alerts: list[Alert]) -> None:
    alerts = excerpt_outcome.observed.alerts
    raised = [alert for alert in excerpt_alerts if alert.state == "raised"]
    cleared = {alert.id: alert.at_s for alert in excerpt_alerts if alert.state == "cleared"}
    assert [(a.finding, a.raised_s, a.on.start_s) for a in alerts] == [(a.finding, a.at_s, a.onset_s) for a in raised]
    assert [a.on.end_s for a in alerts] == [cleared.get(a.id, excerpt_outcome.observed.duration_s) for a in raised]
    assert pair(excerpt_alerts, excerpt_outcome.observed.duration_s) == alerts


# The whole path, on the real excerpt


@pytest.fixture(scope="module")
def plan(bundle: Bundle) -> Plan:
    return Plan(bundle, learning_s=0.0, keep=True)


@pytest.fixture(scope="module")
def excerpt_outcome(plan: Plan) -> Outcome:
    return judge_record(EXCERPT, plan)


@pytest.fixture(scope="module")
def excerpt_alerts(bundle: Bundle) -> list[Alert]:
    from edge.replay import replay
    from kernels.engine import open_engine

    with open_engine(bundle) as engine:
        return [event for _, events in replay(open_recording(EXCERPT), engine) for event in events if isinstance(event, Alert)]


def test_both_episodes_of_fibrillation_are_detected_and_the_beats_found(excerpt_outcome: Outcome) -> None:
    counts = excerpt_outcome.findings[AF]
    assert (counts.episodes, counts.detected) == (2, 2)
    assert excerpt_outcome.beats.sensitivity is not None
    assert excerpt_outcome.beats.sensitivity > 0.97
    assert excerpt_outcome.hours == pytest.approx(270 / 3600)


def test_the_alarm_run_again_on_what_it_was_fed_gives_the_same_alerts(excerpt_outcome: Outcome, bundle: Bundle) -> None:
    assert alarm_again(excerpt_outcome.observed, bundle.card) == excerpt_outcome.observed.alerts
    finding = next(one for one in bundle.card.findings if one.name == AF)
    assert count_again(finding, bundle.card, [excerpt_outcome], Terms()) == excerpt_outcome.findings[AF]


def test_the_alarm_run_again_is_as_blind_as_the_first_time(bundle: Bundle, plan: Plan, tmp_path: Path) -> None:
    """A flat stretch, after which windows do not count for a while, and a noisy lead."""
    record = wfdb.rdrecord(str(EXCERPT), sampto=80 * 360)
    record.p_signal[30 * 360 : 38 * 360] = 0
    record.p_signal[50 * 360 : 65 * 360, 1] += np.random.default_rng(0).normal(0, 1, 15 * 360)
    wfdb.wrsamp("flat", 360, record.units, record.sig_name, record.p_signal, fmt=["16", "16"], write_dir=str(tmp_path))
    wfdb.wrann("flat", "atr", np.array([1]), ["+"], aux_note=["(AFIB"], fs=360, write_dir=str(tmp_path))
    observed = judge_record(tmp_path / "flat", plan).observed
    assert {"no_signal", AF} <= {alert.finding for alert in observed.alerts}
    assert alarm_again(observed, bundle.card) == observed.alerts


def test_the_quality_of_a_second_is_fed_before_the_window_that_ends_with_it(excerpt_outcome: Outcome) -> None:
    judged_s = 0.0
    for one in excerpt_outcome.observed.fed:
        judged_s = one.end_s if isinstance(one, Quality) else judged_s
        assert not isinstance(one, Scores) or judged_s == pytest.approx(one.at_s)


def test_a_threshold_above_what_alarms_falsely_is_chosen(bundle: Bundle) -> None:
    """Probabilities of 0.8 in an episode, of 0.3 before it and 0.5 after it."""
    level = [0.3] * 60 + [0.8] * 60 + [0.0] * 30 + [0.5] * 10 + [0.0] * 40
    fed = tuple(Scores("bed1", float(at), {AF: p}, {"II": "good"}) for at, p in enumerate(level))
    truth = _truth([("AFIB", Interval(60.0, 120.0))])
    outcome = judge_observed("100", truth, _observed(fed=fed), Plan(bundle))
    by_scores = bundle.card.model_copy(update={"findings": tuple(_without_pulse(one) for one in bundle.card.findings)})
    tuned = tune(AF, by_scores, [outcome], [], Terms(), 0.9)
    false = {trial.finding.raise_at: trial.counts.false for trial in tuned.trials}
    assert (false[0.5], false[0.55]) == (1, 0)
    assert tuned.best.finding.raise_at == 0.8
    assert tuned.best.counts.false == 0


def _without_pulse(finding: Finding) -> Finding:
    return finding.model_copy(update={"irregular": False, "above_bpm": None, "below_bpm": None})


def test_an_open_threshold_alarms_more_and_a_closed_one_never(excerpt_outcome: Outcome, bundle: Bundle) -> None:
    finding = next(one for one in bundle.card.findings if one.name == AF)
    low, high = (finding.model_copy(update={"raise_at": at, "clear_at": at * 0.7}) for at in (0.01, 0.999))
    before = excerpt_outcome.findings[AF]
    assert count_again(low, bundle.card, [excerpt_outcome], Terms()).alert_s > before.alert_s
    assert count_again(high, bundle.card, [excerpt_outcome], Terms()).alerts == 0


def test_thresholds_are_the_best_of_the_training_records_and_the_others_have_no_say(excerpt_outcome: Outcome, bundle: Bundle) -> None:
    """Oracle: the objective in words, over all trials."""
    silent = replace(excerpt_outcome, record="other", observed=replace(excerpt_outcome.observed, fed=()))
    tuned = tune(AF, bundle.card, [excerpt_outcome], [silent], Terms(), 0.9)
    alone = tune(AF, bundle.card, [excerpt_outcome], [], Terms(), 0.9)
    assert tuned.best == alone.best
    assert [trial.finding.raise_at for trial in tuned.trials] == list(GRID)
    enough = [trial for trial in tuned.trials if (trial.counts.long_sensitivity or 0) >= 0.9]
    assert tuned.best in enough
    assert tuned.best.counts.false == min(trial.counts.false for trial in enough)
    assert tuned.before == excerpt_outcome.findings[AF]
    assert tuned.rest_after is not None
    assert tuned.rest_after.alerts == 0


def test_a_tuned_finding_survives_its_findings_file(excerpt_outcome: Outcome, bundle: Bundle, tmp_path: Path) -> None:
    """Among all others, so that the file is complete, and what it silences is in it."""
    path = tmp_path / "findings.toml"
    tuned = tune(AF, bundle.card, [excerpt_outcome], [], Terms(), 0.9)
    path.write_text(to_toml(tuned.findings), encoding="utf-8")
    wanted = [one.model_dump() for one in bundle.card.findings]
    chosen = next(one for one in wanted if one["name"] == AF)
    chosen |= {"raise_at": tuned.best.finding.raise_at, "clear_at": tuned.best.finding.clear_at}
    assert [one.model_dump() for one in read_findings(path)] == wanted


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e-9, 0.5), st.none() | st.floats(1e-3, 1e9))
def test_any_text_and_number_survives_a_findings_file(prompt: str, at: float, bpm: float | None) -> None:
    finding = Finding(name="a", prompts=(prompt,), raise_at=0.9, clear_at=at, above_bpm=bpm, leads=(("I", "V2"),), irregular=True)
    assert [Finding(**table) for table in parse_toml(to_toml([finding, finding]), "here")["finding"]] == [finding, finding]


def test_what_cannot_be_tuned_says_why(excerpt_outcome: Outcome, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        tune("sinus_rhythm", bundle.card, [excerpt_outcome], [], Terms(), 0.9)
    with pytest.raises(ConfigError, match=f"allowed are {AF}, {FLUTTER}"):  # it alerts, but no annotation can judge it
        tune("left_bundle_branch_block", bundle.card, [excerpt_outcome], [], Terms(), 0.9)
    with pytest.raises(ConfigError, match="no training record holds an episode of atrial_flutter"):
        tune(FLUTTER, bundle.card, [excerpt_outcome], [], Terms(), 0.9)


# Noise


class _Sines:
    """A recording in memory: two leads at a rate, a pulse a second of known height."""

    name = "pulses"

    def __init__(self, rate_hz: float = 360.0, seconds: float = 700.0) -> None:
        self.duration_s: float | None = seconds
        self._rate_hz = rate_hz
        at_s = np.arange(round(seconds * rate_hz)) / rate_hz
        pulse = np.exp(-((((at_s + 0.5) % 1 - 0.5) / 0.01) ** 2))
        self._samples = np.stack([1.6 * pulse, -0.8 * pulse]).astype(np.float32)
        self.beats_s = np.arange(1.0, seconds - 1)

    def chunks(self, block: int = 1 << 14) -> Iterable[Chunk]:  # type: ignore[override]
        for start in range(0, self._samples.shape[1], block):
            yield Chunk(start, self._rate_hz, ("II", "V1"), self._samples[:, start : start + block])


def _whole(recording: object, block: int = 1 << 14) -> np.ndarray:
    return np.concatenate([chunk.samples_mv for chunk in recording.chunks(block)], axis=1)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight minutes of coloured noise, each second as loud as the next, in two signals of unlike size."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(5)
    for name in ("bw", "ma"):
        second = np.cumsum(rng.standard_normal((360, 2)), axis=0)
        second -= np.linspace(0, 1, 360)[:, None] * (second[-1] - second[0])
        both = np.tile(second, (480, 1)) * (0.1, 0.3)
        wfdb.wrsamp(name, 360, ["mV"] * 2, ["noise1", "noise2"], both, fmt=["16"] * 2, write_dir=str(folder))
    return folder


@pytest.mark.parametrize("snr_db", [0.0, 6.0, 24.0])
def test_the_noisy_minutes_have_the_ratio_that_was_asked_for(noise_folder: Path, snr_db: float) -> None:
    """Signal power: the square of the height of the pulses over eight. Noise power: its variance within a second."""
    source = _Sines()
    added = _whole(NoisyFile(source, source.beats_s, Stress(noise_folder, snr_db, ("ma",)))) - _whole(source)
    seconds = added.astype(float).reshape(2, 700, 360)
    power = seconds.var(axis=2)
    for lead, height_mv in enumerate((1.6, 0.8)):
        told = 10 * np.log10(height_mv**2 / 8 / power[lead, 301:419].mean())
        assert told == pytest.approx(snr_db, abs=0.1)
    assert np.allclose(power[:, :299], 0)
    assert np.allclose(power[:, 421:539], 0, atol=1e-10)
    assert (power[:, 541:659] > 0).all()


def test_noise_begins_and_ends_without_an_edge_as_one_loop_over_the_samples_adds_it(noise_folder: Path) -> None:
    """Oracle: the loop of the nst tool, which keeps an offset for each lead and takes it anew at each change of gain."""
    source = _Sines()
    stress = Stress(noise_folder, 6.0, ("bw",))
    added = (_whole(NoisyFile(source, source.beats_s, stress)) - _whole(source))[0]
    noise = read_noise(noise_folder / "bw", 360.0)
    qrs_mv, _, _ = measure_qrs(source, source.beats_s)
    gain_on = float(np.sqrt(qrs_mv[0] ** 2 / 8 / 10**0.6) / noise.rms_mv[0])
    gain, offset, wanted = 0.0, 0.0, []
    for i in range(len(added)):
        since = i - 300 * 360
        on = since >= 0 and since // (120 * 360) % 2 == 0
        value = float(noise.samples_mv[0, i % noise.samples_mv.shape[1]])
        if (gain > 0) != on:
            before = float(noise.samples_mv[0, (i - 1) % noise.samples_mv.shape[1]])
            gain, offset = (gain_on if on else 0.0), (wanted[-1] if wanted else 0.0) - (gain_on if on else 0.0) * before
        if on and i % noise.samples_mv.shape[1] == 0:
            offset = wanted[-1] - gain * value
        wanted.append(offset + gain * value)
    assert np.allclose(added, wanted, atol=2e-4)
    assert np.abs(np.diff(added)).max() <= gain_on * np.abs(np.diff(noise.samples_mv[0])).max() * 1.01


def test_the_cut_of_a_noisy_recording_does_not_matter(noise_folder: Path) -> None:
    source = _Sines(seconds=320.0)
    noisy = NoisyFile(source, source.beats_s, Stress(noise_folder))
    assert np.array_equal(_whole(noisy, 1000), _whole(noisy, 100_000))
    assert np.array_equal(_whole(noisy), _whole(NoisyFile(source, source.beats_s, Stress(noise_folder))))


def test_noise_records_take_turns_and_continuous_noise_never_pauses(noise_folder: Path) -> None:
    source = _Sines()
    both = np.diff(_whole(NoisyFile(source, source.beats_s, Stress(noise_folder))) - _whole(source))
    one = np.diff(_whole(NoisyFile(source, source.beats_s, Stress(noise_folder, records=("bw",)))) - _whole(source))
    first, second = slice(301 * 360, 419 * 360), slice(541 * 360, 659 * 360)
    assert np.allclose(both[:, first], one[:, first], atol=1e-5)
    assert not np.allclose(both[:, second], one[:, second], atol=1e-2)
    endless = _whole(NoisyFile(source, source.beats_s, Stress(noise_folder, continuous=True))) - _whole(source)
    assert (np.diff(endless[:, 301 * 360 :]).reshape(2, -1)[:, : 390 * 360].reshape(2, 390, 360).std(axis=2) > 0).all()


def test_noise_at_another_rate_keeps_its_strength(noise_folder: Path) -> None:
    source = _Sines(rate_hz=250.0)
    added = _whole(NoisyFile(source, source.beats_s, Stress(noise_folder, 6.0, ("ma",)))) - _whole(source)
    power = added[0].astype(float).reshape(700, 250).var(axis=1)[301:419].mean()
    assert 10 * np.log10(1.6**2 / 8 / power) == pytest.approx(6.0, abs=0.1)


def test_noise_that_would_change_nothing_is_refused(noise_folder: Path) -> None:
    short, blank = _Sines(seconds=300.0), _Sines(seconds=320.0)
    with pytest.raises(ConfigError, match="300 s end before any noise"):
        NoisyFile(short, short.beats_s, Stress(noise_folder))
    with pytest.raises(ConfigError, match="without annotated beats"):
        NoisyFile(blank, np.empty(0), Stress(noise_folder))
    with pytest.raises(ConfigError, match="no signal at any annotated beat"):
        NoisyFile(blank, np.array([400.0]), Stress(noise_folder))


def test_the_trimmed_means_are_scipys() -> None:
    from scipy.stats import trim_mean

    rng = np.random.default_rng(3)
    samples = rng.standard_normal((2, 360 * 400)).astype(np.float32)
    seconds = samples[:, : 360 * 300].astype(float).reshape(2, 300, 360)
    assert measure_rms(samples, 360.0) == pytest.approx(trim_mean(seconds.std(axis=2), 0.05, axis=1))


# Quality


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_the_area_is_scikit_learns(positive: list[int], negative: list[int]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    wanted = roc_auc_score(labels, positive + negative)
    assert quality.auroc(np.array(positive, float), np.array(negative, float)) == pytest.approx(wanted)


def test_the_interval_holds_the_area_and_is_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
    low, high = quality.bootstrap(positive, negative)
    assert low < quality.auroc(positive, negative) < high
    assert (low, high) == quality.bootstrap(positive, negative)
    assert high - low == pytest.approx(2 * 1.96 * _hanley(quality.auroc(positive, negative), 60), rel=0.25)


def _hanley(area: float, each: int) -> float:
    """The standard error of Hanley and McNeil 1982."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return float(np.sqrt((area * (1 - area) + (each - 1) * (q1 - area**2) + (each - 1) * (q2 - area**2)) / each**2))


def test_labels_may_be_words_or_numbers(tmp_path: Path) -> None:
    path = tmp_path / "REFERENCE.csv"
    path.write_text("record,quality\na,acceptable\nb,unacceptable\n")
    assert quality.read_labels(path) == {"a": False, "b": True}
    path.write_text("a,1\nb,-1\n")
    assert quality.read_labels(path) == {"a": False, "b": True}
    path.write_text("A1,Acceptable\n\nb2, -1 ,extra\n")
    assert quality.read_labels(path) == {"A1": False, "b2": True}


@pytest.mark.parametrize(("text", "line"), [("record,quality\na,good\nb,-1\n", 2), ("a,1\n\nrecord,quality\nb,-1\n", 3), ("a,1\nb\n", 2)])
def test_a_line_without_a_label_is_told_by_its_number(text: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "REFERENCE.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"line {line} must name a recording and say acceptable"):
        quality.read_labels(path)


@pytest.mark.parametrize(("text", "says"), [("a,1\nb,1\n", "do not have both labels"), ("a,1\nc,-1\n", "there is no c.csv")])
def test_labels_that_do_not_fit_the_recordings_are_told_before_the_work(text: str, says: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").touch()
    (tmp_path / "REFERENCE.csv").write_text(text)
    with pytest.raises(ConfigError, match=says):
        _run(tmp_path)


@pytest.mark.skipif(not (ARCHIVE / "cinc2011").is_dir(), reason="needs the CinC 2011 recordings")
def test_the_gate_tells_unacceptable_recordings_from_acceptable_ones(tmp_path: Path) -> None:
    """On ten of each label: twenty recordings are enough to see that the whole path joins the right label to the right score."""
    folder = ARCHIVE / "cinc2011"
    labels = quality.read_labels(folder / "REFERENCE.csv")
    chosen = [name for wanted in (True, False) for name in [n for n, bad in labels.items() if bad is wanted][:10]]
    for name in chosen:
        (tmp_path / f"{name}.csv").symlink_to(folder / f"{name}.csv")
    (tmp_path / "REFERENCE.csv").write_text("".join(f"{name},{-1 if labels[name] else 1}\n" for name in chosen))
    figures = quality.judge_quality(tmp_path)
    assert (figures.recordings, figures.unacceptable) == (20, 10)
    assert figures.auroc > 0.75


# The command

app = typer.Typer(pretty_exceptions_enable=False)
app.command(name="evaluate")(evaluate_command)


def _run(*words: str | Path, columns: int = 100) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)}, catch_exceptions=False)
    return done.stdout


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the seconds 50 to 100 of the excerpt, twice: fibrillation for 28 of them."""
    folder = tmp_path_factory.mktemp("short")
    record = wfdb.rdrecord(str(EXCERPT), sampfrom=50 * 360, sampto=100 * 360)
    notes = wfdb.rdann(str(EXCERPT), "atr", sampfrom=50 * 360, sampto=100 * 360 - 1, shift_samps=True)
    at = [1, *notes.sample.tolist()]
    for name in ("a", "b"):
        wfdb.wrsamp(name, 360, record.units, record.sig_name, record.p_signal, fmt=["16", "16"], write_dir=str(folder))
        aux = ["(AFIB", *notes.aux_note]
        wfdb.wrann(name, "atr", np.array(at), ["+", *notes.symbol], aux_note=aux, fs=360, write_dir=str(folder))
    return folder


def test_json_has_a_row_a_record_and_the_same_figures_with_two_processes(short: Path) -> None:
    words = (short, "--learning", "0", "--shortest", "20", "--train", "b", "--json")
    one, two = _run(*words), _run(*words, "--jobs", "2")
    assert one == two
    told = json.loads(one)
    assert [row["record"] for row in told["records"]] == ["a"]
    assert [row["record"] for row in told["training"]["records"]] == ["b"]
    assert told["gross"]["beats"] == told["training"]["gross"]["beats"] == told["records"][0]["beats"]
    assert (told["gross"]["findings"][AF]["episodes"], told["gross"]["findings"][AF]["detected"]) == (1, 1)
    assert told["average"]["findings"][AF]["sensitivity"] == 1.0
    assert told["gross"]["not_watched"] == {"NOD": 1}
    asked = {"hop_s": 1.0, "leads": [], "annotator": "atr", "train": ["b"], "from_s": 0.0, "skip_learning": False, "tolerance_s": 15.0}
    assert asked.items() <= told.items()
    false = [one["false_alarms"] for one in told["gross"]["findings"].values()]
    assert sum(map(len, false)) == sum(one["false"] for one in told["gross"]["findings"].values())


def test_tables_fit_a_hundred_columns_and_files_are_written(short: Path, noise_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "af.toml"
    words = ("--learning", "0", "--shortest", "20", "--train", "b", "--tune", AF, "--out", out)
    text = _run(short, *words, "--plots", tmp_path / "plots")
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines() if "=" not in line)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert [one.name for one in read_findings(out)] == [one.name for one in Bundle.read(SHIPPED_BUNDLE).card.findings]
    assert json.loads(_run(short / "a", "--findings", out, "--json"))["records"][0]["record"] == "a"
    assert (tmp_path / "plots" / f"timeline_{AF}.png").read_bytes().startswith(b"\x89PNG")


def test_a_tuned_finding_can_be_copied_from_a_narrow_terminal(short: Path) -> None:
    text = _run(short / "a", "--learning", "0", "--shortest", "20", "--train", "a", "--tune", AF, columns=60)
    assert parse_toml(text[text.index("[[finding]]") :], "here")["finding"][0]["name"] == AF


def test_false_alarms_are_told_by_record_and_time(excerpt_outcome: Outcome) -> None:
    """Of two records, in a table of a hundred columns."""
    outcomes = []
    for record, starts_s in (("a", (60.0, 20.0)), ("b", (40.0,))):
        alerts = tuple(_alarmed(Interval(start_s, start_s + 10), delay_s=3.0) for start_s in starts_s)
        counts = count_episodes(AF, _truth([("N", Interval(0.0, 200.0))]), alerts, record)
        outcomes.append(replace(excerpt_outcome, record=record, findings={AF: counts}))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(false_table(Group(tuple(outcomes))))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["False", "alarms:", "3", "of", "3"]
    assert [line[:4] for line in lines[2:]] == [
        ["a", "0:00:23", "0:00:30", "7"],
        ["a", "0:01:03", "0:01:10", "7"],
        ["b", "0:00:43", "0:00:50", "7"],
    ]


def test_noise_is_compared_where_it_can_be_added(short: Path, noise_folder: Path, tmp_path: Path) -> None:
    """The fifty seconds seven times over, so that the last fifty have noise."""
    record, notes = wfdb.rdrecord(str(short / "a")), wfdb.rdann(str(short / "a"), "atr")
    at = np.concatenate([notes.sample + 50 * 360 * i for i in range(7)])
    signal = np.tile(record.p_signal, (7, 1))
    wfdb.wrsamp("long", 360, record.units, record.sig_name, signal, fmt=["16", "16"], write_dir=str(tmp_path))
    wfdb.wrann("long", "atr", at, notes.symbol * 7, aux_note=notes.aux_note * 7, fs=360, write_dir=str(tmp_path))
    text = _run(tmp_path / "long", "--learning", "0", "--hop", "5", "--noise", noise_folder)
    assert "Without and with noise" in text
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())


def test_where_every_record_is_for_training_these_are_drawn(short: Path, tmp_path: Path) -> None:
    _run(short / "a", "--learning", "0", "--train", "a", "--plots", tmp_path / "plots")
    assert (tmp_path / "plots" / f"timeline_{AF}.png").is_file()


def test_pictures_of_the_same_group_are_the_same(excerpt_outcome: Outcome, tmp_path: Path) -> None:
    group = Group((excerpt_outcome,))
    first, again = (list(draw_all(group, group, tmp_path / name)) for name in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in again]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such WFDB record"),
        ([str(EXCERPT), "--annotator", "qrs"], "no such annotations"),
        ([str(EXCERPT.parent), "--annotator", "qrs"], "holds no WFDB record with annotations"),
        ([str(EXCERPT), "--train", "101"], "not among the recordings"),
        ([str(EXCERPT), "--tune", AF], "--tune needs --train"),
        ([str(EXCERPT), "--out", "a.toml"], "give both, or neither"),
        ([str(EXCERPT), "--hop", "20"], "--hop 20 must lie between"),
        ([str(EXCERPT), "--annotator", ""], "is the ending of no annotation file"),
        ([str(EXCERPT), "--annotator", "../atr"], "letters, digits and _"),
        ([str(EXCERPT), "--annotator", "hea"], "is the ending of no annotation file"),
        ([str(EXCERPT), "--train", EXCERPT.name, "--tune", "fibrillation"], f"allowed are {AF}"),
        ([str(EXCERPT), "--train", EXCERPT.name, "--tune", "left_bundle_branch_block"], f"allowed are {AF}"),
        ([str(EXCERPT), "--train", EXCERPT.name, "--tune", AF, "--out", str(EXCERPT.parent)], "name a file that can be written"),
        ([str(EXCERPT), "--train", EXCERPT.name, "--tune", AF, "--out", "nowhere/a.toml"], "there is no folder"),
        ([str(EXCERPT), "--plots", f"{EXCERPT}.hea"], "name a folder that can be written"),
        ([str(EXCERPT), "--plots", f"{EXCERPT}.hea/plots"], "name a folder that can be written"),
        ([str(EXCERPT), "--noise", "nowhere"], "no such noise record"),
        ([str(EXCERPT), "--noise", "nowhere", "--noise-records", ","], "--noise-records is empty"),
    ],
)
def test_every_mistake_says_how_to_mend_it_before_the_work(words: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.evaluate.command.study", lambda *_: pytest.fail("told only after the work"))
    with pytest.raises(ConfigError, match=says):
        _run(*words)


def test_a_recording_that_noise_cannot_be_added_to_is_told_before_the_work(noise_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.evaluate.command.study", lambda *_: pytest.fail("told only after the work"))
    with pytest.raises(ConfigError, match="270 s end before any noise"):
        _run(EXCERPT, "--noise", noise_folder)


class _Deadly:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_process_that_is_killed_is_told_in_words(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="fewer --jobs"):
        study([(_Deadly(), plan)] * 2, processes=2)  # type: ignore[list-item]


def test_without_wfdb_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'cardiogloss\[formats\]'"):
        read_truth(EXCERPT, 270.0)


def test_damaged_annotations_are_told_with_their_name(tmp_path: Path) -> None:
    (tmp_path / "a.atr").write_bytes(b"\x01")
    with pytest.raises(ConfigError, match=r"a\.atr"):
        read_truth(tmp_path / "a", 10.0)


def test_a_folder_is_its_annotated_records_and_a_name_may_have_its_ending() -> None:
    records, folders = find_records([EXCERPT.parent, EXCERPT.with_suffix(".hea"), EXCERPT.with_suffix(".dat")], "atr")
    assert (records, folders) == ([EXCERPT], [])


def test_one_recording_under_two_spellings_counts_once(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short.parent)
    spellings = [Path(short.name, "a"), short / "a", Path(short.name, "..", short.name, "a.hea"), Path(short.name)]
    records, _ = find_records(spellings, "atr")
    assert records == [Path(short.name, "a"), Path(short.name, "b")]


def test_two_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for ending in ("hea", "atr"):
            (tmp_path / folder / f"a.{ending}").touch()
    with pytest.raises(ConfigError, match=r"x/a and .*y/a have the same name"):
        find_records([tmp_path / "x", tmp_path / "y" / "a"], "atr")
