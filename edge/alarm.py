"""`Scores` of one source in; `Alert`s out: k of n raw scores raise one, hysteresis clears it, a cool-down holds the next."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kernels.findings import TECHNICAL, Finding

from .score import Scores

Priority = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When scores become an alert."""

    k: int = 3
    n: int = 5
    """So many of the last `n` windows must reach `raise_at`, and as many fall below `clear_at`."""
    cool_down_s: float = 10.0
    """After an alert has cleared, the same finding stays quiet for so long."""
    memory_s: float = 60.0
    """A window older than this no longer counts, as after a long abstention."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding that began or ended at one source."""

    id: str
    """The same for the raised and the cleared alert of one episode, and for every replay of the same samples."""
    source: str
    finding: str
    priority: Priority
    state: Literal["raised", "cleared"]
    at_s: float
    onset_s: float
    """Stream time of the first window that counted towards it."""
    score: float
    """The highest probability since the onset."""
    evidence: tuple[tuple[float, float], ...]
    """(at_s, probability) of the windows that decided."""


_TECHNICAL_FINDING = Finding.model_construct(name=TECHNICAL, prompts=(), priority="low", raise_at=0.5, clear_at=0.5)


@dataclass(slots=True)
class _Episode:
    """What is known of one finding at one source."""

    recent: deque[tuple[float, float]]
    active: str | None = None
    onset_s: float = 0.0
    peak: float = 0.0
    quiet_until_s: float = float("-inf")


class Alarm:
    """The life cycle of every finding at one source. Windows that abstained, or cannot show a finding, leave it as it is."""

    def __init__(self, source: str, findings: Sequence[Finding], rule: Rule) -> None:
        self._source = source
        self._rule = rule
        self._findings = [f for f in findings if f.priority != "none"]
        self._episodes = {f.name: _Episode(deque(maxlen=rule.n)) for f in (*self._findings, _TECHNICAL_FINDING)}

    def feed(self, scores: Scores) -> Iterator[Alert]:
        """The alerts that these scores raise or clear, the technical one first."""
        yield from self._advance(_TECHNICAL_FINDING, scores.at_s, float(scores.abstained is not None))
        for finding in self._findings:
            if finding.name in scores.probability:
                yield from self._advance(finding, scores.at_s, scores.probability[finding.name])

    def _advance(self, finding: Finding, at_s: float, score: float) -> Iterator[Alert]:
        episode = self._episodes[finding.name]
        episode.recent.append((at_s, score))
        while episode.recent[0][0] < at_s - self._rule.memory_s:
            episode.recent.popleft()
        if episode.active:
            episode.peak = max(episode.peak, score)
            if self._enough(p < finding.clear_at for _, p in episode.recent):
                yield self._clear(finding, episode, at_s)
        elif at_s >= episode.quiet_until_s and self._enough(p >= finding.raise_at for _, p in episode.recent):
            yield self._raise(finding, episode, at_s)

    def _enough(self, votes: Iterator[bool]) -> bool:
        return sum(votes) >= self._rule.k

    def _raise(self, finding: Finding, episode: _Episode, at_s: float) -> Alert:
        counted = [(t, p) for t, p in episode.recent if p >= finding.raise_at]
        episode.onset_s, episode.peak = counted[0][0], max(p for _, p in counted)
        episode.active = _identify(self._source, finding.name, episode.onset_s)
        alert = self._alert(finding, episode, at_s, "raised")
        episode.recent.clear()
        return alert

    def _clear(self, finding: Finding, episode: _Episode, at_s: float) -> Alert:
        alert = self._alert(finding, episode, at_s, "cleared")
        episode.active, episode.quiet_until_s = None, at_s + self._rule.cool_down_s
        episode.recent.clear()
        return alert

    def _alert(self, finding: Finding, episode: _Episode, at_s: float, state: Literal["raised", "cleared"]) -> Alert:
        assert episode.active is not None and finding.priority != "none"
        evidence = tuple(episode.recent)
        return Alert(episode.active, self._source, finding.name, finding.priority, state, at_s, episode.onset_s, episode.peak, evidence)


def _identify(source: str, finding: str, onset_s: float) -> str:
    """From what happened and when in the stream, not from a clock, so that a replay gives the same."""
    return hashlib.sha256(f"{source}\0{finding}\0{onset_s:.6f}".encode()).hexdigest()[:16]
