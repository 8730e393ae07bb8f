"""What a program has dealt with in; a small file that lets it go on there after a restart out."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from kernels.findings import ConfigError

from .ledger import Given, Mark, key_of

_REMEMBERED_ON_DISK = 100


class Cursor:
    """How far alerts were given to this program, in a file that outlives it."""

    def __init__(self, path: Path | None) -> None:
        """Writes it at once. Raises ConfigError for a file that is none of ours, or where none can be read and written."""
        self._path = path
        self._is_changed = True
        self.marks: dict[str, tuple[str, Mark]] = {}
        self.seen: deque[str] = deque(maxlen=_REMEMBERED_ON_DISK)
        if path:
            self._open(path)

    def confirm(self, given: Given) -> None:
        """The program has dealt with it, and asked for the next; or there is nothing to deal with."""
        self._is_changed = True
        if given.outbox:
            name, mark = self.marks.get(given.site, ("", Mark()))
            self.marks[given.site] = given.outbox, mark if name == given.outbox else Mark()
            (self.marks[given.site][1].skip if given.with_all_before else self.marks[given.site][1].add)(given.number)
        if given.message:
            self.seen.append(key_of(given.message))

    def save(self) -> None:
        """Where there is news: the old or the new file, whatever happens meanwhile. Raises OSError."""
        if self._path is None or not self._is_changed:
            return
        outboxes = {site: {"outbox": name, "after": mark.after, "beyond": sorted(mark.beyond)} for site, (name, mark) in self.marks.items()}
        new = self._path.with_name(self._path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"cursor": 1, "sites": outboxes, "seen": list(self.seen)}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        self._is_changed = False

    def _open(self, path: Path) -> None:
        try:
            if path.exists():
                self._load(_read_cursor(path))
            self.save()
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(f"the cursor {path} cannot be kept: {why}; name a file in a folder that exists and may be written") from error

    def _load(self, read: _CursorFile) -> None:
        self.marks = {site: (place.outbox, Mark(place.after, set(place.beyond))) for site, place in read.sites.items()}
        self.seen.extend(read.seen)


class _CursorPlace(BaseModel):
    outbox: str
    after: int
    beyond: list[int]


class _CursorFile(BaseModel):
    cursor: Literal[1]
    sites: dict[str, _CursorPlace]
    seen: list[str]


def _read_cursor(path: Path) -> _CursorFile:
    try:
        return _CursorFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} is not the cursor of a subscription; name another file, or remove it to begin anew") from error
