"""The words of a command line in; tables, JSON and pictures of how the alarm path did (`cardiogloss evaluate`) out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kernels.bundle import SHIPPED_BUNDLE, Card
from kernels.findings import ConfigError, in_words
from kernels.terminal import console, errors
from kernels.writable import check_writable

from ..asked import check_drawing, model_of, options_of
from ..transport.file import columns_of
from . import report, table
from .beats import LEARNING_S
from .episodes import Terms
from .noise import Stress, check_noise
from .quality import QualityFigures, judge_quality, labels_of
from .study import Group, Outcome, Plan, check_disturbed, find_records, study
from .truth import VENTRICULAR_BEATS, check_annotator
from .tune import Tuned, to_toml, tunable, tune

Paths = Annotated[list[Path], typer.Argument(metavar="RECORDINGS", help="Annotated WFDB records, or folders of them or of CinC 2011.")]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is to be told."""

    main: Group | None
    training: Group | None
    noisy: Group | None
    tuned: Tuned | None
    quality: tuple[tuple[str, QualityFigures], ...]


def evaluate_command(
    recordings: Paths,
    leads: Annotated[str, typer.Option(help="Leads of the signals in their order, as in I,II,V1; - leaves one out.")] = "",
    bundle: Annotated[Path, typer.Option(help="The model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    findings: Annotated[Path | None, typer.Option(help="Watch for these findings instead (TOML); new texts need the text extra.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    annotator: Annotated[str, typer.Option(help="The ending of the annotation files.")] = "atr",
    shortest: Annotated[float, typer.Option(min=0, help="Count episodes of so many seconds or more once more by themselves.")] = 30.0,
    learning: Annotated[float, typer.Option(min=0, help="Leave out the beats and heart rates of the first seconds.")] = LEARNING_S,
    skip_learning: Annotated[bool, typer.Option("--skip-learning", help="Leave out the episodes and alarms of that time too.")] = False,
    noise: Annotated[Path | None, typer.Option(help="Add noise from this folder (MIT-BIH Noise Stress Test), and compare.")] = None,
    noise_records: Annotated[str, typer.Option(help="Its records, which take turns.")] = "bw,ma",
    snr: Annotated[float, typer.Option(min=-60, max=60, help="Signal to noise in dB.")] = 6.0,
    continuous: Annotated[bool, typer.Option("--continuous", help="Noise without the clean two minutes in between.")] = False,
    train: Annotated[str, typer.Option(help="Records that thresholds may be tuned on, as in 106,109; reported apart.")] = "",
    tune_name: Annotated[str, typer.Option("--tune", metavar="FINDING", help="Choose its thresholds on the --train records.")] = "",
    least_se: Annotated[float, typer.Option(min=0, max=1, help="Share of the training episodes that --tune must keep.")] = 0.9,
    out: Annotated[Path | None, typer.Option(help="Write the findings here, with the tuned one (TOML).")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write pictures into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="So many processes.")] = 1,
) -> None:
    """Judge the alarms, beats and heart rates of annotated recordings, in the terms of EC57."""
    check_annotator(annotator)
    records, folders = find_records(recordings, annotator)
    trained = _trained(train, records)
    _check_tuning(tune_name, trained, out)
    _check_plots(plots)
    _check_labels(folders)
    stress = _stress(noise, snr, noise_records, continuous)
    model = model_of(bundle, findings)
    _check_tunable(tune_name, model.card)
    terms = Terms(shortest_s=shortest, from_s=learning if skip_learning else 0.0)
    plan = Plan(model, options_of(hop, model.card), columns_of(leads, None, "mV"), terms, learning, annotator, None, bool(tune_name))
    main, training, noisy = _study(records, trained, plan, stress, jobs)
    tuned = tune(tune_name, model.card, _outcomes(training), _outcomes(main), terms, least_se) if tune_name else None
    results = Results(main, training, noisy, tuned, _judge_quality(folders))
    _tell_json(results, plan, stress, trained) if as_json else _tell(results, terms, stress)
    _write(results, out, plots)


def _study(
    records: Sequence[Path], trained: frozenset[str], plan: Plan, stress: Stress | None, jobs: int
) -> tuple[Group | None, Group | None, Group | None]:
    """The records in the main tables, those for training, and the former with noise. Noise has no part in training."""
    rest = [path for path in records if path.name not in trained]
    disturbed = [(path, replace(plan, stress=stress, keep=False)) for path in rest] if stress else []
    for path, noisy_plan in disturbed:
        check_disturbed(path, noisy_plan)
    work = [(path, plan) for path in (*rest, *(path for path in records if path.name in trained))] + disturbed
    with _progress("records", len(work)) as tick:
        outcomes = study(work, jobs, tick)
    clean, noisy = outcomes[: len(records)], outcomes[len(records) :]
    return _group(clean[: len(rest)]), _group(clean[len(rest) :]), _group(noisy)


def _group(outcomes: Sequence[Outcome]) -> Group | None:
    return Group(tuple(outcomes)) if outcomes else None


def _outcomes(group: Group | None) -> tuple[Outcome, ...]:
    return group.outcomes if group else ()


def _judge_quality(folders: Sequence[Path]) -> tuple[tuple[str, QualityFigures], ...]:
    with _progress("recordings of quality", None) as tick:
        return tuple((folder.name, judge_quality(folder, tick)) for folder in folders)


def _trained(text: str, records: Sequence[Path]) -> frozenset[str]:
    """What --train names. Raises ConfigError for a record that is not among those given."""
    names = _names(text)
    unknown = sorted(set(names) - {path.name for path in records})
    if unknown:
        raise ConfigError(f"--train names {', '.join(unknown)}, not among the recordings: {', '.join(path.name for path in records)}")
    return frozenset(names)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _stress(folder: Path | None, snr_db: float, text: str, continuous: bool) -> Stress | None:
    """The noise to add. Raises ConfigError, before the work, where its records are not there."""
    if folder is None:
        return None
    stress = Stress(folder, snr_db, _names(text), continuous)
    if not stress.records:
        raise ConfigError("--noise-records is empty; name records of the --noise folder, as in bw,ma")
    for name in stress.records:
        check_noise(folder / name)
    return stress


def _check_tuning(name: str, trained: frozenset[str], out: Path | None) -> None:
    if name and not trained:
        raise ConfigError("--tune needs --train: name the records that the thresholds may be chosen on")
    if out and not name:
        raise ConfigError("--out is for the finding that --tune names; give both, or neither")
    if out:
        check_writable(out.absolute())


def _check_tunable(name: str, card: Card) -> None:
    if name:
        tunable(name, card)


def _check_plots(plots: Path | None) -> None:
    if plots is None:
        return
    check_drawing()
    folder = plots.absolute()
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"--plots {plots}: cannot write into {above}; name a folder that can be written")


def _check_labels(folders: Sequence[Path]) -> None:
    for folder in folders:
        labels_of(folder)


def _tell_json(results: Results, plan: Plan, stress: Stress | None, trained: frozenset[str]) -> None:
    told = report.of_plan(plan, trained)
    told |= report.of_group(results.main) if results.main else {"records": [], "gross": {}, "average": {}}
    told["training"] = report.of_group(results.training) if results.training else None
    told["noise"] = {"snr_db": stress.snr_db, "records": stress.records, "continuous": stress.continuous} if stress else None
    told["noisy"] = report.of_group(results.noisy) if results.noisy else None
    told["tuned"] = report.of_tuned(results.tuned) if results.tuned else None
    told["quality"] = report.of_quality(one for _, one in results.quality)
    sys.stdout.write(json.dumps(told) + "\n")


def _tell(results: Results, terms: Terms, stress: Stress | None) -> None:
    if results.main:
        _tell_group(results.main, terms, "Judged")
    if results.training:
        _tell_group(results.training, terms, "Training records, in none of the figures above:")
    if results.main and results.noisy and stress:
        _say(f"Noise of {', '.join(stress.records)} at {stress.snr_db:g} dB{', continuous' if stress.continuous else ''}:")
        console.print(table.noise_table(results.main, results.noisy), "")
    if results.tuned:
        console.print(table.tuned_table(results.tuned, terms), "")
        _say("For the findings file:\n")
        console.print(to_toml([results.tuned.best.finding]), highlight=False, markup=False, soft_wrap=True)
    if results.quality:
        console.print(table.quality_table(results.quality))


def _tell_group(group: Group, terms: Terms, word: str) -> None:
    _say(f"{word} {len(group.outcomes)} records, {group.hours:.2f} h: {', '.join(one.record for one in group.outcomes)}\n")
    tables = [table.beat_table(group), table.episode_table(group, terms), table.alarm_table(group), table.delay_table(group)]
    for one in (*tables, table.false_table(group), table.missed_table(group, terms), table.load_table(group)):
        if one.row_count:
            console.print(one, "")
    _say(_legend(group, terms))


def _legend(group: Group, terms: Terms) -> str:
    """What the words of the tables mean, and what the annotations cannot settle."""
    lines = [
        "right: overlaps an episode; an alert lasts from its onset to its clearing",
        "onset: when the first window that counted ended; it looks back, and lies before the alert was told",
        "in time: episodes that an alert overlaps which was told before their end",
        f"late: begun up to {terms.tolerance_s:g} s after an episode, which it does not detect; not false either",
        "kin: atrial fibrillation told in flutter only, or the reverse: not in +P; false in the last column",
        "kin s: seconds of that, during alarms that are right too; noisy: false, and during annotated noise",
        f"{in_words(VENTRICULAR_BEATS)}: an episode is a run of 10 s stretches, each with a ventricular beat",
    ]
    unwatched = ", ".join(f"{code} {count}" for code, count in group.unwatched.items())
    unseen = ", ".join(in_words(name) for name in group.judged if not group.total(name).episodes)
    lines += [f"never annotated in these records, so that every alarm counts as false: {unseen}"] if unseen else []
    lines += [f"annotated, and watched for by no finding: {unwatched}"] if unwatched else []
    return "\n".join([*lines, ""])


def _write(results: Results, out: Path | None, plots: Path | None) -> None:
    written = []
    if out and results.tuned:
        out.write_text(to_toml(results.tuned.findings), encoding="utf-8")
        written.append(out)
    drawn = results.main or results.training
    if plots and drawn:
        from .draw import draw_all

        written += draw_all(drawn, results.noisy, plots)
    for path in written:
        errors.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


@contextmanager
def _progress(words: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where somebody looks at it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(words, total=total)
        yield lambda: bar.advance(task)
