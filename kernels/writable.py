"""The files that a command is to write in; nothing, or in words why one of them cannot be written, out."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from .findings import ConfigError

PICTURES = (".png", ".svg", ".pdf")
"""The endings of what can be drawn."""


def check_writable(*files: Path | None) -> None:
    """Before the work, not after it; None stands for a file that nobody asked for. Raises ConfigError."""
    for file in filter(None, files):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"cannot write {file}: there is no folder {folder}")
        if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise ConfigError(f"cannot write {file}; name a file that can be written")


def check_picture(file: Path | None) -> None:
    """The same of a picture. Raises ConfigError also where nothing can be drawn, or nothing of that ending."""
    if file is None:
        return
    if file.suffix.lower() not in PICTURES:
        raise ConfigError(f"cannot draw {file}: its name must end in one of {', '.join(PICTURES)}")
    if not find_spec("matplotlib"):
        raise ConfigError("drawing needs matplotlib: pip install 'cardiogloss[plot]'")
    check_writable(file)
