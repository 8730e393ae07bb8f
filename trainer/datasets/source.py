"""A path inside a dataset folder in; the rows of its tables and the samples of its WFDB records out, one at a time."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import wfdb

from kernels.findings import ConfigError
from kernels.signal import Samples, standard_lead, to_standard_leads

# What wfdb was seen to raise on headers and signal files that are cut short, empty or not WFDB at all.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError)

_MV_PER_UNIT = {"v": 1000.0, "uv": 0.001, "µv": 0.001, "nv": 1e-6}

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Waveform:
    """The samples of one record and the comments of its header."""

    samples_mv: Samples
    """[12, n] in the order of `LEADS`, NaN where a lead is absent."""
    rate_hz: float
    comments: tuple[str, ...]
    amplitude_known: bool


def read_waveform(path: Path, leads: Sequence[str] = ()) -> Waveform | None:
    """A WFDB record by its path without extension; None and a warning that names it where it is missing or damaged.

    `leads` takes the place of the names in the header.
    """
    return undamaged(path, lambda name: _waveform(name, leads))


def undamaged(path: Path, read: Callable[[str], Read]) -> Read | None:
    """What `read` makes of a record; None and a warning that names it where it is missing or damaged."""
    try:
        return read(str(path))
    except _DAMAGE as error:
        skip(path, error)
        return None


def skip(path: Path, why: object) -> None:
    """Says in the log that a record is left out."""
    logging.getLogger(__name__).warning("skipped the record %s: %s", path, why)


def _waveform(name: str, leads: Sequence[str]) -> Waveform:
    record = wfdb.rdrecord(name)
    if len(record.p_signal) != record.sig_len:
        raise ValueError(f"it holds {len(record.p_signal)} of {record.sig_len} samples")
    leads = leads or [standard_lead(given) or given for given in record.sig_name]
    scale = np.array([_MV_PER_UNIT.get(unit.lower(), 1.0) for unit in record.units])
    samples = to_standard_leads((record.p_signal * scale).T.astype(np.float32), leads)
    return Waveform(samples, float(record.fs), tuple(record.comments), record.units[0] != "NU")


def record_paths(root: Path, dataset: str) -> Iterator[Path]:
    """The WFDB records below a folder, without extension. Raises ConfigError where there is none."""
    found = _headers(root) if root.is_dir() else iter(())
    first = next(found, None)
    if first is None:
        raise ConfigError(f"{root} holds no WFDB record (no .hea file); give the folder of {dataset}")
    for header in chain([first], found):
        yield header.with_suffix("")


def _headers(folder: Path) -> Iterator[Path]:
    """Those of a folder before those of its subfolders, each by name: only one folder's names are held at a time."""
    with os.scandir(folder) as entries:
        found = sorted((entry.is_dir(), entry.name) for entry in entries if entry.is_dir() or entry.name.endswith(".hea"))
    for is_folder, name in found:
        if is_folder:
            yield from _headers(folder / name)
        else:
            yield folder / name


def require(path: Path, kind: str) -> Path:
    """The same path. Raises ConfigError where there is no such file, so that its folder is not one of this kind."""
    if not path.is_file():
        raise ConfigError(f"{path.parent} is not a {kind} folder: {path.name} is missing; give the folder that holds it")
    return path


def rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV table by its header. Raises ConfigError naming a needed column that it lacks."""
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        absent = [name for name in needed if name not in (table.fieldnames or ())]
        if absent:
            raise ConfigError(f"{path} has no column {absent[0]!r}; give the file as it was released")
        yield from table
