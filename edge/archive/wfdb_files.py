"""The header of a WFDB record in; what it names of its own folder, and so the files that belong to the record, out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = ".hea"
_NOTES = (".atr", ".ecg", ".qrs")
_USUAL, _LONGEST = 1 << 12, 1 << 20
"""Bytes of a header; a record of more segments would take months."""
_NO_FILES = ("~", "-")
"""A signal or segment of nothing, and a signal that comes through a pipe."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a header names, in its own order."""

    signals: tuple[str, ...] = ()
    """Files."""
    segments: tuple[str, ...] = ()
    """The records that a longer one is put together from."""


def named_in(header: Path) -> Named:
    """Whatever bytes it holds; nothing where they are no header. Raises OSError.

    Source: the WFDB Applications Guide, header(5).
    """
    with header.open("rb", buffering=0) as file:
        data = file.read(_USUAL)
        data += file.read(_LONGEST) if len(data) == _USUAL else b""
    text = data.decode("utf-8", "surrogateescape")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first, count = [*(lines[0].split() if lines else ()), "", ""][:2]
    _, slash, segments = first.partition("/")
    count = segments if slash else count
    if not count.isdecimal() or len(count) > 6:
        return Named()
    names = dict.fromkeys(line.split(maxsplit=1)[0] for line in lines[1 : 1 + int(count)])
    plain = tuple(filter(_is_plain, names))
    return Named(segments=plain) if slash else Named(signals=plain)


def files_of(header: Path, named: Named) -> Iterator[Path]:
    """The header first, then the signal files, and the segments' headers and signal files; they need not exist."""
    yield header
    yield from map(header.with_name, named.signals)
    for segment in named.segments:
        part = header.with_name(segment + HEADER)
        yield part
        yield from map(header.with_name, _signals_of(part))


def notes_of(header: Path) -> Iterator[Path]:
    """The annotation files beside it."""
    bare = str(header).removesuffix(HEADER)
    yield from map(Path, filter(os.path.isfile, [bare + ending for ending in _NOTES]))


def home_of(header: Path, named: Named) -> Path:
    """Where it is opened: where it lies, unless it is a link and its signals lie only beside what it leads to."""
    if not header.is_symlink() or all(map(is_file, files_of(header, named))):
        return header
    real = Path(os.path.realpath(header))
    return real if real.suffix == HEADER and all(map(is_file, files_of(real, named))) else header


def is_file(path: Path) -> bool:
    """Whether it may be opened without waiting for somebody at its other end. Never raises."""
    return os.path.isfile(path)  # noqa: PTH113 - the method of a path raises where it may not look


def _signals_of(segment: Path) -> tuple[str, ...]:
    try:
        return named_in(segment).signals if is_file(segment) else ()
    except OSError:
        return ()


def _is_plain(name: str) -> bool:
    """A file of the header's own folder."""
    return name not in (*_NO_FILES, os.curdir, os.pardir) and not {"/", "\0"} & set(name)
