"""Where findings were most probable in; the strips there, read once more from their recordings, out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.bundle import Card
from kernels.findings import ConfigError, Finding

from ..decode.csv import Columns
from ..formats.recording import RecordingFile
from ..strip import STRIP_S, Recent, Strip
from ..transport.file import open_recording
from ..window import Resample
from .find import Entry
from .overview import Striking

_BLOCK = 1 << 15
_LEAD_IN_S = 2.0


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
    strips: dict[Striking, Strip] = {}
    for name in {striking.recording for _, striking in found}:
        wanted = sorted((striking for _, striking in found if striking.recording == name), key=lambda striking: striking.at_s)
        try:
            recording = open_recording(Path(entries[name].path), columns, partial, mixed=True)
            told = list(strips_before([striking.at_s for striking in wanted], recording, card.rate_hz))
        except (ConfigError, OSError):
            continue
        strips.update(zip(wanted, told, strict=True))
    yield from (Picture(finding, striking, strips[striking]) for finding, striking in found if striking in strips)


def strips_before(ends_s: Sequence[float], recording: RecordingFile, rate_hz: float) -> Iterator[Strip]:
    """The ten seconds that end at each of these times, which rise, at this rate. Raises ConfigError and OSError as reading does."""
    resample, recent, waiting = Resample(rate_hz), Recent(rate_hz), deque(ends_s)
    for chunk in recording.chunks(_BLOCK):
        if not waiting:
            return
        # What lies long before is not worth filtering.
        if chunk.end / chunk.rate_hz < waiting[0] - STRIP_S - _LEAD_IN_S:
            continue
        for told in resample.feed(chunk):
            recent.feed(told)
            while waiting and recent.end >= round(waiting[0] * rate_hz):
                yield recent.before(round(waiting.popleft() * rate_hz)).strip()
    for told in resample.flush():
        recent.feed(told)
    for end_s in waiting:
        yield recent.before(round(end_s * rate_hz)).strip()
