"""Command-line words in; bundles made, changed, shown and compared (`cardiogloss-kernels`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from .bench_command import bench_command
from .bundle import SHIPPED_BUNDLE, Bundle, Card
from .compare_command import compare_command
from .compile_command import compile_command, half_command
from .findings import DEFAULT_FINDINGS, read_findings
from .quantize_command import quantize_command
from .stream_command import stream_command
from .terminal import console, errors, run

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

BundleArgument = Annotated[Path, typer.Argument(help="A bundle (.onnx).", show_default="the shipped one")]
Out = Annotated[Path, typer.Option(help="The bundle to write.")]
FindingsOption = Annotated[Path, typer.Option(help="The findings to put in (TOML).", show_default="the shipped ones")]


@app.callback()
def cardiogloss_kernels() -> None:
    """Makes, changes and checks cardiogloss bundles."""


@app.command()
def show(bundle: BundleArgument = SHIPPED_BUNDLE, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Tell what a bundle says of itself."""
    read = Bundle.read(bundle)
    card = read.card
    if as_json:
        sys.stdout.write(card.model_dump_json(indent=1) + "\n")
        return
    console.print(f"[bold]{escape(bundle.name)}[/]  {len(read.onnx) / 1e6:.1f} MB, sha256 {card.sha256[:16]}", highlight=False)
    console.print(
        f"12 leads, {card.window_s:g} s at {card.rate_hz:g} Hz; text encoder {card.text_encoder}; {card.licence}", highlight=False
    )
    form = "takes streams and windows" if card.stride else "takes windows"
    made = f", made of {card.derived_from[:16]}" if card.derived_from else ""
    console.print(f"{card.precision}, {form}{made}", highlight=False)
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


def _write(bundle: Bundle, out: Path) -> None:
    out.write_bytes(bundle.onnx)
    errors.print(f"wrote {out}: {len(bundle.onnx) / 1e6:.1f} MB, {len(bundle.card.findings)} findings", highlight=False, soft_wrap=True)


app.command(name="stream")(stream_command)
app.command(name="quantize")(quantize_command)
app.command(name="half")(half_command)
app.command(name="compile")(compile_command)
app.command(name="compare")(compare_command)
app.command(name="bench")(bench_command)


def main() -> None:
    """The `cardiogloss-kernels` command."""
    run(app, "cardiogloss-kernels")


if __name__ == "__main__":
    main()
