"""Files, folders, patterns and lists of paths in; the recordings in them, by content, and what is none, out."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import standard_lead

from ..decode.csv import Columns, CsvDecoder
from ..formats.kinds import TEXT, kind_of
from ..formats.recording import readable
from ..transport.file import SIGNALS

_HEADER = ".hea"
_HEAD = 1 << 14
_TABLES = (".csv", ".tsv", ".txt")
_NO_TABLE = "is text without a column for a lead"
_RECORDINGS = (".edf", ".bdf", ".dcm", ".ecg", ".xml", ".npy", ".npz", ".parquet", *SIGNALS)
"""A file with such a name that cannot be read is missed; another one is only no recording."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One recording of an archive."""

    name: str
    """Its path below the archive's root, a WFDB record's without ending: what the tables call it."""
    path: str = field(compare=False)
    bytes: int
    """Of all its files."""
    changed_ns: int
    """When the last of its files was written."""


@dataclass(slots=True)
class Found:
    """What was found under the given paths."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name -> why, of what should have been a recording or a folder."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name -> why, of what is no recording."""


def find(paths: Sequence[str], columns: Columns = Columns(), results: Path | None = None) -> Found:
    """All recordings, each once, ordered by name. Raises ConfigError where a path does not exist or there is no recording.

    `@FILE` stands for the paths in a file, one a line, `@-` for those on standard input; `*`, `?` and `**` are patterns.
    The folder `results` is not searched.
    """
    given = list(_expand(paths))
    search = _Search(Found(_root(given)), columns, results)
    for path in given:
        search.add(path)
    found = search.found
    if not found.entries and not found.unreadable:
        raise ConfigError(f"no recording in {', '.join(map(str, paths))[:200]}; give files or folders that hold recordings")
    found.entries.sort()
    return found


def _expand(paths: Iterable[str]) -> Iterator[Path]:
    for text in paths:
        if text.startswith("@"):
            yield from _expand(_listed(text[1:]))
        elif glob.has_magic(text) and not Path(text).exists():
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - a pattern may be absolute
            if not matches:
                raise ConfigError(f"{text}: no file matches this pattern")
            yield from map(Path, matches)
        else:
            yield Path(text)


def _listed(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"@{name}: cannot read this list of paths ({error}); give a text file with one path a line") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _root(given: Sequence[Path]) -> Path:
    """The deepest folder that holds everything."""
    folders = [str(path.absolute() if path.is_dir() else path.absolute().parent) for path in given]
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


class _Search:
    """Each folder and file once, however often it is given or linked to."""

    def __init__(self, found: Found, columns: Columns, results: Path | None) -> None:
        self.found = found
        self._columns = columns
        self._folders: set[tuple[int, int]] = {_place(results)} if results and results.is_dir() else set()
        self._files: set[str] = set()

    def add(self, path: Path) -> None:
        """A path as the operator gave it: what is wrong with it is said, not passed over."""
        path = path.absolute()
        bare = path.with_suffix("") if path.suffix in SIGNALS else path
        header = bare.with_name(bare.name + _HEADER)
        if path.is_dir():
            self._add_folder(path, above=())
        elif header.is_file():
            self._enter(header, sorted(header.parent.glob(f"{glob.escape(bare.name)}.*")))
        elif path.is_file():
            self._enter(path, [path])
        else:
            raise ConfigError(f"{path}: no such recording or folder; look for a slip in its name")

    def _add_folder(self, folder: Path, above: tuple[tuple[int, int], ...]) -> None:
        try:
            place = _place(folder)
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            self.found.unreadable[self._name(folder)] = f"cannot be opened ({error.strerror}); check its permissions"
            return
        if place in above:
            self.found.left_out[self._name(folder)] = "is a link to a folder above it"
        if place in self._folders:
            return
        self._folders.add(place)
        shown = [item for item in items if not item.name.startswith(".")]
        self._add_files([Path(item.path) for item in shown if not item.is_dir()])
        for item in shown:
            if item.is_dir():
                self._add_folder(Path(item.path), (*above, place))

    def _add_files(self, files: Sequence[Path]) -> None:
        """WFDB records are several files of one stem; a segment of a longer record is no record of its own."""
        by_stem: dict[str, list[Path]] = {}
        for file in files:
            by_stem.setdefault(file.stem, []).append(file)
        headers = [file for file in files if file.suffix == _HEADER]
        segments = {name for header in headers if len(by_stem[header.stem]) == 1 for name in _segments(header)}
        for header in headers:
            if header.stem not in segments:
                self._enter(header, by_stem[header.stem])
        records = {header.stem for header in headers}
        for file in files:
            if file.suffix not in SIGNALS or file.stem not in records:
                self._add_file(file, beside_record=file.stem in records)

    def _add_file(self, file: Path, beside_record: bool) -> None:
        why = self._why_not(file)
        if why is None:
            self._enter(file, [file])
        elif (file.suffix.lower() in _RECORDINGS or (file.suffix.lower() in _TABLES[:2] and why != _NO_TABLE)) and not beside_record:
            self.found.unreadable[self._name(file)] = why
        elif not beside_record:
            self.found.left_out[self._name(file)] = why

    def _why_not(self, file: Path) -> str | None:
        """None for a recording."""
        try:
            kind = kind_of(file)
            if kind is TEXT:
                return None if self._is_table(file) else _NO_TABLE
        except ConfigError as error:
            return f"its header {file.stem}.hea is missing; put it beside the signal file" if file.suffix in SIGNALS else str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror}); check its permissions"
        return None

    def _is_table(self, file: Path) -> bool:
        """Whether leads are named at the head of its columns, or the operator's options make most of it numbers."""
        if file.suffix.lower() not in _TABLES:
            return False
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
        if any(standard_lead(cell) for cell in _first_cells(head.splitlines())):
            return True
        decoder = CsvDecoder(self._columns)
        try:
            chunks = [*decoder.feed(head), *decoder.flush()]
        except ConfigError:
            return False
        return float(np.mean([np.isfinite(chunk.samples_mv).mean() for chunk in chunks])) > 0.5

    def _enter(self, path: Path, files: Sequence[Path]) -> None:
        real = os.path.realpath(path)
        if real in self._files:
            return
        self._files.add(real)
        try:
            states = [file.stat() for file in files]
        except OSError as error:
            self.found.unreadable[self._name(path)] = f"cannot be read ({error.strerror}); check its permissions"
            return
        size, changed_ns = sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
        self.found.entries.append(Entry(self._name(path), str(path), size, changed_ns))

    def _name(self, path: Path) -> str:
        named = path.with_suffix("") if path.suffix == _HEADER else path
        return readable(named.relative_to(self.found.root).as_posix())


def _place(folder: Path) -> tuple[int, int]:
    """The same by whatever name."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _first_cells(lines: Sequence[bytes]) -> list[str]:
    for line in lines:
        text = line.decode("utf-8-sig", errors="replace").strip()
        if text and not text.startswith("#"):
            separator = next((mark for mark in ";\t," if mark in text), None)
            return [cell.strip().strip("\"'") for cell in text.split(separator)]
    return []


def _segments(header: Path) -> list[str]:
    """Of a record that is put together from others; none of a plain one."""
    try:
        lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    told = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not told or "/" not in told[0][0]:
        return []
    return [fields[0] for fields in told[1:]]
