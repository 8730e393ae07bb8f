"""The alarm: what is told of each episode, what silences what, and that a flat line is never a finding of the heart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.alarm import Alarm, Alert
from edge.quality import Quality, State
from edge.score import Scores
from edge.strip import Tail
from edge.vitals import Vitals
from kernels.bundle import Card
from kernels.findings import TECHNICAL, ConfigError, Finding, read_findings
from kernels.signal import LEADS

AF = Finding(name="af", prompts=("atrial fibrillation",), priority="medium", raise_at=0.6, clear_at=0.3)
TAIL = Tail(0, 100.0, np.zeros((12, 1000), np.float32))

Change = tuple[str, str, float]
"""finding, state, at_s"""


def _finding(name: str, **more: object) -> Finding:
    return Finding.model_validate({"name": name, "prompts": ["x"], "raise_at": 0.6, "clear_at": 0.3} | more)


def _alarm(*findings: Finding, stream: str = "") -> Alarm:
    return Alarm("bed1", Card(rate_hz=100, window_s=10, findings=findings or (AF,), text_encoder="x", sha256="ab" * 32), stream)


def _scores(at_s: float, unobservable: Sequence[str] = (), **probability: float) -> Scores:
    return Scores("bed1", at_s, probability, {"II": "good"}, None, tuple(unobservable))


def _second(end_s: float, **states: State) -> Quality:
    return Quality(end_s - 1, end_s, tuple(states.get(lead, "absent") for lead in LEADS))


def _run(alarm: Alarm, scores: Iterable[Scores | Quality]) -> list[Alert]:
    alerts: list[Alert] = []
    for one in scores:
        alerts += alarm.feed_second(one, TAIL) if isinstance(one, Quality) else alarm.feed(one, TAIL)
    return alerts


def _changes(alerts: Iterable[Alert]) -> list[Change]:
    return [(a.finding, a.state, a.at_s) for a in alerts]


def _af(ps: Sequence[float], begin_s: float = 10.0) -> list[Scores]:
    return [_scores(begin_s + t, af=p) for t, p in enumerate(ps)]


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from(["good", "flat", "off", "noise"])), max_size=80))
def test_whatever_happens_each_finding_is_raised_and_cleared_in_turn_and_numbered_without_a_hole(what: list[float | State]) -> None:
    events = [_second(10.0 + t, II=w) if isinstance(w, str) else _scores(10.0 + t, af=w) for t, w in enumerate(what)]
    on: dict[str, Alert] = {}
    for alert in _run(_alarm(), events):
        before = on.pop(alert.finding, None)
        assert (before is None) == (alert.state == "raised")
        assert alert.seq == (before.seq + 1 if before else 0)
        assert before is None or (alert.id, alert.onset_s) == (before.id, before.onset_s)
        if alert.state != "cleared":
            on[alert.finding] = alert


def test_an_alert_tells_what_was_known_when_it_was_decided() -> None:
    alarm = _alarm(stream="today")
    alarm.note(Vitals(9.0, 87.0, ()))
    (alert,) = _run(alarm, _af([0.7, 0.8, 0.9]))
    assert (alert.id, alert.seq, alert.source, alert.stream, alert.kind, alert.priority) == (
        alert.id,
        0,
        "bed1",
        "today",
        "physiological",
        "medium",
    )
    assert (alert.at_s, alert.onset_s, alert.score, alert.heart_rate_bpm, alert.quality) == (12.0, 10.0, 0.9, 87.0, {"II": "good"})
    assert alert.bundle == ("ab" * 8)
    assert alert.evidence.scores == ((10.0, 0.7), (11.0, 0.8), (12.0, 0.9))
    assert alert.evidence.strip is not None and alert.evidence.strip.end_s == 10.0


def test_ids_tell_streams_sources_findings_and_episodes_apart_and_nothing_else() -> None:
    scores = _af([0.9] * 3 + [0.1] * 20 + [0.9] * 3)
    ids = [a.id for a in _run(_alarm(), scores) if a.state == "raised"]
    assert len(set(ids)) == 2
    assert [a.id for a in _run(_alarm(), scores) if a.state == "raised"] == ids
    assert not {a.id for a in _run(_alarm(stream="another"), scores)} & set(ids)


def test_a_finding_that_asks_for_a_rate_waits_for_it_and_ends_with_it() -> None:
    alarm, alerts = _alarm(_finding("tachycardia", above_bpm=100)), []
    for t in range(30):
        alarm.note(Vitals(10.0 + t, 80.0 if t < 8 or t >= 20 else 110.0, ()))
        alerts += _run(alarm, [_scores(10.0 + t, tachycardia=0.9)])
    assert _changes(alerts) == [("tachycardia", "raised", 20.0), ("tachycardia", "cleared", 32.0)]


@pytest.mark.parametrize("score", [0.61, 0.9])
def test_a_finding_that_asks_for_an_irregular_pulse_waits_for_it_however_high_it_scores(score: float) -> None:
    alarm, alerts = _alarm(_finding("fibrillation", irregular=True)), []
    beats_s = [0.8 * i if i < 25 else 20 + 0.5 * i % 7 + 0.83 * (i - 25) for i in range(50)]
    for t in range(30):
        alarm.note(Vitals(10.0 + t, 80.0, tuple(at for at in beats_s if 9 + t < at <= 10 + t)))
        alerts += _run(alarm, [_scores(10.0 + t, fibrillation=score)])
    assert [(a.finding, a.state) for a in alerts] == [("fibrillation", "raised")]
    assert alerts[0].at_s > 20


# Technical alerts


@pytest.mark.parametrize("state", ["off", "flat", "saturated", "implausible"])
def test_a_lead_without_signal_is_told_within_three_seconds_and_a_good_lead_beside_it_changes_only_the_words(state: State) -> None:
    alone = _run(_alarm(), [_second(10.0 + t, II=state) for t in range(9)])
    beside = _run(_alarm(), [_second(10.0 + t, II="good", V1=state) for t in range(9)])
    assert _changes(alone) == [("no_signal", "raised", 11.0)]
    assert _changes(beside) == [("lead_off", "raised", 11.0)]
    assert {a.kind for a in alone + beside} == {"technical"}
    assert (alone[0].why, beside[0].why) == (f"II {state}", f"V1 {state}")


@given(
    st.lists(st.sampled_from([0.95, 0.5, 0.05]), min_size=40, max_size=40),
    st.integers(0, 20),
    st.sampled_from(["off", "flat", "saturated"]),
)
def test_no_finding_of_the_heart_begins_or_ends_in_a_window_that_holds_a_second_without_signal(
    ps: list[float], begin: int, state: State
) -> None:
    """However the model answers to a flat line. Oracle: the windows of ten seconds that touch it, by their times alone."""
    alarm, alerts = _alarm(), []
    for t, p in enumerate(ps):
        alerts += alarm.feed_second(_second(10.0 + t, II=state if begin <= t < begin + 5 else "good"), TAIL)
        alerts += alarm.feed(_scores(10.0 + t, af=p), TAIL)
    flat_from, flat_to = 9.0 + begin, 14.0 + begin
    blind = [a for a in alerts if a.finding == "af" and a.at_s > flat_from + 1 - 1e-9 and a.at_s - 10 < flat_to]
    assert blind == []
    assert any(a.finding == "no_signal" and a.state == "raised" and a.at_s <= flat_from + 3 for a in alerts)


def test_a_lead_that_is_plugged_out_and_in_again_is_told_each_time() -> None:
    seconds = ["good"] * 5 + (["off"] * 3 + ["good"] * 6) * 3
    events = [event for t, s in enumerate(seconds) for event in (_second(10.0 + t, I="good", II=s), _scores(10.0 + t))]  # type: ignore[arg-type]
    changes = _changes(_run(_alarm(), events))
    assert [(name, state) for name, state, _ in changes] == [("lead_off", "raised"), ("lead_off", "cleared")] * 3


def test_more_leads_off_are_told_as_worse_and_derived_leads_are_not_named() -> None:
    limbs = dict.fromkeys(("I", "II", "III", "aVR", "aVL", "aVF"), "good")
    both = limbs | dict.fromkeys(("I", "III", "aVR", "aVL", "aVF"), "off") | {"II": "good"}
    seconds = [_second(10.0 + t, V1="off", **limbs) for t in range(12)]  # type: ignore[arg-type]
    seconds += [_second(22.0 + t, V1="off", **both) for t in range(3)]  # type: ignore[arg-type]
    alerts = _run(_alarm(), seconds)
    assert [(a.state, a.why) for a in alerts] == [("raised", "V1 off"), ("updated", "I, V1 off")]


def test_noise_in_every_lead_is_noise_and_in_one_of_two_it_is_nothing() -> None:
    assert _changes(_run(_alarm(), [_second(10.0 + t, I="noise", II="mains") for t in range(5)])) == [("noise", "raised", 11.0)]
    assert _run(_alarm(), [_second(10.0 + t, I="noise", II="good") for t in range(5)]) == []


def test_noise_does_not_keep_the_heart_from_being_seen() -> None:
    alarm, alerts = _alarm(), []
    for t in range(6):
        alerts += alarm.feed_second(_second(10.0 + t, II="noise"), TAIL)
        alerts += alarm.feed(_scores(10.0 + t, af=0.9), TAIL)
    assert ("af", "raised", 12.0) in _changes(alerts)


def test_an_abstention_that_nothing_else_explains_is_told_by_itself() -> None:
    silent = [Scores("bed1", 10.0 + t, {}, {"II": "noise"}, "no usable lead: II noise") for t in range(5)]
    assert _changes(_run(_alarm(), silent)) == [("no_usable_signal", "raised", 12.0)]


def test_what_explains_an_abstention_ends_its_alert() -> None:
    silent = [Scores("bed1", 10.0 + t, {}, {"II": "flat"}, "no usable lead: II flat") for t in range(3)]
    alerts = _run(_alarm(), [*silent, _second(12.0, II="flat"), _second(13.0, II="flat")])
    assert [(a.finding, a.state, a.why) for a in alerts] == [
        ("no_usable_signal", "raised", "no usable lead: II flat"),
        ("no_signal", "raised", "II flat"),
        ("no_usable_signal", "cleared", "superseded by no signal"),
    ]


def test_findings_that_the_leads_cannot_show_are_told_once_by_name() -> None:
    alarm = _alarm(AF, _finding("anterior_myocardial_infarction", priority="high"), _finding("normal_ecg", priority="none"))
    unseen = [_scores(10.0 + t, ["anterior_myocardial_infarction", "normal_ecg"], af=0.1) for t in range(100)]
    (alert,) = _run(alarm, unseen)
    assert (alert.finding, alert.priority, alert.why) == ("leads_missing", "low", "cannot see anterior myocardial infarction")


def test_silence_of_the_source_is_raised_and_ends_what_only_samples_can_show() -> None:
    alarm = _alarm()
    _run(alarm, [*_af([0.9] * 3), _second(12.0, II="good", V1="off"), _second(13.0, II="good", V1="off")])
    alerts = list(alarm.report("stalled", "nothing came for 5 s", 18.0))
    assert _changes(alerts) == [("stalled", "raised", 18.0), ("lead_off", "cleared", 18.0)]
    assert [a.finding for a in alarm.on] == ["stalled", "af"]
    assert list(alarm.report("stalled", "still nothing", 19.0)) == []
    assert _changes(alarm.report("stalled", None, 30.0)) == [("stalled", "cleared", 30.0)]


@pytest.mark.parametrize("name", TECHNICAL)
def test_the_names_of_technical_alerts_are_reserved(name: str) -> None:
    with pytest.raises(ValidationError, match="choose another"):
        Finding(name=name, prompts=("x",))


def test_a_signal_without_ten_seconds_in_one_piece_is_told_and_a_pause_is_not() -> None:
    lossy = _run(_alarm(), [_second(10.0 + t, II="good") for t in range(20)])
    assert [(a.finding, a.state, a.why) for a in lossy] == [("no_usable_signal", "raised", "no 10 s without a gap")]
    assert 24 <= lossy[0].at_s <= 28
    alarm = _alarm()
    _run(alarm, [event for t in range(20) for event in (_second(10.0 + t, II="good"), _scores(10.0 + t, af=0.1))])
    assert _run(alarm, [_second(200.0 + t, II="good") for t in range(10)]) == []


def test_what_is_wrong_with_a_lead_is_told_anew_when_it_is_another_lead() -> None:
    seconds = [_second(10.0 + t, I="good", V1="off", V2="good") for t in range(12)]
    seconds += [_second(22.0 + t, I="good", V1="good", V2="off") for t in range(3)]
    alerts = _run(_alarm(), [event for second in seconds for event in (second, _scores(second.end_s))])
    assert [(a.state, a.why) for a in alerts] == [("raised", "V1 off"), ("updated", "V2 off")]


def test_an_abstention_is_not_told_again_when_its_cause_is_over() -> None:
    """The window still holds the flat line for ten seconds after the signal is back."""
    alarm, alerts = _alarm(), []
    for t in range(40):
        flat = 10 <= t < 20
        alerts += alarm.feed_second(_second(20.0 + t, II="flat" if flat else "good"), TAIL)
        abstained = "no usable lead: II flat" if 13 <= t < 27 else None
        alerts += alarm.feed(Scores("bed1", 20.0 + t, {}, {"II": "good"}, abstained), TAIL)
    assert [(a.finding, a.state) for a in alerts] == [("no_signal", "raised"), ("no_signal", "cleared")]


def test_many_windows_count_however_seldom_they_come() -> None:
    slow = Alarm("bed1", Card(rate_hz=100, window_s=10, findings=(_finding("block", k=14, n=20),), text_encoder="x"), hop_s=5.0)
    raised = [a for t in range(40) for a in slow.feed(_scores(10.0 + 5 * t, block=0.9), TAIL)]
    assert _changes(raised) == [("block", "raised", 75.0)]


# What silences what

PACED = _finding("paced_rhythm", priority="none", silences=["left_bundle_branch_block"])
BLOCK = _finding("left_bundle_branch_block", silences=["st_depression_ischaemia"])
ISCHAEMIA = _finding("st_depression_ischaemia", priority="high")


def _beats(alarm: Alarm, begin_s: float, n: int, paced: float, block: float, ischaemia: float) -> list[Alert]:
    by_name = {"paced_rhythm": paced, "left_bundle_branch_block": block, "st_depression_ischaemia": ischaemia}
    return _run(alarm, [_scores(begin_s + t, **by_name) for t in range(n)])


def test_a_finding_that_is_there_keeps_those_it_silences_from_being_raised_though_it_never_alerts_itself() -> None:
    assert _changes(_beats(_alarm(ISCHAEMIA, BLOCK, PACED), 10, 20, 0.9, 0.9, 0.1)) == []


def test_a_finding_that_begins_ends_those_it_silences_and_says_so() -> None:
    alarm = _alarm(ISCHAEMIA, BLOCK, PACED)
    assert _changes(_beats(alarm, 10, 5, 0.1, 0.9, 0.1)) == [("left_bundle_branch_block", "raised", 12.0)]
    (cleared,) = _beats(alarm, 15, 5, 0.9, 0.9, 0.1)
    assert (cleared.finding, cleared.state, cleared.why) == ("left_bundle_branch_block", "cleared", "superseded by paced rhythm")


def test_what_is_silenced_itself_silences_nothing() -> None:
    """The block is not believed, so the ischaemia is."""
    assert _changes(_beats(_alarm(ISCHAEMIA, BLOCK, PACED), 10, 5, 0.9, 0.9, 0.9)) == [("st_depression_ischaemia", "raised", 12.0)]


def test_what_was_silenced_must_be_seen_anew_afterwards() -> None:
    alarm = _alarm(ISCHAEMIA, BLOCK, PACED)
    _beats(alarm, 10, 10, 0.9, 0.9, 0.1)
    assert _changes(_beats(alarm, 20, 6, 0.1, 0.9, 0.1)) == [("left_bundle_branch_block", "raised", 24.0)]


@pytest.mark.parametrize(
    ("silences", "words"),
    [
        ({"a": ["b"], "b": ["a"]}, "in a circle"),
        ({"a": ["a"], "b": []}, "in a circle"),
        ({"a": ["c"], "b": []}, "no finding of this file"),
    ],
)
def test_a_findings_file_whose_silences_make_no_sense_is_refused(tmp_path: object, silences: dict[str, list[str]], words: str) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "findings.toml"
    path.write_text("".join(f'[[finding]]\nname = "{name}"\nprompts = ["x"]\nsilences = {others}\n' for name, others in silences.items()))
    with pytest.raises(ConfigError, match=words):
        read_findings(path)


# What people ask for


def test_an_acknowledged_alert_stays_on_and_says_by_whom_to_its_end() -> None:
    alarm = _alarm()
    (raised,) = _run(alarm, _af([0.9] * 3))
    (told,) = alarm.acknowledge(raised.id, "nurse 7", 20.0)
    assert (told.id, told.seq, told.state, told.acknowledged_by, told.why) == (
        raised.id,
        1,
        "updated",
        "nurse 7",
        "acknowledged by nurse 7",
    )
    (cleared,) = _run(alarm, _af([0.1] * 3, 21.0))
    assert (cleared.id, cleared.seq, cleared.acknowledged_by) == (raised.id, 2, "nurse 7")
    assert list(alarm.acknowledge(raised.id, "nurse 7", 30.0)) == []
    (again,) = _run(alarm, _af([0.9] * 3, 60.0))
    assert again.acknowledged_by is None


def test_a_silenced_finding_is_told_all_the_same_and_says_when_the_silence_is_over() -> None:
    alarm = _alarm()
    assert list(alarm.silence("af", 60.0, "nurse 7", 9.0)) == []
    (raised,) = _run(alarm, _af([0.9] * 3))
    assert raised.silenced
    after = _run(alarm, _af([0.9] * 70, 13.0))
    assert [(a.state, a.silenced, a.why, a.at_s) for a in after] == [("updated", False, "no longer silenced", 69.0)]


def test_a_silence_for_the_whole_source_is_told_of_what_is_on_and_can_be_taken_back() -> None:
    alarm = _alarm()
    _run(alarm, _af([0.9] * 3))
    assert [a.silenced for a in alarm.silence(None, 600.0, "nurse 7", 13.0)] == [True]
    assert [a.silenced for a in alarm.silence(None, 0.0, "nurse 7", 14.0)] == [False]


def test_a_silence_ends_though_no_sample_comes() -> None:
    alarm = _alarm()
    list(alarm.report("stalled", "nothing came", 20.0))
    assert [a.silenced for a in alarm.silence(None, 60.0, "nurse 7", 21.0)] == [True]
    assert list(alarm.wake(80.0)) == []
    (told,) = alarm.wake(82.0)
    assert (told.finding, told.silenced, told.why) == ("stalled", False, "no longer silenced")


def test_a_silence_asked_for_before_the_first_sample_is_no_longer_for_it() -> None:
    """The daemon waited ten minutes for the device, whose seconds begin at 0."""
    alarm = _alarm()
    list(alarm.silence(None, 60.0, "nurse 7", 590.0))
    alerts = _run(alarm, [event for t in range(70) for event in (_second(1.0 + t, II="good"), _scores(1.0 + t, af=0.9))])
    assert [(a.state, a.silenced) for a in alerts] == [("raised", True), ("updated", False)]
    assert alerts[-1].at_s == pytest.approx(61, abs=2)


def test_the_last_word_about_a_finding_holds_over_that_about_all() -> None:
    alarm = _alarm()
    _run(alarm, _af([0.9] * 3))
    list(alarm.silence(None, 600.0, "nurse 7", 13.0))
    assert [(a.silenced, a.why) for a in alarm.silence("af", 0.0, "nurse 7", 14.0)] == [(False, "no longer silenced, by nurse 7")]
    list(alarm.silence("af", 600.0, "nurse 7", 15.0))
    assert [a.silenced for a in alarm.silence(None, 0.0, "nurse 7", 16.0)] == [False]


def test_who_has_acknowledged_need_not_be_told_again() -> None:
    alarm = _alarm()
    (raised,) = _run(alarm, _af([0.9] * 3))
    assert len(list(alarm.acknowledge(raised.id, "nurse 7", 13.0))) == 1
    assert list(alarm.acknowledge(raised.id, "nurse 7", 14.0)) == []
    assert len(list(alarm.acknowledge(raised.id, "nurse 8", 15.0))) == 1


def test_a_heart_rate_of_long_ago_is_not_told() -> None:
    alarm = _alarm()
    alarm.note(Vitals(9.0, 87.0, ()))
    (stalled,) = alarm.report("stalled", "nothing came", 3600.0)
    assert (stalled.heart_rate_bpm, stalled.quality) == (None, None)


# Over a restart


def test_what_was_on_goes_on_under_its_id_and_ends_by_new_scores() -> None:
    before = _alarm(stream="one")
    (raised,) = _run(before, _af([0.9] * 3))
    after = _alarm(stream="two")
    assert list(after.take_over(before.on)) == []
    assert [(a.id, a.stream) for a in after.on] == [(raised.id, "two")]
    (cleared,) = _run(after, _af([0.1] * 3, 40.0))
    assert (cleared.id, cleared.seq, cleared.state, cleared.stream, cleared.onset_s) == (raised.id, 1, "cleared", "two", raised.onset_s)


def test_what_the_new_model_does_not_know_is_cleared() -> None:
    before = _alarm()
    (raised,) = _run(before, _af([0.9] * 3))
    (cleared,) = _alarm(_finding("flutter")).take_over(before.on)
    assert (cleared.id, cleared.seq, cleared.state, cleared.why) == (raised.id, 1, "cleared", "no longer watched for")


def test_a_source_that_is_left_leaves_nothing_on() -> None:
    alarm = _alarm()
    (raised,) = _run(alarm, _af([0.9] * 3))
    (cleared,) = alarm.close("no longer watched", 50.0)
    assert (cleared.id, cleared.state, cleared.why, cleared.at_s) == (raised.id, "cleared", "no longer watched", 50.0)
    assert alarm.on == []


def test_a_finding_without_priority_never_alerts() -> None:
    assert _run(_alarm(AF.model_copy(update={"priority": "none"})), _af([1.0] * 20)) == []
