"""The figures of a holter report in; small charts (SVG with HTML labels, which stay readable at any width) out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from .evaluate.interval import Interval
from .heart import BIN_BPM, Bin, Step
from .table import clock

_WIDE, _HIGH = 1000, 100
_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 604800)


def lane(pieces: Mapping[str, Sequence[Interval]], duration_s: float, thick: bool = False) -> str:
    """A row of the timeline: colour (a name of the style sheet) -> where it holds."""
    paths = "".join(f'<path fill="var(--{colour})" d="{_blocks(where, duration_s)}"/>' for colour, where in pieces.items() if where)
    return f'<div class="lane{" thick" if thick else ""}">{_svg(paths)}</div>'


def pins(at_s: Iterable[float], duration_s: float) -> str:
    """A row of buttons, each at its time, which lead there."""
    places = (
        f'<button type="button" data-at="{one:.2f}" aria-label="Strip at {clock(one)}" title="{clock(one)}" '
        f'style="left:{100 * one / duration_s:.2f}%"></button>'
        for one in at_s
    )
    return f'<div class="lane pins">{"".join(places)}</div>'


def time_axis(duration_s: float, most: int = 8) -> str:
    """At most so many labels; every other one goes on a narrow screen."""
    step_s = next((step for step in _STEPS_S if duration_s / step <= most), _STEPS_S[-1])
    at = range(0, int(duration_s) + 1, step_s)
    spans = (_label(i, at_s, duration_s) for i, at_s in enumerate(at))
    return f'<div class="axis">{"".join(spans)}</div>'


def trend_chart(steps: Sequence[Step], duration_s: float) -> str:
    """The mean heart rate as a line, from the lowest to the highest ten seconds as a band; nothing where there is none."""
    told = [value for step in steps for value in (step.lowest_bpm, step.mean_bpm, step.highest_bpm) if value is not None]
    low, high = _frame(told)
    step_s = steps[1].start_s - steps[0].start_s if len(steps) > 1 else duration_s

    def x(start_s: float) -> float:
        return _WIDE * min((start_s + step_s / 2) / duration_s, 1.0)

    def y(bpm: float) -> float:
        return _HIGH * (high - bpm) / (high - low)

    runs = list(_runs(steps))
    band = " ".join(_band([(x(s.start_s), y(hi), y(lo)) for s, lo, hi in run]) for run in runs)
    line = " ".join(_line([(x(s.start_s), y(s.mean_bpm)) for s, _, _ in run if s.mean_bpm is not None]) for run in runs)
    drawn = (
        f'<path d="{band}" fill="var(--accent)" fill-opacity=".25"/>'
        f'<path d="{line}" fill="none" stroke="var(--accent)" stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
    )
    return f'<div class="chart" role="img" aria-label="Heart rate over time">{_svg(_rules(low, high) + drawn)}{_heights(low, high)}</div>'


def histogram_chart(bins: Sequence[Bin]) -> str:
    """A bar for each five beats a minute."""
    wide, most = _WIDE / len(bins), max(one.share for one in bins)
    bars = "".join(
        f'<rect x="{i * wide + 0.06 * wide:.1f}" y="{_HIGH - 92 * one.share / most:.1f}" width="{0.88 * wide:.1f}" '
        f'height="{92 * one.share / most:.1f}" fill="var(--accent)"><title>{one.from_bpm} to {one.from_bpm + BIN_BPM}/min: '
        f"{one.share:.1%}</title></rect>"
        for i, one in enumerate(bins)
    )
    every = -(-len(bins) // 8)
    labels = "".join(f'<span style="left:{100 * i / len(bins):.2f}%">{one.from_bpm}</span>' for i, one in enumerate(bins) if i % every == 0)
    peak = f'<span class="y" style="top:8%">{most:.0%}</span>'
    return (
        f'<div class="chart" role="img" aria-label="How often each heart rate was told">{_svg(bars)}{peak}</div>'
        f'<div class="axis">{labels}</div>'
    )


def bar(share: float, colour: str = "accent") -> str:
    """A share of the whole, as wide."""
    return f'<span class="bar"><i style="width:{100 * share:.1f}%;background:var(--{colour})"></i></span>'


def stacked(shares: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """Several shares side by side."""
    parts = "".join(
        f'<i style="display:inline-block;width:{100 * share:.2f}%;background:var(--{colours.get(name, "unclear")})"'
        f' title="{escape(name)} {share:.1%}"></i>'
        for name, share in shares.items()
    )
    return f'<span class="bar stacked">{parts}</span>'


def _svg(inside: str) -> str:
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'


def _blocks(where: Iterable[Interval], duration_s: float) -> str:
    """Rectangles; what is too close to be told apart on any screen is drawn as one, and nothing becomes too thin to see."""
    finest = _WIDE / 2500
    drawn: list[list[float]] = []
    for one in sorted(where):
        begin, end = (_WIDE * at_s / duration_s for at_s in (one.start_s, one.end_s))
        if drawn and begin - drawn[-1][1] < finest / 2:
            drawn[-1][1] = max(drawn[-1][1], end)
        else:
            drawn.append([begin, max(end, begin + finest)])
    return "".join(f"M{begin:.1f} 0H{end:.1f}V{_HIGH}H{begin:.1f}Z" for begin, end in drawn)


def _label(i: int, at_s: int, duration_s: float) -> str:
    place = 100 * at_s / duration_s
    names = " ".join(name for name, holds in (("minor", i % 2 == 1), ("last", place > 97)) if holds)
    return f'<span class="{names}" style="left:{place:.2f}%">{clock(at_s)}</span>'


def _frame(told: Sequence[float]) -> tuple[float, float]:
    """Tens around all values, and never less than twenty."""
    low, high = 10 * (min(told, default=60) // 10), 10 * (max(told, default=80) // 10 + 1)
    return low, max(high, low + 20)


def _rules(low: float, high: float) -> str:
    lines = "".join(f"M0 {_HIGH * (high - bpm) / (high - low):.1f}H{_WIDE}" for bpm in _tens(low, high))
    return f'<path d="{lines}" stroke="var(--line)" stroke-width="1" vector-effect="non-scaling-stroke"/>'


def _heights(low: float, high: float) -> str:
    return "".join(
        f'<span class="y" style="top:{100 * (high - bpm) / (high - low):.1f}%">{bpm}</span>' for bpm in _tens(low, high) if low < bpm < high
    )


def _tens(low: float, high: float) -> range:
    return range(int(low), int(high) + 1, next(step for step in (10, 20, 50, 100, 1000) if (high - low) / step <= 6))


def _runs(steps: Iterable[Step]) -> Iterator[list[tuple[Step, float, float]]]:
    """Consecutive steps that were told, each with its limits."""
    run: list[tuple[Step, float, float]] = []
    for step in steps:
        mean = step.mean_bpm
        if mean is not None:
            low, high = (mean if told is None else told for told in (step.lowest_bpm, step.highest_bpm))
            run.append((step, low, high))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    over = "L".join(f"{x:.1f} {top:.1f}" for x, top, _ in points)
    under = "L".join(f"{x:.1f} {bottom:.1f}" for x, _, bottom in reversed(points))
    return f"M{over}L{under}Z"


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if len(points) > 1 else ""
