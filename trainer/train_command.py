"""The words of `train` and `held-out` in; trained runs, and the figures of findings that were never heard of, out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kernels.findings import ConfigError, parse_toml
from kernels.language import LanguageModel
from kernels.terminal import console, errors

from .augment import read_noise
from .batches import TrainingSet, make_training_set
from .datasets import Task
from .heldout import TASKS, Found, find, split
from .options import parse_folds, use_threads
from .ranks import Ranks, ranks
from .recipe import DEFAULT_RECIPE, Recipe, check_recipe, read_recipe
from .report import coverage
from .source import Source
from .store import open_store
from .text import Hidden
from .train import RATE_HZ, TRAIN_FOLDS, WINDOW_S, Training, train
from .warmup import WarmUp

Roots = Annotated[list[str], typer.Option(help="A data set, as in csn=FOLDER; a folder alone is PTB-XL. Give it again for more.")]
RecipeOption = Annotated[str, typer.Option(help="One of cardiogloss, mets, etp, or a TOML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a line of the recipe, as in --set epochs=3.")]
Noise = Annotated[Path | None, typer.Option(help="The NSTDB folder: real electrode noise for augmentation.")]
Unlabelled = Annotated[list[str] | None, typer.Option(help="A data set to warm up on, as in cinc2017=FOLDER; its labels are not read.")]
Cache = Annotated[Path | None, typer.Option(help="Where windows are kept between runs.", show_default="beside --out")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; left out, all cores.")]


def train_command(
    root: Roots,
    out: Annotated[Path, typer.Option(help="The run's folder; a run that was stopped goes on there.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    changes: Sets = None,
    noise: Noise = None,
    unlabelled: Unlabelled = None,
    cache: Cache = None,
    threads: Threads = None,
) -> None:
    """Train on folds 1-8. Stop it whenever you like: the same command goes on from the last epoch. `torchrun` shares the work."""
    use_threads(threads)
    chosen = changed(read_recipe(recipe), changes or [])
    if unlabelled and not chosen.warmup_epochs:
        raise ConfigError("--unlabelled is for a warm-up, and this recipe has none; give --set warmup_epochs=4")
    sources, more = parse_sources(root), parse_sources(unlabelled or [])
    tracks = read_noise(noise, RATE_HZ) if noise else None
    out.mkdir(parents=True, exist_ok=True)
    with ranks() as among:
        windows = cache or out.parent / "windows"
        with errors.status("reading recordings and embedding their texts"):
            data = load(sources, chosen, Hidden(), out, windows, among)
        training = Training(chosen, data, out, tracks, among)
        training.sources = {source.name: list(TRAIN_FOLDS) for source in sources}
        training.unlabelled = [source.name for source in more]
        warm_up(training, [*sources, *more], windows)
        show_epochs(training)
        tell(f"wrote {out}; next: cardiogloss-kernels export {out} --out FILE", among)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with lines like `epochs=3` or `loss="info-nce"` put in. Raises ConfigError for one that is no TOML, or not allowed."""
    return check_recipe({**recipe.model_dump(), **parse_toml("\n".join(changes), f"--set {' '.join(changes)}")}, "--set")


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """The training folds of each. Raises ConfigError as `Source.parse` does."""
    return [Source.parse(text, TRAIN_FOLDS) for text in texts]


def load(sources: Sequence[Source], recipe: Recipe, hidden: Hidden, folder: Path, cache: Path, among: Ranks) -> TrainingSet:
    """The first rank reads and writes, the others wait for its files."""
    with among.in_turn():
        store = open_store(sources, RATE_HZ, WINDOW_S, cache)
        return make_training_set(store, sources, recipe, hidden, folder, write=among.rank == 0)


def warm_up(training: Training, sources: Sequence[Source], cache: Path) -> None:
    """Self-supervision on the training folds of all of them, before the first epoch, as long as the recipe says."""
    if training.epoch or not training.recipe.warmup_epochs:
        return
    with training.ranks.in_turn():
        store = open_store(sources, RATE_HZ, WINDOW_S, cache)
    warming = WarmUp(training.recipe, training.model.encoder, store, training.folder, training.noise, training.ranks)
    for loss in warming.run():
        tell(f"warm-up {warming.epoch} of {training.recipe.warmup_epochs}  contrastive {loss:.3f}", training.ranks)
    training.ema.module.load_state_dict(training.model.state_dict())


def show_epochs(training: Training) -> None:
    """All epochs that are left, with a bar on a terminal and a line an epoch elsewhere."""
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    total = training.recipe.epochs
    visible = errors.is_terminal and training.ranks.rank == 0
    with Progress(*columns, TextColumn("{task.description}"), console=errors, disable=not visible) as bar:
        task = bar.add_task("", total=total, completed=training.epoch)
        for losses in train(training):
            told = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            bar.update(task, advance=1, description=told)
            if not visible:
                tell(f"epoch {training.epoch} of {total}  {told}", training.ranks)


def tell(line: str, among: Ranks) -> None:
    """On the standard error, once for all ranks."""
    if among.rank == 0:
        errors.print(line, highlight=False, soft_wrap=True)


def reports_command(root: Roots, folds: Annotated[str, typer.Option(help="As in 9 or 1-8.")] = "1-9") -> None:
    """How much of the reports that are not in English the glossary reads, and which words it misses most."""
    sources = [Source.parse(text, parse_folds(folds)) for text in root]
    read = coverage(recording.report for source in sources for recording in source.read())
    told = asdict(read) | {"missed": " ".join(word for word, _ in read.missed)}
    for name, value in told.items():
        console.print(f"{name:12} {value:.3f}" if isinstance(value, float) else f"{name:12} {value}", highlight=False)


def held_out_command(
    root: Roots,
    out: Annotated[Path, typer.Option(help="A folder for the runs, one a part.")],
    recipe: RecipeOption = DEFAULT_RECIPE,
    changes: Sets = None,
    noise: Noise = None,
    parts: Annotated[int, typer.Option(min=2, help="Trainings; each hears nothing of its share of the findings.")] = 5,
    folds: Annotated[str, typer.Option(help="Folds of the first data set that are scored.")] = "9",
    cache: Cache = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    threads: Threads = None,
) -> None:
    """How well findings are found whose every word was kept from training: cross-validation over concepts."""
    use_threads(threads)
    chosen = changed(read_recipe(recipe), changes or [])
    judged, sources = Source.parse(root[0], parse_folds(folds)), parse_sources(root)
    if next(judged.read(), None) is None:
        raise ConfigError(f"--folds {folds}: {judged.root} holds no recording of them; give others")
    tracks = read_noise(noise, RATE_HZ) if noise else None
    tasks, windows, found = judged.tasks, cache or out / "windows", []
    language = LanguageModel(chosen.text_encoder)
    with ranks() as among:
        for part in split(tasks, parts):
            tell(f"part {part.number + 1} of {parts}: without {', '.join(label.name for label in part.labels)}", among)
            folder = out / f"part-{part.number + 1}"
            training = Training(chosen, load(sources, chosen, part.hidden, folder, windows, among), folder, tracks, among)
            warm_up(training, sources, windows)
            show_epochs(training)
            found.append(find(training.shipped, chosen, language, part.labels, judged.read()))
        if among.rank == 0:
            _tell_held_out(list(_held_out_rows(tasks, reduce(Found.beside, found))), chosen, parts, folds, as_json)


def _tell_held_out(told: Sequence[dict[str, Any]], recipe: Recipe, parts: int, folds: str, as_json: Path | None) -> None:
    for row in told:
        console.print(
            f"{row['task']:20} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {len(row['per_class'])} findings",
            highlight=False,
        )
    if as_json:
        as_json.write_text(json.dumps({"recipe": recipe.model_dump(mode="json"), "parts": parts, "folds": folds, "rows": told}, indent=1))


def _held_out_rows(tasks: Sequence[Task], found: Found) -> Iterator[dict[str, Any]]:
    names = {task.name: [label.name for label in task.labels] for task in tasks if task.name in TASKS}
    names["all"] = [label.name for label in found.labels]
    for task, wanted in names.items():
        interval, per_class = found.macro_auroc(wanted)
        if per_class:
            told = {"task": f"held-out {task}", "metric": "auroc_macro", **asdict(interval)}
            yield {**told, "n": len(found.patients), "per_class": per_class}
