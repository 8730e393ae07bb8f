"""An XML file in; its elements, and the recording that blocks of samples found among them make, out."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import LONGEST_GAP_S, finite, name_leads
from ..decode.csv import Columns
from ..decode.wfdb import FASTEST_HZ, voltage_leads
from .recording import Annotation, Slices, Stretch, damaged, library

LARGEST = 32 << 20
"""Bytes of a file, all of which are held at once: 18 minutes of twelve leads at 500 Hz as decimals."""
MOST_SIGNALS = 64

UNKNOWN_GAP_S = 1.0
"""Between two blocks that do not tell how much time lies between them."""

_EMPTY = "holds no samples; export it again, with its rhythm leads"
_LARGEST_NUMBER = 1e9
_PIECE = 1 << 17

_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MARKS |= {bytes([first, 0]): "utf-16-le" for first in b"< \t\r\n"} | {bytes([0, first]): "utf-16-be" for first in b"< \t\r\n"}
_DECLARED = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']((?:iso-?8859|windows|cp|gb|big5|shift|euc)[\w.-]*)", re.IGNORECASE)
_PROLOGUE = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->|<!(?i:DOCTYPE)[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
_ROOT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)(?=[\s>/])")

Digits = npt.NDArray[np.float64]


def decode(data: bytes) -> str:
    """The characters of XML in UTF-8, UTF-16 with or without a mark, or a declared code page; in Latin-1 else, whatever it declares."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        declared = _DECLARED.match(data)
    try:
        return data.decode(declared[1].decode() if declared else "latin-1", errors="replace")
    except LookupError:
        return data.decode("latin-1")


def root_name(text: str) -> str | None:
    """What the first element is called, without its namespace, behind declarations and comments; None where the text is no XML."""
    at = 0
    while passed := _PROLOGUE.match(text, at):
        at = passed.end()
    root = _ROOT.match(text, at)
    return root[1] if root else None


def read_xml(path: Path) -> Element:
    """The root of a document, the names of its elements without their namespaces.

    Raises ConfigError for one that is damaged or too large, and for one that declares entities, by which a document
    may fetch other files or fill the memory.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ConfigError(
            f"is {size / 2**20:.0f} MB of XML, of which at most {LARGEST >> 20} are read; export so long a recording as EDF, ISHNE or WFDB"
        )
    root = _parse(decode(path.read_bytes()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _parse(text: str) -> Element:
    parser: Any = library("defusedxml.ElementTree").DefusedXMLParser(target=TreeBuilder())
    try:
        with damaged("the XML parser"):
            parser.feed(text)
            return parser.close()
    except ParseError as error:
        raise ConfigError(f"is damaged XML ({error}); copy it again") from error


def inner(element: Element | None, path: str = ".") -> str:
    """The text of the first element there; empty where there is none."""
    found = None if element is None else element.find(path)
    return "" if found is None else " ".join("".join(found.itertext()).split())


def number(text: str, what: str) -> float:
    """Raises ConfigError for what is no number, or one that no recording has."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) < _LARGEST_NUMBER:
        raise ConfigError(f"gives {what} as {text[:40]!r}, which must be a number; export it again")
    return value


def positive(text: str, what: str) -> float:
    """The same for what must be above 0, as a rate or a gain must."""
    value = number(text, what)
    if not value > 0:
        raise ConfigError(f"gives {what} as {text[:40]!r}, which must be above 0; export it again")
    return value


def digits(text: str, what: str) -> Digits:
    """Decimals between blanks or commas; NaN for one that no converter gives."""
    pieces = re.findall(rf"(?s).{{1,{_PIECE}}}\S*", text.replace(",", " "))
    try:
        found = np.concatenate([np.empty(0), *(np.array(piece.split(), np.float64) for piece in pieces)])
    except ValueError as error:
        raise ConfigError(f"holds a word among the samples of {what} that is no number ({str(error)[-40:]}); copy it again") from error
    return np.where(np.abs(found) < _LARGEST_NUMBER, found, np.nan)


def payload(text: str, what: str) -> bytes:
    """The bytes of Base64."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ConfigError(f"holds damaged Base64 as the samples of {what} ({error}); copy it again") from error


def integers(data: bytes, kind: str, what: str) -> Digits:
    """Whole numbers of a NumPy kind, as `<i2`."""
    if len(data) % np.dtype(kind).itemsize:
        raise ConfigError(f"holds {len(data)} bytes as the samples of {what}, which are no whole samples; copy it again")
    return np.frombuffer(data, kind).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Block:
    """Signals that were recorded together, at one rate."""

    rate_hz: float
    names: Sequence[str]
    signals_mv: Sequence[Digits | None]
    """A row for each name, not all need be of one length; None for a signal that is no voltage."""
    start_s: float | None = None
    """On a clock that all blocks of the recording share; None where the block does not tell."""

    @property
    def samples(self) -> int:
        """Of the longest signal."""
        return max((len(signal) for signal in self.signals_mv if signal is not None), default=0)

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Each name, with how often it stood before."""
        return [(name, list(self.names[:i]).count(name)) for i, name in enumerate(self.names)]


_Placed = tuple[int, Block]
_Rows = dict[tuple[str, int], int]
"""The row of a lead by the key of its signal."""


def join(name: str, blocks: Sequence[Block], columns: Columns, notes: Sequence[Annotation] = ()) -> Slices:
    """One recording: a signal is NaN where a block lacks it, and what lies between blocks is a gap.

    A block whose time is unknown, or cannot be right, follows the others after `UNKNOWN_GAP_S`. Raises ConfigError
    where nothing is to be read, leads stay unknown or rates differ.
    """
    leads, rows = _rows([block for block in blocks if block.names], columns)
    blocks = [block for block in blocks if block.samples]
    rate_hz = _common_rate(blocks)
    stretches = [_stretch(run, rows) for run in _runs(_place(blocks))]
    if not any(np.isfinite(stretch.read(0, stretch.samples)).any() for stretch in stretches):
        raise ConfigError("holds no valid sample in any lead; export it again")
    return Slices(name, rate_hz, leads, stretches, lambda: notes)


def _common_rate(blocks: Sequence[Block]) -> float:
    rates = sorted({block.rate_hz for block in blocks})
    if not rates:
        raise ConfigError(_EMPTY)
    if len(rates) > 1:
        raise ConfigError(f"holds leads at several rates ({', '.join(f'{rate:g}' for rate in rates)} Hz); export them one a file")
    if not 0 < rates[0] <= FASTEST_HZ:
        raise ConfigError(f"gives a rate of {rates[0]:g} Hz, which must be above 0 and at most {FASTEST_HZ:g}; export it again")
    return rates[0]


def _rows(blocks: Sequence[Block], columns: Columns) -> tuple[tuple[str, ...], _Rows]:
    if not blocks:
        raise ConfigError(_EMPTY)
    if len(set().union(*(block.names for block in blocks))) > MOST_SIGNALS or max(len(block.names) for block in blocks) > MOST_SIGNALS:
        raise ConfigError(f"holds more than {MOST_SIGNALS} signals; export the leads alone")
    pairs = [pair for block in blocks for pair in zip(block.keys, block.signals_mv, strict=True)]
    keys = list(dict.fromkeys(key for key, _ in pairs))
    voltage = {key for key, signal in pairs if signal is not None}
    names = voltage_leads(name_leads([name for name, _ in keys], columns.leads), [key in voltage for key in keys])
    known = [(key, name) for key, name in zip(keys, names, strict=True) if name in LEADS]
    return tuple(name for _, name in known), {key: row for row, (key, _) in enumerate(known)}


def _place(blocks: Sequence[Block]) -> list[_Placed]:
    """The index of the first sample of each, in their order, the first at 0."""
    timed = sorted((block for block in blocks if block.start_s is not None), key=lambda block: block.start_s or 0)
    placed: list[_Placed] = []
    ends: dict[tuple[str, int], int] = {}
    lost = [block for block in blocks if block.start_s is None]
    for block in timed:
        at = round(((block.start_s or 0) - (timed[0].start_s or 0)) * block.rate_hz)
        collides = any(ends.get(key, 0) > at for key in block.keys)
        if collides or at - max(ends.values(), default=0) > LONGEST_GAP_S * block.rate_hz:
            lost.append(block)
        else:
            placed.append((at, block))
            ends |= dict.fromkeys(block.keys, at + block.samples)
    return placed + _append(lost, max(ends.values(), default=None))


def _append(lost: Sequence[Block], end: int | None) -> list[_Placed]:
    placed = []
    for block in lost:
        at = 0 if end is None else end + max(round(UNKNOWN_GAP_S * block.rate_hz), 1)
        placed.append((at, block))
        end = at + block.samples
    return placed


def _runs(placed: Sequence[_Placed]) -> Iterator[Sequence[_Placed]]:
    """Blocks between which no time is missing."""
    run: list[_Placed] = []
    end = 0
    for at, block in placed:
        if run and at > end:
            yield run
            run = []
        run.append((at, block))
        end = max(end, at + block.samples)
    if run:
        yield run


def _stretch(run: Sequence[_Placed], rows: _Rows) -> Stretch:
    start = run[0][0]
    samples = np.full((len(rows), max(at + block.samples for at, block in run) - start), np.nan, np.float32)
    for at, block in run:
        for key, signal in zip(block.keys, block.signals_mv, strict=True):
            if key in rows and signal is not None:
                samples[rows[key], at - start : at - start + len(signal)] = finite(signal)
    return Stretch(start, samples.shape[1], partial(_between, samples))


def _between(samples: Samples, begin: int, end: int) -> Samples:
    return samples[:, begin:end]
