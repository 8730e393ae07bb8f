"""The words of a command line in; the paths that they stand for, lists read and patterns matched, out."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from kernels.findings import ConfigError


class Given(NamedTuple):
    """One path."""

    path: Path
    """Absolute."""
    named: bool = True
    """By the operator; False for what a pattern matches."""


def expand(paths: Iterable[str]) -> Iterator[Given]:
    """`@FILE` stands for the paths in a file, `@-` for those on standard input. Raises ConfigError for what leads nowhere."""
    for text in paths:
        for one in _listed(text[1:]) if text.startswith("@") else [text]:
            yield from _matched(one)


def _listed(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"@{name}: cannot read this list of paths ({error}); give a text file with one path a line") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(line.startswith("@") for line in lines):
        raise ConfigError(f"@{name}: a list cannot name another list; write ./@name for a file whose name begins with @")
    return lines


def _matched(text: str) -> Iterator[Given]:
    if not glob.has_magic(text) or os.path.lexists(text):
        yield Given(_absolute(text))
        return
    matches = sorted(set(_glob(text)))
    if not matches:
        raise ConfigError(f"{text}: no file matches this pattern")
    yield from (Given(_absolute(match), named=False) for match in matches)


def _glob(pattern: str) -> Iterator[str]:
    """As `glob.glob`, but `**` follows no link, so that it ends, and a folder that it may not open is a match."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207 - a pattern may be absolute
        return
    at = parts.index("**")
    rest = tuple(dropwhile("**".__eq__, parts[at:]))
    for top in filter(os.path.isdir, glob.iglob(str(Path(*parts[:at])))):  # noqa: PTH207
        closed: list[OSError] = []
        for folder, below, _ in os.walk(top, onerror=closed.append) if rest else ():
            below[:] = [name for name in below if not name.startswith(".")]
            yield from _glob(str(Path(glob.escape(folder), *rest)))
        yield from (error.filename for error in closed) if rest else (top,)


def _absolute(text: str) -> Path:
    """With one slash in front: `//a` is no part of `/`."""
    return Path("/" + str(Path(text).absolute()).lstrip("/"))


def root_of(given: Sequence[Given]) -> Path:
    """The deepest folder that holds everything."""
    folders = {str(path if is_folder(path) else path.parent) for path, _ in given}
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def is_folder(path: Path) -> bool:
    """Never raises."""
    return os.path.isdir(path)  # noqa: PTH112
