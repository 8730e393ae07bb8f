"""The chunks and events of one recording in; its lines for the tables (scores, alerts, annotations, one of summary) out."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import IO, Any

from kernels.bundle import Card
from kernels.signal import LEADS

from ..alarm import Alert
from ..decode.chunk import Chunk
from ..formats.recording import Annotation
from ..message import to_message
from ..pipeline import Event, Seen
from ..replay import Summary
from ..score import Scores

Line = dict[str, Any]

_TYPE = b'{"type": "'
"""How every line begins."""


class Lines:
    """Writes a recording's lines as its events come: those of `replay --json` for scores and alerts, the recording's name before them.

    Alerts come without their strips, which the recording holds.
    """

    def __init__(self, recording: str, file: IO[bytes], card: Card) -> None:
        self._recording = recording
        self._raise_at = {finding.name: finding.raise_at for finding in card.findings}
        self._file = file
        self._summary = Summary()
        self._highest: dict[str, tuple[float, float]] = {}
        self._quality: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._leads: dict[str, None] = {}
        self._rate_hz: float | None = None

    def add(self, chunk: Chunk | None, events: list[Event]) -> None:
        """One step."""
        self._summary.add(chunk, events)
        if chunk is not None:
            self._leads.update(dict.fromkeys(lead for lead in chunk.leads if lead in LEADS))
            self._rate_hz = self._rate_hz or chunk.rate_hz
        for event in events:
            self._add_event(event)

    def annotate(self, annotations: Iterable[Annotation]) -> None:
        """What stands in the recording itself."""
        for note in annotations:
            self._write({"type": "annotation", "at_s": round(note.at_s, 6), "end_s": note.end_s, "text": note.text})

    def end(self, source: str, kind: str) -> str | None:
        """The line that sums the recording up; gives back why nothing was scored, if nothing was. `kind` is its format."""
        summary, scored = self._summary, self._summary.windows - sum(self._summary.abstained.values())
        why = None if scored else self._why_nothing()
        raised = [episode.raised for episode in summary.episodes.values()]
        alerts = Counter(alert.finding for alert in raised if alert.kind == "physiological")
        self._write({
            "type": "recording",
            "source": source,
            "format": kind,
            "why": why,
            "duration_s": round(summary.duration_s, 6),
            "rate_hz": self._rate_hz,
            "leads": list(self._leads),
            "windows": summary.windows,
            "scored": scored,
            "abstained": summary.abstained,
            "heart_rate_bpm": _spread(summary.heart_rates_bpm),
            "quality": {lead: round(states["good"] / states.total(), 4) for lead, states in self._quality.items()},
            "unobservable": sorted(summary.unobservable - summary.probabilities.keys()),
            "alerts": {name: alerts[name] for name in sorted(summary.probabilities)},
            "technical_alerts": sum(alert.kind == "technical" for alert in raised),
            "findings": {name: self._finding(name, values) for name, values in sorted(summary.probabilities.items())},
        })  # fmt: skip
        return why

    def _add_event(self, event: Event) -> None:
        match event:
            case Scores():
                self._write(to_message(event))
                for finding, probability in event.probability.items():
                    if probability > self._highest.get(finding, (-1.0,))[0]:
                        self._highest[finding] = probability, event.at_s
            case Alert():
                message = to_message(event)
                self._write(message | {"evidence": message["evidence"] | {"strip": None}})
            case Seen(quality=quality) if quality:
                for lead, state in quality.by_lead().items():
                    self._quality[lead][state] += 1

    def _why_nothing(self) -> str:
        """A wrong gain looks like a flat line, or like what no heart can give."""
        reason, _ = Counter(self._summary.abstained).most_common(1)[0]
        return f"no window could be scored ({reason}); if its electrodes were on, its gain or unit is wrong: give it by --unit, or mend it"

    def _finding(self, name: str, values: Sequence[float]) -> Line:
        highest, at_s = self._highest[name]
        above = sum(value >= self._raise_at[name] for value in values) / len(values)
        return {"median": round(statistics.median(values), 6), "highest": highest, "highest_at_s": at_s, "above": round(above, 6)}

    def _write(self, line: Line) -> None:
        self._file.write(_encode(line.pop("type"), self._recording, line))


def failure(recording: str, why: str) -> bytes:
    """The one line of a recording that cannot be scored."""
    return _encode("recording", recording, {"why": why})


def type_of(text: bytes) -> str:
    """Of a line, without reading the rest of it."""
    begin = len(_TYPE)
    return text[begin : text.index(b'"', begin)].decode()


def _encode(kind: str, recording: str, line: Line) -> bytes:
    """The type comes first, for `type_of`."""
    return json.dumps({"type": kind, "recording": recording} | line, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _spread(values: Sequence[float]) -> Line | None:
    if not values:
        return None
    return {"lowest": round(min(values), 1), "median": round(statistics.median(values), 1), "highest": round(max(values), 1)}
