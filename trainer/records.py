"""What was recorded and said of one heart in; a `Recording`, its windows, and the fold its patient belongs to, out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from kernels.signal import Samples, resample

FOLDS = 10

_USUAL_SIZE_MV = (0.128, 0.133, 0.107, 0.123, 0.097, 0.102, 0.159, 0.251, 0.243, 0.240, 0.215, 0.176)
"""The median standard deviation of each lead over the PTB-XL recordings of folds 1-8 that are in mV."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One ECG with what was said of it."""

    id: str
    samples_mv: Samples
    """[12, n] in the order of `LEADS`, NaN where a lead is absent."""
    rate_hz: float
    report: str
    codes: tuple[str, ...]
    """What the dataset says it shows, in the dataset's own codes: SCP codes in PTB-XL, SNOMED CT in others."""
    machine: tuple[str, ...]
    """GE 12SL acronyms in their order, empty where there are none."""
    patient: str
    fold: int
    amplitude_known: bool = True
    """False where the file holds z-scores instead of mV."""
    after: str | None = None
    """The recording that this one goes on from without a gap."""


def fold_of(patient: str) -> int:
    """A fold from 1 to 10 that follows from the patient's name alone, for datasets without official folds."""
    return zlib.crc32(patient.encode()) % FOLDS + 1


def cut_windows(recording: Recording, rate_hz: float, samples: int, hop: int) -> Samples:
    """All whole windows, each `hop` after the one before, [n, 12, samples] in mV through the stream's own filter.

    A recording shorter than a window ends in NaN; z-scores are given the usual size of their lead.
    """
    ecg = resample(recording.samples_mv, recording.rate_hz, rate_hz)
    if not recording.amplitude_known:
        ecg = ecg * np.array(_USUAL_SIZE_MV, np.float32)[:, None]
    ecg = np.pad(ecg, ((0, 0), (0, max(samples - ecg.shape[1], 0))), constant_values=np.nan)
    starts = range(0, ecg.shape[1] - samples + 1, hop)
    return np.stack([ecg[:, start : start + samples] for start in starts])
