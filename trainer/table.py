"""The rows of an evaluation in; tables for a terminal and in Markdown, the JSON file and the scores by recording out."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table

from kernels.export import head_of
from kernels.findings import in_words

from .evaluate import Evaluation
from .metrics import FEWEST_POSITIVES, Bools, Floats
from .rows import METRICS, Row
from .zero_shot import finding_probability, observable

HEADS = ("AUROC", "F1", "accuracy", "ECE", "Brier")
"""Of `METRICS`, in their order."""

_NONE = "-"
_RARE = f"Classes: those averaged (+ those with fewer than {FEWEST_POSITIVES} positives, which are not)."


def by_line(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """The rows of the same task, method and leads together: metric -> row."""
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.task, row.method, row.leads), {})[row.metric] = row
    return list(lines.values())


def for_terminal(evaluation: Evaluation) -> Table:
    """One line a task, method and set of leads; only the AUROC with its interval."""
    columns = [
        Column(head, no_wrap=True, min_width=5) for head in ("task", "method", "leads", "AUROC (95 %)", "F1", "acc.", *HEADS[3:], "classes")
    ]
    table = Table(*columns, title=evaluation.title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for line in by_line(evaluation.rows):
        first = line[METRICS[0]]
        figures = [_figure(line[metric].value) for metric in METRICS[1:]]
        table.add_row(first.task, _short(first.method), first.leads, with_interval(first, "-"), *figures, classes(first))
    table.caption = "\n".join([_RARE, *evaluation.cautions, *_apart(evaluation.rows)])
    table.caption_justify = "left"
    return table


def as_markdown(evaluation: Evaluation) -> str:
    """A line that says what was measured, the table with every interval, and what is not in it."""
    heads = ("task", "method", "leads", *HEADS, "classes")
    lines = [_cells(heads), _cells(["---"] * len(heads))]
    for line in by_line(evaluation.rows):
        first = line[METRICS[0]]
        figures = [with_interval(line[metric]) for metric in METRICS]
        lines.append(_cells([first.task, first.method, first.leads, *figures, classes(first)]))
    apart = [part for sentence in (_RARE, *evaluation.cautions, *_apart(evaluation.rows)) for part in ("", sentence)]
    return "\n".join([f"{evaluation.title}. In brackets: 95 % by bootstrap over patients.", "", *lines, *apart]) + "\n"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _apart(rows: Sequence[Row]) -> list[str]:
    """The findings without a label, and those that a set of leads cannot show."""
    told = {row.leads: row for row in rows if row.metric == METRICS[0] and (row.unlabelled or row.unobservable)}
    unlabelled = sorted({name for row in told.values() for name in row.unlabelled})
    lines = [f"Findings without a label here: {', '.join(map(in_words, unlabelled))}."] if unlabelled else []
    unobservable = {leads: ", ".join(in_words(name) for name in row.unobservable) for leads, row in told.items()}
    return lines + [f"Not visible, leads {leads}: {names}." for leads, names in unobservable.items() if names]


def _short(method: str) -> str:
    """`linear probe 100 %, random encoder` -> `probe 100 %, random`"""
    return method.removeprefix("linear ").removesuffix(" encoder")


def with_interval(row: Row, to: str = " to ") -> str:
    """`0.908 (0.888 to 0.927)`, a dash where there is no figure."""
    return f"{row.value:.3f} ({row.low:.3f}{to}{row.high:.3f})" if row.value == row.value else _NONE


def _figure(value: float) -> str:
    return f"{value:.3f}" if value == value else _NONE


def classes(row: Row) -> str:
    """`17 (+27)`: how many are averaged, and how many are too rare for that."""
    averaged = len(set(row.per_class) - set(row.too_few))
    return f"{averaged} (+{len(row.too_few)})" if row.too_few else str(averaged)


def write_json(done: Sequence[Evaluation], path: Path) -> None:
    """What was measured on what, and one object a row with the name of its bundle; null where there is no figure."""
    facts = {
        "bundles": {evaluation.name: evaluation.bundle.card.sha256 for evaluation in done},
        "dataset": done[0].source.name,
        "folds": list(done[0].source.folds),
        "past": done[0].past,
    }
    rows = [{"bundle": evaluation.name, **row.as_json()} for evaluation in done for row in evaluation.rows]
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def write_scores(evaluation: Evaluation, path: Path) -> None:
    """One line a recording and set of leads: id, patient, fold, leads, and each finding's probability, empty where it cannot be seen."""
    findings, head = evaluation.bundle.card.findings, head_of(evaluation.bundle)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "patient", "fold", "leads", *(f.name for f in findings)])
        for embedded in evaluation.embedded:
            told = _cells_of(finding_probability(head, embedded), observable(findings, embedded))
            for r, cells in zip(embedded.recordings, told, strict=True):
                writer.writerow([r.id, r.patient, r.fold, embedded.leads, *cells])


def _cells_of(probability: Floats, seen: Bools) -> list[list[str]]:
    return [[f"{p:.6f}" if s else "" for p, s in zip(*row, strict=True)] for row in zip(probability, seen, strict=True)]
