"""What the alarm was fed in training records in; the thresholds of one finding, chosen on these alone, out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernels.bundle import Card
from kernels.findings import ConfigError, Finding

from .episodes import EpisodeCounts, Terms, count_episodes
from .observe import alarm_again
from .study import Outcome
from .tally import gross, ratio
from .truth import JUDGED

GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))


@dataclass(frozen=True, slots=True)
class Trial:
    """A pair of thresholds, and what it does to the training records."""

    finding: Finding
    counts: EpisodeCounts


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best of all trials, and what it does elsewhere."""

    best: Trial
    findings: tuple[Finding, ...]
    """The card's, with the best in the place of its namesake: what a findings file is to hold."""
    before: EpisodeCounts
    """The training records at the thresholds of the bundle."""
    trials: tuple[Trial, ...]
    rest_before: EpisodeCounts | None
    """The other records; None where there are none."""
    rest_after: EpisodeCounts | None


def tune(name: str, card: Card, training: Sequence[Outcome], rest: Sequence[Outcome], terms: Terms, least_sensitivity: float) -> Tuned:
    """Try every `raise_at` of the grid, `clear_at` in the bundle's proportion to it.

    Of the trials that detect at least this share of the training episodes of `terms.shortest_s` or more, the one
    with the fewest false alarms is best; then the one with the greatest F1 of the time that episodes and alerts
    share; then the higher threshold. Where no trial detects so many, the one that detects most is. The rest has no say.
    Raises ConfigError where `tunable` does, and where no training record has an episode of it.
    """
    finding = tunable(name, card)
    training, rest = _judging(name, training), _judging(name, rest)
    if not any(outcome.findings[name].long_episodes for outcome in training):
        raise ConfigError(f"no training record holds an episode of {name} of {terms.shortest_s:g} s or more; name one by --train that does")
    trials = tuple(Trial(one, count_again(one, card, training, terms)) for one in _candidates(finding))
    best = max(trials, key=lambda trial: _merit(trial, least_sensitivity))
    return Tuned(
        best,
        tuple(best.finding if one.name == name else one for one in card.findings),
        count_again(finding, card, training, terms),
        trials,
        count_again(finding, card, rest, terms) if rest else None,
        count_again(best.finding, card, rest, terms) if rest else None,
    )


def count_again(finding: Finding, card: Card, outcomes: Sequence[Outcome], terms: Terms) -> EpisodeCounts:
    """Run the alarm over what it was fed, with this finding instead of the card's of that name, and judge it anew."""
    changed = card.model_copy(update={"findings": _concerned(finding, card)})
    return gross([_count(finding.name, changed, outcome, terms) for outcome in outcomes])


def tunable(name: str, card: Card) -> Finding:
    """The finding of this name. Raises ConfigError where the card has none that can alert and that annotations can judge."""
    found = {one.name: one for one in card.findings if one.priority != "none" and one.name in JUDGED}
    if name not in found:
        raise ConfigError(f"--tune {name!r}: no finding of that name can alert and be judged here; allowed are {', '.join(sorted(found))}")
    return found[name]


def to_toml(findings: Iterable[Finding]) -> str:
    """A findings file, as `read_findings` reads it."""
    return "\n".join(map(_to_table, findings))


def _to_table(finding: Finding) -> str:
    fields = finding.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {_to_value(value)}" for key, value in fields.items() if value not in ("", [])]
    return "\n".join(["[[finding]]", *lines, ""])


def _to_value(value: object) -> str:
    """JSON's strings, numbers and lists are TOML's, but for one letter that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _judging(name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The records whose annotations can judge it."""
    return [outcome for outcome in outcomes if name in outcome.findings]


def _count(name: str, card: Card, outcome: Outcome, terms: Terms) -> EpisodeCounts:
    return count_episodes(name, outcome.truth, alarm_again(outcome.observed, card), outcome.record, terms)


def _concerned(finding: Finding, card: Card) -> tuple[Finding, ...]:
    """The finding and all that may silence it; the others have no say, and cost time."""
    concerned, before = {finding.name}, 0
    while len(concerned) > before:
        before = len(concerned)
        concerned |= {one.name for one in card.findings if concerned.intersection(one.silences)}
    return tuple(finding if one.name == finding.name else one for one in card.findings if one.name in concerned)


def _candidates(finding: Finding) -> list[Finding]:
    share = finding.clear_at / finding.raise_at
    return [finding.model_copy(update={"raise_at": at, "clear_at": round(share * at, 3)}) for at in GRID]


def _merit(trial: Trial, least_sensitivity: float) -> tuple[float, float, float, float]:
    counts = trial.counts
    shared = ratio(counts.episode_shared_s + counts.alert_shared_s, counts.episode_s + counts.alert_s)
    return min(counts.long_sensitivity or 0.0, least_sensitivity), -counts.false, shared or 0.0, trial.finding.raise_at
