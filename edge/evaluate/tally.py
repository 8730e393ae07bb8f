"""The counts of single recordings in; their sum (gross) and the mean of their shares (average), as EC57 reports both, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Counts:
    """Fields that can be added: numbers and tuples."""


C = TypeVar("C", bound=Counts)


def gross(rows: Sequence[C]) -> C:
    """Every field added up over the rows, of which there is at least one."""
    kind = type(rows[0])
    return kind(**{field.name: reduce(add, (getattr(row, field.name) for row in rows)) for field in fields(kind)})


def average(rows: Sequence[C], share: str) -> float | None:
    """The mean of this property over those rows that have one; None where none has."""
    shares: list[float] = [value for row in rows if (value := getattr(row, share)) is not None]
    return sum(shares) / len(shares) if shares else None


def ratio(part: float, whole: float) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def per_day(count: int, hours: float) -> float | None:
    """So many in 24 hours."""
    return ratio(24 * count, hours)


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats, in dictionaries and lists too, without the noise of their last digits."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value
