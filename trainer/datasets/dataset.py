"""A dataset's reader and labels in; what the trainer and the evaluation ask of every dataset out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..records import FOLDS, Recording

EVERY_FOLD = tuple(range(1, FOLDS + 1))


@dataclass(frozen=True, slots=True)
class Label:
    """A class of a task: which codes mean it, and how to say it."""

    name: str
    codes: frozenset[str]
    ways: tuple[tuple[str, ...], ...]
    """Prompts that are averaged, for each thing that is enough to mean the class (joined by noisy-or)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Labels that are evaluated together."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """How to read a dataset and what to ask of it."""

    read: Callable[[Path, Sequence[int]], Iterator[Recording]]
    """The recordings of these folds, one at a time and always in the same order."""
    tasks: Callable[[Path], list[Task]]
    concepts: Callable[[Path], Mapping[str, str]]
    """The concept that each code shows: an SCP code where one means the same, otherwise a name behind `snomed:`, `ludb:` and so on."""
    folds: tuple[int, ...] = EVERY_FOLD
    """Those that are evaluated where no others are asked for."""
