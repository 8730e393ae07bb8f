"""The words of `quantize` in; a bundle in eight bits that keeps its accuracy, or the reason why there is none, out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .bundle import SHIPPED_BUNDLE, Bundle, Card
from .compare import compare, verdict_on
from .compare_command import as_dict, table_of
from .findings import ConfigError
from .gate import Verdict
from .labelled import Labelled, read_windows
from .signal import Samples
from .terminal import console, errors
from .writable import check_writable


@dataclass(frozen=True, slots=True)
class Gate:
    """What a bundle in eight bits is made and judged by."""

    windows: Samples
    """[n, 12, samples]: those that give the ranges."""
    judged: dict[str, Labelled]
    """By the name of its file, what it must be as accurate on as before."""


def quantize_command(
    windows: Annotated[Path, typer.Option(help="Windows to find the ranges by (.npy or .npz).")],
    gate: Annotated[list[Path], typer.Option(help="Labelled windows of other patients to judge by (.npz); give it again for more.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    bundle: Annotated[Path, typer.Argument(help="A float32 bundle (.onnx).", show_default="the shipped one")] = SHIPPED_BUNDLE,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="In the form that TensorRT takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Put a bundle's convolutions into eight bits, and write it if no finding loses its accuracy; exit 1 if one does.

    `cardiogloss-trainer windows` writes both kinds of files.
    """
    from .quantize import quantize

    check_writable(out)
    before = Bundle.read(bundle)
    read = read_gate(windows, gate, before.card)
    with errors.status("quantising"):
        after = quantize(before, read.windows, symmetric)
    write_if_accurate(before, after, read, out, as_json)


def read_gate(windows: Path, gate: Sequence[Path], card: Card) -> Gate:
    """Raises ConfigError where a file holds no windows, or a patient stands on both sides."""
    seen = read_windows(windows, card)
    judged = {str(path): read_windows(path, card) for path in gate}
    shared = {patient for labelled in judged.values() for patient in labelled.patients & seen.patients}
    if shared:
        raise ConfigError(f"{len(shared)} patients stand both in --windows and in --gate; take other folds for one of them")
    return Gate(seen.ecg, judged)


def write_if_accurate(before: Bundle, after: Bundle, gate: Gate, out: Path, as_json: bool = False) -> None:
    """Tell what it costs, and write it; exit 1, and nothing is written, where it costs too much."""
    with errors.status("judging"):
        verdicts = {name: _judge(before, after, labelled) for name, labelled in gate.judged.items()}
    if as_json:
        sys.stdout.write(json.dumps([{"gate": name, "passed": v.passed, **as_dict(v)} for name, v in verdicts.items()]) + "\n")
    for name, verdict in verdicts.items():
        _tell(Path(name).name, verdict, with_table=not as_json)
    if not all(verdict.passed for verdict in verdicts.values()):
        raise typer.Exit(1)
    out.write_bytes(after.onnx)
    errors.print(f"wrote {out}: {len(after.onnx) / 1e6:.1f} MB instead of {len(before.onnx) / 1e6:.1f}", highlight=False, soft_wrap=True)


def _judge(before: Bundle, after: Bundle, labelled: Labelled) -> Verdict:
    return verdict_on(after, compare(after, "onnx", labelled.ecg, "onnx", before), labelled.labels)


def _tell(name: str, verdict: Verdict, with_table: bool) -> None:
    if with_table:
        console.print(name, style="bold", highlight=False, markup=False)
        console.print(table_of(verdict))
    word = "passed" if verdict.passed else "refused"
    errors.print(f"{name}: {word}: {verdict.reason}", highlight=False, soft_wrap=True, markup=False)
