"""A recording, its beats and records of real electrode noise in; the same recording with noise of a known strength out.

Source: the protocol of `nst` and the amplitudes of `sigamp` (WFDB Applications Guide; Moody, Muldrow and Mark 1984):
five minutes clean, then two minutes of noise and two without, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, resample

from ..decode.chunk import Chunk
from ..decode.csv import Columns
from ..decode.wfdb import parse_header
from ..transport.file import RecordingFile, open_recording
from .truth import Seconds

CLEAN_S = 300.0
TURN_S = 120.0

_QRS_S = 0.05
_MEASURED = 300
"""So many beats, and seconds of noise, tell the amplitudes."""
_TRIMMED = 20
"""One twentieth at each end is left out of a mean."""

Levels = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stress:
    """How a recording is to be disturbed."""

    folder: Path
    snr_db: float = 6.0
    records: tuple[str, ...] = ("bw", "ma")
    """They take turns, one a noisy stretch."""
    continuous: bool = False
    """Noise from the end of the clean time on, without a pause."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A noise record at the rate of the recording that it is added to."""

    samples_mv: Samples
    rms_mv: Levels
    """[leads]"""


class NoisyFile:
    """A `RecordingFile` with noise added; a lead that has no noise of its own takes that of another, in turn."""

    def __init__(self, recording: RecordingFile, beats_s: Seconds, stress: Stress) -> None:
        """Reads the whole recording once, to measure its QRS complexes.

        Raises ConfigError where a noise record cannot be read, and as `check_addable` does.
        """
        check_addable(recording, beats_s)
        self._recording = recording
        self.name = recording.name
        self.duration_s = recording.duration_s
        qrs_mv, rate_hz, samples = measure_qrs(recording, beats_s)
        if not qrs_mv.any():
            raise ConfigError(f"{recording.name}: no signal at any annotated beat; leave it out, or --noise")
        noises = [read_noise(stress.folder / name, rate_hz) for name in stress.records]
        self._added_mv = added_noise(noises, qrs_mv, rate_hz, samples, stress)

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        """As the recording gives them."""
        for chunk in self._recording.chunks(block):
            yield replace(chunk, samples_mv=chunk.samples_mv + self._added_mv[:, chunk.start : chunk.end])


def read_noise(path: Path, rate_hz: float) -> Noise:
    """A record of the MIT-BIH Noise Stress Test Database, at another rate. Raises ConfigError as `open_recording` does."""
    header = check_noise(path)
    signals = len(parse_header(header.read_text(encoding="utf-8", errors="replace")).signals)
    chunks = list(open_recording(path, Columns(leads=LEADS[:signals])).chunks())
    samples = np.nan_to_num(np.concatenate([chunk.samples_mv for chunk in chunks], axis=1))
    if chunks[0].rate_hz != rate_hz:
        samples = resample(samples, chunks[0].rate_hz, rate_hz)
    noise = Noise(samples, measure_rms(samples, rate_hz))
    if not noise.rms_mv.all():
        raise ConfigError(f"{path}: a signal of this noise record is flat; copy it again")
    return noise


def check_addable(recording: RecordingFile, beats_s: Seconds) -> None:
    """Raises ConfigError for a recording that noise cannot be scaled to, or that ends before any would be added."""
    if beats_s.size == 0:
        raise ConfigError(f"{recording.name}: without annotated beats nothing tells how strong its noise must be; leave it out, or --noise")
    if recording.duration_s is not None and recording.duration_s <= CLEAN_S:
        raise ConfigError(
            f"{recording.name}: its {recording.duration_s:g} s end before any noise, for the first {CLEAN_S:g} s always stay clean; "
            "give a longer recording, or leave out --noise"
        )


def check_noise(path: Path) -> Path:
    """Its header. Raises ConfigError where there is none."""
    header = path.with_name(path.name + ".hea")
    if not header.is_file():
        raise ConfigError(f"{path}: no such noise record; --noise names the folder of the MIT-BIH Noise Stress Test Database")
    return header


def measure_rms(samples_mv: Samples, rate_hz: float) -> Levels:
    """The trimmed mean over the first 300 seconds of each second's root mean square about its mean, [leads]."""
    step = round(rate_hz)
    seconds = min(samples_mv.shape[1] // step, _MEASURED)
    parts = samples_mv[:, : seconds * step].astype(np.float64).reshape(len(samples_mv), seconds, step)
    return _trimmed_mean(parts.std(axis=2))


def measure_qrs(recording: RecordingFile, beats_s: Seconds) -> tuple[Levels, float, int]:
    """The trimmed mean over the first 300 beats of each lead's range within 50 ms, [leads] in mV; the rate and length.

    A lead that is never whole there has a range of 0.
    """
    chunks = list(recording.chunks())
    last = chunks[-1]
    samples = np.full((len(last.leads), last.end), np.nan, np.float32)
    for chunk in chunks:
        samples[:, chunk.start : chunk.end] = chunk.samples_mv
    half = round(_QRS_S * last.rate_hz)
    beats = np.round(beats_s * last.rate_hz).astype(np.int64)
    inside = beats[(beats >= half) & (beats < last.end - half)][:_MEASURED]
    ranges = np.ptp(samples[:, inside[:, None] + np.arange(-half, half + 1)], axis=2)
    return _trimmed_mean(ranges), last.rate_hz, last.end


def added_noise(noises: Sequence[Noise], qrs_mv: Levels, rate_hz: float, samples: int, stress: Stress) -> Samples:
    """What is to be added to each lead, [leads, samples]; it goes on where it stopped, so that no edge is added.

    The power of an ECG is the square of its QRS complex's range over eight, that of a sine of the same range.
    """
    turn = _turns(np.arange(samples) / rate_hz, stress.continuous)
    added = np.zeros((len(qrs_mv), samples))
    for i, noise in enumerate(noises):
        rows = np.arange(len(qrs_mv)) % len(noise.samples_mv)
        gain = qrs_mv / np.sqrt(8) / noise.rms_mv[rows] / 10 ** (stress.snr_db / 20)
        at = np.flatnonzero((turn >= 0) & (turn % len(noises) == i))
        added[:, at] = gain[:, None] * _steps(noise, rows, at)
    return np.cumsum(added, axis=1).astype(np.float32)


def _turns(at_s: Seconds, continuous: bool) -> npt.NDArray[np.int64]:
    """The number of each sample's noisy stretch, -1 where it is clean."""
    stretch = np.floor((at_s - CLEAN_S) / TURN_S).astype(np.int64)
    if continuous:
        return np.maximum(stretch, -1)
    return np.where((stretch >= 0) & (stretch % 2 == 0), stretch // 2, -1)


def _steps(noise: Noise, rows: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The noise's change from sample to sample at these indices; at its end it begins again, without an edge."""
    steps = np.diff(noise.samples_mv.astype(np.float64), axis=1, prepend=noise.samples_mv[:, :1])
    return steps[rows][:, at % steps.shape[1]]


def _trimmed_mean(rows: npt.NDArray[np.floating]) -> Levels:
    """Of each row [leads, n], without NaN and without a twentieth at each end; 0 of nothing."""
    means = np.zeros(len(rows))
    for i, row in enumerate(np.sort(rows, axis=1)):
        whole = row[~np.isnan(row)]
        cut = len(whole) // _TRIMMED
        means[i] = whole[cut : len(whole) - cut].mean() if len(whole) else 0.0
    return means
