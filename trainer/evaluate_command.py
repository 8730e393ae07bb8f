"""The words of `evaluate` and `calibrate` in; tables, files and pictures of figures, and calibrated bundles, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.export import bake
from kernels.findings import ConfigError, read_findings
from kernels.terminal import console, errors
from kernels.writable import check_writable

from .calibrate import calibrate
from .datasets import DATASETS, dataset
from .evaluate import Evaluation, LeadSet, evaluate, learnt_folds
from .options import parse_folds, parse_leads, use_threads
from .probe import probed_folds
from .source import Source
from .table import as_markdown, for_terminal, write_json, write_scores

_FILE_COLUMNS = 110
"""Where nobody has set a width, the table is as wide as it wants to be."""

_LABELLED = "ptb-xl"
"""The dataset whose codes findings name."""

BundlesOption = Annotated[list[Path] | None, typer.Option(help="A bundle; give it again for more.", show_default="the shipped one")]
DatasetOption = Annotated[str, typer.Option("--dataset", help=f"One of {', '.join(DATASETS)}.")]
RootOption = Annotated[Path, typer.Option(help="The dataset's folder, in its official layout.")]
LeadsOption = Annotated[
    list[str] | None, typer.Option(help="As if a device had only these, as in I,II; give it again for more sets.", show_default="all")
]
Threads = Annotated[int | None, typer.Option(help="Processor threads; left out, all cores.")]


def evaluate_command(
    root: RootOption,
    bundle: BundlesOption = None,
    name: DatasetOption = _LABELLED,
    folds: Annotated[str | None, typer.Option(help="As in 9 or 1-8.", show_default="9 of ptb-xl, all of others")] = None,
    leads: LeadsOption = None,
    findings: Annotated[Path | None, typer.Option(help="Other findings (TOML) to evaluate instead of the bundle's.")] = None,
    probe: Annotated[bool, typer.Option(help="Also train linear probes on the folds that are not evaluated.")] = False,
    past: Annotated[bool, typer.Option(help="Let streams remember: windows of one record are not scored each by itself (mitdb).")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw pictures into this folder.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write each recording's probabilities to this file (CSV).")] = None,
    threads: Threads = None,
) -> None:
    """Zero-shot figures of every task, and of linear probes, with 95 % bootstrap intervals over patients."""
    use_threads(threads)
    paths = bundle or [SHIPPED_BUNDLE]
    if scores and len(paths) > 1:
        raise ConfigError("--scores takes one --bundle; give each its own file")
    if len({path.stem for path in paths}) < len(paths):
        raise ConfigError("two of the bundles have the same name, by which the rows tell them apart; rename one")
    check_writable(as_json, markdown, scores)
    models = {path: _baked(Bundle.read(path), findings) for path in paths}
    source = Source(name, root, _folds(name, folds, probe, list(models.values())))
    done = []
    for path, model in models.items():
        with errors.status(f"scoring recordings with {path.stem}"):
            done.append(evaluate(model, source, parse_lead_sets(leads or ["all"]), probe, path.stem, past))
        console.print(for_terminal(done[-1]), width=console.width if console.is_terminal else _FILE_COLUMNS)
    _write(done, as_json, markdown, plots, scores)


def _baked(bundle: Bundle, findings: Path | None) -> Bundle:
    return bake(bundle, read_findings(findings)) if findings else bundle


def _folds(name: str, text: str | None, probe: bool, bundles: list[Bundle]) -> tuple[int, ...]:
    """Those that were asked for, or the usual ones without any that a model was trained on."""
    if text is not None:
        return tuple(parse_folds(text))
    usual = probed_folds(name) if probe else dataset(name).folds
    learnt = {fold for bundle in bundles for fold in learnt_folds(bundle, name)}
    return tuple(fold for fold in usual if fold not in learnt) or usual


def parse_lead_sets(texts: list[str]) -> list[LeadSet]:
    """`all`, `I,II` -> (), (I, II). Raises ConfigError for an unknown lead and for a set given twice."""
    sets = [() if text.strip() in {"all", ""} else tuple(parse_leads(text)) for text in texts]
    if len(set(sets)) < len(sets):
        raise ConfigError("--leads: the same set stands twice; give each once")
    return sets


def _write(done: list[Evaluation], as_json: Path | None, markdown: Path | None, plots: Path | None, scores: Path | None) -> None:
    if as_json:
        write_json(done, as_json)
    if markdown:
        markdown.write_text("\n".join(map(as_markdown, done)), encoding="utf-8")
    if scores:
        write_scores(done[0], scores)
    if plots:
        _draw(done, plots)


def _draw(done: list[Evaluation], folder: Path) -> None:
    """Of several bundles each has a folder of its own."""
    from .draw import draw_all

    for evaluation in done:
        own = folder / evaluation.name if len(done) > 1 else folder
        own.mkdir(parents=True, exist_ok=True)
        draw_all(evaluation, own)


def calibrate_command(
    bundle: Annotated[Path, typer.Option(help="The bundle.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    root: RootOption,
    folds: Annotated[str, typer.Option(help="Folds of PTB-XL, as in 9 or 1-8.")] = "9",
    threads: Threads = None,
) -> None:
    """Fit each finding's calibration on these folds of PTB-XL and write it, with the figures measured there, into a new bundle."""
    use_threads(threads)
    check_writable(out)
    calibrated = calibrate(Bundle.read(bundle), Source(_LABELLED, root, tuple(parse_folds(folds))))
    out.write_bytes(calibrated.onnx)
    error = calibrated.card.metrics.get("ece_cross_validated")
    found = "no finding has labels there" if error is None else f"{error:.3f} (cross-validated over the patients of folds {folds})"
    told = f"wrote {out}; calibration error: {found}"
    errors.print(told, highlight=False, soft_wrap=True)
