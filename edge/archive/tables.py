"""The blocks of all recordings in; tables of them (Parquet and JSON lines: scores, alerts, annotations, recordings) out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kernels.findings import ConfigError

from .lines import Line
from .part import Block, sync_folder

_ROWS = 20_000
"""Rows that are held before they are written."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """How lines of one type become rows."""

    name: str
    type: str
    """Of its lines."""
    row: Callable[[Line], Row]
    columns: dict[str, str]
    """Column -> its type in Arrow's words."""


def tables_of(findings: Sequence[str]) -> tuple[Table, ...]:
    """For a model with these findings."""
    scores = {"recording": "string", "at_s": "double", "abstained": "string", "faults": "string"} | dict.fromkeys(findings, "float")
    words = ("recording", "id", "finding", "kind", "priority", "state", "why")
    alerts = dict.fromkeys(words, "string") | {"seq": "int64"} | dict.fromkeys(("at_s", "onset_s", "score", "heart_rate_bpm"), "double")
    notes = {"recording": "string", "at_s": "double", "end_s": "double", "text": "string"}
    return (
        Table("scores", "scores", _scores_row, scores),
        Table("alerts", "alert", lambda line: {name: line.get(name) for name in alerts}, alerts),
        Table("annotations", "annotation", lambda line: {name: line.get(name) for name in notes}, notes),
        Table("recordings", "recording", lambda line: _recording_row(line, findings), _recording_columns(findings)),
    )


def write_tables(blocks: Iterable[Block], out: Path, findings: Sequence[str]) -> Iterator[Line]:
    """Writes `NAME.parquet` and `NAME.jsonl` of each table; gives the lines of the recordings as they pass. None is there half written.

    Raises ConfigError without the `archive` extra.
    """
    with ExitStack() as files:
        writers = {table.type: files.enter_context(_write(out, table)) for table in tables_of(findings)}
        for block in blocks:
            for text in block.lines():
                line = json.loads(text)
                writers[line["type"]].add(text, line)
                if line["type"] == "recording":
                    yield line
    sync_folder(out)


class _Writer:
    """Both files of one table."""

    def __init__(self, table: Table, lines: IO[bytes], parquet: Any, schema: Any) -> None:
        self._table, self._lines, self._parquet, self._schema = table, lines, parquet, schema
        self._rows: list[Row] = []

    def add(self, text: bytes, line: Line) -> None:
        """The line goes on as it is, and as a row."""
        self._lines.write(text)
        self._rows.append(self._table.row(line))
        if len(self._rows) == _ROWS:
            self.write()

    def write(self) -> None:
        """What is held."""
        import pyarrow

        self._parquet.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []


@contextmanager
def _write(out: Path, table: Table) -> Iterator[_Writer]:
    """Under other names until both are whole."""
    pyarrow, parquet = arrow()
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in table.columns.items()])
    drafts = {out / f"{table.name}.{ending}": out / f"{table.name}.{ending}.tmp" for ending in ("jsonl", "parquet")}
    jsonl, rows = drafts.values()
    with jsonl.open("wb") as lines, parquet.ParquetWriter(rows, schema, compression="zstd") as written:
        writer = _Writer(table, lines, written, schema)
        yield writer
        writer.write()
    for final, draft in drafts.items():
        draft.replace(final)


def arrow() -> tuple[Any, Any]:
    """The package that writes Parquet. Raises ConfigError without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("tables need the package pyarrow: pip install 'cardiogloss[archive]'") from None
    return pyarrow, pyarrow.parquet


def _scores_row(line: Line) -> Row:
    faults = ", ".join(f"{lead} {state}" for lead, state in line["quality"].items() if state != "good")
    told = {"recording": line["recording"], "at_s": line["at_s"], "abstained": line["abstained"], "faults": faults or None}
    return told | line["probability"]


_OF_FINDING = ("median", "highest", "highest_at_s", "above")
_SPREAD = ("lowest", "median", "highest")


def _recording_columns(findings: Sequence[str]) -> dict[str, str]:
    told = {"recording": "string", "source": "string", "format": "string", "why": "string", "duration_s": "double", "rate_hz": "double"}
    told |= {"leads": "string", "windows": "int64", "scored": "int64", "alerts": "int64", "worst_quality": "float"}
    told |= {f"heart_rate_{which}_bpm": "float" for which in _SPREAD}
    for name in findings:
        told |= {f"{name}_{what}": "double" if what == "highest_at_s" else "float" for what in _OF_FINDING} | {f"{name}_alerts": "int64"}
    return told


def _recording_row(line: Line, findings: Sequence[str]) -> Row:
    """Of one that cannot be scored there is its name and why."""
    row: Row = {name: line.get(name) for name in ("recording", "source", "format", "why", "duration_s", "rate_hz", "windows", "scored")}
    if line["why"] is not None:
        return row
    rates, scored = line["heart_rate_bpm"] or {}, line["findings"]
    row |= {"leads": " ".join(line["leads"]), "alerts": sum(line["alerts"].values())}
    row |= {"worst_quality": min(line["quality"].values(), default=None)}
    row |= {f"heart_rate_{which}_bpm": rates.get(which) for which in _SPREAD}
    for name in findings:
        row |= {f"{name}_{what}": value for what, value in scored.get(name, {}).items()}
        row |= {f"{name}_alerts": line["alerts"].get(name, 0)}
    return row
