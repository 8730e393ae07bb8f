"""A reference file in; recordings to compare others with, and what a model was taught in words, out, and back."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from .findings import ConfigError
from .signal import LEADS, Samples, derive_limb_leads

FORMAT = 1
SHIPPED_REFERENCE = Path(__file__).parent / "shipped" / "reference.npz"

STEP_MV = 0.01
"""Of the samples on disk; embeddings of what is read back have a cosine of 0.9997 and more with those of what was written."""

_KEPT = [LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
"""The leads on disk; the others follow from them."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Statement(_Fact):
    """One thing that the texts of a training set can name."""

    name: str
    """SCP code, `12SL:` and an acronym, or `report:` and what a report affirms; as in a card's `concepts`."""
    texts: tuple[str, ...]
    recordings: int
    """Of the training set, those that were said to show it."""


class HeldOut(_Fact):
    """How well findings are found by words that were kept from training: macro AUROC with its 95 % interval."""

    auroc: float
    low: float
    high: float
    findings: int


class Taught(_Fact):
    """What the texts of a training set named."""

    sources: dict[str, tuple[int, ...]]
    """Data set -> its folds, as in a card's `training`."""
    recordings: int
    statements: tuple[Statement, ...]
    captions: dict[str, int]
    """A phrase of the reports, in English -> recordings."""
    held_out: HeldOut | None = None


class About(_Fact):
    """What a reference file says of itself."""

    cardiogloss_reference: int = FORMAT
    title: str
    """What the recordings are, as in `300 recordings of PTB-XL`."""
    licence: str
    rate_hz: float
    taught: Taught


@dataclass(frozen=True, slots=True)
class Reference:
    """Recordings of many people, one window each, and what a model was taught."""

    about: About
    ecg: Samples
    """[n, 12, samples] in mV"""

    @classmethod
    def read(cls, path: Path = SHIPPED_REFERENCE) -> Reference:
        """Raises ConfigError for a file that is absent, or no reference."""
        try:
            with np.load(path) as arrays:
                return cls._parse(arrays)
        except OSError as error:
            raise ConfigError(f"cannot read reference {path}: {error.strerror or error}; give another") from error
        except (EOFError, LookupError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(f"{path} is no reference, or a damaged one; make one with `cardiogloss-trainer reference`") from error

    @classmethod
    def _parse(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Reference:
        about = About.model_validate_json(bytes(arrays["about"]))
        steps = np.cumsum(arrays["change"], axis=2, dtype=np.int32)
        ecg = np.full((len(steps), len(LEADS), steps.shape[2]), np.nan, np.float32)
        ecg[:, _KEPT] = steps * STEP_MV
        return cls(about, derive_limb_leads(ecg))

    def write(self, path: Path) -> None:
        """In steps of `STEP_MV`, from one sample to the next, compressed; III, aVR, aVL and aVF only as they follow from I and II."""
        steps = np.round(self.ecg[:, _KEPT] / STEP_MV).astype(np.int16)
        about = np.frombuffer(self.about.model_dump_json().encode(), np.uint8)
        np.savez_compressed(path, about=about, change=np.diff(steps, axis=2, prepend=np.int16(0)))

    def seen_in(self, leads: Collection[str]) -> Samples:
        """[n, 12, samples] as devices with only these leads would have recorded them, the others NaN."""
        missing = [lead not in leads for lead in LEADS]
        return np.where(np.array(missing)[:, None], np.float32(np.nan), self.ecg)
