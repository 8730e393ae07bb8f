"""The words of `stream` in; a bundle that takes streams as they come, or the reason why there is none, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bundle import Bundle, golden_windows
from .compare import compare
from .compare_command import TOLERANCE
from .findings import ConfigError
from .quantize_command import Gate, read_gate, write_if_accurate
from .terminal import errors
from .writable import check_writable


def stream_command(
    bundle: Annotated[Path, typer.Argument(help="A float32 bundle whose encoder does not look ahead, as the recipe `stream` trains it.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    windows: Annotated[Path | None, typer.Option(help="In int8, with the ranges of these windows (.npy or .npz).")] = None,
    gate: Annotated[list[Path] | None, typer.Option(help="With --windows: labelled windows of other patients to judge by (.npz).")] = None,
) -> None:
    """Turn a bundle into one that takes streams: of each sample everything is computed once.

    Exit 1, and nothing is written, where it is another model then, or loses its accuracy in int8.
    """
    from .stream import to_stream

    check_writable(out)
    if (windows is None) != (not gate):
        raise ConfigError("--windows and --gate make int8 together; give both, or neither")
    before = Bundle.read(bundle)
    judged = read_gate(windows, gate, before.card) if windows and gate else None
    stream = to_stream(before)
    found = compare(stream, "onnx", golden_windows(before.card.samples)[:0], "onnx", before)
    errors.print(f"as a stream: probabilities differ by {found.probability:.1e} at most", highlight=False)
    if not found.worst <= TOLERANCE:
        told = f"refused: its answers differ by {found.worst:.1e}, and {TOLERANCE:g} is allowed; is its encoder causal in all its parts?"
        errors.print(told, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    if judged:
        _write_in_int8(before, judged, out)
    else:
        out.write_bytes(stream.onnx)
        errors.print(f"wrote {out}: {len(stream.onnx) / 1e6:.1f} MB", highlight=False, soft_wrap=True)


def _write_in_int8(before: Bundle, gate: Gate, out: Path) -> None:
    from .stream import calibrate, to_stream

    with errors.status("calibrating"):
        after = to_stream(before, calibrate(before, gate.windows))
    write_if_accurate(before, after, gate, out)
