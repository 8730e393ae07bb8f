"""The annotation file of a WFDB record in; its reference beats, rhythm episodes and noise, in seconds, out.

Source: the codes of the WFDB Applications Guide, annot(5), as the MIT-BIH Arrhythmia Database (Moody and Mark 2001) uses them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from .interval import Interval, Intervals, union, within

Seconds = npt.NDArray[np.float64]

BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
VENTRICULAR = frozenset("VrE")
"""The symbols of AAMI class V: premature ventricular beats, those on a T wave too, and ventricular escape beats."""

FIBRILLATION = frozenset({"VFL", "VF", "VFIB"})
"""The rhythm notes of ventricular flutter and fibrillation, the latter as the MIT-BIH Malignant Ventricular Ectopy Database has them."""

STRETCH_S = 10.0
"""Ventricular beats are judged in stretches as long as the model's window."""

RHYTHMS = {
    "atrial_fibrillation": "AFIB",
    "atrial_flutter": "AFL",
    "supraventricular_tachycardia": "SVTA",
    "sinus_bradycardia": "SBR",
    "paced_rhythm": "P",
    "ventricular_tachycardia": "VT",
}
"""Finding -> the rhythm note that is its truth."""

VENTRICULAR_BEATS = "premature_ventricular_complexes"

JUDGED = frozenset({*RHYTHMS, VENTRICULAR_BEATS})
"""The findings that annotations can judge."""

KIN = {"atrial_fibrillation": "atrial_flutter", "atrial_flutter": "atrial_fibrillation"}
"""Taken one for the other, an alarm is neither right nor false: it is counted by itself."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What cardiologists said of one recording."""

    duration_s: float
    beats_s: Seconds
    ventricular_s: Seconds
    """Those of the beats that are ventricular."""
    rhythms: tuple[tuple[str, Interval], ...]
    """Code without its parenthesis, and where it holds, in order. Nothing is known before the first."""
    fibrillation: Intervals
    """Ventricular flutter or fibrillation, where no beats are told."""
    noise: Intervals
    """Where at least one lead was called noisy."""

    def judges(self, finding: str) -> bool:
        """Whether an alarm for this finding can be called right or false here."""
        return bool(self.rhythms) if finding in RHYTHMS else finding == VENTRICULAR_BEATS and self.beats_s.size > 0

    def episodes(self, finding: str) -> Intervals:
        """Where the finding is annotated, in order.

        A rhythm's episodes are as annotated: an interruption, however short, ends one. An episode of
        `premature_ventricular_complexes` is a run of consecutive stretches of ten seconds, counted from
        the beginning of the recording, each of which holds at least one ventricular beat.
        """
        if finding == VENTRICULAR_BEATS:
            return _stretches(self.ventricular_s, self.duration_s)
        return union(interval for code, interval in self.rhythms if code == RHYTHMS.get(finding))


def read_truth(path: Path, duration_s: float, annotator: str = "atr") -> Truth:
    """The annotations beside a record, named without ending. Raises ConfigError where there are none, or they are damaged."""
    check_annotations(path, annotator)
    notes = _read(path, annotator)
    at_s = np.asarray(notes.sample, np.float64) / float(notes.fs)
    is_beat = np.array([symbol in BEATS for symbol in notes.symbol], np.bool_)
    is_ventricular = np.array([symbol in VENTRICULAR for symbol in notes.symbol], np.bool_)
    rhythms = _rhythms(at_s, notes, duration_s)
    flutter = _between(at_s, notes.symbol, duration_s) + tuple(one for code, one in rhythms if code in FIBRILLATION)
    noise = _noise(at_s, notes, duration_s)
    return Truth(duration_s, at_s[is_beat], at_s[is_ventricular], rhythms, union(flutter), noise)


def check_annotator(name: str) -> None:
    """Raises ConfigError for what can be no annotator's name (WFDB Applications Guide)."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name in ("hea", "dat"):
        raise ConfigError(
            f"--annotator {name!r} is the ending of no annotation file; name it without its dot, in letters, digits and _, as in atr"
        )


def check_annotations(path: Path, annotator: str) -> None:
    """Raises ConfigError where a record has none of this name."""
    file = path.with_name(f"{path.name}.{annotator}")
    if not file.is_file():
        raise ConfigError(f"{file}: no such annotations; only an annotated record can be judged, or name others by --annotator")


def _read(path: Path, annotator: str) -> Any:
    try:
        import wfdb
    except ImportError as error:
        raise ConfigError("reading annotations needs the wfdb package: pip install 'cardiogloss[formats]'") from error
    try:
        notes = wfdb.rdann(str(path), annotator)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}.{annotator}: the wfdb package cannot read it ({error}); copy the annotations again") from error
    if not notes.fs:
        raise ConfigError(f"{path}.{annotator}: neither it nor the header tells its sampling rate; mend the header")
    return notes


def _rhythms(at_s: Seconds, notes: Any, end_s: float) -> tuple[tuple[str, Interval], ...]:
    """Each rhythm holds until the next is named."""
    named = [
        (time, text.strip("(\0 "))
        for time, symbol, text in zip(at_s.tolist(), notes.symbol, notes.aux_note, strict=True)
        if symbol == "+" and text.startswith("(")
    ]
    return tuple((code, Interval(start, stop)) for (start, code), (stop, _) in pairwise([*named, (end_s, "")]) if stop > start)


def _between(at_s: Seconds, symbols: Sequence[str], end_s: float) -> Intervals:
    """From each `[` to its `]`."""
    opened = [time for time, symbol in zip(at_s.tolist(), symbols, strict=True) if symbol == "["]
    closed = [time for time, symbol in zip(at_s.tolist(), symbols, strict=True) if symbol == "]"]
    return tuple(Interval(start, min((stop for stop in closed if stop > start), default=end_s)) for start in opened)


def _noise(at_s: Seconds, notes: Any, end_s: float) -> Intervals:
    """A `~` holds until the next; its subtype has a bit for each noisy lead, or is negative where nothing can be read."""
    marks = [
        (time, bool(subtype))
        for time, symbol, subtype in zip(at_s.tolist(), notes.symbol, np.asarray(notes.subtype).tolist(), strict=True)
        if symbol == "~"
    ]
    return union(Interval(start, stop) for (start, noisy), (stop, _) in pairwise([*marks, (end_s, False)]) if noisy)


def _stretches(at_s: Seconds, duration_s: float) -> Intervals:
    first_s = STRETCH_S * np.unique(at_s // STRETCH_S)
    return within(union(Interval(start, start + STRETCH_S) for start in first_s.tolist()), Interval(0.0, duration_s))
