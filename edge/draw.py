"""The events of a replay in; its picture (PNG or SVG) out: findings over time, heart rate, strips of the alerts.

Needs the `plot` extra.
"""

from __future__ import annotations

import io
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernels.findings import in_words
from kernels.signal import LEADS

from .alarm import Alert
from .pipeline import Event, Seen
from .replay import Summary
from .score import Scores
from .strip import Strip
from .strip_file import INK, Sheet, draw_sheet, lay_out
from .table import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.floating[Any]]

MOST_STRIPS = 4
MOST_LEADS = 3
MOST_CELLS = 4000

_CLOCK_FROM_S = 1200.0
_STEPS_S = (300, 600, 1800, 3600, 7200, 10800, 21600, 86400)
_MOST_TICKS = 13

_PRIORITY = {"high": "#c1121f", "medium": "#e09f00", "low": "#0b7fab"}


class Album:
    """Collects while a replay runs what its picture needs: of the scores two bytes each."""

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = tuple(sorted(findings))
        self.scored_s = array("d")
        self._rows = bytearray()
        self.beats_s = array("d")
        self.vitals_s, self.rates_bpm = array("d"), array("d")

    def add(self, events: Sequence[Event]) -> None:
        """One step of `replay`."""
        for event in events:
            self._add_event(event)

    def probabilities(self, name: str) -> npt.NDArray[np.float32]:
        """Of one finding [n], at `scored_s`; NaN where there is none."""
        rows = np.frombuffer(self._rows, np.float16).reshape(-1, len(self.findings))
        return rows[:, self.findings.index(name)].astype(np.float32)

    def _add_event(self, event: Event) -> None:
        match event:
            case Scores():
                self.scored_s.append(event.at_s)
                row = [event.probability.get(name, np.nan) for name in self.findings]
                self._rows += np.array(row, np.float16).tobytes()
            case Seen(vitals=vitals):
                self.vitals_s.append(vitals.at_s)
                self.rates_bpm.append(np.nan if vitals.heart_rate_bpm is None else vitals.heart_rate_bpm)
                self.beats_s.extend(vitals.beats_s)


def draw(album: Album, summary: Summary, title: str) -> Figure:
    """The picture of a whole replay."""
    from matplotlib.figure import Figure

    strips = _worth_showing(summary)
    heights = [1.2, 0.26 * max(len(summary.probabilities), 3)] + [_strip_inches(strip) for _, strip in strips]
    figure = Figure(figsize=(12, sum(heights) + 1.2), layout="constrained", facecolor="white")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    _draw_heart_rate(axes[0], album, summary)
    _draw_findings(axes[1], album, summary)
    for axis, (alert, strip) in zip(axes[2:], strips, strict=True):
        _draw_strip(axis, alert, strip, album.beats_s)
    return figure


def _worth_showing(summary: Summary) -> list[tuple[Alert, Strip]]:
    """The first alerts with the seconds before them, of each finding one before any second; those of the electrodes last."""
    raised = [episode.raised for episode in summary.episodes.values()]
    shown = [(alert, alert.evidence.strip) for alert in raised if alert.evidence.strip and alert.evidence.strip.leads]
    begun: Counter[str] = Counter()
    ordered = []
    for alert, strip in shown:
        begun[alert.finding] += 1
        ordered.append((alert.kind, begun[alert.finding], alert, strip))
    return [(alert, strip) for _, _, alert, strip in sorted(ordered, key=lambda item: item[:2])[:MOST_STRIPS]]


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
    axis.plot(album.vitals_s, album.rates_bpm, color=INK, lw=0.9)
    axis.set_ylabel("heart rate\n(1/min)")
    axis.set_xlim(0, summary.duration_s)
    axis.margins(y=0.15)
    _tell_time(axis, summary.duration_s)
    axis.grid(color="#dddddd", lw=0.5)
    axis.tick_params(labelbottom=False)


def _draw_findings(axis: Axes, album: Album, summary: Summary) -> None:
    """A row a finding, darker where it is more probable; a bar while its alert is raised."""
    names = sorted(summary.probabilities)
    if names:
        edges, image = _cells(np.array(album.scored_s), np.stack([album.probabilities(name) for name in names]))
        axis.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, image, cmap="Greys", vmin=0, vmax=1, rasterized=True)
    for episode in summary.episodes.values():
        if episode.raised.finding in names:
            end_s = episode.cleared.at_s if episode.cleared else summary.duration_s
            row, colour = names.index(episode.raised.finding), _PRIORITY[episode.raised.priority]
            axis.plot([episode.raised.at_s, end_s], [row - 0.4] * 2, color=colour, lw=3, solid_capstyle="butt")
    axis.set_yticks(range(len(names)), [in_words(name) for name in names], fontsize=8)
    axis.set_xlim(0, summary.duration_s)
    axis.invert_yaxis()
    unit = _tell_time(axis, summary.duration_s)
    axis.set_xlabel(f"{unit}   (grey: probability, white 0, black 1; bar: alert raised, red high, amber medium, blue low)", fontsize=8)


def _tell_time(axis: Axes, duration_s: float) -> str:
    """The unit: hours and minutes where seconds would have too many digits."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    if duration_s < _CLOCK_FROM_S:
        return "seconds"
    step_s = next((step for step in _STEPS_S if duration_s / step <= _MOST_TICKS), _STEPS_S[-1])
    axis.xaxis.set_major_locator(MultipleLocator(step_s))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda at_s, _: clock(at_s)))
    return "h:mm:ss"


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
    preferred = ("II", "V1", "V5", "I", "V2")
    rank = [preferred.index(lead) if lead in preferred else len(LEADS) for lead in strip.leads]
    return sorted(range(len(rank)), key=rank.__getitem__)[:MOST_LEADS]


def _sheet(strip: Strip) -> Sheet:
    return lay_out(strip, _shown_leads(strip))


def _strip_inches(strip: Strip) -> float:
    return 0.44 * _sheet(strip).height_mv + 0.6


def _draw_strip(axis: Axes, alert: Alert, strip: Strip, beats_s: Sequence[float]) -> None:
    sheet = _sheet(strip)
    draw_sheet(axis, sheet, strip.start_s, strip.end_s)
    inside = [beat for beat in beats_s if strip.start_s <= beat < strip.end_s]
    axis.plot(inside, [sheet.high_mv - 0.15] * len(inside), "v", color=_PRIORITY["low"], ms=4)
    score = "probability" if alert.kind == "physiological" else "share of the leads"
    words = f"{in_words(alert.finding)} {alert.state} at {clock(alert.at_s)} ({score} {alert.score:.2f})"
    axis.set_title(words, loc="left", fontsize=10, color=_PRIORITY[alert.priority])
