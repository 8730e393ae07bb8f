"""Annotated records in; how far the figures of their reports lie from the annotations, out (`cardiogloss evaluate-report`)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kernels.bundle import SHIPPED_BUNDLE
from kernels.engine import Engine, open_engine
from kernels.terminal import bare_table, console

from ..asked import model_of, options_of
from ..heart import PAUSE_S
from ..holter import Figures, Holter
from ..pipeline import Options
from ..replay import replay
from ..transport.file import open_recording
from .interval import Interval, total_s
from .study import find_records
from .truth import Truth, read_truth

_AF = "atrial_fibrillation"
_NEAR_S = 0.15
"""EC57's tolerance of a beat, here for both ends of a pause."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One record's report beside its annotations."""

    record: str
    beats: int
    annotated_beats: int
    mean_bpm: float | None
    annotated_mean_bpm: float
    pauses_found: int
    pauses_missed: int
    pauses_false: int
    """Pauses outside ventricular flutter and fibrillation, which has no beats to annotate."""
    fibrillation_alert: float
    """Share of the time; so the next two."""
    fibrillation_above: float
    fibrillation_annotated: float


def compare(path: Path, engine: Engine, options: Options = Options()) -> Compared:
    """Raises ConfigError for a record without annotations."""
    figures = _report(path, engine, options)
    truth = read_truth(path, figures.duration_s)
    found, missed, false = _pauses(figures, truth)
    burden = next((one for one in figures.burdens if one.finding == _AF), None)
    return Compared(
        path.name, figures.beats, len(truth.beats_s),
        round(figures.heart_rate.mean_bpm, 2) if figures.heart_rate else None, round(60 / float(np.diff(truth.beats_s).mean()), 2),
        found, missed, false,
        round(burden.on_share or 0.0, 4) if burden else 0.0, round(burden.above_share, 4) if burden else 0.0,
        round(total_s(truth.episodes(_AF)) / figures.duration_s, 4),
    )  # fmt: skip


def _report(path: Path, engine: Engine, options: Options) -> Figures:
    holter = Holter(engine.bundle.card)
    for chunk, events in replay(open_recording(path), engine, options):
        holter.add(chunk, events)
    return holter.figures()


def _pauses(figures: Figures, truth: Truth) -> tuple[int, int, int]:
    """Found, missed, and told where there is none."""
    between = [Interval(*pair) for pair in pairwise(truth.beats_s.tolist())]
    true = [one for one in between if one.length_s > PAUSE_S and not one.overlaps_any(truth.fibrillation)]
    told = [Interval(pause.start_s, pause.start_s + pause.length_s) for pause in figures.pauses]
    found = sum(any(_same(one, other) for other in told) for one in true)
    return found, len(true) - found, len(told) - found


def _same(one: Interval, other: Interval) -> bool:
    return abs(one.start_s - other.start_s) < _NEAR_S and abs(one.end_s - other.end_s) < _NEAR_S


def evaluate_report_command(
    recordings: Annotated[list[Path], typer.Argument(metavar="RECORDINGS", help="Annotated WFDB records, or folders of them.")],
    bundle: Annotated[Path, typer.Option(help="The model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output, one a record.")] = False,
) -> None:
    """Measure the figures of `replay --report` against annotations: beats, heart rate, pauses, burden of fibrillation."""
    model = model_of(bundle, None)
    options = options_of(hop, model.card)
    records, _ = find_records(recordings, "atr")
    with open_engine(model) as engine:
        compared = [compare(record, engine, options) for record in records]
    if as_json:
        sys.stdout.writelines(json.dumps(asdict(one)) + "\n" for one in compared)
    else:
        _show(compared)


def _show(compared: list[Compared]) -> None:
    table = bare_table(("record", "beats", "mean rate", "pauses found", "missed", "false", "fibrillation: alert", "above", "annotated"))
    for one in compared:
        rate = "none" if one.mean_bpm is None else f"{one.mean_bpm - one.annotated_mean_bpm:+.2f}/min"
        shares = [f"{share:.1%}" for share in (one.fibrillation_alert, one.fibrillation_above, one.fibrillation_annotated)]
        pauses = [str(count) for count in (one.pauses_found, one.pauses_missed, one.pauses_false)]
        table.add_row(one.record, f"{one.beats / one.annotated_beats - 1:+.2%}", rate, *pauses, *shares)
    console.print(table)
