"""Judged records in; one JSON object with every figure, by record, gross and average, out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from .beats import BeatCounts
from .episodes import EpisodeCounts
from .quality import QualityFigures
from .study import Group, Outcome, Plan
from .tally import average, per_day, rounded
from .tune import Tuned, to_toml

BEAT_SHARES = ("sensitivity", "predictivity", "rms_bpm", "mae_bpm", "told_share")
EPISODE_SHARES = (
    "sensitivity",
    "long_sensitivity",
    "predictivity",
    "duration_sensitivity",
    "long_duration_sensitivity",
    "duration_predictivity",
    "false_per_day",
    "false_or_kin_per_day",
)


def of_plan(plan: Plan, train: Iterable[str]) -> dict[str, Any]:
    """What the figures were counted with."""
    return {
        "bundle": plan.bundle.card.sha256,
        "hop_s": plan.options.hop_s,
        "leads": plan.columns.leads,
        "annotator": plan.annotator,
        "train": sorted(train),
        "learning_s": plan.learning_s,
        "skip_learning": plan.terms.from_s > 0,
        "from_s": plan.terms.from_s,
        "shortest_s": plan.terms.shortest_s,
        "tolerance_s": plan.terms.tolerance_s,
    }


def of_group(group: Group) -> dict[str, Any]:
    """`records`, a row each; `gross`, their counts added up; `average`, the mean of their shares."""
    beats = [outcome.beats for outcome in group.outcomes]
    findings = {name: group.of(name) for name in group.judged}
    return {
        "records": [_of_record(outcome) for outcome in group.outcomes],
        "gross": {
            "records": len(group.outcomes),
            "hours": rounded(group.hours),
            "beats": of_beats(group.beats),
            "findings": {name: of_episodes(group.total(name)) for name in findings},
            "alarms": _of_load(group.load, group.hours),
            "not_watched": group.unwatched,
        },
        "average": {
            "beats": rounded({share: average(beats, share) for share in BEAT_SHARES}),
            "findings": {name: rounded(average_shares(rows)) for name, rows in findings.items()},
        },
    }


def of_beats(counts: BeatCounts) -> dict[str, Any]:
    """Counts and shares."""
    fields: dict[str, Any] = rounded(asdict(counts) | {share: getattr(counts, share) for share in BEAT_SHARES})
    return fields


def of_episodes(counts: EpisodeCounts) -> dict[str, Any]:
    """Counts, shares, and how long the alarms took."""
    shares = {share: getattr(counts, share) for share in EPISODE_SHARES}
    fields: dict[str, Any] = rounded(asdict(counts) | shares | {"time_to_alarm_s": delays(counts)})
    return fields


def average_shares(rows: list[EpisodeCounts]) -> dict[str, float | None]:
    """The mean of each share over the records that have it."""
    return {share: average(rows, share) for share in EPISODE_SHARES}


def delays(counts: EpisodeCounts) -> dict[str, float] | None:
    """Median, 95th percentile and worst time to alarm; None where no episode has one."""
    if not counts.delays_s:
        return None
    median, late, worst = np.percentile(counts.delays_s, (50, 95, 100)).tolist()
    return {"median": median, "p95": late, "worst": worst}


def of_tuned(tuned: Tuned) -> dict[str, Any]:
    """The thresholds chosen, what they do to the training records and to the others, and every trial."""
    rest = {"before": tuned.rest_before, "after": tuned.rest_after}
    return {
        "finding": tuned.best.finding.name,
        "raise_at": tuned.best.finding.raise_at,
        "clear_at": tuned.best.finding.clear_at,
        "training": {"before": of_episodes(tuned.before), "after": of_episodes(tuned.best.counts)},
        "rest": {when: of_episodes(counts) for when, counts in rest.items() if counts},
        "trials": [
            {
                "raise_at": trial.finding.raise_at,
                "clear_at": trial.finding.clear_at,
                "long_sensitivity": rounded(trial.counts.long_sensitivity),
                "false": trial.counts.false,
            }
            for trial in tuned.trials
        ],
        "toml": to_toml(tuned.findings),
    }


def of_quality(figures: Iterable[QualityFigures]) -> list[dict[str, Any]]:
    """One entry a folder."""
    return [rounded(asdict(one)) for one in figures]


def _of_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "record": outcome.record,
        "hours": rounded(outcome.hours),
        "beats": of_beats(outcome.beats),
        "findings": {name: of_episodes(counts) for name, counts in outcome.findings.items()},
        "alarms": _of_load(outcome.load, outcome.hours),
        "alerts": [
            {
                "finding": alert.finding,
                "kind": alert.kind,
                "priority": alert.priority,
                "raised_s": rounded(alert.raised_s),
                "onset_s": rounded(alert.on.start_s),
                "end_s": rounded(alert.on.end_s),
            }
            for alert in outcome.observed.alerts
        ],
    }


def _of_load(load: dict[tuple[str, str, str], int], hours: float) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "priority": priority, "finding": finding, "alarms": count, "per_day": rounded(per_day(count, hours))}
        for (kind, priority, finding), count in sorted(load.items())
    ]
