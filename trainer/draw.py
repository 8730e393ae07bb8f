"""An evaluation in; pictures of its calibration, of each class and of each set of leads (PNG) out.

Needs the `plot` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kernels.findings import in_words

from .evaluate import ZERO_SHOT, Evaluation
from .metrics import Bools, Floats, auroc, expected_calibration_error
from .rows import Row, enough
from .zero_shot import FINDINGS, Answers

BINS = 10

_INK, _DIM, _POOLED, _WORST = "#1a1a1a", "#8a8a8a", "#0b7fab", "#c1121f"
_SETS = ("#0b7fab", "#c1121f", "#e09f00", "#4a7c3a", "#7a4a9c", "#1a1a1a")
_STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
_BAR_INCHES = 0.19


def draw_all(evaluation: Evaluation, folder: Path) -> None:
    """`reliability.png` and `auroc_by_class.png` of the first set of leads, `auroc_by_leads.png` where there are several.

    A picture that nothing could stand in is not drawn.
    """
    first = [a for a in evaluation.answers if a.leads == evaluation.embedded[0].leads and enough(a.labels).any()]
    findings = [a for a in first if a.task == FINDINGS]
    title = f"{evaluation.title}, leads {evaluation.embedded[0].leads}"
    with matplotlib.rc_context(_STYLE):
        figures = {"auroc_by_class": draw_classes(first, title)} if first else {}
        if findings:
            figures["reliability"] = draw_reliability(findings[0], "\n".join([title, *evaluation.cautions]))
        if len(evaluation.embedded) > 1:
            figures["auroc_by_leads"] = draw_leads(evaluation.rows, evaluation.title)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)


@dataclass(frozen=True, slots=True)
class Curve:
    """Of every bin of probability that holds a recording: its mean probability, how often the label is there, and how many it holds."""

    probability: Floats
    frequency: Floats
    count: Floats


def reliability(probability: Floats, label: Bools) -> Curve:
    """Over `BINS` equally wide bins of probability, [n] twice."""
    which = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    count = np.bincount(which, minlength=BINS).astype(np.float64)
    held = count > 0
    sums = [np.bincount(which, weights=values, minlength=BINS)[held] for values in (probability, label)]
    return Curve(sums[0] / count[held], sums[1] / count[held], count[held])


def draw_reliability(findings: Answers, title: str) -> Figure:
    """All findings pooled and the worst calibrated of those with enough positives, above how many recordings each bin holds."""
    scored = enough(findings.labels)
    probability, labels = findings.probability[:, scored], findings.labels[:, scored]
    names = [name for name, s in zip(findings.classes, scored, strict=True) if s]
    errors = expected_calibration_error(probability, labels)[0]
    worst = int(errors.argmax())
    figure = Figure(figsize=(5.6, 7.0), layout="constrained")
    curve_axes, count_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    pooled = f"{len(names)} findings pooled, mean error {errors.mean():.3f}"
    _draw_curve(curve_axes, count_axes, reliability(probability.ravel(), labels.ravel()), pooled, _POOLED, -1)
    own = f"the worst: {in_words(names[worst])}, error {errors[worst]:.3f}"
    _draw_curve(curve_axes, count_axes, reliability(probability[:, worst], labels[:, worst]), own, _WORST, 1)
    _dress_reliability(curve_axes, count_axes)
    figure.suptitle(_wrapped(title), fontsize=9, color=_DIM)
    return figure


def _draw_curve(above: Axes, below: Axes, curve: Curve, name: str, colour: str, side: int) -> None:
    above.errorbar(curve.probability, curve.frequency, wilson(curve), color=colour, marker="o", markersize=4, elinewidth=0.8, label=name)
    at = np.clip((curve.probability * BINS).astype(int), 0, BINS - 1)
    below.bar((at + 0.5 + side * 0.2) / BINS, curve.count, 0.36 / BINS, color=colour)


def wilson(curve: Curve) -> Floats:
    """How far the 95 % interval of each frequency reaches below and above it, [2, bins] (Wilson 1927)."""
    z, p, n = 1.96, curve.frequency, curve.count
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(np.stack([p - (centre - half), centre + half - p]), 0, None)


def _dress_reliability(above: Axes, below: Axes) -> None:
    above.plot([0, 1], [0, 1], color=_DIM, linewidth=0.8, linestyle="--", label="perfect", zorder=0)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that shows it (95 % interval)")
    above.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    below.set(xlabel="predicted probability", ylabel="answers in the bin", yscale="log")
    for axis in (above.yaxis, below.xaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    below.set_xticks(np.linspace(0, 1, BINS + 1))


def draw_classes(answers: Sequence[Answers], title: str) -> Figure:
    """A bar from chance to the AUROC of every class with enough positives, sorted, a panel a task."""
    sizes = [int(enough(a.labels).sum()) for a in answers]
    figure = Figure(figsize=(7.6, 1.3 + sum(size * _BAR_INCHES + 0.45 for size in sizes)), layout="constrained")
    panels = figure.subplots(len(answers), 1, sharex=True, height_ratios=sizes, squeeze=False)[:, 0]
    worst = min(_draw_task(axes, told) for axes, told in zip(panels, answers, strict=True))
    panels[-1].set_xlim(min(0.5, worst - 0.01), 1.0)
    panels[-1].set_xlabel("AUROC (0.5 is chance); beside it, how many recordings show it")
    figure.suptitle(title, fontsize=9, color=_DIM)
    return figure


def _draw_task(axes: Axes, answers: Answers) -> float:
    """Its lowest AUROC."""
    scored = np.flatnonzero(enough(answers.labels))
    area = auroc(answers.probability[:, scored], answers.labels[:, scored])[0]
    order = np.argsort(area)
    axes.barh(range(len(order)), area[order] - 0.5, left=0.5, height=0.72, color=_POOLED)
    axes.axvline(0.5, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(order)), [_said(answers, int(scored[i])) for i in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_title(f"{answers.task}, mean {area.mean():.3f}", loc="left")
    for row, i in enumerate(order):
        told = f"{area[i]:.3f}   {answers.labels[:, scored[i]].sum():,} of {len(answers.labels):,}"
        axes.text(1.01, row, told, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    return float(area.min())


def _said(answers: Answers, column: int) -> str:
    name = answers.classes[column]
    return in_words(name) if answers.task == FINDINGS else name


def draw_leads(rows: Sequence[Row], title: str) -> Figure:
    """The macro AUROC of every task under each set of leads, with its interval."""
    told = [row for row in rows if row.metric == "auroc_macro" and row.method == ZERO_SHOT and row.value == row.value]
    tasks, sets = list(dict.fromkeys(row.task for row in told)), list(dict.fromkeys(row.leads for row in told))
    figure = Figure(figsize=(7.0, 1.6 + 0.13 * len(tasks) * (len(sets) + 1.5)), layout="constrained")
    axes = figure.subplots()
    for number, leads in enumerate(sets):
        _draw_set(
            axes, [row for row in told if row.leads == leads], tasks, (number + 1) / (len(sets) + 1) - 0.5, _SETS[number % len(_SETS)]
        )
    axes.set_yticks(range(len(tasks)), ["findings that\nthe leads show" if task == FINDINGS else task for task in tasks])
    axes.set(ylim=(len(tasks) - 0.5, -0.5), xlabel="macro AUROC, 95 % interval over patients")
    axes.hlines(np.arange(1, len(tasks)) - 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=_DIM, linewidth=0.4)
    axes.legend(frameon=False, title="leads", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=9, color=_DIM)
    return figure


def _draw_set(axes: Axes, rows: Sequence[Row], tasks: Sequence[str], shift: float, colour: str) -> None:
    value = np.array([row.value for row in rows])
    reach = np.abs(np.array([[row.low, row.high] for row in rows]).T - value)
    at = [tasks.index(row.task) + shift for row in rows]
    axes.errorbar(value, at, xerr=reach, fmt="o", markersize=4, elinewidth=1, color=colour, label=rows[0].leads)


def _wrapped(title: str) -> str:
    """In two lines, for a narrow picture."""
    return title.replace(" on ", "\non ", 1)
