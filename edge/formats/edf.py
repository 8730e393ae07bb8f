"""An EDF, EDF+ or BDF file in; its leads, read by edfio a few records at a time, out.

Source: Kemp and others, A simple format for exchange of digitized polygraphic recordings, 1992, and EDF+, 2003.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import finite, name_leads
from ..decode.csv import Columns
from ..decode.wfdb import FASTEST_HZ, mv_scale, voltage_leads
from .rates import Read, Series, merge
from .recording import Annotation, RecordingFile, damaged, library
from .tal import Tal, parse_tals
from .truncation import truncated

_FIXED = 256
"""Bytes of the header before, and for, each signal."""
_GROUP = 1 << 18
"""Bytes of records that are read at once."""
_ANNOTATIONS = (b"EDF Annotations", b"BDF Annotations")
_SHOWN = b"cardiogloss TAL "
"""edfio hides the bytes of a signal that is called after annotations."""
_LATE_S = 0.02
"""A record that begins so much early or late tells of the clock that stamps it, and not of samples that are missing."""


@dataclass(frozen=True, slots=True)
class _Records:
    """Where the data records lie, and all that edfio must know to read a few of them."""

    path: Path
    head: bytes
    size: int
    """Bytes of one."""
    count: int
    duration_s: float
    """Of one."""

    @property
    def at_once(self) -> int:
        return max(_GROUP // self.size, 1)

    def signals(self, begin: int, end: int) -> Sequence[Any]:
        """edfio's signals of the records from `begin` to before `end`."""
        with self.path.open("rb") as file:
            file.seek(len(self.head) + begin * self.size)
            data = file.read((end - begin) * self.size)
        if len(data) < (end - begin) * self.size:
            raise ConfigError("became shorter while it was read; copy it again")
        return _parse(self.head, data)


_Run = tuple[float, int, int]
"""Start in seconds, first record, and number of records, none of which is missing."""


@dataclass(frozen=True, slots=True)
class _Lead:
    """A signal that is a lead."""

    index: int
    name: str
    mv_per_unit: float
    per_record: int
    """Samples."""


def open_edf(path: Path, columns: Columns) -> RecordingFile:
    """Leads at a lower rate are brought to the fastest one's; what is missing between the records of EDF+D is a gap.

    Raises ConfigError for a header that is damaged or, unless `columns.partial`, promises more than the file holds, for
    a lead without a gain, and where no signal in a unit of voltage is a known lead.
    """
    records, signals = _open(path, columns.partial)
    tals = [index for index, signal in enumerate(signals) if signal.label == _SHOWN.decode().strip()]
    leads = _leads(signals, tals, columns.leads)
    _check_rates(leads, records.duration_s)
    runs, to_samples = [(0.0, 0, records.count)], None
    if records.head[192:197] in (b"EDF+D", b"BDF+D"):
        onset_s = _onsets(records, tals)
        runs = list(_runs(onset_s, records.duration_s, max(lead.per_record for lead in leads)))
        to_samples = partial(_to_samples, onset_s, runs, records.duration_s)
    series = [_series(records, group, run) for run in runs for group in _by_rate(leads)]
    return merge(path.stem, series, lambda: _annotations(records, tals, to_samples))


def _open(path: Path, cut: bool) -> tuple[_Records, Sequence[Any]]:
    """The records and, without their samples, the signals."""
    with path.open("rb") as file:
        fixed = file.read(_FIXED)
        signals = _number(fixed[252:256], "number of signals")
        head = fixed + file.read(_FIXED * max(int(signals), 0))
        size = file.seek(0, 2)
    if not (1 <= signals <= 9999 and len(head) == _FIXED * (1 + signals) == _number(fixed[184:192], "length of the header")):
        raise ConfigError("its header is damaged or cut short; copy it again")
    duration_s = _number(fixed[244:252], "duration of a record")
    if not duration_s > 0:
        raise ConfigError("its records last no time, so it holds annotations only; give the file with the signals")
    head = _revealed(head, int(signals))
    parsed = _parse(head, b"")
    with damaged("edfio"):
        samples = [signal.samples_per_data_record for signal in parsed]
    if min(samples) < 0 or not any(samples):
        raise ConfigError(f"its header gives {min(samples)} samples to a record of a signal; mend it or copy the file again")
    record = sum(samples) * (3 if head[:1] == b"\xff" else 2)
    held = (size - len(head)) // record
    promised = int(_number(fixed[236:244], "number of records"))
    if promised > held and not cut:
        raise truncated(held * duration_s, promised * duration_s)
    # A recorder that was cut off leaves -1.
    count = held if promised < 0 else min(promised, held)
    if not count:
        raise ConfigError("holds no record; export or copy it again")
    return _Records(path, head, record, count, duration_s), parsed


def _number(field: bytes, what: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"its header gives a {what} of {field.decode('latin-1').strip()!r}; mend it or copy the file again")
    return value


def _revealed(head: bytes, signals: int) -> bytes:
    """The header by which edfio counts the records itself and shows the bytes of annotations."""
    labels = [head[begin : begin + 16] for begin in range(_FIXED, _FIXED + 16 * signals, 16)]
    shown = [_SHOWN if label.strip() in _ANNOTATIONS else label for label in labels]
    return b"".join([head[:236], b"-1      ", head[244:_FIXED], *shown, head[_FIXED + 16 * signals :]])


def _parse(head: bytes, data: bytes) -> Sequence[Any]:
    edfio = library("edfio")
    read = edfio.read_bdf if head[:1] == b"\xff" else edfio.read_edf
    with damaged("edfio"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(head + data, header_encoding="latin-1").signals


def _leads(signals: Sequence[Any], tals: Sequence[int], given: Sequence[str]) -> list[_Lead]:
    ordinary = [index for index in range(len(signals)) if index not in tals]
    if not ordinary:
        raise ConfigError("holds annotations only; give the file with the signals")
    labels = [signals[index].label for index in ordinary]
    scales = [mv_scale(_unit(signals[index].physical_dimension)) for index in ordinary]
    names = voltage_leads(name_leads(labels, given), [scale is not None for scale in scales])
    found = zip(ordinary, names, scales, strict=True)
    return [_lead(signals[index], index, name, 1 / scale) for index, name, scale in found if scale and name in LEADS]


def _unit(text: str) -> str:
    """As text that came as UTF-8 or in the alphabet of DOS reads here, in which the other was meant."""
    return text.replace("\N{LATIN CAPITAL LETTER A WITH CIRCUMFLEX}", "").replace("\N{LATIN SMALL LETTER AE}", "u")


def _lead(signal: Any, index: int, name: str, mv_per_unit: float) -> _Lead:
    with damaged("edfio"):
        physical, digital, per_record = signal.physical_range, signal.digital_range, signal.samples_per_data_record
    if physical[0] == physical[1] or digital[0] >= digital[1] or not all(map(math.isfinite, physical)):
        raise ConfigError(
            f"lead {name} has no gain: its header sets {digital[0]} to {digital[1]} equal to {physical[0]:g} to {physical[1]:g} "
            f"{signal.physical_dimension}; mend the header or export it again"
        )
    return _Lead(index, name, mv_per_unit, per_record)


def _check_rates(leads: Sequence[_Lead], duration_s: float) -> None:
    for lead in leads:
        if not 0 < lead.per_record / duration_s <= FASTEST_HZ:
            rate_hz = lead.per_record / duration_s
            raise ConfigError(f"lead {lead.name} has a rate of {rate_hz:g} Hz; it must be positive and at most {FASTEST_HZ:g} Hz")


def _by_rate(leads: Sequence[_Lead]) -> list[list[_Lead]]:
    return [list(group) for _, group in groupby(sorted(leads, key=lambda lead: -lead.per_record), key=lambda lead: lead.per_record)]


def _series(records: _Records, leads: Sequence[_Lead], run: _Run) -> Series:
    start_s, first, count = run
    per_record = leads[0].per_record
    names = tuple(lead.name for lead in leads)
    return Series(names, per_record / records.duration_s, count * per_record, _reader(records, leads, first, count), start_s)


def _reader(records: _Records, leads: Sequence[_Lead], first: int, count: int) -> Read:
    """Reads many records at once, and keeps them for the next slice."""
    size = records.at_once * leads[0].per_record

    @lru_cache(maxsize=2)
    def group(number: int) -> Samples:
        begin = number * records.at_once
        signals = records.signals(first + begin, first + min(begin + records.at_once, count))
        with damaged("edfio"):
            return finite(np.stack([signals[lead.index].data * lead.mv_per_unit for lead in leads]))

    def read(begin: int, end: int) -> Samples:
        groups = [group(number) for number in range(begin // size, -(-end // size))]
        offset = begin // size * size
        return np.concatenate(groups, axis=1)[:, begin - offset : end - offset]

    return read


def _runs(onset_s: npt.NDArray[np.float64], duration_s: float, per_record: int) -> Iterator[_Run]:
    """Where they lie among the samples.

    The clock that stamps the records is followed: they last as long as their samples, and only what it is ahead counts.
    """
    ahead_s = np.diff(onset_s) - duration_s
    late_s = max(0.5 * duration_s / per_record, _LATE_S)
    if (ahead_s < -late_s).any():
        number = int(np.argmax(ahead_s < -late_s)) + 2
        raise ConfigError(f"its record {number} begins before the one before it ends; export it again, in the order of time")
    edges = [0, *(np.flatnonzero(ahead_s > late_s) + 1).tolist(), len(onset_s)]
    missing_s = np.cumsum([0.0, *ahead_s[[edge - 1 for edge in edges[1:-1]]].tolist()])
    for (first, last), gaps_s in zip(pairwise(edges), missing_s.tolist(), strict=True):
        yield first * duration_s + gaps_s, first, last - first


def _to_samples(onset_s: npt.NDArray[np.float64], runs: Sequence[_Run], duration_s: float, time_s: float) -> float:
    """A moment of the clock that stamps the records, among the samples."""
    record = max(int(np.searchsorted(onset_s, time_s, "right")) - 1, 0)
    start_s, first, _ = next(run for run in reversed(runs) if run[1] <= record)
    return round(start_s + (record - first) * duration_s + time_s - float(onset_s[record]), 6)


def _read_tals(records: _Records, index: int) -> Iterator[list[Tal]]:
    """Of each record."""
    for begin in range(0, records.count, records.at_once):
        end = min(begin + records.at_once, records.count)
        signal = records.signals(begin, end)[index]
        with damaged("edfio"):
            data = _bytes(signal.digital).reshape(end - begin, -1)
            yield from [parse_tals(record.tobytes()) for record in data]


def _bytes(digital: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """What lies in the file, where a digit of BDF takes three bytes."""
    raw = np.ascontiguousarray(digital).view(np.uint8)
    return raw if digital.dtype.itemsize == 2 else raw.reshape(-1, 4)[:, :3]


def _onsets(records: _Records, tals: Sequence[int]) -> npt.NDArray[np.float64]:
    """When each record begins, in seconds. Raises ConfigError where one does not say it."""
    firsts = [found[0].onset_s if found else math.nan for found in _read_tals(records, tals[0])] if tals else []
    onset_s = np.array(firsts, np.float64)
    if len(onset_s) < records.count or not np.isfinite(onset_s).all():
        raise ConfigError("is discontinuous (EDF+D), but does not say when each of its records begins; export it again as EDF+C")
    return onset_s


def _annotations(records: _Records, tals: Sequence[int], to_samples: Callable[[float], float] | None) -> Sequence[Annotation]:
    """In seconds since the first record, or as `to_samples` places them."""
    try:
        lists = [found for index in tals for found in _read_tals(records, index)]
    except ConfigError:
        return ()
    origin_s = lists[0][0].onset_s if lists and lists[0] and math.isfinite(lists[0][0].onset_s) else 0.0
    place = to_samples or (lambda onset_s: onset_s - origin_s)
    notes = [
        Annotation(at_s, text, None if tal.duration_s is None else at_s + tal.duration_s)
        for found in lists
        for tal in found
        if math.isfinite(tal.onset_s)
        for at_s in [place(tal.onset_s)]
        for text in filter(None, tal.texts)
    ]
    return sorted(notes, key=lambda note: note.at_s)
