"""A dataset folder in its official layout in; `Recording`s out."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from kernels.findings import ConfigError
from kernels.signal import Samples, standard_lead, to_standard_leads


@dataclass(frozen=True, slots=True)
class Recording:
    """One ECG with what was said of it."""

    id: str
    samples_mv: Samples
    """[12, n] in the order of `LEADS`, NaN where a lead is absent."""
    rate_hz: float
    report: str
    codes: tuple[str, ...]
    """SCP codes of the cardiologist's statements."""
    machine: tuple[str, ...]
    """GE 12SL acronyms in their order, empty where there are none."""
    patient: str
    fold: int
    amplitude_known: bool = True
    """False where the file holds z-scores instead of mV."""


def read_ptb_xl(root: Path, folds: Sequence[int] = range(1, 11)) -> Iterator[Recording]:
    """The recordings of these folds of a PTB-XL folder (Wagner et al. 2020), in the order of its table.

    Reads `ptbxl_database.csv`, `scp_statements.csv` and the 100 Hz records, and `12sl_statements.csv`
    (PTB-XL+, Strodthoff et al. 2023) where it is there. Raises ConfigError for a folder of another kind.
    """
    database = root / "ptbxl_database.csv"
    if not database.is_file():
        raise ConfigError(f"{root} is not a PTB-XL folder: {database.name} is missing; give the folder that holds it")
    machine = _read_machine_statements(root / "12sl_statements.csv")
    for row in _rows(database):
        if int(row["strat_fold"]) in folds:
            yield _read_record(root, row, machine.get(int(row["ecg_id"]), ()))


def read_statements(root: Path) -> dict[str, dict[str, str]]:
    """SCP code -> its row of `scp_statements.csv` (columns diagnostic, form, rhythm, diagnostic_class, description)."""
    return {row[""]: row for row in _rows(root / "scp_statements.csv")}


def read_machine_texts(root: Path) -> dict[str, str]:
    """12SL acronym -> its English text, empty where the folder has no such table."""
    path = root / "12sl_statement_texts.csv"
    return {row["acronym"]: row["text"] for row in _rows(path)} if path.is_file() else {}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _read_machine_statements(path: Path) -> dict[int, tuple[str, ...]]:
    if not path.is_file():
        return {}
    return {int(float(row["ecg_id"])): tuple(ast.literal_eval(row["statements"])) for row in _rows(path)}


def _read_record(root: Path, row: dict[str, str], machine: tuple[str, ...]) -> Recording:
    record = wfdb.rdrecord(str(root / row["filename_lr"]))
    leads = [standard_lead(name) or name for name in record.sig_name]
    return Recording(
        id=row["ecg_id"],
        samples_mv=to_standard_leads(record.p_signal.T.astype(np.float32), leads),
        rate_hz=float(record.fs),
        report=row["report"],
        codes=tuple(ast.literal_eval(row["scp_codes"])),
        machine=machine,
        patient=row["patient_id"],
        fold=int(row["strat_fold"]),
        amplitude_known=record.units[0] != "NU",
    )
