"""Command-line words in; bundles made, changed, shown and compared (`cardiogloss-kernels`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Column, Table

from .bundle import SHIPPED_BUNDLE, Bundle, Card, golden_windows
from .compare import compare
from .findings import DEFAULT_FINDINGS, ConfigError, read_findings
from .terminal import console, errors, run

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

TOLERANCE = 1e-4
"""Engines that differ more than this are not the same model."""

BundleArgument = Annotated[Path, typer.Argument(help="A bundle (.onnx).", show_default="the shipped one")]
Out = Annotated[Path, typer.Option(help="The bundle to write.")]
FindingsOption = Annotated[Path, typer.Option(help="The findings to put in (TOML).", show_default="the shipped ones")]


@app.callback()
def cardiogloss_kernels() -> None:
    """Makes, changes and checks cardiogloss bundles."""


@app.command()
def show(bundle: BundleArgument = SHIPPED_BUNDLE, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Tell what a bundle says of itself."""
    card = Bundle.read(bundle).card
    if as_json:
        sys.stdout.write(card.model_dump_json(indent=1) + "\n")
        return
    size_mb = bundle.stat().st_size / 1e6
    console.print(f"[bold]{escape(bundle.name)}[/]  {size_mb:.1f} MB, sha256 {card.sha256[:16]}", highlight=False)
    console.print(
        f"12 leads, {card.window_s:g} s at {card.rate_hz:g} Hz; text encoder {card.text_encoder}; {card.licence}", highlight=False
    )
    console.print(_findings_table(card))


def _findings_table(card: Card) -> Table:
    fitted = _best_f1(card)
    heads: list[Column | str] = [
        "priority",
        "raise",
        "clear",
        "windows",
        *(["best F1"] if fitted else []),
        Column("leads needed", overflow="fold"),
        "calibrated",
    ]
    table = Table(Column("finding", no_wrap=True), *heads, box=None, header_style="dim")
    for f in card.findings:
        best = [f"{fitted[f.name]:.2f}" if f.name in fitted else ""] if fitted else []
        needed = " or ".join("+".join(group) for group in f.leads) or "any"
        calibrated = "yes" if f.name in card.calibrated else "pooled"
        table.add_row(f.name, f.priority, f"{f.raise_at:.2f}", f"{f.clear_at:.2f}", f"{f.k} of {f.n}", *best, needed, calibrated)
    return table


def _best_f1(card: Card) -> dict[str, float]:
    """Finding -> the threshold of best F1 on the recordings of its calibration, for those calibrated there."""
    thresholds = card.metrics.get("thresholds", {}).get(f"{card.metrics.get('dataset')}/findings", {})
    return {name: at for name, at in thresholds.items() if name in card.calibrated}


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished `cardiogloss-trainer train`.")],
    out: Out,
    findings: FindingsOption = DEFAULT_FINDINGS,
) -> None:
    """Turn a trained run into a bundle. Calibrate it afterwards: `cardiogloss-trainer calibrate`."""
    from .export import export_run

    _write(export_run(run, read_findings(findings)), out)


@app.command()
def bake(
    findings: Annotated[Path, typer.Argument(help="The findings to put in (TOML).")],
    out: Out,
    bundle: Annotated[Path, typer.Option(help="The bundle to start from.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    text_encoder: Annotated[str | None, typer.Option(help="Where to find the bundle's text encoder, if not under its own name.")] = None,
) -> None:
    """Give a bundle other findings without training: their texts are embedded and swapped in."""
    from .export import bake as bake_findings

    _write(bake_findings(Bundle.read(bundle), read_findings(findings), text_encoder), out)


@app.command(name="compare")
def compare_command(
    bundle: BundleArgument = SHIPPED_BUNDLE,
    engine: Annotated[str, typer.Option(help="The engine to check.")] = "onnx",
    windows: Annotated[Path | None, typer.Option(help="Windows to compare on, a NumPy file [n, 12, samples] in mV.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare an engine with the reference on the golden windows and on others; exit 1 if they differ by more than 1e-4."""
    model = Bundle.read(bundle)
    difference = compare(model, engine, _read_windows(windows, model))
    told = {
        "engine": engine,
        "windows": difference.windows,
        "probability": difference.probability,
        "embedding": difference.embedding,
        "golden": difference.golden,
    }
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        console.print(", ".join(f"{name} {value}" for name, value in told.items()), highlight=False)
    if not difference.worst <= TOLERANCE:
        raise typer.Exit(1)


def _read_windows(path: Path | None, bundle: Bundle) -> np.ndarray:
    if path is None:
        return golden_windows(bundle.card.samples)[:0]
    wanted = (12, bundle.card.samples)
    try:
        windows = np.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no NumPy array of windows: {error}") from error
    if not isinstance(windows, np.ndarray) or windows.shape[1:] != wanted:
        raise ConfigError(f"{path} must hold one array of shape (n, {wanted[0]}, {wanted[1]}) in mV")
    return windows.astype(np.float32)


def _write(bundle: Bundle, out: Path) -> None:
    out.write_bytes(bundle.onnx)
    errors.print(f"wrote {out}: {len(bundle.onnx) / 1e6:.1f} MB, {len(bundle.card.findings)} findings", highlight=False, soft_wrap=True)


def main() -> None:
    """The `cardiogloss-kernels` command."""
    run(app, "cardiogloss-kernels")


if __name__ == "__main__":
    main()
