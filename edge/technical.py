"""The quality of a second, or the `Scores` of a window, in; how much speaks for each technical alert, and in which words, out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from kernels.findings import TECHNICAL, Finding, in_words

from .episode import Rule
from .quality import Quality, State, by_lead
from .score import Scores

NAMES = tuple(TECHNICAL)

_LOOSE: tuple[State, ...] = ("off", "flat", "saturated", "implausible")
_NOISY: tuple[State, ...] = ("noise", "mains")
_DERIVED = ("III", "aVR", "aVL", "aVF")

_PRIORITY = {"stalled": "medium", "no_signal": "medium"}
_SILENCES = {
    "stalled": ("no_signal", "noise", "lead_off", "no_usable_signal"),
    "no_signal": ("noise", "lead_off", "no_usable_signal"),
    "noise": ("no_usable_signal",),
}

FINDINGS = tuple(
    Finding.model_construct(name=name, priority=_PRIORITY.get(name, "low"), silences=_SILENCES.get(name, ()), leads=()) for name in NAMES
)

_LEAST = 1e-3
_BY_SECOND = Rule(_LEAST, _LEAST, k=2, n=3, clear_k=5, clear_n=5, cool_down_s=0.0, rise=_LEAST)
"""Told within three seconds, and each time: who plugs a lead in and out again must see both."""
_BY_WINDOW = Rule(_LEAST, _LEAST, rise=_LEAST)
RULES = {name: _BY_WINDOW if name in ("no_usable_signal", "leads_missing") else _BY_SECOND for name in NAMES}


@dataclass(frozen=True, slots=True)
class Vote:
    """What one second or window says of one technical finding."""

    score: float
    """Share of what should be seen and cannot; 0 where nothing is wrong."""
    words: str = ""


_USABLE = Vote(0.0)


def of_second(quality: Quality) -> dict[str, Vote]:
    """Whether the electrodes hold, and the amplifier gives more than noise."""
    return dict(_of_states(quality.states))


@lru_cache(maxsize=1024)
def _of_states(of_twelve: tuple[State, ...]) -> dict[str, Vote]:
    states = by_lead(of_twelve)
    loose = {lead: state for lead, state in states.items() if state in _LOOSE}
    noisy = {lead: state for lead, state in states.items() if state in _NOISY}
    blind = bool(states) and len(loose) + len(noisy) == len(states)
    no_signal = blind and len(loose) >= len(noisy)
    return {
        "no_signal": Vote(float(no_signal), _in_words(loose)),
        "noise": Vote(float(blind and not no_signal), _in_words(noisy)),
        "lead_off": Vote(len(loose) / max(len(states), 1), _in_words(loose)),
    }


def of_scores(scores: Scores, watched: frozenset[str]) -> dict[str, Vote]:
    """Whether the model sees anything, and what of the findings that would alert it cannot."""
    if scores.abstained:
        return {"no_usable_signal": Vote(1.0, scores.abstained)}
    return {"no_usable_signal": _USABLE, "leads_missing": _missing(scores.unobservable, watched)}


@lru_cache(maxsize=64)
def _missing(unobservable: tuple[str, ...], watched: frozenset[str]) -> Vote:
    unseen = sorted(name for name in unobservable if name in watched)
    return Vote(len(unseen) / max(len(watched), 1), "cannot see " + ", ".join(map(in_words, unseen)))


def _in_words(states: dict[str, State]) -> str:
    """`I, II flat; V1 off`, without the leads that are only derived from others that are named."""
    by_state: dict[State, list[str]] = defaultdict(list)
    for lead, state in states.items():
        if lead not in _DERIVED or not {"I", "II"} & states.keys():
            by_state[state].append(lead)
    return "; ".join(f"{', '.join(leads)} {state}" for state, leads in by_state.items())
