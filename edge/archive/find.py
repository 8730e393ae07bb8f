"""Files, folders, patterns and lists of paths in; the recordings in them, by content, and what is none, out."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from kernels.findings import ConfigError

from ..decode.csv import Columns
from ..formats.recording import readable
from ..transport.file import SIGNALS
from .judge import cannot, is_missed, why_not
from .paths import Given, expand, is_folder, root_of
from .wfdb_files import HEADER, Named, files_of, home_of, is_file, named_in, notes_of

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

_RESULTS = {"run.json", "parts"}
"""What lies in a folder of results."""

_Place = tuple[int, int]
_Folder = tuple[Path, tuple[_Place, ...]]
"""And the folders above it."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One recording of an archive."""

    name: str
    """Its path below the archive's root, a WFDB record's without ending unless another file has that name: what the tables call it."""
    path: str = field(compare=False)
    bytes: int
    """Of all its files."""
    changed_ns: int
    """When the last of its files was written."""


@dataclass(slots=True)
class Found:
    """What was found under the given paths. Control characters and bytes that are no text stand in names as `\\x1b`."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name -> why, of what should have been a recording or a folder."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name -> why, of what is no recording."""


def find(paths: Sequence[str], columns: Columns = Columns(), results: Path | None = None) -> Found:
    """All recordings, each once, ordered by name. Raises ConfigError where a path does not exist or there is no recording.

    `@FILE` stands for the paths in a file, one a line, `@-` for those on standard input; `*`, `?` and `**` are patterns.
    The folder `results` is not searched, nor one that holds the results of another run. No link is followed twice,
    and none by `**`.
    """
    given = list(expand(paths))
    search = _Search(Found(root_of(given)), columns, results)
    search.add(given)
    found = search.end()
    if not found.entries and not found.unreadable:
        why = next((f" ({name} {why})" for name, why in found.left_out.items()), "")
        raise ConfigError(f"no recording in {', '.join(map(str, paths))[:200]}{why}; give files or folders that hold recordings")
    return found


@dataclass(frozen=True, slots=True)
class _Met:
    """A recording, as one of the paths that lead to it."""

    path: Path
    opened: Path
    """Another one where `path` is a link to a header whose signals lie elsewhere."""
    linked: bool
    bytes: int
    changed_ns: int

    @property
    def rank(self) -> tuple[bool, int, Path]:
        """The lowest gives a recording its name."""
        return self.linked, len(self.path.parts), self.path


class _State(NamedTuple):
    real: str
    """The path without links."""
    status: os.stat_result


class _Search:
    """Each folder and file once, however often it is given or linked to."""

    def __init__(self, found: Found, columns: Columns, results: Path | None) -> None:
        self._found = found
        self._columns = columns
        self._results = _place(results) if results and is_folder(results) else None
        self._folders: set[_Place | None] = {self._results}
        self._named: set[Path] = set()
        self._met: dict[tuple[str, ...], _Met] = {}
        self._real: dict[Path, str] = {}

    def add(self, given: Sequence[Given]) -> None:
        """What is wrong with a path that the operator named is said, not passed over."""
        meant = [self._check(one) for one in given]
        self._named = {path for path, one in zip(meant, given, strict=True) if one.named}
        folders, files = self._divide(meant)
        self._add_folders(folders)
        ordered = sorted(set(files), key=lambda file: (file.parent, file.name))
        for _, together in groupby(ordered, key=lambda file: file.parent):
            self._add_files(list(together))

    def end(self) -> Found:
        """With the entries."""
        found = self._found
        named = {self._name(met.path): met for met in self._met.values()}
        taken = {*found.unreadable, *found.left_out, *named}
        for name, met in named.items():
            bare = name.removesuffix(HEADER)
            found.entries.append(Entry(name if bare in taken else bare, str(met.opened), met.bytes, met.changed_ns))
        found.entries.sort()
        return found

    def _check(self, given: Given) -> Path:
        """The path, or the header that it stands for. Raises ConfigError where the operator must have meant another one."""
        path, named = given
        try:
            mode = _mode_at(path)
        except OSError:
            return path
        if stat.S_ISDIR(mode):
            if named and _place(path) == self._results:
                raise ConfigError(f"{path}: --out is this folder, so its results would be searched; give another --out")
            return path
        header = self._header_of(path, mode)
        if named and header is None and not stat.S_ISREG(mode):
            what = "is no regular file; save what comes through it" if mode else "no such recording or folder; look for a slip in its name"
            raise ConfigError(f"{path}: {what}")
        return header or path

    def _header_of(self, path: Path, mode: int) -> Path | None:
        """Of a signal file, or a record's bare name. A file of that name counts only if it is a recording."""
        signal = path.suffix in SIGNALS
        header = path.with_suffix(HEADER) if signal else path.with_name(path.name + HEADER)
        if path == header or (mode and not stat.S_ISREG(mode)) or not is_file(header):
            return None
        own = mode and not signal and why_not(path, self._columns, named=False) is None
        return None if own else header

    def _divide(self, items: Iterable[os.DirEntry[str] | Path]) -> tuple[list[Path], list[Path]]:
        """Folders and files."""
        folders, files = [], []
        for item in items:
            mode = self._mode(item)
            if stat.S_ISDIR(mode):
                folders.append(Path(item))
            elif stat.S_ISREG(mode):
                files.append(Path(item))
        return folders, files

    def _mode(self, item: os.DirEntry[str] | Path) -> int:
        """0 for what leads nowhere. Whatever is neither folder nor file is not opened: that might never end."""
        if isinstance(item, os.DirEntry) and item.is_file(follow_symlinks=False):
            return stat.S_IFREG
        path, mode = Path(item), 0
        try:
            mode = item.stat().st_mode
        except FileNotFoundError:
            self._tell(path, "is a link that leads nowhere; mend it or delete it")
        except OSError as error:
            self._tell(path, cannot(error), missed=True)
        if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            self._found.left_out[self._name(path)] = "is no regular file"
        return mode

    def _add_folders(self, given: Sequence[Path]) -> None:
        """Links after all others, so that what they lead to keeps its own name."""
        waiting: deque[_Folder] = deque()
        links: deque[_Folder] = deque()
        below: Sequence[_Folder] = [(folder, ()) for folder in given]
        while below or waiting or links:
            for folder in below:
                (links if self._is_linked(folder[0], os.path.realpath(folder[0])) else waiting).append(folder)
            below = self._add_folder(*(waiting or links).popleft())

    def _add_folder(self, folder: Path, above: tuple[_Place, ...]) -> Sequence[_Folder]:
        """The folders in it."""
        try:
            place = _place(folder)
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            self._miss(folder, f"cannot be opened ({error.strerror}); check its permissions")
            return ()
        if place in above:
            self._found.left_out[self._name(folder)] = "is a link to a folder above it"
        if place in self._folders:
            return ()
        self._folders.add(place)
        if {item.name for item in items} >= _RESULTS:
            self._found.left_out[self._name(folder)] = "holds the results of another run"
            return ()
        folders, files = self._divide(item for item in items if not item.name.startswith("."))
        self._add_files(files)
        return [(one, (*above, place)) for one in folders]

    def _add_files(self, files: Sequence[Path]) -> None:
        """WFDB records are several files; a segment of a longer record is no record of its own."""
        headers = {file: named for file in files if file.suffix == HEADER and (named := self._read(file))}
        longer = {header.stem for header, named in headers.items() if named.segments}
        segments = {segment for named in headers.values() for segment in named.segments} - longer
        signals = {signal for named in headers.values() for signal in named.signals}
        for header, named in headers.items():
            if header.stem not in segments:
                self._enter_record(header, named)
        for file in files:
            if file.suffix != HEADER and file.name not in signals:
                self._add_file(file)

    def _read(self, header: Path) -> Named | None:
        try:
            return named_in(header)
        except OSError as error:
            self._miss(header, cannot(error))
            return None

    def _add_file(self, file: Path) -> None:
        why = why_not(file, self._columns, file in self._named)
        if why is None:
            self._enter(file, [file])
        else:
            self._tell(file, why)

    def _tell(self, file: Path, why: str, missed: bool = False) -> None:
        """Nothing of what lies beside a header: annotations, notes."""
        if any(file.suffix != ending and is_file(file.with_suffix(ending)) for ending in (HEADER, HEADER.upper())):
            return
        if missed or file in self._named or is_missed(file, why):
            self._miss(file, why)
        else:
            self._found.left_out[self._name(file)] = why

    def _miss(self, path: Path, why: str) -> None:
        self._found.unreadable[self._name(path)] = why
        self._found.left_out.pop(self._name(path), None)

    def _enter_record(self, header: Path, named: Named) -> None:
        home = home_of(header, named)
        self._enter(header, list(files_of(home, named)), notes_of(home))

    def _enter(self, path: Path, files: Sequence[Path], notes: Iterable[Path] = ()) -> None:
        """The first file is the one to open; what is missing of the others is said once it is opened."""
        try:
            states = [state for file in files if (state := self._state(file))]
            told = [state.status for state in states] + [file.stat() for file in notes]
        except OSError as error:
            self._miss(path, cannot(error))
            return
        odd = [state.real for state in states if not stat.S_ISREG(state.status.st_mode)]
        if odd or not states:
            self._miss(path, f"its file {readable(Path(odd[0]).name)} is no regular file" if odd else "was deleted meanwhile")
            return
        size, changed_ns = sum(status.st_size for status in told), max(status.st_mtime_ns for status in told)
        met = _Met(path, files[0], self._is_linked(path, states[0].real), size, changed_ns)
        key = tuple(state.real for state in states)
        if key not in self._met or met.rank < self._met[key].rank:
            self._met[key] = met

    def _state(self, file: Path) -> _State | None:
        """None where there is no such file."""
        try:
            status = file.lstat()
            if stat.S_ISLNK(status.st_mode):
                return _State(os.path.realpath(file), file.stat())
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        if file.parent not in self._real:
            self._real[file.parent] = os.path.realpath(file.parent)
        return _State(f"{self._real[file.parent]}/{file.name}", status)

    def _is_linked(self, path: Path, real: str) -> bool:
        """Whether a link leads there from the root."""
        root = self._found.root
        if root not in self._real:
            self._real[root] = os.path.realpath(root)
        return real.rstrip("/") != self._real[root].rstrip("/") + str(path)[len(str(root).rstrip("/")) :]

    def _name(self, path: Path) -> str:
        return _plain(path.relative_to(self._found.root).as_posix())


def _plain(name: str) -> str:
    """In characters that only stand for themselves, byte by byte where they do not; another name for another path."""
    if name.isprintable() and "\\" not in name:
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in letter.encode()) for letter in text)


def _mode_at(path: Path) -> int:
    """0 where there is nothing. Raises OSError where that is not to be seen."""
    try:
        return path.stat().st_mode
    except ValueError:
        return 0
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise


def _place(folder: Path) -> _Place:
    """The same by whatever name."""
    status = folder.stat()
    return status.st_dev, status.st_ino
