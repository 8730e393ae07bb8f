"""The bytes of one signal of annotations in one record of EDF+ in; its time-stamped annotations lists out.

Source: Kemp and Olivan, European data format plus (EDF+), 2003, section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tal:
    """A time-stamped annotations list: texts of one moment, of which the first in a record keeps its time and is empty."""

    onset_s: float
    duration_s: float | None
    texts: tuple[str, ...]


def parse_tals(data: bytes) -> list[Tal]:
    """Of one signal of annotations in one record; what tells no time is at NaN."""
    found = []
    for tal in filter(None, data.split(b"\0")):
        moment, *texts = tal.split(b"\x14")
        onset, _, duration = moment.partition(b"\x15")
        duration_s = _seconds(duration) if duration else None
        onset_s = _seconds(onset) if duration_s is None or 0 <= duration_s < math.inf else math.nan
        found.append(Tal(onset_s, duration_s, tuple(text.decode(errors="replace") for text in texts)))
    return found


def _seconds(field: bytes) -> float:
    """NaN for what is no number."""
    try:
        return float(field)
    except ValueError:
        return math.nan
