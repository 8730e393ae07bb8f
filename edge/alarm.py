"""The scores, seconds of quality and vitals of one source in; `Alert`s out: raised, updated and cleared, physiological and technical."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from kernels.bundle import Card
from kernels.findings import Finding, by_silence, in_words

from . import technical
from .episode import MEMORY_S, Change, Episode, Rule
from .pulse import Pulse
from .quality import Quality, State
from .score import Scores
from .strip import Strip, Tail
from .technical import Vote
from .vitals import Vitals

_PATIENCE_S = 5.0
"""So long after it the cause of an abstention still explains it; so long may a window be late."""
_ALL = ""

Priority = Literal["high", "medium", "low"]
Kind = Literal["physiological", "technical"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an alert rests on."""

    scores: tuple[tuple[float, float], ...] = ()
    """(at_s, score) of the windows or seconds that decided; for a finding its probability."""
    strip: Strip | None = None
    """The seconds before; None where a command, and no sample, made the alert."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A change in an episode of a finding at one source. Raised and cleared alternate, updates lie between."""

    id: str
    """Of the episode: the same from raised to cleared, and in every replay of the same samples."""
    seq: int
    """0 for raised, then 1, 2, 3: with `id` it names this change."""
    source: str
    stream: str
    """Names the stretch of time that `at_s` counts in: anew for each start of a live source, empty in a replay."""
    finding: str
    kind: Kind
    priority: Priority
    """IEC 60601-1-8 words."""
    state: Change
    at_s: float
    onset_s: float
    """Stream time of the first window that counted towards it."""
    score: float
    """The highest probability since the onset."""
    why: str | None = None
    """In words: what a technical alert found; what else than scores changed a physiological one."""
    acknowledged_by: str | None = None
    silenced: bool = False
    """Whether somebody asked for quiet: told all the same, and not to be sounded."""
    heart_rate_bpm: float | None = None
    quality: dict[str, State] | None = None
    """By lead, in the window or second that decided."""
    bundle: str = ""
    """The beginning of the hash of the model."""
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True)
class _Duty:
    """What is watched for at every source alike."""

    finding: Finding
    kind: Kind
    rule: Rule
    silenced_by: tuple[str, ...]


@dataclass(slots=True)
class _Watch:
    """One finding at the source, and the alert that is on."""

    finding: Finding
    kind: Kind
    episode: Episode
    silenced_by: list[_Watch]
    alert: Alert | None = None
    """The last that was told, while it is on."""
    begun: int = 0
    """How many episodes there have been."""
    words: str = ""
    """What was told of a technical fault."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """When and with which signal something is decided."""

    at_s: float
    tail: Tail | None = None


class Alarm:
    """The life cycle of every finding at one source. No clock: time is that of the stream.

    While a second without any signal is inside a window, that window counts neither for nor against a finding: a flat line is
    a technical alert, and never bradycardia. A finding that the leads cannot show stays as it is.
    """

    def __init__(self, source: str, card: Card, stream: str = "", hop_s: float = 1.0) -> None:
        self._source = source
        self._stream = stream
        self._bundle = card.sha256[:16]
        self._window_s = card.window_s
        self._watches: dict[str, _Watch] = {}
        duties, self._alerting = _duties(card.findings, hop_s)
        for duty in duties:
            silenced_by = [self._watches[name] for name in duty.silenced_by]
            self._watches[duty.finding.name] = _Watch(duty.finding, duty.kind, Episode(duty.rule), silenced_by)
        self._silenceable = [watch for watch in self._watches.values() if watch.silenced_by]
        self._silencers = [watch for watch in self._watches.values() if watch.finding.silences]
        self._physiological = [(name, watch) for name, watch in self._watches.items() if watch.kind == "physiological"]
        self._may_supersede = self._may_be_silenced = False
        """False where for certain nothing is on that silences others, and no alert that is on was silenced: most of the time."""
        self._blind_until_s = self._explained_until_s = float("-inf")
        self._scored_s = self._judged_s = float("-inf")
        self._quiet_until_s: dict[str, float] = {}
        self._now_s = 0.0
        self._pulse = Pulse()
        self._quality: dict[str, State] = {}

    def note(self, vitals: Vitals) -> None:
        """What the next scores are held against, and the next alerts tell of the heart rate."""
        self._pulse.feed(vitals)

    def feed_second(self, quality: Quality, tail: Tail) -> Iterator[Alert]:
        """The technical alerts that the state of the leads raises, worsens or clears; `tail` ends with the second."""
        votes = technical.of_second(quality)
        if votes["no_signal"].score:
            self._blind_until_s = quality.end_s
        if votes["no_signal"].score or votes["noise"].score:
            self._explained_until_s = quality.end_s
        if quality.start_s - self._judged_s > _PATIENCE_S:
            # After a pause a window takes its time.
            self._scored_s = quality.start_s
        self._judged_s = quality.end_s
        if quality.end_s - self._scored_s > self._window_s + _PATIENCE_S:
            votes["no_usable_signal"] = Vote(1.0, f"no {self._window_s:g} s without a gap")
        self._quality = quality.by_lead()
        yield from self._vote(self._of(votes), _Moment(quality.end_s, tail))

    def feed(self, scores: Scores, tail: Tail) -> Iterator[Alert]:
        """The alerts that these scores raise, worsen or clear, the technical ones first; `tail` ends with the window."""
        moment = _Moment(scores.at_s, tail)
        self._quality, self._scored_s = scores.quality, scores.at_s
        votes = technical.of_scores(scores, self._alerting)
        if scores.at_s - self._window_s < self._explained_until_s <= scores.at_s - _PATIENCE_S:
            del votes["no_usable_signal"]
        yield from self._vote(self._of(votes), moment)
        if scores.at_s - self._window_s >= self._blind_until_s:
            told = scores.probability
            yield from self._vote([(watch, told[name], "") for name, watch in self._physiological if name in told], moment)

    def report(self, finding: str, why: str | None, at_s: float) -> Iterator[Alert]:
        """A technical fault that no sample shows, such as `stalled`, begins, or with None ends."""
        watch, moment = self._watches[finding], self._at(at_s)
        if why and not watch.episode.is_on:
            watch.episode.resume(moment.at_s, 1.0, moment.at_s)
            self._may_supersede = True
            yield from self._tell(watch, "raised", moment, why)
            yield from self._hush(moment)
        elif not why and watch.episode.is_on:
            yield from self._end(watch, moment, None)

    def acknowledge(self, alert_id: str, by: str, at_s: float) -> Iterator[Alert]:
        """Somebody has seen it. Nothing where no such alert is on, or they have said so before."""
        moment = self._at(at_s)
        for watch in self._watches.values():
            if watch.alert and watch.alert.id == alert_id and watch.alert.acknowledged_by != by:
                watch.alert = replace(watch.alert, acknowledged_by=by)
                yield from self._tell(watch, "updated", moment, f"acknowledged by {by}")

    def silence(self, finding: str | None, for_s: float, by: str, at_s: float) -> Iterator[Alert]:
        """Quiet for one finding, or all of this source; 0 ends it. What is on is told again. The last word about a finding holds."""
        moment = self._at(at_s)
        if finding is None:
            self._quiet_until_s.clear()
        self._quiet_until_s[finding or _ALL] = moment.at_s + for_s
        why = f"silenced for {for_s:g} s by {by}" if for_s else f"no longer silenced, by {by}"
        for watch in self._watches.values():
            if watch.alert and finding in (None, watch.finding.name):
                yield from self._tell(watch, "updated", moment, why)

    def wake(self, at_s: float) -> Iterator[Alert]:
        """Time goes on though no sample comes: what was silenced for long enough is so no longer."""
        yield from self._wake(self._at(at_s))

    def alerts_for(self, finding: str) -> bool:
        """Whether it is one of the findings that are told."""
        return finding in self._watches and self._watches[finding].finding.priority != "none"

    @property
    def now_s(self) -> float:
        """Stream time of the last that was decided."""
        return self._now_s

    @property
    def on(self) -> list[Alert]:
        """The last word about every alert that is on."""
        return [watch.alert for watch in self._watches.values() if watch.alert]

    def take_over(self, alerts: Sequence[Alert]) -> Iterator[Alert]:
        """Go on with what was on before a restart or with another model; what is no longer watched for is cleared."""
        for alert in alerts:
            watch = self._watches.get(alert.finding)
            if watch and self.alerts_for(alert.finding):
                watch.episode.resume(alert.onset_s, alert.score, alert.at_s)
                self._may_supersede, self._may_be_silenced = True, self._may_be_silenced or alert.silenced
                watch.alert, watch.words = replace(alert, stream=self._stream), alert.why or ""
                watch.begun += 1
            else:
                yield replace(alert, seq=alert.seq + 1, state="cleared", why="no longer watched for", evidence=Evidence())

    def succeed(self, last: Alarm) -> Iterator[Alert]:
        """Go on where another alarm of the same stream ends, as for a new model."""
        self._quiet_until_s, self._now_s, self._pulse = last._quiet_until_s, last._now_s, last._pulse
        yield from self.take_over(last.on)

    def close(self, why: str, at_s: float) -> Iterator[Alert]:
        """Clear everything, for a source that is no longer watched."""
        moment = self._at(at_s)
        for watch in self._watches.values():
            yield from self._end(watch, moment, why)

    def _at(self, at_s: float) -> _Moment:
        """Now, by a clock that may be a little behind the samples."""
        self._now_s = max(self._now_s, at_s)
        return _Moment(self._now_s)

    def _of(self, votes: dict[str, Vote]) -> list[tuple[_Watch, float, str]]:
        return [(self._watches[name], vote.score, vote.words) for name, vote in votes.items()]

    def _vote(self, votes: Iterable[tuple[_Watch, float, str]], moment: _Moment) -> Iterator[Alert]:
        """What is watched for, its score, and for a technical fault the words."""
        self._set_clock(moment.at_s)
        yield from self._wake(moment)
        for watch, score, words in votes:
            change = self._advance(watch, score, words, moment.at_s)
            if change:
                self._may_supersede, watch.words = True, words
                yield from self._tell(watch, change, moment, words if change != "cleared" else None)
        yield from self._hush(moment)

    def _advance(self, watch: _Watch, score: float, words: str, at_s: float) -> Change | None:
        if self._may_supersede and any(other.episode.is_on for other in watch.silenced_by):
            return None
        change = watch.episode.feed(at_s, score, self._fits(watch, score, at_s))
        if change is None and score and words != watch.words and watch.episode.may_tell(at_s):
            watch.episode.tell(at_s)
            change = "updated"
        return change

    def _fits(self, watch: _Watch, score: float, at_s: float) -> bool | None:
        """Whether the pulse bears the score out; not asked where it could only take away what does not count anyway."""
        finding = watch.finding
        if watch.kind == "technical" or (score < finding.raise_at and finding.above_bpm is None and finding.below_bpm is None):
            return True
        return self._pulse.fits(finding, at_s)

    def _hush(self, moment: _Moment) -> Iterator[Alert]:
        """What is on ends where something that silences it has begun."""
        self._may_supersede = self._may_supersede and any(watch.episode.is_on for watch in self._silencers)
        if not self._may_supersede:
            return
        for watch in self._silenceable:
            by = next((other for other in watch.silenced_by if other.episode.is_on), None)
            if by:
                yield from self._end(watch, moment, f"superseded by {in_words(by.finding.name)}")

    def _wake(self, moment: _Moment) -> Iterator[Alert]:
        """What was silenced for long enough is told to be so no longer."""
        if not self._may_be_silenced:
            return
        for watch in self._watches.values():
            if watch.alert and watch.alert.silenced and not self._is_silenced(watch.finding.name):
                yield from self._tell(watch, "updated", moment, "no longer silenced")

    def _set_clock(self, at_s: float) -> None:
        """The samples are right: where commands were dated ahead of them, a silence does not last longer for it."""
        ahead_s = max(self._now_s - at_s, 0.0)
        self._quiet_until_s = {name: until_s - ahead_s for name, until_s in self._quiet_until_s.items()} if ahead_s else self._quiet_until_s
        self._now_s = at_s

    def _end(self, watch: _Watch, moment: _Moment, why: str | None) -> Iterator[Alert]:
        watch.episode.forget()
        if watch.alert:
            yield from self._tell(watch, "cleared", moment, why)

    def _tell(self, watch: _Watch, change: Change, moment: _Moment, why: str | None) -> Iterator[Alert]:
        """The alert of a change. A finding without priority has episodes, which may silence others, but no alerts."""
        finding = watch.finding
        if finding.priority == "none":
            return
        if change == "raised":
            watch.begun += 1
        before = watch.alert
        alert = Alert(
            id=before.id if before else _identify(self._stream, self._source, finding.name, watch.episode.onset_s, watch.begun),
            seq=before.seq + 1 if before else 0,
            source=self._source,
            stream=self._stream,
            finding=finding.name,
            kind=watch.kind,
            priority=finding.priority,
            state=change,
            at_s=moment.at_s,
            onset_s=watch.episode.onset_s,
            score=watch.episode.peak,
            why=why or None,
            acknowledged_by=before.acknowledged_by if before else None,
            silenced=self._is_silenced(finding.name),
            heart_rate_bpm=self._pulse.rate_bpm(moment.at_s),
            quality=self._quality if moment.tail else None,
            bundle=self._bundle,
            evidence=Evidence(watch.episode.decided, moment.tail.strip()) if moment.tail else Evidence(),
        )
        watch.alert = alert if change != "cleared" else None
        self._may_be_silenced = self._may_be_silenced or alert.silenced
        yield alert

    def _is_silenced(self, name: str) -> bool:
        return self._now_s < self._quiet_until_s.get(name, self._quiet_until_s.get(_ALL, 0.0))


@lru_cache(maxsize=16)
def _duties(findings: tuple[Finding, ...], hop_s: float) -> tuple[tuple[_Duty, ...], frozenset[str]]:
    """Each behind all that silence it, and the names of the findings of the heart that alert."""
    watched: list[tuple[Finding, Kind, Rule]] = [(finding, "technical", technical.RULES[finding.name]) for finding in technical.FINDINGS]
    watched += [(finding, "physiological", _rule_of(finding, hop_s)) for finding in by_silence(findings)]
    duties: list[_Duty] = []
    for finding, kind, rule in watched:
        silenced_by = tuple(other.finding.name for other in duties if finding.name in other.finding.silences)
        duties.append(_Duty(finding, kind, rule, silenced_by))
    return tuple(duties), frozenset(finding.name for finding in findings if finding.priority != "none")


def _rule_of(finding: Finding, hop_s: float) -> Rule:
    k, n = finding.k, finding.n
    memory_s = max(MEMORY_S, 1.5 * n * hop_s)
    return Rule(finding.raise_at, finding.clear_at, k, n, k, n, finding.for_s, finding.cool_down_s, memory_s)


def _identify(stream: str, source: str, finding: str, onset_s: float, count: int) -> str:
    """From what happened and when in the stream, not from a clock, so that a replay gives the same."""
    return hashlib.sha256(f"{stream}\0{source}\0{finding}\0{onset_s:.6f}\0{count}".encode()).hexdigest()[:16]
