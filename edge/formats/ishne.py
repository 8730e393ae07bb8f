"""An ISHNE Holter file in; its leads, read in slices, and the beats of the annotation file beside it, out.

Source: Badilini, The ISHNE Holter standard output file format, 1998, and the THEW annotation format.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import finite, name_leads
from ..decode.csv import Columns
from .rates import Series, merge
from .recording import Annotation, RecordingFile
from .truncation import truncated

_HEADER = np.dtype(
    {
        "names": ["checksum", "text_bytes", "samples", "offset", "leads", "codes", "nv", "rate_hz"],
        "formats": ["<u2", "<i4", "<i4", "<i4", "<i2", ("<i2", 12), ("<i2", 12), "<i2"],
        "offsets": [8, 10, 14, 22, 156, 158, 206, 272],
        "itemsize": 522,
    }
)
_CHECKED_FROM = 10
_CHECKSUM_SEED = 0xFFFF
_NAMES = ("unknown", "bipolar", "X", "Y", "Z", "I", "II", "III", "aVR", "aVL", "aVF", *LEADS[6:], "ES", "AS", "AI")
"""By their codes."""
_MOST_LEADS = 12
_NV_PER_MV = 1e6

_NOTE = np.dtype([("label", "S1"), ("internal", "S1"), ("samples", "<u2")])
_PAUSE = b"!"
"""A label after which the standard loses count of the samples."""


@dataclass(frozen=True, slots=True)
class _Header:
    rate_hz: float
    codes: tuple[int, ...]
    nv: tuple[int, ...]
    """Of one digit, for each lead."""
    samples: int
    offset: int
    """Of the first sample, in bytes."""


def open_ishne(path: Path, columns: Columns) -> RecordingFile:
    """Raises ConfigError for a damaged or truncated file, and where none of its leads is a known one: then --leads names them."""
    header = _read_header(path, columns.partial)
    found = [_NAMES[code] if 0 <= code < len(_NAMES) else f"code {code}" for code in header.codes]
    names = name_leads(found, columns.leads)
    rows = [row for row, name in enumerate(names) if name in LEADS]
    for row in rows:
        if header.nv[row] <= 0:
            raise ConfigError(f"lead {names[row]} has no gain: its header gives {header.nv[row]} nV a digit; export it again")
    mv = np.array([header.nv[row] / _NV_PER_MV for row in rows])[:, None]

    def read(begin: int, end: int) -> Samples:
        frames = np.fromfile(path, "<i2", (end - begin) * len(names), offset=header.offset + 2 * begin * len(names))
        if len(frames) < (end - begin) * len(names):
            raise ConfigError("became shorter while it was read; copy it again")
        return finite(frames.reshape(-1, len(names)).T[rows] * mv)

    leads = tuple(names[row] for row in rows)
    return merge(path.stem, [Series(leads, header.rate_hz, header.samples, read)], lambda: _annotations(path, header.rate_hz))


def _read_header(path: Path, partial: bool) -> _Header:
    with path.open("rb") as file:
        fixed = file.read(_HEADER.itemsize)
        if len(fixed) < _HEADER.itemsize:
            raise ConfigError("is cut short within its header; copy it again")
        fields = np.frombuffer(fixed, _HEADER)[0]
        text = file.read(max(int(fields["offset"]) - len(fixed), 0))
        size = file.seek(0, 2)
    checksum = binascii.crc_hqx(fixed[_CHECKED_FROM:] + text, _CHECKSUM_SEED)
    if checksum != fields["checksum"]:
        raise ConfigError(f"its header is damaged: its checksum is {checksum:04x} and should be {fields['checksum']:04x}; copy it again")
    leads, rate_hz, offset = int(fields["leads"]), int(fields["rate_hz"]), int(fields["offset"])
    if not 1 <= leads <= _MOST_LEADS or rate_hz <= 0 or offset < _HEADER.itemsize:
        raise ConfigError(f"its header gives {leads} leads at {rate_hz} Hz from byte {offset}; export it again")
    samples = _samples(int(fields["samples"]), max(size - offset, 0) // 2, leads)
    whole = max(size - offset, 0) // 2 // leads
    if samples > whole and not partial:
        raise truncated(whole / rate_hz, samples / rate_hz, "up to ")
    samples = min(samples, whole)
    return _Header(rate_hz, tuple(fields["codes"][:leads].tolist()), tuple(fields["nv"][:leads].tolist()), samples, offset)


def _samples(promised: int, held: int, leads: int) -> int:
    """Of each lead. The standard leaves open whether a header counts them for one lead or for all, and both are met."""
    whole = held // leads
    counts_all = promised % leads == 0 and whole * leads <= promised <= held
    return whole if promised <= 0 or counts_all else promised


def _annotations(path: Path, rate_hz: float) -> Sequence[Annotation]:
    """Each beat as its label, up to the first pause; none where the file beside it is missing or damaged."""
    beside = path.with_suffix(".ann")
    if not beside.is_file():
        return ()
    data = beside.read_bytes()
    if len(data) < _HEADER.itemsize or not data.startswith(b"ANN"):
        return ()
    body = data[_HEADER.itemsize + max(int(np.frombuffer(data, _HEADER, 1)[0]["text_bytes"]), 0) :]
    if len(body) < 4:
        return ()
    notes = np.frombuffer(body, _NOTE, (len(body) - 4) // _NOTE.itemsize, 4)
    paused = np.flatnonzero(notes["label"] == _PAUSE)
    notes = notes[: paused[0]] if len(paused) else notes
    at_s = (int.from_bytes(body[:4], "little") + np.cumsum(notes["samples"], dtype=np.int64)) / rate_hz
    return [Annotation(at, label.decode("latin-1")) for at, label in zip(at_s.tolist(), notes["label"].tolist(), strict=True)]
