"""A MIMIC-IV-ECG folder in; its recordings with the statements of the ECG machine out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from kernels.findings import ConfigError

from ..records import Recording, fold_of
from .dataset import Dataset, Task
from .source import read_waveform, require, rows
from .vocabulary import Word, concepts_of, normalise, read_parts, read_words, tasks_of

REPORTS = 18

Row = Mapping[str, str]


def read_mimic(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """The recordings of these folds (Gow et al. 2023), in the order of `record_list.csv`; folds are by subject.

    The codes are the machine's statements in lower case and without their full stop, and after them the simple
    statements that a compound one says at once. Raises ConfigError for a folder of another kind, and where the
    two tables do not hold the same studies in the same order.
    """
    parts = read_parts("mimic.toml")
    for record, report in _studies(root):
        fold = fold_of(record["subject_id"])
        if fold in folds:
            yield from _read_record(root, record, _statements(report), parts, fold)


def _studies(root: Path) -> Iterator[tuple[Row, Row]]:
    """The rows of both tables, side by side: neither is ever held whole."""
    listed = require(root / "record_list.csv", "MIMIC-IV-ECG")
    measured = require(root / "machine_measurements.csv", "MIMIC-IV-ECG")
    none = {"study_id": "none"}
    pairs = zip_longest(rows(listed, ("subject_id", "study_id", "path")), rows(measured, ("study_id", "report_0")), fillvalue=none)
    for record, report in pairs:
        if record["study_id"] != report["study_id"]:
            raise ConfigError(
                f"{root}: {listed.name} names study {record['study_id']} where {measured.name} names {report['study_id']}; "
                "give both files as they were released, with the same studies in the same order"
            )
        yield record, report


def _statements(report: Row) -> list[str]:
    texts = ((report.get(f"report_{at}") or "").strip() for at in range(REPORTS))
    return [text for text in texts if normalise(text)]


def _read_record(
    root: Path, record: Row, statements: Sequence[str], parts: Mapping[str, tuple[str, ...]], fold: int
) -> Iterator[Recording]:
    waveform = read_waveform(root / record["path"])
    if waveform is None:
        return
    said = [normalise(text) for text in statements]
    codes = tuple(dict.fromkeys([*said, *(part for text in said for part in parts.get(text, ()))]))
    report = ". ".join(text.rstrip(". ") for text in statements)
    yield Recording(record["study_id"], waveform.samples_mv, waveform.rate_hz, report, codes, (), record["subject_id"], fold)


def _words() -> dict[str, dict[str, Word]]:
    return read_words("mimic.toml", "mimic")


def _tasks(root: Path) -> list[Task]:
    """Rhythm, ectopy, conduction, diagnosis and form by exact statements (`mimic.toml`)."""
    return tasks_of(_words())


def _concepts(root: Path) -> dict[str, str]:
    """Of the simple statements: a compound one comes with those that it is made of."""
    return concepts_of(word for labels in _words().values() for word in labels.values())


MIMIC_IV_ECG = Dataset(read_mimic, _tasks, _concepts)
