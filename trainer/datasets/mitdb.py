"""A folder of the MIT-BIH Arrhythmia Database in; its records in ten-second windows, with rhythm and beat classes, out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import wfdb

from ..records import FOLDS, Recording
from ..text import read_prompts
from .dataset import Dataset, Label, Task
from .source import Waveform, read_waveform, record_paths, undamaged
from .vocabulary import scp_task, snomed

WINDOW_S = 10.0

_BEATS = {symbol: name for name, symbols in {"N": "NLRej.", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ?"}.items() for symbol in symbols}
_RHYTHMS = {"AFIB": "AFIB", "AFL": "AFLT", "SBR": "SBRAD", "B": "BIGU", "T": "TRIGU", "P": "PACE"}

# Records 201 and 202 are one patient, whom the split of de Chazal et al. puts on both sides.
# The split is kept, so that figures can be compared; `patient` tells, so that intervals are drawn right.
_SAME_PATIENT = {"202": "201"}

_DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
_PACED = (102, 104, 107, 217)
_HELD_OUT = frozenset(map(str, _DS2 + _PACED))
"""DS2 of de Chazal et al. 2004, and the four paced records that they leave out."""


def fold_of_record(name: str) -> int:
    """10 for DS2 of de Chazal et al. 2004 and the paced records; 1 to 9, by patient, for the rest, which is DS1."""
    return FOLDS if name in _HELD_OUT else zlib.crc32(_patient(name).encode()) % (FOLDS - 1) + 1


def read_mitdb(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """Ten-second windows of the records of these folds (Moody and Mark 2001).

    The codes of a window are the rhythm that fills most of it, and `beat:` with each AAMI class (EC57: N, S,
    V, F, Q) of which it holds at least one beat. Raises ConfigError where the folder holds no record.
    """
    for path in record_paths(root, "the MIT-BIH Arrhythmia Database"):
        if fold_of_record(path.name) in folds:
            yield from _read_windows(path)


def _read_windows(path: Path) -> Iterator[Recording]:
    waveform = read_waveform(path)
    notes = undamaged(path, lambda name: wfdb.rdann(name, "atr"))
    if waveform is None or notes is None:
        return
    rhythm = _rhythm(notes, waveform.samples_mv.shape[1])
    step = round(WINDOW_S * waveform.rate_hz)
    for start in range(0, len(rhythm) - step + 1, step):
        codes = (*_most_common(rhythm[start : start + step]), *_beat_classes(notes, start, start + step))
        yield _window(path.name, waveform, start, start + step, codes)


def _window(name: str, waveform: Waveform, start: int, stop: int, codes: tuple[str, ...]) -> Recording:
    part = waveform.samples_mv[:, start:stop].copy()
    before = f"{name}+{2 * start - stop}" if start else None
    return Recording(f"{name}+{start}", part, waveform.rate_hz, "", codes, (), _patient(name), fold_of_record(name), after=before)


def _patient(name: str) -> str:
    return _SAME_PATIENT.get(name, name)


def _rhythm(notes: Any, length: int) -> npt.NDArray[np.str_]:
    """The name of the rhythm at each sample [length], empty before the first is named."""
    rhythm = np.full(length, "", dtype="<U8")
    for at, text in zip(notes.sample, notes.aux_note, strict=True):
        if text.startswith("("):
            rhythm[at:] = text.strip("(\0")
    return rhythm


def _most_common(rhythm: npt.NDArray[np.str_]) -> tuple[str, ...]:
    names, counts = np.unique(rhythm, return_counts=True)
    name = str(names[counts.argmax()])
    return (name,) if name else ()


def _beat_classes(notes: Any, start: int, stop: int) -> list[str]:
    """The classes of the beats from `start` to before `stop`, in the order of EC57."""
    first, last = np.searchsorted(notes.sample, (start, stop))
    found = {_BEATS.get(symbol) for symbol in notes.symbol[first:last]}
    return [f"beat:{name}" for name in "NSVFQ" if name in found]


def _tasks(root: Path) -> list[Task]:
    """Rhythms by the words of PTB-XL; beat classes, which a window carries where any one of its beats does."""
    prompts = read_prompts()
    ways = {"S": prompts["PAC"], "V": prompts["PVC"], "F": snomed()["FB"].prompts, "Q": (*prompts["PACE"], "paced beats")}
    beats = (Label(name, frozenset([f"beat:{name}"]), (way,)) for name, way in ways.items())
    return [scp_task("rhythm", _RHYTHMS), Task("beats", tuple(beats))]


def _concepts(root: Path) -> dict[str, str]:
    """Class Q is left as it is: it holds beats that nobody could class besides the paced ones."""
    same = {"AB": "AB", "NOD": "AVJR", "VFL": "VFL", "beat:F": "FB"}
    scp = {"N": "SR", "PREX": "WPW", "BII": "2AVB", "SVTA": "SVTAC", "beat:S": "PAC", "beat:V": "PVC"}
    others = {code: f"mitdb:{code}" for code in ("VT", "IVR", "beat:N", "beat:Q")}
    return _RHYTHMS | scp | {code: snomed()[name].concept for code, name in same.items()} | others


MITDB = Dataset(read_mitdb, _tasks, _concepts)
