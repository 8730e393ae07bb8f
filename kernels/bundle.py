"""The bytes of one ONNX file in; a checked `Bundle` (the model and its card) out, and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from .findings import Finding, by_silence
from .signal import LEADS, Samples

FORMAT = 1
METADATA_KEY = "cardiogloss"
SHIPPED_BUNDLE = Path(__file__).parent / "shipped" / "cardiogloss.onnx"

Precision = Literal["fp32", "fp16", "int8"]

_MARK = b'{"cardiogloss_bundle":'
UNSEALED = "0" * 64
"""In place of the hash, while it is taken."""


class BundleError(Exception):
    """The model file cannot be used; the message says what is wrong with it and how to mend that."""


class Card(BaseModel):
    """What a bundle says of itself, stored as one JSON text in the ONNX metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cardiogloss_bundle: int = FORMAT
    rate_hz: float
    window_s: float
    findings: tuple[Finding, ...]
    calibrated: tuple[str, ...] = ()
    """The findings whose calibration was fitted; the others use the pooled one."""
    pooled_calibration: tuple[float, float] = (1.0, 0.0)
    """Slope and offset on the logit, fitted over all findings together."""
    text_encoder: str
    precision: Precision = "fp32"
    """Of the weights and of what is multiplied; what goes in and comes out is always float32."""
    stride: int | None = None
    """Samples that a stream may be given at a time, of a bundle that takes streams; None where it takes windows only."""
    derived_from: str | None = None
    """The sha256 of the bundle that this one was made from, of the same model at another precision or in another form."""
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    licence: str = "Apache-2.0"
    golden: tuple[tuple[float, ...], ...] = ()
    """Expected `probability` of `golden_windows`, one row a window."""
    sha256: str = UNSEALED
    """Of the whole file with this field as zeros."""

    @field_validator("findings")
    @classmethod
    def _in_no_circle(cls, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        by_silence(findings)
        return findings

    @property
    def samples(self) -> int:
        """Length of a window at the bundle's rate."""
        return round(self.rate_hz * self.window_s)


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model from millivolts to probabilities: the ONNX bytes and the card read from them."""

    onnx: bytes
    card: Card

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """A file, or one that is shipped, by its bare name (`cardiogloss-stream`).

        Raises BundleError for a file that is absent, no bundle, of another version, or damaged.
        """
        try:
            return cls.parse(_by_name(path).read_bytes())
        except OSError as error:
            raise BundleError(f"cannot read bundle {path}: {error.strerror}; give another bundle") from error
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Raises BundleError as `read` does."""
        card = _parse_card(data)
        if _hash(data, card.sha256) != card.sha256:
            raise BundleError("the file is damaged (its content does not match its hash); copy or bake it again")
        return cls(data, card)


def shipped_names() -> tuple[str, ...]:
    """Of the bundles that came with cardiogloss, each without its suffix."""
    return tuple(sorted(file.stem for file in SHIPPED_BUNDLE.parent.glob("*.onnx")))


def _by_name(path: Path) -> Path:
    """Only a bare name means one that is shipped, and a file of that name comes first."""
    is_name = str(path) in shipped_names() and not path.is_file()
    return SHIPPED_BUNDLE.with_name(f"{path}.onnx") if is_name else path


def seal(data: bytes) -> Bundle:
    """The bytes of an ONNX model that carries a card: write the hash of the rest into it."""
    written = _parse_card(data).sha256
    return Bundle.parse(data.replace(written.encode(), _hash(data, written).encode()))


def golden_windows(samples: int) -> Samples:
    """Three windows [3, 12, samples] that every engine must score as the exporter did: all leads, lead II, none."""
    time = np.arange(samples) / samples
    beats = np.exp(-(((time * 12) % 1 - 0.4) ** 2) / 5e-4)
    gain = np.linspace(-0.5, 1.5, len(LEADS))[:, None]
    twelve = gain * beats + 0.2 * np.sin(2 * np.pi * (3 + np.arange(len(LEADS)))[:, None] * time)
    windows = np.full((3, len(LEADS), samples), np.nan, np.float32)
    windows[0] = twelve
    windows[1, LEADS.index("II")] = twelve[1]
    return windows


def _hash(data: bytes, written: str) -> str:
    return hashlib.sha256(data.replace(written.encode(), UNSEALED.encode())).hexdigest()


def _parse_card(data: bytes) -> Card:
    """Found by its first words, so that an edge device reads it without the onnx package."""
    start = data.rfind(_MARK)
    if start < 0:
        raise BundleError("not a cardiogloss bundle (no card inside); make one with `cardiogloss-kernels export`")
    try:
        fields, _ = json.JSONDecoder().raw_decode(data[start:].decode("utf-8", errors="ignore"))
        version = fields["cardiogloss_bundle"]
        if version != FORMAT:
            raise BundleError(f"bundle format {version}, this cardiogloss reads format {FORMAT}; export it again")
        return Card.model_validate(fields)
    except (json.JSONDecodeError, ValidationError) as error:
        raise BundleError(f"its card is damaged: {str(error).splitlines()[0]}; copy or bake it again") from error
