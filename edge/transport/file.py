"""The path of a recording in; the `RecordingFile` of its format, found by content, out."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

from kernels.findings import ConfigError

from ..decode.chunk import UnknownLeads
from ..decode.csv import Columns
from ..decode.device import Device
from ..decode.wfdb import FASTEST_HZ, mv_scale
from ..formats.kinds import kind_of
from ..formats.recording import RecordingFile as RecordingFile
from ..formats.text import DecodedFile
from ..formats.wfdb import open_wfdb

SIGNALS = (".hea", ".dat", ".mat")
"""Endings that may be left out of the name of a WFDB record."""


def open_recording(path: Path, columns: Columns = Columns(), partial: bool = False, mixed: bool = False) -> RecordingFile:
    """A WFDB record (its .hea, .dat or bare name), or a file of any format in `formats.kinds`.

    Raises ConfigError with the way to mend it for anything else, and for a truncated file unless `partial`. Alone, a
    recording that says itself what `columns` say raises; among `mixed` ones, `columns` are only for those that do not,
    and their leads only for those that name none.
    """
    try:
        columns = replace(columns, partial=partial)
        return _open_mixed(path, columns) if mixed else _open(path, columns)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def format_of(path: Path) -> str:
    """In words, of a recording that was opened."""
    return "WFDB" if path.suffix in SIGNALS else kind_of(path).title


def open_capture(path: Path, device: Device, columns: Columns = Columns()) -> RecordingFile:
    """What a serial device sent, raw. Raises ConfigError where there is no such file, or the device cannot be so."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the raw bytes of a {device.title}")
    if device.by_message:
        raise ConfigError(f"--device {device.name} comes in whole messages, which a file does not keep apart; name a serial device")
    if columns.mv_per_unit != 1.0:
        raise ConfigError("--unit is for CSV files; the device says its own, so leave it out")
    wiring = device.wire(columns.leads, columns.rate_hz)
    return DecodedFile(
        path, partial(device.decoder, wiring), f"nothing in it comes from {device.title}; `cardiogloss devices` names others"
    )


def _open_mixed(path: Path, columns: Columns) -> RecordingFile:
    if path.suffix not in SIGNALS and not kind_of(path).says_all:
        return _open(path, columns)
    try:
        return _open(path, Columns(partial=columns.partial))
    except UnknownLeads:
        return _open(path, Columns(columns.leads, partial=columns.partial))


def _open(path: Path, columns: Columns) -> RecordingFile:
    if path.is_dir():
        raise ConfigError("is a folder; name one recording in it, or give --out for all of them")
    bare = path.with_suffix("") if path.suffix in SIGNALS else path
    header = bare.with_name(bare.name + ".hea")
    if header.is_file() and (path.suffix in SIGNALS or not path.is_file()):
        if columns.rate_hz is not None or columns.mv_per_unit != 1.0:
            raise ConfigError("--rate and --unit are for CSV files; the header of a WFDB record says both, so leave them out")
        return open_wfdb(header, columns.leads, columns.partial)
    if not path.is_file():
        if path.suffix == ".hea" or any(bare.with_name(bare.name + ending).is_file() for ending in SIGNALS):
            raise ConfigError(f"its header {header.name} is missing; put it beside the signal file")
        raise ConfigError("no such recording; give a WFDB record (name or .hea), or a file of another format")
    try:
        kind = kind_of(path)
    except ConfigError:
        if path.suffix in SIGNALS:
            raise ConfigError(f"its header {header.name} is missing; put it beside the signal file") from None
        raise
    return kind.open(path, columns)


def columns_of(leads: str, rate: float | None, unit: str) -> Columns:
    """What --leads, --rate and --unit say. Raises ConfigError where they cannot be so."""
    if rate is not None and not 0 < rate <= FASTEST_HZ:
        raise ConfigError(f"--rate {rate:g} must be positive and at most {FASTEST_HZ:g}")
    return Columns(lead_names(leads), rate, _mv_per_unit(unit))


def lead_names(text: str) -> tuple[str, ...]:
    """`I, II,-` or `ECG=I, EKG2=V5` -> the names or pairs, as --leads has them."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _mv_per_unit(unit: str) -> float:
    units_in_a_mv = mv_scale(unit)
    if units_in_a_mv is not None:
        return 1 / units_in_a_mv
    try:
        scale = float(unit)
    except ValueError:
        scale = math.nan
    if not 0 < abs(scale) < math.inf:
        raise ConfigError(f"--unit {unit!r} is unknown; allowed are mV, uV, V, or the mV of one unit as a number")
    return scale
