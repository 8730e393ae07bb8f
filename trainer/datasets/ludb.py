"""A folder of the Lobachevsky University Database in; its recordings with the cardiologists' statements out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..records import Recording, fold_of
from .dataset import Dataset, Task
from .source import read_waveform, record_paths, skip
from .vocabulary import Word, concepts_of, normalise, read_words, tasks_of


def read_ludb(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """The recordings of these folds (Kalyakulina et al. 2020), each of another patient.

    The codes are the statements below `<diagnoses>:` in the header, in lower case and without their full stop.
    Raises ConfigError where the folder holds no record.
    """
    for path in record_paths(root, "LUDB, or its folder data"):
        fold = fold_of(path.name)
        if fold in folds:
            yield from _read_record(path, fold)


def _read_record(path: Path, fold: int) -> Iterator[Recording]:
    waveform = read_waveform(path)
    statements = _statements(waveform.comments) if waveform else []
    if waveform and statements:
        codes = tuple(dict.fromkeys(normalise(text) for text in statements))
        yield Recording(path.name, waveform.samples_mv, waveform.rate_hz, " ".join(statements), codes, (), path.name, fold)
    elif waveform:
        skip(path, "its header has no statement below <diagnoses>:")


def _statements(comments: Sequence[str]) -> list[str]:
    heads = [at for at, text in enumerate(comments) if text.strip() == "<diagnoses>:"]
    return [text.strip() for text in comments[heads[0] + 1 :] if text.strip()] if heads else []


def _words() -> dict[str, dict[str, Word]]:
    return read_words("ludb.toml", "ludb")


def _tasks(root: Path) -> list[Task]:
    """Rhythm, axis, conduction, extrasystoles, hypertrophy and repolarisation by exact statements (`ludb.toml`)."""
    return tasks_of(_words())


def _concepts(root: Path) -> dict[str, str]:
    return concepts_of(word for labels in _words().values() for word in labels.values())


LUDB = Dataset(read_ludb, _tasks, _concepts)
