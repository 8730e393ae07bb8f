"""Command-line words in; bundles in float16 and TensorRT plans, and how far each lies from its origin, out (`half`, `compile`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from .bundle import SHIPPED_BUNDLE, Bundle, Precision, golden_windows
from .compare import compare, verdict_on
from .findings import ConfigError
from .labelled import Labelled, read_windows
from .signal import Samples
from .terminal import console, errors

if TYPE_CHECKING:
    from .engine_cache import Key

BundleArgument = Annotated[Path, typer.Argument(help="A bundle (.onnx).", show_default="the shipped one")]
Windows = Annotated[
    Path | None, typer.Option(help="Windows in mV, (n, 12, samples) in .npy, or as ecg in .npz; int8 is calibrated on them.")
]


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
    precision: Annotated[str, typer.Option(help="fp16, fp32 or int8; int8 needs --windows.")] = "fp16",
    windows: Windows = None,
    out: Annotated[
        Path | None, typer.Option(help="The plan to write, and beside it its key (.json).", show_default="where the engine finds it")
    ] = None,
) -> None:
    """Build the TensorRT plan of a bundle on the machine that is to run it; exit 1 if what TensorRT is given differs from the bundle."""
    from .compile import build_plan, graph_for_tensorrt
    from .engine_cache import plan_folder, plan_path, write_plan

    origin = Bundle.read(bundle)
    given = read_windows(windows, origin.card) if windows else Labelled(golden_windows(origin.card.samples)[:0])
    made = at_precision(origin, _known(precision), given.ecg)
    key = _key(made)
    path = out or plan_path(key, plan_folder())
    plan = build_plan(made, plan_folder() / "timings")
    write_plan(key, plan, path)
    errors.print(f"wrote {path}: {len(plan) / 1e6:.1f} MB for {key.gpu or 'any GPU'}, {key.tensorrt}", highlight=False, soft_wrap=True)
    if not _is_near(origin, replace(made, onnx=graph_for_tensorrt(made)), given):
        raise typer.Exit(1)


def _is_near(origin: Bundle, made: Bundle, given: Labelled) -> bool:
    """Both in ONNX Runtime. Other arithmetic may move a probability so far; eight bits are judged by what they cost."""
    from .compile import GATES

    found = compare(made, "onnx", given.ecg, "onnx", origin)
    gate = GATES[made.card.precision]
    verdict = verdict_on(origin, found, given.labels)
    judged = f"; {verdict.reason}" if made.card.precision == "int8" else f", allowed {gate:g}"
    told = f"{made.card.precision}, {found.windows} windows: probabilities differ by up to {found.probability:.1e}{judged}"
    console.print(told, highlight=False, soft_wrap=True)
    return verdict.passed if made.card.precision == "int8" else found.probability <= gate


def at_precision(origin: Bundle, precision: Precision, ecg: Samples) -> Bundle:
    """The bundle at this precision, `ecg` [n, 12, samples] being what int8 is calibrated on.

    Raises ConfigError for int8 without windows, BundleError where the bundle is neither fp32 nor of that precision.
    """
    if precision == origin.card.precision:
        return origin
    if precision == "fp32":
        raise ConfigError(f"a bundle of precision {origin.card.precision} cannot be made fp32 again; give the one that it was made from")
    if precision == "fp16":
        from .half import to_half

        return to_half(origin)
    if not len(ecg):
        raise ConfigError("int8 is calibrated on real windows: give some with --windows, or a bundle that is int8 already")
    from .quantize import quantize

    return quantize(origin, ecg, symmetric=True)


def _known(precision: str) -> Precision:
    if precision not in get_args(Precision):
        raise ConfigError(f"unknown precision {precision!r}; allowed are {', '.join(get_args(Precision))}")
    return cast(Precision, precision)


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
