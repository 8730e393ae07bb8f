"""`Window`s, the quality of their leads and the engine's probabilities in; `Scores` out, or the reason why there are none."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat

import numpy as np

from kernels.findings import Finding
from kernels.signal import LEADS, Samples

from .quality import Quality, State, by_lead
from .track import Job, Track
from .window import Window

BAD_SHARE = 0.25
"""A lead that is bad for more than this share of a window is left out of it."""

_ROUNDING_S = 1e-6
_NO_FAULTS: tuple[State, ...] = ("good", "absent")


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of one window: raw, never gated."""

    source: str
    at_s: float
    """Stream time of the end of the window."""
    probability: dict[str, float]
    """By finding, calibrated; without the findings that the present leads cannot show. Empty where abstained."""
    quality: dict[str, State]
    """By lead of the source: its most frequent fault in this window, or good."""
    abstained: str | None = None
    unobservable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """The scores of one window without a probability yet."""

    scores: Scores
    job: Job | None
    """What the engine is to do, with bad leads NaN. None where the window abstains."""
    present: frozenset[str]
    """The leads that are not bad."""


class Scorer:
    """Windows of one source -> drafts, and with the engine's word scores; bad leads become NaN before the engine sees them."""

    def __init__(self, source: str, findings: Sequence[Finding], track: Track) -> None:
        self._source = source
        self._findings = findings
        self._track = track
        self._seconds: deque[Quality] = deque()
        self._present: frozenset[str] = frozenset()
        self._unobservable: tuple[str, ...] = ()
        self._told: tuple[str, ...] = ()
        """The findings in order; empty names in place of those that these leads cannot show."""

    def observe(self, quality: Quality) -> None:
        """Note the quality of a second, before the windows that contain it are drafted."""
        self._seconds.append(quality)

    def forget(self, before_s: float) -> None:
        """Let go of the seconds that no window to come contains."""
        while self._seconds and self._seconds[0].end_s <= before_s:
            self._seconds.popleft()

    def draft(self, window: Window) -> Draft:
        """What there is to say of a window before the engine has seen it. Windows come in order."""
        states = self._states(window)
        quality = dict(by_lead(states))
        present = frozenset(lead for lead, state in quality.items() if state == "good")
        abstained = None if present else f"no usable lead: {_in_words(quality)}"
        scores = Scores(self._source, round(window.end_s, 6), {}, quality, abstained)
        if abstained:
            self._track.skip()
            return Draft(scores, None, present)
        bad = quality.keys() - present
        return Draft(scores, self._track.job(window, _masked(window.samples_mv, states), frozenset(bad)), present)

    def fill(self, draft: Draft, probability: Samples) -> Scores:
        """The scores of a window that the engine gave these probabilities [findings]."""
        if draft.present != self._present:
            self._observe_by(draft.present)
        scored = {name: round(p, 6) for name, p in zip(self._told, probability.tolist(), strict=True) if name}
        return replace(draft.scores, probability=scored, unobservable=self._unobservable)

    def _observe_by(self, present: frozenset[str]) -> None:
        self._present = present
        self._told = tuple(finding.name if finding.observable(present) else "" for finding in self._findings)
        self._unobservable = tuple(finding.name for finding, name in zip(self._findings, self._told, strict=True) if not name)

    def _states(self, window: Window) -> tuple[State, ...]:
        """The fault of each lead that took more than its share of the window, else good."""
        self.forget(window.start / window.rate_hz)
        end_s = window.end_s + _ROUNDING_S
        return _verdicts(tuple(q.states for q in self._seconds if q.end_s <= end_s), _silent(window.samples_mv))


def _silent(samples_mv: Samples) -> tuple[bool, ...]:
    """Of each lead whether there is not one sample of it."""
    silent = np.isnan(samples_mv[:, 0])
    if silent.any():
        silent[silent] = np.isnan(samples_mv[silent]).all(axis=1)
    return tuple(silent.tolist())


@lru_cache(maxsize=256)
def _verdicts(inside: tuple[tuple[State, ...], ...], silent: tuple[bool, ...]) -> tuple[State, ...]:
    """Of each lead, by the seconds of a window: for most windows the same as for the one before."""
    by_second: Iterable[Sequence[State]] = zip(*inside, strict=True) if inside else repeat((), len(LEADS))
    return tuple(_verdict(seconds, absent) for seconds, absent in zip(by_second, silent, strict=True))


def _verdict(seconds: Sequence[State], absent: bool) -> State:
    faults = [state for state in seconds if state not in _NO_FAULTS]
    if len(faults) > BAD_SHARE * len(seconds):
        return Counter(faults).most_common(1)[0][0]
    return "absent" if absent else "good"


def _masked(samples_mv: Samples, states: Sequence[State]) -> Samples:
    """With NaN in the leads that are not good; the same array where none is bad."""
    bad = [state not in _NO_FAULTS for state in states]
    return np.where(np.array(bad)[:, None], np.float32(np.nan), samples_mv) if any(bad) else samples_mv


def _in_words(quality: dict[str, State]) -> str:
    return ", ".join(f"{lead} {state}" for lead, state in quality.items()) or "none of the signals is a known lead"
