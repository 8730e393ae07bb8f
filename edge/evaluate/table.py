"""Judged records in; tables for a terminal of a hundred columns out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from kernels.findings import in_words

from ..table import clock
from .beats import BeatCounts
from .episodes import EpisodeCounts, Missed, Terms
from .quality import QualityFigures
from .report import BEAT_SHARES, average_shares, delays
from .study import Group
from .tally import average, per_day
from .tune import Tuned

MOST_MISSED = 20
MOST_FALSE = 40

Cells = tuple[str, ...]


def beat_table(group: Group) -> Table:
    """A row a record; beneath them gross and average."""
    table = _table("Beats and heart rate", "record", "beats", "Se %", "+P %", "RMS 1/min", "mean 1/min", "told %")
    for outcome in group.outcomes:
        table.add_row(outcome.record, *_beat_cells(outcome.beats))
    table.add_section()
    table.add_row("gross", *_beat_cells(group.beats))
    rows = [outcome.beats for outcome in group.outcomes]
    table.add_row("average", "", *_share_cells([average(rows, share) for share in BEAT_SHARES]))
    return table


def _beat_cells(counts: BeatCounts) -> Cells:
    return str(counts.matched + counts.missed), *_share_cells([getattr(counts, share) for share in BEAT_SHARES])


def _share_cells(shares: Sequence[float | None]) -> Cells:
    sensitivity, predictivity, rms, mean, told = shares
    return percent(sensitivity, 2), percent(predictivity, 2), number(rms, 2), number(mean, 2), percent(told)


def episode_table(group: Group, terms: Terms) -> Table:
    """Two rows a finding: all records together, and the mean of the records."""
    long = f">={terms.shortest_s:g} s"
    table = _table("Episodes (EC57)", "finding", "", "all", "Se %", long, "Se %", "+P %", "time Se %", "time +P %")
    for name in group.judged:
        total, mean = group.total(name), average_shares(group.of(name))
        table.add_row(
            in_words(name), "gross", str(total.episodes), percent(total.sensitivity), str(total.long_episodes),
            percent(total.long_sensitivity), percent(total.predictivity), percent(total.duration_sensitivity),
            percent(total.duration_predictivity),
        )  # fmt: skip
        table.add_row(
            "", "average", "", percent(mean["sensitivity"]), "", percent(mean["long_sensitivity"]), percent(mean["predictivity"]),
            percent(mean["duration_sensitivity"]), percent(mean["duration_predictivity"]), style="dim",
        )  # fmt: skip
    return table


def alarm_table(group: Group) -> Table:
    """What became of the alerts of each judged finding."""
    table = _table(
        "Alarms that can be judged", "finding", "alarms", "right", "late", "kin", "kin s", "false", "noisy", "false/24 h", "with kin"
    )
    for name in group.judged:
        total = group.total(name)
        counts = (total.alerts, total.right, total.late, total.kin, round(total.kin_s), total.false, total.false_in_noise)
        table.add_row(in_words(name), *map(str, counts), number(total.false_per_day), number(total.false_or_kin_per_day))
    return table


def delay_table(group: Group) -> Table:
    """How long after its beginning an episode was told."""
    table = _table("Time to alarm", "finding", "timed", "median s", "95 % s", "worst s", "already on", "in time", "missed")
    for name in group.judged:
        total = group.total(name)
        times = delays(total) or {}
        cells = (number(times.get(which)) for which in ("median", "p95", "worst"))
        counts = (total.already_on, total.in_time, len(total.missed))
        table.add_row(in_words(name), str(len(total.delays_s)), *cells, *map(str, counts))
    return table


def load_table(group: Group) -> Table:
    """All alarms by kind and priority, judged or not."""
    table = _table("All alarms", "kind", "priority", "finding", "alarms", "/24 h", "")
    sums: Counter[tuple[str, str]] = Counter()
    for (kind, priority, name), count in sorted(group.load.items()):
        sums[kind, priority] += count
        note = "" if name in group.judged or kind == "technical" else "not judged"
        table.add_row(kind, priority, in_words(name), str(count), number(per_day(count, group.hours)), note)
    table.add_section()
    for (kind, priority), count in sorted(sums.items()):
        table.add_row(kind, priority, "all", str(count), number(per_day(count, group.hours)), "")
    return table


def missed_table(group: Group, terms: Terms) -> Table:
    """The longest episodes without an alert, where they are as long as a clinical one."""
    missed = [(name, one) for name in group.judged for one in group.total(name).missed]
    long = [(name, one) for name, one in missed if _length_s(one) >= terms.shortest_s]
    shown = sorted(long, key=lambda row: _length_s(row[1]), reverse=True)[:MOST_MISSED]
    title = f"Missed episodes: {len(shown)} of {len(long)} of {terms.shortest_s:g} s or more, {len(missed) - len(long)} shorter"
    table = _table(title, "finding", "record", "from", "to", "seconds")
    for name, one in shown:
        table.add_row(in_words(name), one.record, clock(one.start_s), clock(one.end_s), f"{_length_s(one):.0f}")
    return table


def false_table(group: Group) -> Table:
    """The longest false alarms, by record and time."""
    false = [(name, one) for name in group.judged for one in group.total(name).false_alarms]
    longest = sorted(false, key=lambda row: row[1].raised_s - row[1].end_s)[:MOST_FALSE]
    table = _table(f"False alarms: {len(longest)} of {len(false)}", "record", "from", "to", "seconds", "finding", "noisy")
    for name, one in sorted(longest, key=lambda row: (row[1].record, row[1].raised_s)):
        seconds = f"{one.end_s - one.raised_s:.0f}"
        table.add_row(one.record, clock(one.raised_s), clock(one.end_s), seconds, in_words(name), "noisy" if one.noisy else "")
    return table


def noise_table(clean: Group, noisy: Group) -> Table:
    """The same figures without and with noise, and what the noise changed."""
    table = _table("Without and with noise", "", "clean", "noisy", "difference")
    for label, before, after, digits in _noise_rows(clean, noisy):
        change = "-" if before is None or after is None else f"{after - before:+.{digits}f}"
        table.add_row(label, number(before, digits), number(after, digits), change)
    return table


def _noise_rows(clean: Group, noisy: Group) -> list[tuple[str, float | None, float | None, int]]:
    pair = (clean.beats, noisy.beats)
    rows = [_row("beats: Se %", [_hundred(one.sensitivity) for one in pair], 2)]
    rows.append(_row("beats: +P %", [_hundred(one.predictivity) for one in pair], 2))
    rows.append(_row("heart rate: RMS error 1/min", [one.rms_bpm for one in pair], 2))
    rows.append(_row("heart rate: told %", [_hundred(one.told_share) for one in pair]))
    for name in dict.fromkeys((*clean.judged, *noisy.judged)):
        both = (clean.total(name), noisy.total(name))
        rows.append(_row(f"{in_words(name)}: Se %", [_hundred(one.sensitivity) for one in both]))
        rows.append(_row(f"{in_words(name)}: false/24 h", [one.false_per_day for one in both]))
    for kind in ("physiological", "technical"):
        rows.append(_row(f"{kind} alarms/24 h", [per_day(_alarms(group, kind), group.hours) for group in (clean, noisy)]))
    return rows


def _row(label: str, values: Sequence[float | None], digits: int = 1) -> tuple[str, float | None, float | None, int]:
    return label, values[0], values[1], digits


def _alarms(group: Group, kind: str) -> int:
    return sum(count for (of_kind, _, _), count in group.load.items() if of_kind == kind)


def tuned_table(tuned: Tuned, terms: Terms) -> Table:
    """What the chosen thresholds change, on the training records and on the others."""
    title = f"{in_words(tuned.best.finding.name)}: raise at {tuned.best.finding.raise_at:g}, clear at {tuned.best.finding.clear_at:g}"
    table = _table(
        title, "records", "thresholds", "alarms", f"Se % >={terms.shortest_s:g} s", "time Se %", "time +P %", "false", "false/24 h"
    )
    rows = (("training", "bundle", tuned.before), ("training", "tuned", tuned.best.counts))
    rest = (("others", "bundle", tuned.rest_before), ("others", "tuned", tuned.rest_after))
    for where, which, counts in (*rows, *rest):
        if counts:
            table.add_row(where, which, *_tuned_cells(counts))
    return table


def _tuned_cells(counts: EpisodeCounts) -> Cells:
    shares = (counts.long_sensitivity, counts.duration_sensitivity, counts.duration_predictivity)
    return str(counts.alerts), *map(percent, shares), str(counts.false), number(counts.false_per_day)


def quality_table(figures: Sequence[tuple[str, QualityFigures]]) -> Table:
    """A row a folder."""
    table = _table("Signal quality: unacceptable recordings", "folder", "recordings", "unacceptable", "AUROC", "95 % interval")
    for folder, one in figures:
        interval = f"{one.low:.3f} to {one.high:.3f}"
        table.add_row(folder, str(one.recordings), str(one.unacceptable), f"{one.auroc:.3f}", interval)
    return table


def percent(share: float | None, digits: int = 1) -> str:
    """Of a hundred; a dash for nothing."""
    return number(_hundred(share), digits)


def number(value: float | None, digits: int = 1) -> str:
    """A dash for nothing."""
    return "-" if value is None else f"{value:.{digits}f}"


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _length_s(missed: Missed) -> float:
    return missed.end_s - missed.start_s


def _table(title: str, *columns: str) -> Table:
    """The first column, and any of names, to the left; figures to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", min_width=len(title))
    words = {"", "record", "records", "finding", "kind", "priority", "thresholds", "folder"}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    return table
