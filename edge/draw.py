"""The chunks and events of a replay in; its picture (PNG or SVG) out: findings over time, heart rate, strips of the alerts.

Needs the `plot` extra.
"""

from __future__ import annotations

import io
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernels.findings import in_words
from kernels.signal import LEADS, Samples

from .alarm import Alert
from .decode.chunk import Chunk
from .pipeline import Event, Seen
from .replay import Summary
from .score import Scores
from .window import Resample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.floating[Any]]

STRIP_S = 10.0
MOST_STRIPS = 4
MOST_LEADS = 3
MOST_CELLS = 4000
LEAD_STEP_MV = 2.4
MM_PER_S, MM_PER_MV = 25.0, 10.0

_PAPER, _GRID_FINE, _GRID_BOLD, _INK = "#fffaf7", "#f6d9d2", "#e8b0a5", "#1a1a1a"
_PRIORITY = {"high": "#c1121f", "medium": "#e09f00", "low": "#0b7fab"}
_RATE_HZ = 100.0


@dataclass(frozen=True, slots=True)
class Strip:
    """The ten seconds that ended when an alert was raised or cleared."""

    alert: Alert
    start_s: float
    samples_mv: Samples
    """[12, n] at 100 Hz."""


class Album:
    """Collects while a replay runs what its picture needs: of the samples only the strips, of the scores two bytes each."""

    def __init__(self, findings: Sequence[str]) -> None:
        self._resample = Resample(_RATE_HZ)
        self._recent: deque[Chunk] = deque()
        self.findings = tuple(sorted(findings))
        self.strips: list[Strip] = []
        self.scored_s = array("d")
        self.probabilities: list[npt.NDArray[np.float16]] = []
        self.beats_s = array("d")
        self.vitals_s, self.rates_bpm = array("d"), array("d")

    def add(self, chunk: Chunk | None, events: Sequence[Event]) -> None:
        """One step of `replay`."""
        if chunk is not None:
            self._recent.extend(self._resample.feed(chunk))
        for event in events:
            self._add_event(event)
        self._forget()

    def _add_event(self, event: Event) -> None:
        match event:
            case Scores():
                self.scored_s.append(event.at_s)
                row = [event.probability.get(name, np.nan) for name in self.findings]
                self.probabilities.append(np.array(row, np.float16))
            case Seen(vitals=vitals):
                self.vitals_s.append(vitals.at_s)
                self.rates_bpm.append(np.nan if vitals.heart_rate_bpm is None else vitals.heart_rate_bpm)
                self.beats_s.extend(vitals.beats_s)
            case Alert():
                if len(self.strips) < MOST_STRIPS:
                    self.strips.append(self._strip(event))

    def _strip(self, alert: Alert) -> Strip:
        start = round((alert.at_s - STRIP_S) * _RATE_HZ)
        samples = np.full((len(LEADS), round(STRIP_S * _RATE_HZ)), np.nan, np.float32)
        for chunk in self._recent:
            first, last = max(chunk.start, start), min(chunk.end, start + samples.shape[1])
            if first < last:
                samples[:, first - start : last - start] = chunk.samples_mv[:, first - chunk.start : last - chunk.start]
        return Strip(alert, start / _RATE_HZ, samples)

    def _forget(self) -> None:
        while len(self._recent) > 1 and self._recent[-1].end - self._recent[1].start > 3 * STRIP_S * _RATE_HZ:
            self._recent.popleft()


def draw(album: Album, summary: Summary, title: str) -> Figure:
    """The picture of a whole replay."""
    from matplotlib.figure import Figure

    heights = [1.2, 0.26 * max(len(summary.probabilities), 3)] + [_strip_inches(strip) for strip in album.strips]
    figure = Figure(figsize=(12, sum(heights) + 1.2), layout="constrained", facecolor="white")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    _draw_heart_rate(axes[0], album, summary)
    _draw_findings(axes[1], album, summary)
    for axis, strip in zip(axes[2:], album.strips, strict=True):
        _draw_strip(axis, strip, album.beats_s)
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """PNG, SVG or PDF by the ending of its name."""
    figure.savefig(path, dpi=110)


def to_svg(figure: Figure) -> str:
    """The picture as an `<svg>` element for a page; the same events give the same bytes."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "cardiogloss"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _draw_heart_rate(axis: Axes, album: Album, summary: Summary) -> None:
    axis.plot(album.vitals_s, album.rates_bpm, color=_INK, lw=0.9)
    axis.set_ylabel("heart rate\n(1/min)")
    axis.set_xlim(0, summary.duration_s)
    axis.margins(y=0.15)
    axis.grid(color="#dddddd", lw=0.5)
    axis.tick_params(labelbottom=False)


def _draw_findings(axis: Axes, album: Album, summary: Summary) -> None:
    """A row a finding, darker where it is more probable; a bar while its alert is raised."""
    names = sorted(summary.probabilities)
    if names:
        rows = [album.findings.index(name) for name in names]
        edges, image = _cells(np.array(album.scored_s), np.stack(album.probabilities, axis=1)[rows].astype(np.float32))
        axis.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, image, cmap="Greys", vmin=0, vmax=1, rasterized=True)
    for episode in summary.episodes.values():
        if episode.raised.finding in names:
            end_s = episode.cleared.at_s if episode.cleared else summary.duration_s
            row, colour = names.index(episode.raised.finding), _PRIORITY[episode.raised.priority]
            axis.plot([episode.raised.at_s, end_s], [row - 0.4] * 2, color=colour, lw=3, solid_capstyle="butt")
    axis.set_yticks(range(len(names)), [in_words(name) for name in names], fontsize=8)
    axis.set_xlim(0, summary.duration_s)
    axis.invert_yaxis()
    axis.set_xlabel("seconds   (grey: probability, white 0, black 1; bar: alert raised, red high, amber medium, blue low)", fontsize=8)


def _cells(at_s: Floats, image: Floats) -> tuple[Floats, Floats]:
    """Edges [n + 1] and values [rows, n]: each score fills the hop that ends with it, NaN fills where there was none."""
    together = -(-len(at_s) // MOST_CELLS)
    at_s, image = at_s[together - 1 :: together], image[:, : len(at_s) // together * together]
    image = image.reshape(len(image), -1, together).max(axis=2)
    hop_s = float(np.diff(at_s).min()) if len(at_s) > 1 else 1.0
    gaps = np.flatnonzero(np.diff(at_s) > 1.5 * hop_s) + 1
    edges = np.sort(np.concatenate([at_s[:1] - hop_s, at_s, at_s[gaps] - hop_s]))
    return edges, np.insert(image, gaps, np.nan, axis=1)


def _shown_leads(strip: Strip) -> list[int]:
    """The leads that are there, those of a monitor first."""
    there = [i for i, lead in enumerate(strip.samples_mv) if not np.isnan(lead).all()]
    preferred = [LEADS.index(name) for name in ("II", "V1", "V5", "I", "V2")]
    return sorted(there, key=lambda i: preferred.index(i) if i in preferred else len(LEADS))[:MOST_LEADS]


def _strip_inches(strip: Strip) -> float:
    return 0.44 * LEAD_STEP_MV * max(len(_shown_leads(strip)), 1) + 0.6


def _draw_strip(axis: Axes, strip: Strip, beats_s: Sequence[float]) -> None:
    """ECG paper of 25 mm/s and 10 mm/mV: a small square is 40 ms and 0.1 mV."""
    leads = _shown_leads(strip)
    time_s = strip.start_s + np.arange(strip.samples_mv.shape[1]) / _RATE_HZ
    for place, lead in enumerate(leads):
        trace = strip.samples_mv[lead] - np.nanmedian(strip.samples_mv[lead]) - LEAD_STEP_MV * place
        axis.plot(time_s, trace, color=_INK, lw=0.8)
        axis.text(time_s[0] + 0.05, 0.9 - LEAD_STEP_MV * place, LEADS[lead], fontsize=9, fontweight="bold")
    end_s, low_mv, high_mv = strip.start_s + STRIP_S, -LEAD_STEP_MV * len(leads) + 1.0, 1.6
    inside = [beat for beat in beats_s if strip.start_s <= beat < end_s]
    axis.plot(inside, [high_mv - 0.2] * len(inside), "v", color=_PRIORITY["low"], ms=4)
    axis.set(xlim=(strip.start_s, end_s), ylim=(low_mv, high_mv), facecolor=_PAPER, yticks=[], aspect=MM_PER_MV / MM_PER_S)
    _rule_paper(axis, strip.start_s, end_s, low_mv, high_mv)
    alert = strip.alert
    words = f"{in_words(alert.finding)} {alert.state} at {alert.at_s:.0f} s (peak probability {alert.score:.2f})"
    axis.set_title(words, loc="left", fontsize=10, color=_PRIORITY[alert.priority])


def _rule_paper(axis: Axes, left_s: float, right_s: float, low_mv: float, high_mv: float) -> None:
    for step_s, step_mv, colour, width in ((0.04, 0.1, _GRID_FINE, 0.3), (0.2, 0.5, _GRID_BOLD, 0.5)):
        axis.vlines(np.arange(left_s, right_s, step_s), low_mv, high_mv, color=colour, lw=width, zorder=0)
        axis.hlines(np.arange(low_mv, high_mv, step_mv), left_s, right_s, color=colour, lw=width, zorder=0)
