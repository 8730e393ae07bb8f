"""The blocks of all recordings in; tables of them (Parquet and JSON lines: scores, alerts, annotations, recordings) out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, starmap
from pathlib import Path
from typing import IO, Any

from kernels.findings import ConfigError
from kernels.signal import LEADS

from .lines import Line, failure, type_of
from .part import Block

TABLES = {"scores": "scores", "alert": "alerts", "annotation": "annotations", "recording": "recordings"}
"""The type of a line -> the table that it goes to."""

_HELD = 4 << 20
"""Bytes of lines that become rows at once."""

_SPREAD = ("lowest", "median", "highest")
_OF_FINDING = ("median", "highest", "highest_at_s", "above")

Form = dict[str, Any]
"""Field -> its type in Arrow's words, or the form of what is inside it."""


def write_tables(blocks: Iterable[Block], unreadable: Mapping[str, str], out: Path, findings: Sequence[str]) -> Iterator[Line]:
    """Writes `NAME.parquet` and `NAME.jsonl` of each table; gives the lines of the recordings as they pass.

    `unreadable` (name -> why) comes after what was tried. Raises ConfigError without the `archive` extra.
    """
    with ExitStack() as files:
        writers = {kind: files.enter_context(_write(out, TABLES[kind], form)) for kind, form in forms(findings).items()}
        for text in chain((text for block in blocks for text in block.lines()), starmap(failure, sorted(unreadable.items()))):
            kind = type_of(text)
            writers[kind].add(text)
            if kind == "recording":
                yield json.loads(text)


def check_columns(findings: Sequence[str]) -> None:
    """Raises ConfigError where a finding has the name of another column."""
    for form in forms(findings).values():
        columns = flat(schema(form).empty_table()).column_names
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice:
            raise ConfigError(f"a finding may not be named so that its column is {twice!r}, which the tables have already; rename it")


def forms(findings: Sequence[str]) -> dict[str, Form]:
    """By the type of the line, for a model with these findings."""
    of_finding = {what: "double" if what == "highest_at_s" else "float" for what in _OF_FINDING}
    return {
        "scores": _fields("string", "recording", "abstained") | {"at_s": "double"}
        | {"probability": _fields("float", *findings), "quality": _fields("string", *LEADS)},
        "alert": _fields("string", "recording", "id", "finding", "kind", "priority", "state", "why")
        | _fields("double", "at_s", "onset_s", "score", "heart_rate_bpm") | {"seq": "int64"},
        "annotation": _fields("string", "recording", "text") | _fields("double", "at_s", "end_s"),
        "recording": _fields("string", "recording", "source", "format", "why")
        | _fields("double", "duration_s", "rate_hz") | _fields("int64", "windows", "scored", "technical_alerts")
        | {"heart_rate_bpm": _fields("float", *_SPREAD), "quality": _fields("float", *LEADS)}
        | {"alerts": _fields("int64", *findings), "findings": dict.fromkeys(findings, of_finding)},
    }  # fmt: skip


def _fields(kind: str, *names: str) -> Form:
    return dict.fromkeys(names, kind)


class _Writer:
    """Both files of one table."""

    def __init__(self, form: Form, lines: IO[bytes], parquet: Any) -> None:
        self._schema = schema(form)
        self._lines, self._parquet = lines, parquet
        self._held: list[bytes] = []
        self._size = 0

    def add(self, text: bytes) -> None:
        """The line goes on as it is, and as a row."""
        self._lines.write(text)
        self._held.append(text)
        self._size += len(text)
        if self._size >= _HELD:
            self.write()

    def write(self) -> None:
        """What is held."""
        if self._held:
            self._parquet.write_table(rows(b"".join(self._held), self._schema))
        self._held, self._size = [], 0


def rows(lines: bytes, form: Any) -> Any:
    """Lines as an Arrow table of this schema, a column for each innermost field."""
    _, reader = arrow()
    options = reader.ParseOptions(explicit_schema=form, unexpected_field_behavior="ignore")
    return flat(reader.read_json(io.BytesIO(lines), reader.ReadOptions(block_size=2 * len(lines)), options).select(form.names))


def flat(table: Any) -> Any:
    """With fields of fields as columns of their own: those of probability and findings by the finding, the others by both names."""
    arrow_package, _ = arrow()
    while any(arrow_package.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table.rename_columns([_column(name) for name in table.column_names])


def _column(name: str) -> str:
    """`probability.x` -> `x`, `findings.x.highest` -> `x_highest`, `alerts.x` -> `x_alerts`, `quality.V1` -> `quality_V1`."""
    outer, _, inner = name.partition(".")
    if outer in ("probability", "findings") and inner:
        return inner.replace(".", "_")
    if outer == "alerts":
        return f"{inner}_alerts"
    if outer == "heart_rate_bpm" and inner:
        return f"heart_rate_{inner}_bpm"
    return name.replace(".", "_")


def schema(form: Form) -> Any:
    """Of lines with these fields."""
    arrow_package, _ = arrow()
    return arrow_package.schema([(name, _type(kind)) for name, kind in form.items()])


def _type(kind: Any) -> Any:
    arrow_package, _ = arrow()
    if isinstance(kind, str):
        return arrow_package.type_for_alias(kind)
    return arrow_package.struct([(name, _type(inner)) for name, inner in kind.items()])


@contextmanager
def _write(out: Path, name: str, form: Form) -> Iterator[_Writer]:
    from pyarrow import parquet

    columns = flat(schema(form).empty_table()).schema
    with (out / f"{name}.jsonl").open("wb") as lines, parquet.ParquetWriter(out / f"{name}.parquet", columns, compression="zstd") as table:
        writer = _Writer(form, lines, table)
        yield writer
        writer.write()


def arrow() -> tuple[Any, Any]:
    """The package that makes tables, and its reader of JSON lines. Raises ConfigError without it."""
    try:
        import pyarrow
        import pyarrow.json
    except ImportError:
        raise ConfigError("tables need the package pyarrow: pip install 'cardiogloss[archive]'") from None
    return pyarrow, pyarrow.json
