"""Where findings were most probable in; the strips there, read once more from their recordings, out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.bundle import Card
from kernels.findings import ConfigError, Finding

from ..decode.csv import Columns
from ..strip import Recent, Strip
from ..transport.file import open_recording
from ..window import Resample
from .find import Entry
from .overview import Striking


@dataclass(frozen=True, slots=True)
class Picture:
    """One strip and what it shows."""

    finding: Finding
    striking: Striking
    strip: Strip

    @property
    def file(self) -> str:
        """A name for it."""
        return f"{self.finding.name}-{re.sub(r'[^A-Za-z0-9]+', '-', self.striking.recording).strip('-')[-60:]}.png"


def pictures(
    found: Sequence[tuple[Finding, Striking]], entries: dict[str, Entry], card: Card, columns: Columns, partial: bool
) -> Iterator[Picture]:
    """One each; none of a recording that has gone meanwhile."""
    for finding, striking in found:
        try:
            strip = strip_before(Path(entries[striking.recording].path), striking.at_s, card.rate_hz, columns, partial)
        except (ConfigError, OSError):
            continue
        yield Picture(finding, striking, strip)


def strip_before(path: Path, at_s: float, rate_hz: float, columns: Columns = Columns(), partial: bool = False) -> Strip:
    """The ten seconds of a recording that end there, at this rate. Raises ConfigError and OSError as reading does."""
    resample, recent, end = Resample(rate_hz), Recent(rate_hz), round(at_s * rate_hz)
    for chunk in open_recording(path, columns, partial, mixed=True).chunks(1 << 15):
        for told in resample.feed(chunk):
            recent.feed(told)
            if recent.end >= end:
                return recent.before(end).strip()
    for told in resample.flush():
        recent.feed(told)
    return recent.before(end).strip()
