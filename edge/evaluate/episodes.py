"""The annotated episodes of a finding and the alerts for it in; EC57's shares, false alarms and times to alarm out.

An alert counts from its onset to its clearing. For its sensitivity and predictivity EC57 asks whether episodes and
alerts overlap at all, and for how long. An alert that began at most `tolerance_s` after an episode's end is that
episode's: too late to detect it, but no false alarm either. Atrial flutter and fibrillation are kin: an alarm
for one that overlaps annotations of the other only is counted by itself, and leaves the predictivity as it is,
as EC57's comparison of atrial fibrillation leaves annotated flutter out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .interval import Interval, Intervals, shared_s, total_s, within, without
from .observe import Alarmed
from .tally import Counts, per_day, ratio
from .truth import KIN, STRETCH_S, Truth

Verdict = Literal["right", "late", "kin", "false"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is counted."""

    shortest_s: float = 30.0
    """Episodes at least so long are counted once more by themselves: shorter ones are no clinical episode."""
    tolerance_s: float = 15.0
    """The window of ten seconds, and the time that the alarm waits."""
    from_s: float = 0.0
    """What lies before is left out."""


@dataclass(frozen=True, slots=True)
class Missed:
    """An episode without an alert."""

    record: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """An alert that belongs to no episode."""

    record: str
    raised_s: float
    end_s: float
    noisy: bool
    """Whether it overlaps annotated noise."""


@dataclass(frozen=True, slots=True)
class EpisodeCounts(Counts):
    """One finding in one recording, or in several added up."""

    hours: float
    episodes: int
    detected: int
    long_episodes: int
    """Those of at least `Terms.shortest_s`."""
    long_detected: int
    episode_s: float
    episode_shared_s: float
    """Of `episode_s`, so long an alert was on."""
    long_s: float
    long_shared_s: float
    alerts: int
    right: int
    """Alerts that overlap an episode."""
    late: int
    """Alerts that only began soon after one."""
    kin: int
    """Alerts that overlap the kindred rhythm only."""
    false: int
    """All other alerts."""
    false_in_noise: int
    """Those of the false ones that overlap annotated noise."""
    alert_s: float
    """How long alerts were on, without the kindred rhythm."""
    alert_shared_s: float
    kin_s: float
    """How long alerts were on during the kindred rhythm."""
    already_on: int
    """Episodes that began while an alert was on."""
    in_time: int
    """Episodes before whose end an alert was told that overlaps them."""
    delays_s: tuple[float, ...]
    """From the beginning of an episode to its alert, for the others that got one and did not begin with the recording."""
    missed: tuple[Missed, ...]
    """Episodes without any alert, not even a late one."""
    false_alarms: tuple[FalseAlarm, ...]

    @property
    def sensitivity(self) -> float | None:
        return ratio(self.detected, self.episodes)

    @property
    def long_sensitivity(self) -> float | None:
        return ratio(self.long_detected, self.long_episodes)

    @property
    def predictivity(self) -> float | None:
        return ratio(self.right, self.alerts - self.kin)

    @property
    def duration_sensitivity(self) -> float | None:
        return ratio(self.episode_shared_s, self.episode_s)

    @property
    def long_duration_sensitivity(self) -> float | None:
        return ratio(self.long_shared_s, self.long_s)

    @property
    def duration_predictivity(self) -> float | None:
        return ratio(self.alert_shared_s, self.alert_s)

    @property
    def false_per_day(self) -> float | None:
        return per_day(self.false, self.hours)

    @property
    def false_or_kin_per_day(self) -> float | None:
        """Were an alarm during the kindred rhythm called false."""
        return per_day(self.false + self.kin, self.hours)


def count_episodes(finding: str, truth: Truth, alerts: Iterable[Alarmed], record: str, terms: Terms = Terms()) -> EpisodeCounts:
    """One finding in one recording. Of what began before `terms.from_s` only the rest is counted and timed; an alert raised since
    then is right or late by whole episodes.
    """
    frame = Interval(terms.from_s, truth.duration_s)
    annotated = truth.episodes(finding)
    kin = truth.episodes(KIN[finding]) if finding in KIN else ()
    whole = [one for one in annotated if one.overlaps(frame)]
    episodes = within(whole, frame)
    all_alerts = [alert for alert in alerts if alert.finding == finding]
    raised = [alert for alert in all_alerts if alert.raised_s >= terms.from_s]
    verdicts = [_verdict(alert, annotated, kin, terms) for alert in raised]
    false = tuple(_false_alarm(alert, record, truth) for alert, verdict in zip(raised, verdicts, strict=True) if verdict == "false")
    on = within((alert.on for alert in all_alerts), frame)
    judged_on = without(on, kin)
    long = tuple(one for one in episodes if one.length_s >= terms.shortest_s)
    return EpisodeCounts(
        hours=max(frame.length_s, 0.0) / 3600,
        episodes=len(episodes),
        detected=_overlapped(episodes, on),
        long_episodes=len(long),
        long_detected=_overlapped(long, on),
        episode_s=total_s(episodes),
        episode_shared_s=shared_s(episodes, on),
        long_s=total_s(long),
        long_shared_s=shared_s(long, on),
        alerts=len(raised),
        right=verdicts.count("right"),
        late=verdicts.count("late"),
        kin=verdicts.count("kin"),
        false=len(false),
        false_in_noise=sum(one.noisy for one in false),
        alert_s=total_s(judged_on),
        alert_shared_s=shared_s(judged_on, episodes),
        kin_s=shared_s(on, kin),
        already_on=sum(any(_was_on(alert, one) for alert in all_alerts) for one in whole),
        in_time=sum(any(_is_in_time(alert, one) for alert in all_alerts) for one in episodes),
        delays_s=tuple(delay for one in whole for delay in _delay(one, all_alerts, terms)),
        missed=tuple(Missed(record, one.start_s, one.end_s) for one in episodes if not _alerts_of(one, all_alerts, terms)),
        false_alarms=false,
    )


def _verdict(alert: Alarmed, episodes: Intervals, kin: Intervals, terms: Terms) -> Verdict:
    if alert.on.overlaps_any(episodes):
        return "right"
    if any(_belongs(alert, one, terms) for one in episodes):
        return "late"
    return "kin" if any(_belongs(alert, one, terms) for one in kin) else "false"


def _false_alarm(alert: Alarmed, record: str, truth: Truth) -> FalseAlarm:
    return FalseAlarm(record, alert.raised_s, alert.on.end_s, alert.on.overlaps_any(truth.noise))


def _belongs(alert: Alarmed, episode: Interval, terms: Terms) -> bool:
    """Whether it overlaps the episode, or began soon after it."""
    return alert.on.overlaps(Interval(episode.start_s, episode.end_s + terms.tolerance_s))


def _alerts_of(episode: Interval, alerts: Sequence[Alarmed], terms: Terms) -> list[Alarmed]:
    """Those that overlap it; failing these, those that began soon after it."""
    overlapping = [alert for alert in alerts if alert.on.overlaps(episode)]
    return overlapping or [alert for alert in alerts if episode.end_s <= alert.on.start_s < episode.end_s + terms.tolerance_s]


def _was_on(alert: Alarmed, episode: Interval) -> bool:
    return alert.raised_s < episode.start_s < alert.on.end_s


def _is_in_time(alert: Alarmed, episode: Interval) -> bool:
    return alert.on.overlaps(episode) and alert.raised_s < episode.end_s


def _delay(episode: Interval, alerts: Sequence[Alarmed], terms: Terms) -> list[float]:
    """One time, or none: the first window ends ten seconds after the beginning, so what begins before has no fair time."""
    told = _alerts_of(episode, alerts, terms)
    if not told or episode.start_s < max(terms.from_s, STRETCH_S) or any(_was_on(alert, episode) for alert in told):
        return []
    return [min(alert.raised_s for alert in told) - episode.start_s]


def _overlapped(ones: Sequence[Interval], others: Sequence[Interval]) -> int:
    return sum(one.overlaps_any(others) for one in ones)
