"""One finding's episodes: k of n raw scores begin one, hysteresis ends it, a cool-down holds the next, and the two alternate for ever."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from edge.episode import Episode, Rule

RULE = Rule(raise_at=0.6, clear_at=0.3)
SCORES = st.lists(st.floats(0, 1), max_size=80)


def _run(scores: Sequence[float | None], rule: Rule = RULE) -> list[tuple[str, float]]:
    """One score a second; None for a second without one."""
    episode = Episode(rule)
    changes = [(episode.feed(float(t), p), float(t)) for t, p in enumerate(scores) if p is not None]
    return [(change, t) for change, t in changes if change]


def _ends(scores: Sequence[float | None], rule: Rule = RULE) -> list[tuple[str, float]]:
    return [(change, t) for change, t in _run(scores, rule) if change != "updated"]


@given(SCORES, st.integers(1, 5), st.integers(0, 3), st.sampled_from([0.0, 5.0, 20.0]), st.sampled_from([0.0, 4.0]))
def test_raised_and_cleared_alternate_and_updates_lie_between(ps: list[float], k: int, more: int, cool_down_s: float, for_s: float) -> None:
    rule = Rule(0.6, 0.3, k, k + more, k, k + more, for_s, cool_down_s)
    assert [c for c, _ in _ends(ps, rule)] == (["raised", "cleared"] * len(ps))[: len(_ends(ps, rule))]
    is_on = False
    for change, _ in _run(ps, rule):
        assert (change == "raised") != is_on
        is_on = change != "cleared"


@given(SCORES)
def test_equals_the_rule_written_another_way(ps: list[float]) -> None:
    """Oracle: look back from every second over the scores since the last change."""
    wanted, active, since, quiet_until = [], False, [], -1.0
    for t, p in enumerate(ps):
        since.append(p)
        last = since[-5:]
        if not active and t >= quiet_until and sum(q >= 0.6 for q in last) >= 3:
            active, since = True, []
            wanted.append(("raised", t))
        elif active and sum(q < 0.3 for q in last) >= 3:
            active, since, quiet_until = False, [], t + 10
            wanted.append(("cleared", t))
    assert _ends(ps) == wanted


@given(SCORES)
def test_an_update_tells_a_peak_that_no_one_has_heard_of(ps: list[float]) -> None:
    """Oracle: every update's highest score so far lies a step above what was told last, ten seconds before at least."""
    told, told_s = 0.0, 0.0
    episode = Episode(RULE)
    for t, p in enumerate(ps):
        change = episode.feed(float(t), p)
        if change == "updated":
            assert episode.peak >= told + 0.05
            assert t >= told_s + 10
        if change:
            told, told_s = episode.peak, t


def test_a_rising_score_is_told_again_at_most_every_ten_seconds() -> None:
    rising = [min(0.6 + 0.01 * t, 1.0) for t in range(45)]
    assert _run(rising) == [("raised", 2), ("updated", 12), ("updated", 22), ("updated", 32), ("updated", 42)]


def test_the_onset_is_the_first_score_that_counted() -> None:
    episode = Episode(RULE)
    for t, p in enumerate([0.1, 0.7, 0.1, 0.8, 0.9]):
        episode.feed(float(t), p)
    assert (episode.onset_s, episode.peak) == (1.0, 0.9)
    assert episode.decided == ((0.0, 0.1), (1.0, 0.7), (2.0, 0.1), (3.0, 0.8), (4.0, 0.9))


def test_a_cool_down_keeps_a_flapping_finding_quiet() -> None:
    flapping = ([0.9] * 3 + [0.1] * 3) * 6
    at_once, later = Rule(0.6, 0.3, cool_down_s=0.0), Rule(0.6, 0.3, cool_down_s=30.0)
    assert len(_ends(flapping, at_once)) > len(_ends(flapping, later))


def test_between_the_two_thresholds_nothing_changes() -> None:
    assert _run([0.9] * 3 + [0.45] * 50) == [("raised", 2)]
    assert _run([0.45] * 50) == []


def test_scores_long_ago_do_not_count() -> None:
    """Two high scores, an hour of none, one high score: nothing."""
    assert _run([0.9, 0.9] + [None] * 3600 + [0.9]) == []
    assert _run([0.9, 0.9] + [None] * 30 + [0.9]) == [("raised", 32)]


def test_what_was_low_before_it_began_does_not_end_it() -> None:
    assert _ends([0.9, 0.9, 0.1, 0.1, 0.9, 0.1]) == [("raised", 4)]


def test_a_minimum_duration_holds_it_until_it_has_lasted() -> None:
    """Enough at 2 s; five seconds later still so."""
    lasting = Rule(0.6, 0.3, for_s=5.0)
    assert _run([0.9] * 20, lasting)[0] == ("raised", 7)
    assert _run([0.9] * 5 + [0.1] * 20, lasting) == []
    assert _run([0.9] * 5 + [0.1] * 10 + [0.9] * 10, lasting) == [("raised", 22)]


def test_the_onset_is_kept_through_a_minimum_duration() -> None:
    episode = Episode(Rule(0.6, 0.3, for_s=8.0))
    changes = [episode.feed(float(t), p) for t, p in enumerate([0.1, 0.7] + [0.8] * 12)]
    assert changes.index("raised") == 11
    assert episode.onset_s == 1.0


def test_after_a_restart_it_goes_on_as_it_was() -> None:
    episode = Episode(RULE)
    episode.resume(onset_s=-40.0, peak=0.8, at_s=-3.0)
    assert [episode.feed(float(t), p) for t, p in enumerate([0.7, 0.1, 0.1, 0.1])] == [None, None, None, "cleared"]
    assert (episode.onset_s, episode.peak) == (-40.0, 0.8)


def test_a_high_score_counts_only_where_everything_else_fits() -> None:
    episode = Episode(RULE)
    assert [episode.feed(float(t), 0.9, None) for t in range(10)] == [None] * 10
    assert [episode.feed(10.0 + t, 0.9, True) for t in range(3)] == [None, None, "raised"]
    assert [episode.feed(13.0 + t, 0.9, None) for t in range(5)] == [None] * 5
    assert [episode.feed(18.0 + t, 0.9, False) for t in range(3)] == [None, None, "cleared"]
