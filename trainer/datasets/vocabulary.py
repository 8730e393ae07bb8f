"""A vocabulary file (TOML) in; its labels with their prompts, and the concept that each of its codes shows, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kernels.findings import read_toml

from ..text import read_prompts
from .dataset import Label, Task

FOLDER = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Word:
    """One thing that recordings are said to show."""

    name: str
    codes: tuple[str, ...]
    """Those that mean it, each exactly as the dataset writes it."""
    concept: str
    prompts: tuple[str, ...]

    def label(self) -> Label:
        """As a class of a task."""
        return Label(self.name, frozenset(self.codes), (self.prompts,))


@lru_cache(maxsize=1)
def snomed() -> dict[str, Word]:
    """Challenge abbreviation -> what its SNOMED CT codes mean (`snomed.toml`)."""
    tables = read_toml(FOLDER / "snomed.toml")
    return {name: _word(name, table, f"snomed:{table['codes'][0]}") for name, table in tables.items()}


@lru_cache(maxsize=4)
def read_words(file: str, prefix: str) -> dict[str, dict[str, Word]]:
    """Task -> label -> its word, of a file in which a table is a label and may name its SCP code or its SNOMED CT word."""
    tasks = {task: labels for task, labels in read_toml(FOLDER / file).items() if task != "also"}
    return {
        task: {name: _known_word(name, table, f"{prefix}:{task}.{name}") for name, table in labels.items()}
        for task, labels in tasks.items()
    }


def read_parts(file: str) -> dict[str, tuple[str, ...]]:
    """Compound statement -> the simple ones that it says at once (the table `also` of a vocabulary file)."""
    return {statement: tuple(parts) for statement, parts in read_toml(FOLDER / file)["also"].items()}


def normalise(statement: str) -> str:
    """A statement as vocabularies spell it: in lower case, without a full stop or blanks around it or doubled ones inside."""
    return " ".join(statement.lower().split()).rstrip(".").rstrip()


def tasks_of(words: Mapping[str, Mapping[str, Word]]) -> list[Task]:
    """A task for each table of words."""
    return [Task(name, tuple(word.label() for word in labels.values())) for name, labels in words.items()]


def concepts_of(words: Iterable[Word]) -> dict[str, str]:
    """Code -> the concept that it shows."""
    return {code: word.concept for word in words for code in word.codes}


def scp_task(name: str, codes: Mapping[str, str]) -> Task:
    """A task whose labels bear the dataset's codes and the words of PTB-XL statements, from code -> SCP code."""
    prompts = read_prompts()
    return Task(name, tuple(Label(code, frozenset([code]), (prompts[scp],)) for code, scp in codes.items()))


def _known_word(name: str, table: Mapping[str, Any], concept: str) -> Word:
    same = snomed().get(table.get("snomed", ""))
    if same is None:
        return _word(name, table, concept)
    return Word(name, tuple(table["codes"]), same.concept, same.prompts)


def _word(name: str, table: Mapping[str, Any], concept: str) -> Word:
    scp: str = table.get("scp", "")
    own: Sequence[str] = table.get("prompts", ())
    return Word(name, tuple(table["codes"]), scp or concept, read_prompts().get(scp, ()) + tuple(own))
