"""Command-line words in; trained runs, calibrated bundles and tables of figures out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.findings import ConfigError
from kernels.language import DEFAULT_TEXT_ENCODER
from kernels.signal import LEADS
from kernels.terminal import console, errors

from .batches import read_noise
from .calibrate import calibrate
from .datasets import DATASETS
from .evaluate import Row, evaluate, read_recordings
from .train import RATE_HZ, Recipe, Training, load_training_set, train

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_DEFAULT = Recipe()
_LABELLED = "ptb-xl"
"""The dataset whose codes findings name."""

BundleOption = Annotated[Path, typer.Option(help="The bundle.", show_default="the shipped one")]
DatasetOption = Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")]
RootOption = Annotated[Path, typer.Option(help="The dataset's folder, in its official layout.")]
FoldsOption = Annotated[str, typer.Option(help="Folds of PTB-XL, as in 9 or 1-8.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; left out, all cores.")]


@app.callback()
def cardiogloss_trainer() -> None:
    """Trains, calibrates and evaluates cardiogloss models."""


@app.command(name="train")
def train_command(
    root: Annotated[list[Path], typer.Option(help="A PTB-XL folder; give it again for more folders.")],
    out: Annotated[Path, typer.Option(help="The run's folder; a run that was stopped goes on there.")],
    noise: Annotated[Path | None, typer.Option(help="The NSTDB folder: real electrode noise for augmentation.")] = None,
    epochs: Annotated[int, typer.Option()] = _DEFAULT.epochs,
    width: Annotated[int, typer.Option(help="Channels after the stem.")] = _DEFAULT.width,
    kernel: Annotated[int, typer.Option(help="Length of the convolutions.")] = _DEFAULT.kernel,
    batch: Annotated[int, typer.Option()] = _DEFAULT.batch,
    text_encoder: Annotated[str, typer.Option(help="A packaged model, a folder, or a transformers name.")] = DEFAULT_TEXT_ENCODER,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    threads: Threads = None,
) -> None:
    """Train on folds 1-8. Stop it whenever you like: the same command goes on from the last epoch."""
    _use_threads(threads)
    recipe = Recipe(epochs=epochs, width=width, kernel=kernel, batch=batch, text_encoder=text_encoder, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with errors.status("reading recordings and embedding their texts"):
        data = load_training_set(root, recipe)
        tracks = read_noise(noise, RATE_HZ) if noise else None
    _run(Training(recipe, data, out, tracks))
    errors.print(f"wrote {out}; next: cardiogloss-kernels export {out} --out FILE", highlight=False, soft_wrap=True)


def _run(training: Training) -> None:
    """All epochs that are left, with a bar on a terminal and a line an epoch elsewhere."""
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    total = training.recipe.epochs
    with Progress(*columns, TextColumn("{task.description}"), console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=training.epoch)
        for losses in train(training):
            told = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            bar.update(task, advance=1, description=told)
            if not errors.is_terminal:
                errors.print(f"epoch {training.epoch} of {total}  {told}", highlight=False, soft_wrap=True)


@app.command(name="calibrate")
def calibrate_command(
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    root: RootOption,
    folds: FoldsOption = "9",
    threads: Threads = None,
) -> None:
    """Fit each finding's calibration on these folds of PTB-XL and write it, with the figures measured there, into a new bundle."""
    _use_threads(threads)
    model, recordings = Bundle.read(bundle), read_recordings(_LABELLED, root, parse_folds(folds))
    rows = [row for row in evaluate(model, _LABELLED, root, recordings) if row.metric != "ece"]
    metrics = {"dataset": _LABELLED, "folds": folds, "rows": [row.as_json() for row in rows]}
    calibrated = calibrate(model, recordings, metrics)
    out.write_bytes(calibrated.onnx)
    error = calibrated.card.metrics["ece_cross_validated"]
    told = f"wrote {out}; calibration error {error:.3f} (cross-validated over the patients of folds {folds})"
    errors.print(told, highlight=False, soft_wrap=True)


@app.command(name="evaluate")
def evaluate_command(
    root: RootOption,
    bundle: BundleOption = SHIPPED_BUNDLE,
    dataset: DatasetOption = "ptb-xl",
    folds: FoldsOption = "9",
    leads: Annotated[str, typer.Option(help="As if a device had only these leads, as in I,II; left out, all.")] = "",
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    threads: Threads = None,
) -> None:
    """Zero-shot figures with 95 % bootstrap intervals."""
    _use_threads(threads)
    recordings = read_recordings(dataset, root, parse_folds(folds))
    rows = evaluate(Bundle.read(bundle), dataset, root, recordings, parse_leads(leads))
    console.print(_table(rows, f"{dataset}, {f'folds {folds}, ' if dataset == 'ptb-xl' else ''}leads {leads or 'all'}"))
    if as_json:
        as_json.write_text(json.dumps({"rows": [row.as_json() for row in rows]}, indent=1))


def parse_folds(text: str) -> list[int]:
    """`9`, `1,2` or `1-8`. Raises ConfigError for anything else."""
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in text.split(",")]
    folds = [fold for part in parts if part for fold in range(int(part[1]), int(part[2] or part[1]) + 1)]
    if not folds or None in parts:
        raise ConfigError(f"--folds {text!r} must read like 9, 1,2 or 1-8")
    return folds


def parse_leads(text: str) -> list[str]:
    """`I,II,V2`. Raises ConfigError for a name outside the twelve."""
    leads = [lead.strip() for lead in text.split(",")] if text else []
    for lead in leads:
        if lead not in LEADS:
            raise ConfigError(f"--leads: unknown lead {lead!r}; allowed are {' '.join(LEADS)}")
    return leads


def _use_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads} must be positive")
    if threads:
        torch.set_num_threads(threads)


def _table(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    for column in ("task", "metric", "value", "95 % interval", "classes", "recordings"):
        table.add_column(column)
    for row in rows:
        classes = f"{len(row.per_class) - len(row.too_few)}" + (f" (+{len(row.too_few)} too rare)" if row.too_few else "")
        table.add_row(row.task, row.metric, f"{row.value:.3f}", f"{row.low:.3f} to {row.high:.3f}", classes, str(row.n))
    return table
