"""A file in; whether it is a recording, and whether one was to be expected in it, out."""

from __future__ import annotations

import errno
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import standard_lead

from ..decode.csv import UTF_16, Columns, CsvDecoder
from ..formats.kinds import TEXT, kind_of
from ..formats.recording import readable
from ..transport.file import SIGNALS
from .wfdb_files import HEADER

_HEAD = 1 << 14
_TABLES = (".csv", ".tsv", ".txt")
_NO_TABLE = "is text without a column for a lead"
_PACKED = ("unpack it first", "decrypt it first")
"""How the reason ends where there may be a recording inside."""
_RECORDINGS = (".edf", ".bdf", ".dcm", ".ecg", ".xml", ".npy", ".npz", ".parquet", *SIGNALS)
"""A file with such a name that cannot be read is missed; another one is only no recording."""


def why_not(file: Path, columns: Columns, named: bool) -> str | None:
    """None for a recording; `named` says that the operator named the file itself."""
    if file.suffix.lower() == HEADER:
        return f"its ending is in upper case; rename it {readable(file.stem)}{HEADER}, and its signal file as it is named there"
    try:
        kind = kind_of(file)
        reason = None if kind is not TEXT else _no_table(file, columns, named)
    except ConfigError as error:
        reason = str(error)
    except OSError as error:
        return cannot(error)
    if reason and file.suffix.lower() in SIGNALS and not reason.endswith(_PACKED):
        return f"its header {readable(file.stem)}{HEADER} is missing; put it beside the signal file"
    return reason


def _no_table(file: Path, columns: Columns, named: bool) -> str | None:
    """None where leads are named at the head of its columns, or the operator's options make most of it numbers."""
    if not named and file.suffix.lower() not in _TABLES:
        return _NO_TABLE
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    if any(standard_lead(cell) for cell in _first_cells(head.splitlines())):
        return None
    decoder = CsvDecoder(columns)
    try:
        chunks = [*decoder.feed(head), *decoder.flush()]
    except ConfigError as error:
        return str(error) if named or _is_numbers(head) else _NO_TABLE
    most = float(np.mean([np.isfinite(chunk.samples_mv).mean() for chunk in chunks])) > 0.5
    return None if named or most else _NO_TABLE


def cannot(error: OSError) -> str:
    """In words."""
    mend = "its links lead in a circle" if error.errno == errno.ELOOP else "check its permissions"
    return f"cannot be read ({error.strerror}); {mend}"


def is_missed(file: Path, why: str) -> bool:
    """Whether a recording was to be expected in what is none."""
    endings = [ending.lower() for ending in file.suffixes]
    last = endings[-1] if endings else ""
    if why.endswith(_PACKED) and (any(ending in _RECORDINGS for ending in endings) or (last == ".zip" and _holds_recording(file))):
        return True
    return last in _RECORDINGS or (last in _TABLES[:2] and why != _NO_TABLE)


def _holds_recording(packed: Path) -> bool:
    """Whether a ZIP archive lists a file with such a name."""
    try:
        with zipfile.ZipFile(packed) as opened:
            return any(Path(name).suffix.lower() in _RECORDINGS for name in opened.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _first_cells(lines: Sequence[bytes]) -> list[str]:
    for line in lines:
        text = line.decode("utf-8-sig", errors="replace").strip()
        if text and not text.startswith("#"):
            separator = next((mark for mark in ";\t," if mark in text), None)
            return [cell.strip().strip("\"'") for cell in text.split(separator)]
    return []


def _is_numbers(head: bytes) -> bool:
    """Whether what stands below the words at the head of a table is numbers, or times of the day, nearly throughout."""
    text = head.decode("utf-16" if head[:2] in UTF_16 else "utf-8", "replace")
    rows = [[_is_number(cell) for cell in re.split(r"[;,\s]+", line) if cell] for line in text.splitlines() if line[:1] != "#"]
    told = [cell for row in rows if any(row) for cell in row]
    return bool(told) and sum(told) > 0.9 * len(told)


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip("\"'").replace(":", ""))
    except ValueError:
        return False
    return True
