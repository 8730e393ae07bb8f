"""A file of windows in; the windows, with what is known of them, in the order of a bundle's findings, out."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import Card
from .findings import ConfigError
from .gate import UNTOLD, Labels
from .signal import LEADS, Samples


@dataclass(frozen=True, slots=True)
class Labelled:
    """Windows, and what is known of them."""

    ecg: Samples
    """[n, 12, samples] in mV, NaN where there is no signal."""
    labels: Labels | None = None
    """[n, findings]"""
    patients: frozenset[str] = frozenset()


def read_windows(path: Path, card: Card) -> Labelled:
    """A NumPy file: `.npy` of windows alone, or `.npz` with `ecg`, and `labels` with their `names`, and `patient`, where known.

    A finding that the file does not name is untold. Raises ConfigError for anything else, for windows of another shape, and for none.
    """
    arrays = _load(path)
    ecg = arrays["ecg"]
    if ecg.ndim != 3 or ecg.shape[1:] != (len(LEADS), card.samples) or not np.issubdtype(ecg.dtype, np.floating):
        raise ConfigError(f"{path} must hold windows of shape (n, {len(LEADS)}, {card.samples}) in mV, not {ecg.shape} of {ecg.dtype}")
    if not len(ecg):
        raise ConfigError(f"{path} holds no window; give a file with some")
    patients = frozenset(map(str, arrays.get("patient", np.array([])).ravel()))
    return Labelled(ecg.astype(np.float32), _labels(path, arrays, card), patients)


def _load(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(path)
        arrays = {"ecg": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is no NumPy file of windows: {error}") from error
    if "ecg" not in arrays:
        raise ConfigError(f"{path} holds no array `ecg`; write one with `cardiogloss-trainer windows`")
    return arrays


def _labels(path: Path, arrays: Mapping[str, npt.NDArray[Any]], card: Card) -> Labels | None:
    if "labels" not in arrays:
        return None
    labels, names = arrays["labels"], [str(name) for name in arrays.get("names", np.array([])).ravel()]
    if labels.shape != (len(arrays["ecg"]), len(names)) or not np.isin(labels, (1, 0, UNTOLD)).all():
        raise ConfigError(f"{path}: `labels` must be 1, 0 or -1, a row a window and a column each of `names`")
    return _in_order(labels, names, [f.name for f in card.findings])


def _in_order(labels: npt.NDArray[Any], names: Sequence[str], wanted: Sequence[str]) -> Labels:
    untold = np.full(len(labels), UNTOLD, np.int8)
    return np.stack([labels[:, names.index(name)] if name in names else untold for name in wanted], axis=1).astype(np.int8)
