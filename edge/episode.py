"""The scores of one finding in; when an episode begins, gets worse and ends out: k of n raise, hysteresis clears."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MEMORY_S = 60.0

Change = Literal["raised", "updated", "cleared"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When scores begin and end an episode."""

    raise_at: float = 0.5
    clear_at: float = 0.35
    k: int = 3
    n: int = 5
    """So many of the last `n` scores must reach `raise_at`."""
    clear_k: int = 3
    clear_n: int = 5
    """So many of the last `clear_n` must lie under `clear_at`."""
    for_s: float = 0.0
    """For so long there must go on to be enough, before it begins."""
    cool_down_s: float = 10.0
    """After its end the next one does not begin for so long."""
    memory_s: float = MEMORY_S
    """A score older than this no longer counts, as after a long abstention."""
    rise: float = 0.05
    """It is worse once the peak has risen by so much since it was last told,"""
    update_s: float = 10.0
    """and that was at least so long ago."""


class Episode:
    """What is known of one finding at one source."""

    __slots__ = (
        *("_rule", "_recent", "_lower", "_enough_since_s", "_quiet_until_s", "_told", "_told_s"),
        *("is_on", "onset_s", "peak", "decided"),
    )

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._recent: deque[tuple[float, float, bool | None]] = deque(maxlen=max(rule.n, rule.clear_n))
        self._lower = 0
        """How many scores there have been since the last that reached `raise_at`."""
        self._enough_since_s: float | None = None
        self._quiet_until_s = float("-inf")
        self._told = 0.0
        self._told_s = 0.0
        self.is_on = False
        self.onset_s = 0.0
        """When the first score came that counted towards it."""
        self.peak = 0.0
        """The highest score since."""
        self.decided: tuple[tuple[float, float], ...] = ()
        """(at_s, score) of those that made the last change."""

    def feed(self, at_s: float, score: float, fits: bool | None = True) -> Change | None:
        """What this score, which is later than the last, changes.

        However high, it does not count towards an episode where something else does not fit, and where that is
        False it counts against it.
        """
        self._recent.append((at_s, score, fits))
        self._lower = 0 if score >= self._rule.raise_at else self._lower + 1
        oldest_s = at_s - self._rule.memory_s
        while self._recent[0][0] < oldest_s:
            self._recent.popleft()
        change = self._while_on(at_s, score) if self.is_on else self._while_off(at_s)
        if change:
            self.decided, self._told, self._told_s = tuple((t, p) for t, p, _ in self._recent), self.peak, at_s
        if change in ("raised", "cleared"):
            self._recent.clear()
        return change

    def may_tell(self, at_s: float) -> bool:
        """Whether it was last told long enough ago to be told again."""
        return self.is_on and at_s >= self._told_s + self._rule.update_s

    def tell(self, at_s: float) -> None:
        """It is told again, for a reason that is not in its scores."""
        self._told_s = at_s

    def forget(self) -> None:
        """Scores until now do not count any more, and what was on is off."""
        self.is_on, self._enough_since_s = False, None
        self._recent.clear()

    def resume(self, onset_s: float, peak: float, at_s: float) -> None:
        """It is on, and was last told at `at_s`."""
        self.forget()
        self.is_on, self.onset_s, self.peak, self._told, self._told_s = True, onset_s, peak, peak, at_s

    def _while_off(self, at_s: float) -> Change | None:
        rule = self._rule
        if self._lower >= rule.n or self._lower >= len(self._recent):
            # For most findings nearly always so: there is nothing to look through.
            self._enough_since_s = None
            return None
        counted = [(t, p) for t, p, fits in self._last(rule.n) if p >= rule.raise_at and fits]
        if at_s < self._quiet_until_s or len(counted) < rule.k:
            self._enough_since_s = None
            return None
        if self._enough_since_s is None:
            self._enough_since_s, self.onset_s, self.peak = at_s, counted[0][0], 0.0
        self.peak = max(self.peak, *(p for _, p in counted))
        if at_s - self._enough_since_s < rule.for_s:
            return None
        self.is_on, self._enough_since_s = True, None
        return "raised"

    def _while_on(self, at_s: float, score: float) -> Change | None:
        rule = self._rule
        self.peak = max(self.peak, score)
        if sum(p < rule.clear_at or fits is False for _, p, fits in self._last(rule.clear_n)) >= rule.clear_k:
            self.is_on, self._quiet_until_s = False, at_s + rule.cool_down_s
            return "cleared"
        is_worse = self.peak >= self._told + rule.rise and at_s >= self._told_s + rule.update_s
        return "updated" if is_worse else None

    def _last(self, n: int) -> Iterator[tuple[float, float, bool | None]]:
        skipped = max(len(self._recent) - n, 0)
        return (item for i, item in enumerate(self._recent) if i >= skipped)
