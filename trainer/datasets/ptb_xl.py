"""A PTB-XL folder in its official layout in; its recordings and tables, and its tasks by SCP code, out."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..records import Recording
from ..text import read_prompts
from .dataset import EVERY_FOLD, Dataset, Label, Task
from .source import read_waveform, require, rows

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")

Statements = Mapping[str, Mapping[str, str]]


def read_ptb_xl(root: Path, folds: Sequence[int] = EVERY_FOLD) -> Iterator[Recording]:
    """The recordings of these folds of a PTB-XL folder (Wagner et al. 2020), in the order of its table.

    Reads `ptbxl_database.csv`, `scp_statements.csv` and the 100 Hz records, and `12sl_statements.csv`
    (PTB-XL+, Strodthoff et al. 2023) where it is there. Raises ConfigError for a folder of another kind.
    """
    database = require(root / "ptbxl_database.csv", "PTB-XL")
    machine = _read_machine_statements(root / "12sl_statements.csv")
    for row in rows(database):
        if int(row["strat_fold"]) in folds:
            yield from _read_record(root, row, machine.get(int(row["ecg_id"]), ()))


def read_statements(root: Path) -> dict[str, dict[str, str]]:
    """SCP code -> its row of `scp_statements.csv` (columns diagnostic, form, rhythm, diagnostic_class, description).

    Raises ConfigError for a folder of another kind.
    """
    return {row[""]: row for row in rows(require(root / "scp_statements.csv", "PTB-XL"))}


def read_machine_texts(root: Path) -> dict[str, str]:
    """12SL acronym -> its English text, empty where the folder has no such table."""
    path = root / "12sl_statement_texts.csv"
    return {row["acronym"]: row["text"] for row in rows(path)} if path.is_file() else {}


def _read_machine_statements(path: Path) -> dict[int, tuple[str, ...]]:
    if not path.is_file():
        return {}
    return {int(float(row["ecg_id"])): tuple(ast.literal_eval(row["statements"])) for row in rows(path)}


def _read_record(root: Path, row: Mapping[str, str], machine: tuple[str, ...]) -> Iterator[Recording]:
    waveform = read_waveform(root / row["filename_lr"])
    if waveform is None:
        return
    yield Recording(
        id=row["ecg_id"],
        samples_mv=waveform.samples_mv,
        rate_hz=waveform.rate_hz,
        report=row["report"],
        codes=tuple(ast.literal_eval(row["scp_codes"])),
        machine=machine,
        patient=row["patient_id"],
        fold=int(row["strat_fold"]),
        amplitude_known=waveform.amplitude_known,
    )


def _tasks(root: Path) -> list[Task]:
    """Superclasses, subclasses, and every diagnostic, form and rhythm statement by its SCP code."""
    statements, prompts = read_statements(root), read_prompts()
    known = {code: row for code, row in statements.items() if code in prompts}
    subclasses = dict.fromkeys(row["diagnostic_subclass"] for row in known.values() if row.get("diagnostic_subclass"))
    tasks = [_grouped("superclass", "diagnostic_class", SUPERCLASSES, known)]
    tasks += [_grouped("subclass", "diagnostic_subclass", tuple(subclasses), known)] if subclasses else []
    return tasks + [_by_code(kind, known) for kind in ("diagnostic", "form", "rhythm")]


def _grouped(task: str, column: str, names: Sequence[str], statements: Statements) -> Task:
    """A label for each name in a column: any of the statements that it stands beside is enough."""
    prompts = read_prompts()
    members = {name: [code for code, row in statements.items() if row.get(column) == name] for name in names}
    return Task(task, tuple(Label(name, frozenset(codes), tuple(prompts[code] for code in codes)) for name, codes in members.items()))


def _by_code(kind: str, statements: Statements) -> Task:
    prompts = read_prompts()
    return Task(kind, tuple(Label(code, frozenset([code]), (prompts[code],)) for code, row in statements.items() if row[kind]))


def _concepts(root: Path) -> dict[str, str]:
    """Every SCP code of the folder's statements is its own concept."""
    return {code: code for code in read_statements(root) if code in read_prompts()}


PTB_XL = Dataset(read_ptb_xl, _tasks, _concepts, folds=(9,))
