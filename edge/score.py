"""`Window`s, the quality of their leads and the engine's probabilities in; `Scores` out, or the reason why there are none."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kernels.findings import Finding
from kernels.signal import LEADS, Samples

from .quality import Quality, State
from .window import Window

BAD_SHARE = 0.25
"""A lead that is bad for more than this share of a window is left out of it."""

_ROUNDING_S = 1e-6


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
    masked_mv: Samples | None
    """[12, n], bad leads NaN: what the engine is to see. None where the window abstains."""


class Scorer:
    """Windows of one source -> drafts, and with the engine's word scores; bad leads become NaN before the engine sees them."""

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        self._source = source
        self._findings = findings
        self._seconds: deque[Quality] = deque()

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
        masked = np.where(np.array([s == "good" for s in states])[:, None], window.samples_mv, np.float32(np.nan))
        quality: dict[str, State] = {lead: s for lead, s in zip(LEADS, states, strict=True) if s != "absent"}
        usable = not np.isnan(masked).all()
        abstained = None if usable else f"no usable lead: {_in_words(quality)}"
        return Draft(Scores(self._source, round(window.end_s, 6), {}, quality, abstained), masked if usable else None)

    def fill(self, draft: Draft, probability: Samples) -> Scores:
        """The scores of a window that the engine gave these probabilities [findings]."""
        assert draft.masked_mv is not None
        present = frozenset(lead for lead, x in zip(LEADS, draft.masked_mv, strict=True) if not np.isnan(x).all())
        scored = {f.name: round(float(p), 6) for f, p in zip(self._findings, probability, strict=True) if f.observable(present)}
        unobservable = tuple(f.name for f in self._findings if f.name not in scored)
        return replace(draft.scores, probability=scored, unobservable=unobservable)

    def _states(self, window: Window) -> list[State]:
        """The fault of each lead that took more than its share of the window, else good."""
        self.forget(window.start / window.rate_hz)
        inside = [q.states for q in self._seconds if q.end_s <= window.end_s + _ROUNDING_S]
        absent = [bool(np.isnan(lead).all()) for lead in window.samples_mv]
        return [_verdict([states[i] for states in inside], absent[i]) for i in range(len(LEADS))]


def _verdict(seconds: Sequence[State], absent: bool) -> State:
    faults = Counter(state for state in seconds if state not in ("good", "absent"))
    if sum(faults.values()) > BAD_SHARE * len(seconds):
        return faults.most_common(1)[0][0]
    return "absent" if absent else "good"


def _in_words(quality: dict[str, State]) -> str:
    return ", ".join(f"{lead} {state}" for lead, state in quality.items()) or "none of the signals is a known lead"
