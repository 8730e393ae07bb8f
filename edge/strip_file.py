"""A `Strip` in; its picture on ECG paper (PNG) or its WFDB record, as bytes of files, out."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from .record_file import INVALID, Digits, Form, to_digits
from .strip import Strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.floating[Any]]

MM_PER_S, MM_PER_MV = 25.0, 10.0
INK, PAPER = "#1a1a1a", "#fffaf7"
UNITS_PER_MV = 1000.0

_GRID_FINE, _GRID_BOLD = "#f6d9d2", "#e8b0a5"
_LEAST_MV, _MOST_MV = 0.6, 3.0
"""Room for a lead above and below its baseline."""
_GAP_MV = 0.4
_DPI = 110
_MM_PER_INCH = 25.4
_MARGIN_MM = (14.0, 14.0, 5.0, 12.0)
"""Left, bottom, right and top."""
_FORM = Form(2)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Leads one below the other, each in a row that is as high as what it shows."""

    leads: tuple[str, ...]
    time_s: Floats
    """[n]"""
    traces_mv: Floats
    """[leads, n] around their baselines; what leaves its row is cut off, as an electrode that moves would cover all others."""
    baselines_mv: tuple[float, ...]
    """From 0 downwards."""
    low_mv: float
    high_mv: float

    @property
    def height_mv(self) -> float:
        return self.high_mv - self.low_mv


def lay_out(strip: Strip, leads: Sequence[int]) -> Sheet:
    """These leads of a strip, by index, in this order."""
    samples = strip.samples_mv[list(leads)].astype(np.float64)
    traces = np.stack([_centred(lead) for lead in samples]) if len(samples) else samples
    tops, bottoms = _room(traces), _room(-traces)
    baselines = [0.0]
    for bottom, top in zip(bottoms, tops[1:], strict=False):
        baselines.append(baselines[-1] - bottom - _GAP_MV - top)
    high, low = (tops or [_LEAST_MV])[0] + _GAP_MV, baselines[-1] - (bottoms or [_LEAST_MV])[-1] - _GAP_MV
    time_s = strip.start_s + np.arange(samples.shape[1]) / strip.rate_hz
    names = tuple(strip.leads[i] for i in leads)
    return Sheet(names, time_s, traces.clip(-_MOST_MV, _MOST_MV), tuple(baselines[: len(names)]), low, high)


def _centred(lead_mv: Floats) -> Floats:
    there = lead_mv[~np.isnan(lead_mv)]
    return lead_mv - (np.median(there) if there.size else 0.0)


def _room(traces_mv: Floats) -> list[float]:
    highest = np.nan_to_num(traces_mv).max(axis=1, initial=_LEAST_MV)
    return np.minimum(highest, _MOST_MV).tolist()


def draw_sheet(axis: Axes, sheet: Sheet, start_s: float, end_s: float) -> None:
    """On paper of 25 mm/s and 10 mm/mV: a small square is 40 ms and 0.1 mV."""
    for trace, baseline in zip(sheet.traces_mv, sheet.baselines_mv, strict=True):
        axis.plot(sheet.time_s, trace + baseline, color=INK, lw=0.8)
    axis.set(xlim=(start_s, end_s), ylim=(sheet.low_mv, sheet.high_mv), facecolor=PAPER, aspect=MM_PER_MV / MM_PER_S)
    # A name of a lead or a site may hold a dollar sign, which would begin a formula.
    axis.set_yticks(sheet.baselines_mv, sheet.leads, fontsize=9, fontweight="bold", parse_math=False)
    axis.tick_params(left=False)
    for step_s, step_mv, colour, width in ((0.04, 0.1, _GRID_FINE, 0.3), (0.2, 0.5, _GRID_BOLD, 0.5)):
        axis.vlines(_lines(start_s, end_s, step_s), sheet.low_mv, sheet.high_mv, color=colour, lw=width, zorder=0)
        axis.hlines(_lines(sheet.low_mv, sheet.high_mv, step_mv), start_s, end_s, color=colour, lw=width, zorder=0)


def _lines(first: float, last: float, step: float) -> Floats:
    """At whole multiples of the step."""
    return np.arange(math.ceil(first / step - 1e-6), math.floor(last / step + 1e-6) + 1) * step


def to_png(strip: Strip, title: str) -> bytes:
    """All leads on ECG paper, true to scale at 110 dots per inch. Raises ConfigError without the `plot` extra."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a picture needs matplotlib: pip install 'cardiogloss[plot]'") from None
    sheet = lay_out(strip, range(len(strip.leads)))
    seconds = max(strip.end_s - strip.start_s, 1.0)
    width, height = seconds * MM_PER_S, sheet.height_mv * MM_PER_MV
    left, bottom, right, top = _MARGIN_MM
    whole = left + width + right, bottom + height + top
    figure = Figure(figsize=(whole[0] / _MM_PER_INCH, whole[1] / _MM_PER_INCH), facecolor="white")
    axis = figure.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))
    draw_sheet(axis, sheet, strip.start_s, strip.start_s + seconds)
    axis.set_xlabel("seconds   (25 mm/s, 10 mm/mV)" if strip.leads else "no lead gave a signal", fontsize=8)
    axis.set_title(title, loc="left", fontsize=11, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def to_wfdb(strip: Strip, name: str, begun: datetime | None = None) -> dict[str, bytes]:
    """`name.hea` and `name.dat`: format 16, 1000 units per mV; NaN is invalid, and what lies beyond 32.767 mV is cut off.

    `begun` is when the first sample was. Source: the WFDB Applications Guide, header(5) and signal(5).
    """
    digits = to_digits(strip.samples_mv, UNITS_PER_MV)
    stored = _FORM.stored(np.where(digits == INVALID, digits, digits.clip(-_FORM.largest, _FORM.largest)))
    lines = [f"{name} {len(strip.leads)} {strip.rate_hz!r} {len(stored)}{_date(begun)}"]
    for lead, signal in zip(strip.leads, stored.T, strict=True):
        shown = "".join(filter(str.isprintable, lead))
        lines.append(f"{name}.dat {_FORM.code} {UNITS_PER_MV!r}(0)/mV {_FORM.code} 0 {_first(signal)} {_checksum(signal)} 0 {shown}")
    lines.append(f"# starts at {strip.start_s:.3f} s of its stream")
    return {f"{name}.hea": ("\n".join(lines) + "\n").encode(), f"{name}.dat": _FORM.encode(stored)}


def _date(begun: datetime | None) -> str:
    return f" {begun:%H:%M:%S}.{begun.microsecond // 1000:03} {begun:%d/%m/%Y}" if begun else ""


def _first(signal: Digits) -> int:
    return int(signal[0]) if signal.size else 0


def _checksum(signal: Digits) -> int:
    return int((signal.sum() + 2**15) % 2**16 - 2**15)
