"""The alarm: k of n raw scores raise, hysteresis clears, and the two alternate for ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.alarm import Alarm, Alert, Rule
from edge.score import Scores
from kernels.findings import TECHNICAL, Finding

AF = Finding(name="af", prompts=("atrial fibrillation",), priority="medium", raise_at=0.6, clear_at=0.3)


def _run(probabilities: Sequence[float | None], rule: Rule = Rule(), finding: Finding = AF) -> list[Alert]:
    """One score a second; None abstains."""
    alarm = Alarm("bed1", [finding], rule)
    return [alert for t, p in enumerate(probabilities) for alert in alarm.feed(_scores(float(t), p, finding.name))]


def _scores(at_s: float, p: float | None, name: str = "af") -> Scores:
    return Scores("bed1", at_s, {} if p is None else {name: p}, {}, "no usable lead" if p is None else None)


def _of(alerts: list[Alert], finding: str) -> list[tuple[str, float]]:
    return [(a.state, a.at_s) for a in alerts if a.finding == finding]


PROBABILITIES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=80)


@given(PROBABILITIES, st.integers(1, 5), st.integers(0, 3), st.sampled_from([0.0, 5.0, 20.0]))
def test_raised_and_cleared_alternate_and_share_their_id(ps: list[float | None], k: int, more: int, cool_down_s: float) -> None:
    for finding in ("af", TECHNICAL):
        alerts = [a for a in _run(ps, Rule(k, k + more, cool_down_s)) if a.finding == finding]
        assert [a.state for a in alerts] == ["raised", "cleared"] * (len(alerts) // 2) + ["raised"] * (len(alerts) % 2)
        for raised, cleared in zip(alerts[::2], alerts[1::2], strict=False):
            assert raised.id == cleared.id
        ids = [a.id for a in alerts[::2]]
        assert len(set(ids)) == len(ids)


@given(PROBABILITIES)
def test_equals_the_rule_written_another_way(ps: list[float | None]) -> None:
    """Oracle: look back from every second over the raw scores since the last change."""
    wanted, active, since, quiet_until = [], False, [], -1.0
    for t, p in enumerate(ps):
        if p is None:
            continue
        since.append(p)
        last = since[-5:]
        if not active and t >= quiet_until and sum(q >= 0.6 for q in last) >= 3:
            active, since = True, []
            wanted.append(("raised", t))
        elif active and sum(q < 0.3 for q in last) >= 3:
            active, since, quiet_until = False, [], t + 10
            wanted.append(("cleared", t))
    assert _of(_run(ps), "af") == wanted


def test_an_abstention_freezes_a_finding_and_raises_the_technical_alert() -> None:
    alerts = _run([0.9, 0.9, None, None, None, 0.9, 0.1, 0.1, 0.1])
    assert _of(alerts, "af") == [("raised", 5), ("cleared", 8)]
    assert _of(alerts, TECHNICAL) == [("raised", 4), ("cleared", 7)]


def test_the_onset_is_the_first_window_that_counted() -> None:
    (alert,) = _run([0.1, 0.7, 0.1, 0.8, 0.9])
    assert (alert.onset_s, alert.at_s, alert.score) == (1.0, 4.0, 0.9)
    assert alert.evidence == ((0.0, 0.1), (1.0, 0.7), (2.0, 0.1), (3.0, 0.8), (4.0, 0.9))


def test_a_cool_down_keeps_a_flapping_finding_quiet() -> None:
    flapping = ([0.9] * 3 + [0.1] * 3) * 6
    assert len(_of(_run(flapping, Rule(3, 5, 0.0)), "af")) > len(_of(_run(flapping, Rule(3, 5, 30.0)), "af"))


def test_between_the_two_thresholds_nothing_changes() -> None:
    assert _of(_run([0.9] * 3 + [0.45] * 50), "af") == [("raised", 2)]
    assert _run([0.45] * 50) == []


def test_windows_long_ago_do_not_count() -> None:
    """Two high scores, an hour of abstention, one high score: no alert."""
    assert _of(_run([0.9, 0.9] + [None] * 3600 + [0.9]), "af") == []
    assert _of(_run([0.9, 0.9] + [None] * 30 + [0.9]), "af") == [("raised", 32)]


def test_what_was_low_before_the_alert_does_not_clear_it() -> None:
    assert _of(_run([0.9, 0.9, 0.1, 0.1, 0.9, 0.1]), "af") == [("raised", 4)]


def test_the_name_of_the_technical_alert_is_reserved() -> None:
    with pytest.raises(ValidationError, match="choose another"):
        Finding(name=TECHNICAL, prompts=("x",))


def test_a_finding_without_priority_never_alerts() -> None:
    assert _run([1.0] * 20, finding=AF.model_copy(update={"priority": "none"})) == []


def test_the_same_scores_give_the_same_ids() -> None:
    assert _run([0.9] * 5) == _run([0.9] * 5)
