"""The words of `compare` in; a table of the differences between two engines, or two forms of a model, out."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from .bundle import SHIPPED_BUNDLE, Bundle, golden_windows
from .compare import Difference, compare, verdict_on
from .findings import ConfigError
from .gate import Verdict
from .labelled import Labelled, read_windows
from .terminal import console

TOLERANCE = 1e-4
"""Engines that differ more than this are not the same model."""


def compare_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle (.onnx).", show_default="the shipped one")] = SHIPPED_BUNDLE,
    engine: Annotated[str, typer.Option(help="The engine to check.")] = "onnx",
    with_engine: Annotated[
        str | None, typer.Option(help="The engine to compare it with.", show_default="reference, or onnx for a bundle of streams")
    ] = None,
    with_bundle: Annotated[
        Path | None, typer.Option(help="Another form of the model to compare with.", show_default="the same bundle")
    ] = None,
    windows: Annotated[Path | None, typer.Option(help="Windows in mV to compare on: .npy, n x 12 x samples, or .npz with labels.")] = None,
    tolerance: Annotated[float, typer.Option(help="The largest difference of the same float32 bundle in two engines.")] = TOLERANCE,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare two engines on the golden windows and on others; exit 1 if they are not the same model.

    Of one float32 bundle no answer may differ by more than the tolerance. Of other precisions and of another bundle
    the accuracy decides, where the windows have labels, and otherwise how far the probabilities moved.
    """
    if not tolerance > 0:
        raise ConfigError(f"--tolerance {tolerance} must be positive")
    model = Bundle.read(bundle)
    other = Bundle.read(with_bundle) if with_bundle else model
    given = read_windows(windows, model.card) if windows else Labelled(golden_windows(model.card.samples)[:0])
    with_engine = with_engine or ("onnx" if other.card.stride else "reference")
    difference = compare(model, engine, given.ecg, with_engine, other)
    verdict = verdict_on(model, difference, given.labels)
    told = {"engine": engine, **_figures(difference), "with_engine": with_engine, "with_bundle": other.card.sha256}
    exact = other == model and model.card.precision == "fp32"
    passed = difference.worst <= tolerance if exact else verdict.passed
    if as_json:
        sys.stdout.write(json.dumps(told | {"passed": passed} | as_dict(verdict)) + "\n")
    else:
        _show(told, difference, verdict, exact)
    if not passed:
        raise typer.Exit(1)


def _figures(difference: Difference) -> dict[str, Any]:
    return {name: _or_null(getattr(difference, name)) for name in ("windows", "probability", "embedding", "golden")}


def _show(told: dict[str, Any], difference: Difference, verdict: Verdict, exact: bool) -> None:
    line = {"engine": told["engine"], "with": told["with_engine"], **_figures(difference)}
    console.print(table_of(verdict))
    console.print(", ".join(f"{name} {value}" for name, value in line.items()), highlight=False)
    if not exact:
        console.print(verdict.reason, highlight=False)


def table_of(verdict: Verdict) -> Table:
    """A line a finding: how far its probability moved, and its AUROC under both where there are labels."""
    judged = any(f.is_judged for f in verdict.findings)
    heads = ("worst", "mean", "changed", *(("AUROC", "after", "change") if judged else ()))
    columns = [Column(head, justify="right", no_wrap=True) for head in heads]
    table = Table(Column("finding", no_wrap=True), *columns, box=None, header_style="dim", pad_edge=False, collapse_padding=True)
    for f in verdict.findings:
        areas = [_figure(f.reference), _figure(f.candidate), _figure(-f.lost, "+.4f")] if judged else []
        table.add_row(f.name, _moved(f.worst), _moved(f.mean), f"{f.changed:.2%}", *areas)
    if judged:
        change = _figure(verdict.candidate - verdict.reference, "+.4f")
        table.add_row("macro", "", "", "", _figure(verdict.reference), _figure(verdict.candidate), change, style="bold")
    return table


def _moved(difference: float) -> str:
    return f"{difference:.4f}" if difference >= 1e-3 else f"{difference:.0e}"


def _figure(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """For JSON: null where there are too few labels for an AUROC."""
    findings = [{name: _or_null(value) for name, value in asdict(f).items()} for f in verdict.findings]
    macro = {"reference": _or_null(verdict.reference), "candidate": _or_null(verdict.candidate)}
    return {"reason": verdict.reason, "auroc_macro": macro, "findings": findings}


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
