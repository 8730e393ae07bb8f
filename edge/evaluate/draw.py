"""Judged records in; pictures of episodes over alerts, times to alarm and false alarms out.

Needs the `plot` extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kernels.findings import in_words

from .interval import Interval
from .study import Group, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REFERENCE, _ALERT, _NOISY = "#0b7fab", "#e09f00", "#c1121f"
_HALF = 0.36


def draw_all(clean: Group, noisy: Group | None, folder: Path) -> Iterator[Path]:
    """Write every picture that has something to show, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in clean.judged:
        yield _save(draw_timelines(clean, name), folder / f"timeline_{name}.png")
    if any(clean.total(name).delays_s for name in clean.judged):
        yield _save(draw_delays(clean), folder / "time_to_alarm.png")
    if clean.judged:
        yield _save(draw_false_alarms(clean, noisy), folder / "false_alarms.png")


def draw_timelines(group: Group, name: str) -> Figure:
    """One line a record that has an episode or an alert: what is annotated above, what was told below."""
    shown = [one for one in group.outcomes if name in one.findings and (one.findings[name].episodes or one.findings[name].alerts)]
    figure, axis = _figure(10, 0.34 * len(shown) + 1.3)
    for row, outcome in enumerate(shown):
        _bars(axis, outcome.truth.episodes(name), row - _HALF, _REFERENCE)
        _bars(axis, [alert.on for alert in outcome.observed.alerts if alert.finding == name], row, _ALERT)
    axis.set_yticks(range(len(shown)), [outcome.record for outcome in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(0, _longest_s(shown) / 60)
    axis.set_xlabel("minutes   (blue: annotated; amber: alert on)", fontsize=8)
    axis.set_title(in_words(name), loc="left", fontweight="bold", fontsize=11)
    return figure


def draw_delays(group: Group) -> Figure:
    """For each finding the share of its timed episodes that were told by then."""
    figure, axis = _figure(7, 4)
    for name in group.judged:
        times = np.sort(group.total(name).delays_s)
        if times.size:
            shares = np.arange(len(times) + 1) / len(times)
            axis.step([0, *times], shares, where="post", label=f"{in_words(name)} ({len(times)})")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("seconds from the beginning of an episode to its alert", fontsize=9)
    axis.set_ylabel("share of the episodes told", fontsize=9)
    axis.grid(color="#dddddd", lw=0.5)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def draw_false_alarms(clean: Group, noisy: Group | None) -> Figure:
    """False alarms in a day, without noise and, where it was added, with."""
    names = list(dict.fromkeys((*clean.judged, *(noisy.judged if noisy else ()))))
    figure, axis = _figure(8, 0.5 * len(names) + 1.3)
    groups = [("clean", clean, _REFERENCE)] + ([("noisy", noisy, _NOISY)] if noisy else [])
    height = 0.8 / len(groups)
    for i, (label, group, colour) in enumerate(groups):
        rates = [group.total(name).false_per_day or 0.0 for name in names]
        bars = axis.barh(np.arange(len(names)) + (i - (len(groups) - 1) / 2) * height, rates, height, color=colour, label=label)
        axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=3)
    axis.set_yticks(range(len(names)), [in_words(name) for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlim(0, max(axis.get_xlim()[1], 1.0))
    axis.set_xlabel("false alarms in 24 hours", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axis = figure.subplots()
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis


def _bars(axis: Axes, intervals: Sequence[Interval], low: float, colour: str) -> None:
    axis.broken_barh([(one.start_s / 60, one.length_s / 60) for one in intervals], (low, _HALF), color=colour, lw=0)


def _longest_s(outcomes: Sequence[Outcome]) -> float:
    return max((outcome.truth.duration_s for outcome in outcomes), default=1.0)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
