"""The training folder of the PhysioNet/CinC Challenge 2017 in; its single-lead strips out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..records import Recording, fold_of
from .dataset import Dataset, Task
from .source import read_waveform, require
from .vocabulary import scp_task

_CLASSES = frozenset("NAO~")
_SCP = {"A": "AFIB"}


def read_cinc2017(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """The strips of these folds (Clifford et al. 2017): N normal, A fibrillation, O other, ~ noise.

    A strip is one patient: the source does not say more. Raises ConfigError for a folder of another kind.
    """
    for name, code in _references(require(root / "REFERENCE.csv", "CinC 2017 training")):
        fold = fold_of(name)
        waveform = read_waveform(root / name, ["I"]) if fold in folds else None
        if waveform is not None:
            yield Recording(name, waveform.samples_mv, waveform.rate_hz, "", (code,), (), name, fold)


def _references(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from ((row[0], row[1]) for row in csv.reader(file) if len(row) == 2 and row[1] in _CLASSES)


def _tasks(root: Path) -> list[Task]:
    return [scp_task("rhythm", _SCP)]


def _concepts(root: Path) -> dict[str, str]:
    return _SCP


CINC2017 = Dataset(read_cinc2017, _tasks, _concepts)
