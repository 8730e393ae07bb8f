"""A traced encoder, the head that meets it and a card in; a sealed `Bundle` out, and a bundle with other findings."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .bundle import METADATA_KEY, UNSEALED, Bundle, BundleError, Card, golden_windows, seal
from .engine import open_engine
from .findings import ConfigError, Finding
from .language import LanguageModel, embed_prompts
from .signal import Samples

OPSET = 18

Calibration = tuple[float, float]
"""Slope and offset on the logit."""


@dataclass(frozen=True, slots=True)
class Head:
    """What turns an embedding into probabilities; each field is an ONNX initializer of its own name, so that it can be swapped."""

    text: Samples
    """[findings, text_dim]: frozen language model embeddings, averaged over prompts."""
    text_weight: Samples
    """[d, text_dim]"""
    text_bias: Samples
    """[d]"""
    scale: Samples
    bias: Samples
    slope: Samples
    """[findings]: calibration, on the logit."""
    offset: Samples
    """[findings]"""

    def arrays(self) -> dict[str, Samples]:
        return {name: getattr(self, name) for name in self.__slots__}

    def project(self, text: Samples) -> Samples:
        """Embedded texts [n, text_dim] -> where windows are embedded, [n, d] of unit norm, as the graph does it."""
        projected: Samples = text @ self.text_weight.T + self.text_bias
        return projected / np.linalg.norm(projected, axis=1, keepdims=True)


def trace_to_onnx(program: Path) -> onnx.ModelProto:
    """An encoder saved by `torch.export` (input ecg, output embedding) as an ONNX model with a free batch axis."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, which nobody asked for, is absent
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.load(program)
        model: Any = torch.onnx.export(
            exported, dynamo=True, input_names=["ecg"], output_names=["embedding"], opset_version=OPSET, verbose=False
        )
    model.save(buffer, external_data=False)
    return onnx.load_model_from_string(buffer.getvalue())


def export_run(folder: Path, findings: Sequence[Finding]) -> Bundle:
    """A trainer's run folder (`encoder.pt2`, `head.npz`, `training.json`) as an uncalibrated bundle for these findings."""
    missing = [name for name in ("encoder.pt2", "head.npz", "training.json") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder} holds no {missing[0]}; give the folder of a finished `cardiogloss-trainer train`")
    try:
        card = Card(findings=tuple(findings), **json.loads((folder / "training.json").read_text()))
    except ValueError as error:
        raise ConfigError(f"{folder}/training.json is damaged: {str(error).splitlines()[0]}; train it again") from error
    text = embed_prompts(LanguageModel(card.text_encoder), [f.prompts for f in findings])
    ones, zeros = np.ones(len(findings), np.float32), np.zeros(len(findings), np.float32)
    head = Head(text=text, slope=ones, offset=zeros, **np.load(folder / "head.npz"))
    return assemble(trace_to_onnx(folder / "encoder.pt2"), head, card)


def assemble(encoder: onnx.ModelProto, head: Head, card: Card) -> Bundle:
    """Put the head behind the encoder, record what the golden windows score, and seal the whole."""
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in head.arrays().items())
    model.graph.node.extend(head_nodes(encoder.graph.output[0].name))
    model.graph.output.insert(0, helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", len(card.findings)]))
    return seal_model(model, card)


def bake(bundle: Bundle, findings: Sequence[Finding], text_encoder: str | None = None) -> Bundle:
    """The same encoder with other findings: only the text embeddings and the calibration change.

    A finding with the name and prompts of one in the bundle keeps its embedding and its calibration; the
    language model is loaded only for others, which get the pooled calibration. `text_encoder` overrides
    where to find that model, as for a folder on a machine without a hub.
    """
    model = onnx.load_model_from_string(bundle.onnx)
    before = read_head(model)
    known = {(f.name, f.prompts): row for row, f in enumerate(bundle.card.findings)}
    rows = [known.get((f.name, f.prompts)) for f in findings]
    after = replace(
        before,
        text=_embed_unknown(before.text, rows, findings, text_encoder or bundle.card.text_encoder),
        slope=_pick(before.slope, rows, bundle.card.pooled_calibration[0]),
        offset=_pick(before.offset, rows, bundle.card.pooled_calibration[1]),
    )
    _swap_head(model, after)
    calibrated = tuple(f.name for f, row in zip(findings, rows, strict=True) if row is not None and f.name in bundle.card.calibrated)
    return seal_model(model, bundle.card.model_copy(update={"findings": tuple(findings), "calibrated": calibrated}))


def _embed_unknown(text: Samples, rows: Sequence[int | None], findings: Sequence[Finding], encoder: str) -> Samples:
    new = [f.prompts for f, row in zip(findings, rows, strict=True) if row is None]
    if not new:
        return text[[row for row in rows if row is not None]]
    embedded = embed_prompts(LanguageModel(encoder), new)
    if embedded.shape[1] != text.shape[1]:
        raise ConfigError(f"text encoder {encoder!r} gives {embedded.shape[1]} numbers a text, the bundle was trained with {text.shape[1]}")
    fresh = iter(embedded)
    return np.stack([next(fresh) if row is None else text[row] for row in rows])


def _pick(values: Samples, rows: Sequence[int | None], otherwise: float) -> Samples:
    return np.array([otherwise if row is None else values[row] for row in rows], np.float32)


def recalibrate(bundle: Bundle, fitted: Mapping[str, Calibration], pooled: Calibration, metrics: Mapping[str, Any]) -> Bundle:
    """The same bundle with the calibration of these findings, the pooled one for the others, and what was measured."""
    model = onnx.load_model_from_string(bundle.onnx)
    calibration = np.array([fitted.get(f.name, pooled) for f in bundle.card.findings], np.float32)
    _swap_head(model, replace(read_head(model), slope=calibration[:, 0], offset=calibration[:, 1]))
    facts = {"calibrated": tuple(fitted), "pooled_calibration": pooled, "metrics": dict(metrics)}
    return seal_model(model, bundle.card.model_copy(update=facts))


def head_of(bundle: Bundle) -> Head:
    """The head's arrays. Raises BundleError where the graph has none."""
    return read_head(onnx.load_model_from_string(bundle.onnx))


def read_head(model: onnx.ModelProto) -> Head:
    """The head's arrays. Raises BundleError where the graph has none."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in Head.__slots__}
    if len(arrays) != len(Head.__slots__):
        raise BundleError("the graph has no head to bake into; export it again")
    return Head(**arrays)


def _swap_head(model: onnx.ModelProto, head: Head) -> None:
    arrays = head.arrays()
    del model.graph.value_info[:]  # it may tell how many findings there were
    for initializer in model.graph.initializer:
        if initializer.name in arrays:
            initializer.CopyFrom(numpy_helper.from_array(arrays[initializer.name], initializer.name))
    shape = next(o for o in model.graph.output if o.name == "probability").type.tensor_type.shape
    shape.dim[1].dim_value = len(head.text)


def head_nodes(embedding: str) -> list[onnx.NodeProto]:
    """probability = sigmoid(slope * (scale * cosine + bias) + offset)"""
    node = helper.make_node
    return [
        node("Gemm", ["text", "text_weight", "text_bias"], ["text_projected"], transB=1),
        node("LpNormalization", ["text_projected"], ["text_unit"], axis=1, p=2),
        node("Gemm", [embedding, "text_unit"], ["cosine"], transB=1),
        node("Mul", ["cosine", "scale"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["logit"]),
        node("Mul", ["logit", "slope"], ["sloped"]),
        node("Add", ["sloped", "offset"], ["calibrated_logit"]),
        node("Sigmoid", ["calibrated_logit"], ["probability"]),
    ]


def seal_model(model: onnx.ModelProto, card: Card) -> Bundle:
    """The model with its card, into which goes what the golden windows score."""
    onnx.checker.check_model(model)
    draft = _with_card(model, card.model_copy(update={"golden": ()}))
    with open_engine(draft) as engine:
        golden = engine.run(golden_windows(card.samples)).probability
    expected = tuple(tuple(round(float(p), 6) for p in row) for row in golden)
    return _with_card(model, card.model_copy(update={"golden": expected}))


def _with_card(model: onnx.ModelProto, card: Card) -> Bundle:
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: card.model_copy(update={"sha256": UNSEALED}).model_dump_json()})
    return seal(model.SerializeToString(deterministic=True))
