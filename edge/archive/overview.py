"""The recordings' lines of an archive in; what there was to see in all of them, as figures for a page, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kernels.bundle import Card
from kernels.findings import Finding, in_words

from ..table import clock
from .lines import Line

MOST_STRIPS = 12
_MOST_NAMED = 200
"""Files not scored that a page names; the tables name all."""


@dataclass(frozen=True, slots=True, order=True)
class Striking:
    """Where a finding was most probable."""

    probability: float
    recording: str
    at_s: float
    """The end of the window."""


@dataclass(slots=True)
class Count:
    """How often one finding was met."""

    finding: Finding
    scored: int = 0
    """Recordings whose leads can show it."""
    positive: int = 0
    """Of them those where a window reached its threshold."""
    alarmed: int = 0
    """Of them those where it raised an alert."""
    striking: Striking | None = None


@dataclass(slots=True)
class Overview:
    """Grows with the findings, the formats and the unreadable files, not with the recordings."""

    counts: dict[str, Count]
    recordings: int = 0
    seconds: float = 0.0
    windows: int = 0
    abstained: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    leads: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)
    """By lead the recordings in which it was good for nine tenths of the time or more."""
    unreadable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, card: Card) -> Overview:
        """Of nothing yet."""
        return cls({finding.name: Count(finding) for finding in card.findings})

    def add(self, line: Line) -> None:
        """One recording's."""
        if line["why"] is not None:
            self.unreadable[line["recording"]] = line["why"]
            return
        self.recordings += 1
        self.seconds += line["duration_s"]
        self.windows += line["windows"]
        self.abstained.update(line["abstained"])
        self.formats[line["format"]] += 1
        self.leads.update(line["quality"].keys())
        self.good.update(lead for lead, share in line["quality"].items() if share >= 0.9)
        for name, told in line["findings"].items():
            self._count(self.counts[name], told, line)

    def _count(self, count: Count, told: Line, line: Line) -> None:
        count.scored += 1
        count.alarmed += line["alerts"][count.finding.name] > 0
        if told["highest"] < count.finding.raise_at:
            return
        count.positive += 1
        striking = Striking(told["highest"], line["recording"], told["highest_at_s"])
        count.striking = max(count.striking, striking) if count.striking else striking

    def summary(self) -> str:
        """One sentence."""
        failed = f", {len(self.unreadable)} could not be scored" if self.unreadable else ""
        return f"{self.recordings:,} recordings of {clock(self.seconds)} in all, {self.windows:,} windows scored{failed}."

    def finding_rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """finding, recordings that can show it, those above the threshold, their share, those with an alert: the most frequent first."""
        for count in sorted(self.counts.values(), key=lambda count: -count.positive):
            if count.scored:
                share = f"{count.positive / count.scored:.1%}"
                yield in_words(count.finding.name), f"{count.scored:,}", f"{count.positive:,}", share, f"{count.alarmed:,}"

    def quality_rows(self) -> Iterator[tuple[str, str, str]]:
        """lead, recordings that have it, share of them in which it was good."""
        for lead, having in self.leads.items():
            yield lead, f"{having:,}", f"{self.good[lead] / having:.1%}"

    def unreadable_rows(self) -> list[tuple[str, str]]:
        """file, why."""
        return list(self.unreadable.items())[:_MOST_NAMED]

    def striking(self) -> list[tuple[Finding, Striking]]:
        """The findings met, the most urgent and probable first, each with one place that shows it."""
        urgency: Sequence[str] = ("high", "medium", "low", "none")
        met = [(count.finding, count.striking) for count in self.counts.values() if count.striking]
        return sorted(met, key=lambda found: (urgency.index(found[0].priority), -found[1].probability))[:MOST_STRIPS]
