"""The summary of a replay in; rows of text for a terminal or a page out."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.bundle import Card
from kernels.findings import in_words

from .replay import Summary


def clock(seconds: float) -> str:
    """0:00:00"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def episode_rows(summary: Summary) -> Iterator[tuple[str, str, str, str, str]]:
    """finding, priority, raised, cleared, peak probability: one row an alert, in the order they were raised."""
    for episode in summary.episodes.values():
        end = clock(episode.cleared.at_s) if episode.cleared else "still on at the end"
        alert = episode.raised
        yield in_words(alert.finding), alert.priority, clock(alert.at_s), end, f"{episode.peak:.2f}"


def finding_rows(summary: Summary, card: Card) -> Iterator[tuple[str, str, str, str]]:
    """finding, median, highest, share of windows at or above `raise_at`: the most probable first."""
    medians = {finding.name: summary.median(finding.name) for finding in card.findings}
    for finding in sorted(card.findings, key=lambda f: medians[f.name], reverse=True):
        values = summary.probabilities.get(finding.name)
        if values:
            share = sum(v >= finding.raise_at for v in values) / len(values)
            yield in_words(finding.name), f"{medians[finding.name]:.2f}", f"{max(values):.2f}", f"{share:.0%}"


def unobservable(summary: Summary) -> str:
    """What the leads at hand cannot show, in one line; empty where they show everything."""
    names = ", ".join(sorted(in_words(name) for name in summary.unobservable - summary.probabilities.keys()))
    return f"Not visible in these leads: {names}." if names else ""


def overview(summary: Summary) -> str:
    """One sentence on length, heart rate and what could not be scored."""
    rates = summary.heart_rates_bpm
    heart = f"heart rate {min(rates):.0f} to {max(rates):.0f} per minute" if rates else "no heart rate found"
    scored = summary.windows - sum(summary.abstained.values())
    silent = f", {summary.windows - scored} without a usable lead" if summary.abstained else ""
    return f"{clock(summary.duration_s)} long, {scored} window{'' if scored == 1 else 's'} scored{silent}, {heart}."
