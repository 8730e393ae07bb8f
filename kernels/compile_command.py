"""Command-line words in; bundles in float16 and TensorRT plans, and how far each lies from its origin, out (`half`, `compile`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bundle import SHIPPED_BUNDLE, Bundle, golden_windows
from .compare import compare
from .findings import ConfigError
from .terminal import console, errors

if TYPE_CHECKING:
    from .engine_cache import Key

BundleArgument = Annotated[Path, typer.Argument(help="A bundle (.onnx).", show_default="the shipped one")]


def half_command(out: Annotated[Path, typer.Option(help="The bundle to write.")], bundle: BundleArgument = SHIPPED_BUNDLE) -> None:
    """Put a bundle's encoder into float16; front end, head, inputs and outputs stay float32."""
    from .half import to_half

    origin = Bundle.read(bundle)
    made = to_half(origin)
    out.write_bytes(made.onnx)
    far = compare(made, "onnx", golden_windows(origin.card.samples)[:0], "onnx", origin).probability
    errors.print(f"wrote {out}: {len(made.onnx) / 1e6:.1f} MB; probabilities differ by up to {far:.1e}", highlight=False, soft_wrap=True)


def compile_command(
    bundle: BundleArgument = SHIPPED_BUNDLE,
    out: Annotated[
        Path | None, typer.Option(help="The plan to write, and beside it its key (.json).", show_default="where the engine finds it")
    ] = None,
) -> None:
    """Build the TensorRT plan of a bundle on the machine that is to run it, at the bundle's own precision.

    For another precision make that bundle first: `half`, or `quantize --symmetric`. Exit 1, and nothing is built, if what TensorRT
    is given differs from the bundle.
    """
    from .compile import build_plan
    from .engine_cache import plan_folder, plan_path, write_plan

    if out and (out.suffix == ".json" or out.is_dir()):
        raise ConfigError(f"--out {out} is a folder, or ends as the key beside the plan does; name a file that ends in .plan")
    read = Bundle.read(bundle)
    if not _is_near(read):
        raise typer.Exit(1)
    key = _key(read)
    plan = build_plan(read, plan_folder() / "timings")
    path = out or plan_path(key, plan_folder())
    write_plan(key, plan, path)
    errors.print(f"wrote {path}: {len(plan) / 1e6:.1f} MB for {key.gpu or 'any GPU'}, {key.tensorrt}", highlight=False, soft_wrap=True)


def _is_near(bundle: Bundle) -> bool:
    """The graph that TensorRT gets and the bundle, both in ONNX Runtime."""
    from .compile import GATES, graph_for_tensorrt

    given = replace(bundle, onnx=graph_for_tensorrt(bundle))
    found = compare(given, "onnx", golden_windows(bundle.card.samples)[:0], "onnx", bundle)
    gate = GATES[bundle.card.precision]
    told = f"{bundle.card.precision}, {found.windows} windows: probabilities differ by up to {found.probability:.1e}, allowed {gate:g}"
    console.print(told, highlight=False, soft_wrap=True)
    return found.probability <= gate


def _key(bundle: Bundle) -> Key:
    """Of this machine's GPU; of none where there is none, since TensorRT-RTX builds without."""
    from .compile import tensorrt_module
    from .device import Device
    from .engine_tensorrt import key_of

    trt = tensorrt_module()
    try:
        with Device() as device:
            return key_of(trt, bundle, device)
    except ConfigError as error:
        errors.print(f"built for no GPU in particular: {error}", highlight=False, soft_wrap=True)
        return key_of(trt, bundle)
