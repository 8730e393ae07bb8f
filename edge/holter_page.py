"""The figures, trend and strips of a recording in; the parts of its holter report, as HTML, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle

from kernels.bundle import Card
from kernels.findings import in_words

from .alarm import Kind
from .burden import Burden
from .chart import bar, histogram_chart, lane, pins, stacked, time_axis, trend_chart
from .evaluate.interval import Interval, Intervals
from .exhibit import Exhibit
from .heart import PAUSE_S, SILENCE_S, Moment, Step
from .holter import Figures
from .page import strip_html
from .strip import Strip
from .table import clock
from .timeline import NOT_ASSESSABLE

MOST_ROWS = 200
"""Of alerts; all of them are in the JSON of the recording."""
MOST_PAUSES = 20

_COLOURS = {"none": ("r0", "r6"), "low": ("r4", "r3", "r8"), "medium": ("r2", "r5", "r7"), "high": ("r1", "r9")}
"""Of rhythms, by priority: greens, blues, oranges, reds."""
_ROUNDING_S = 0.01
_EXTREMES = "The lowest and the highest rate can be wrong where wide beats or flutter waves are counted twice or not at all."
_QUALITY = {"good": "r0", "off": "r1", "flat": "r2", "saturated": "r3", "implausible": "r7", "noise": "r5", "mains": "r4"}

NOTE = (
    '<p class="small">Times count from the beginning of the recording; those of alerts and windows are the ends of ten seconds. '
    "Triangles above a strip are the beats that were found.</p>"
)

Row = Sequence[str]


def cards(figures: Figures, shown: Intervals = ()) -> str:
    """The figures that are read first. A time leads to its strip where one of those `shown` holds it, here and in what follows."""
    rate = figures.heart_rate
    extremes = (rate.lowest, rate.highest) if rate else (None, None)
    pause = f"{figures.pauses[0].length_s:.1f} s" if figures.pauses else "none" if rate else "not assessable"
    told = [
        (clock(figures.duration_s), "length"),
        (f"{figures.assessed_share:.1%}", "of it assessed"),
        (f"{figures.beats:,}", "beats found"),
        (f"{rate.mean_bpm:.0f}/min" if rate else "none told", "mean heart rate"),
        *(_moment(one, name, shown) for one, name in zip(extremes, ("lowest", "highest"), strict=True) if one and len(set(extremes)) > 1),
        (pause, f"longest pause over {PAUSE_S:g} s"),
        *([(_length(figures.no_beat_s), "without a clear beat")] if figures.no_beat else []),
        (str(_count(figures, "physiological")) if figures.is_scored else "not assessable", "alerts of the heart"),
    ]
    return '<div class="cards">' + "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>' for value, name in told) + "</div>"


def timeline(figures: Figures, shown: Intervals, slider: bool) -> str:
    """Rhythm and alerts over the whole length, one below the other; the strips as buttons where no slider leads anywhere."""
    end_s = figures.duration_s
    colours = _rhythm_colours(figures)
    rows = [("rhythm", lane(_rhythm_pieces(figures, colours), end_s, thick=True))]
    rows += [
        (_lane_name(one, figures), lane({_colour(one, colours): _on(figures, one.finding)}, end_s)) for one in figures.burdens if one.alerts
    ]
    technical = sorted({spell.finding for spell in figures.alerts if spell.kind == "technical"})
    rows += [(f"<small>{in_words(name)}</small>", lane({"none": _on(figures, name)}, end_s)) for name in technical]
    rows += [("<small>strips</small>", pins([(one.start_s + one.end_s) / 2 for one in shown], end_s))] if shown and not slider else []
    rows += [("<small>no clear beat</small>", lane({"none": figures.no_beat}, end_s))] if figures.no_beat else []
    drawn = "".join(f'<div class="name">{name}</div>{row}' for name, row in rows)
    place = f'<input class="place" type="range" min="0" max="{end_s:.0f}" step="1" value="0" aria-label="Second to show">' if slider else ""
    where = "moves the strip below" if slider else "leads to the nearest strip"
    return (
        f'<div class="lanes" data-duration="{end_s:.3f}">{drawn}<div class="blank"></div><div>{time_axis(end_s)}{place}</div></div>'
        f'<p class="legend">{_legend(colours)}</p>'
        f'<p class="small screen">A click on a time, here or in a table, {where}.</p>'
    )


def heart(figures: Figures, trend: Sequence[Step], hours: Sequence[Step], shown: Intervals) -> str:
    """Trend, histogram, and a table by the hour of what lasts for hours."""
    if figures.heart_rate is None:
        return "<p>Not assessable: no heart rate could be told.</p>"
    is_drawn = len(trend) > 2
    minutes = is_drawn and trend[1].start_s >= 60
    title = f"Mean of each {'minute' if minutes else 'ten seconds'}"
    drawn = f"<div><h3>{title}</h3>{trend_chart(trend, figures.duration_s)}{time_axis(figures.duration_s, 4)}</div>" if is_drawn else ""
    bins = figures.heart_rate.histogram
    hist = f"<div><h3>Share of the time, in beats a minute</h3>{histogram_chart(bins)}</div>" if bins else ""
    lines = "Line: mean of all intervals between beats. Band: lowest to highest mean of ten seconds. " if minutes else ""
    whole = _EXTREMES if bins else "No ten seconds on end could be assessed, so that no lowest and highest rate is told."
    return f'<div class="columns">{drawn}{hist}</div><p class="small">{lines}{whole}</p>{_hourly(hours, shown)}'


def alerts(figures: Figures, kind: Kind, shown: Intervals) -> str:
    """Of the heart or of the signal, in the order they were raised."""
    head = ("finding", "priority", "raised", "cleared", "lasted", "peak probability" if kind == "physiological" else "why")
    found = [one for one in figures.alerts if one.kind == kind]
    rows = [
        (
            in_words(one.finding),
            f'<span class="{one.priority}">{one.priority}</span>',
            _at(one.raised_s, shown),
            clock(one.on.end_s) if one.ended else "still on at the end",
            _length(one.on.length_s),
            f"{one.peak:.2f}" if kind == "physiological" else f'<span class="why">{escape(one.why or "")}</span>',
        )
        for one in found[:MOST_ROWS]
    ]
    more = len(found) - len(rows)
    none = _no_alert(figures) if kind == "physiological" else "No alert of the signal was raised."
    return table(head, rows, none) + (f"<p>And {more} more.</p>" if more else "")


def burdens(figures: Figures, shown: Intervals) -> str:
    """Every finding that the leads could show."""
    head = ("finding", "alert on", "above threshold", "median", "highest", "at", "alerts")
    rows = [
        (
            in_words(one.finding),
            "no alerts" if one.on_share is None else f"{bar(one.on_share)}{one.on_share:.1%}",
            f"{bar(one.above_share)}{one.above_share:.1%}",
            f"{one.median:.2f}",
            f"{one.peak:.2f}",
            _at(one.peak_at_s, shown),
            str(one.alerts or ""),
        )
        for one in figures.burdens
    ]
    note = (
        "Alert on: share of the scored time from the onset of an alert to its clearing; alerts clear some seconds late, so that it "
        "reads a little high. Above threshold: share of the windows whose probability reached the finding&#8217;s threshold. "
        "Both of the time in which the leads could show the finding."
    )
    unseen = ", ".join(map(in_words, figures.unobservable))
    return (
        table(head, rows, "Not assessable: nothing could be scored.")
        + f'<p class="small">{note}</p>'
        + (f"<p>Not visible in these leads: {unseen}.</p>" if unseen else "")
    )


def episodes(figures: Figures, shown: Intervals) -> str:
    """The longest of each finding."""
    rows = [
        (
            in_words(spell.finding),
            _at(spell.on.start_s, shown),
            _length(spell.on.length_s) + ("" if spell.ended else " (on at the end)"),
            f"{spell.peak:.2f}",
        )
        for one in figures.burdens
        for spell in one.longest
    ]
    return table(("finding", "onset", "lasted", "peak probability"), rows, _no_alert(figures))


def pauses(figures: Figures, shown: Intervals) -> str:
    """The longest first; before them where no clear beat was found."""
    rows = [(f"{one.length_s:.2f} s", _at(one.start_s, shown)) for one in figures.pauses[:MOST_PAUSES]]
    more = len(figures.pauses) - len(rows)
    unjudged = figures.pauses_unjudged
    words = [f"And {more} more."] if more else []
    words += [f"{unjudged} more of this length reach into time that cannot be assessed: a pause, or lost contact."] if unjudged else []
    none = (
        f"No interval between two clear beats was longer than {PAUSE_S:g} s."
        if figures.heart_rate
        else "Not assessable: no heart rate could be told."
    )
    return _no_beat(figures, shown) + table(("length", "begins"), rows, none) + _sentences(words)


def quality(figures: Figures, shown: Intervals) -> str:
    """By lead, and why windows had no scores."""
    leads = [
        (one.lead, stacked(one.shares, _QUALITY) + ", ".join(f"{state} {share:.1%}" for state, share in one.shares.items()))
        for one in figures.leads
    ]
    why = [(escape(reason), f"{bar(share, 'blind')}{share:.1%}") for reason, share in figures.not_assessable.items()]
    gaps = f"{figures.gaps} gap{'s' if figures.gaps > 1 else ''}, {_length(figures.gaps_s)} in all." if figures.gaps else "No gap."
    blind = table(("not assessable because", "of all windows"), why, "Every window could be assessed.")
    return table(("lead", "share of the seconds"), leads, "No known lead.") + blind + f"<p>{gaps}</p>" + alerts(figures, "technical", shown)


def strips(exhibits: Iterable[Exhibit], beats_s: Sequence[float]) -> str:
    """Each with its reasons."""
    shown = [strip_html(one.strip, f"{clock(one.strip.start_s)}: {'; '.join(one.words)}", beats_s) for one in exhibits]
    return "".join(shown) or "<p>None.</p>"


def whole_strip(strip: Strip, beats_s: Sequence[float]) -> str:
    """The whole recording in one that moves."""
    words = f"The whole recording, leads {', '.join(strip.leads)}, thinned to {strip.rate_hz:.0f} samples a second"
    return strip_html(strip, words, beats_s, whole=True)


def about(path: str, card: Card) -> str:
    """Where the recording lies and what scored it."""
    file = f"{escape(path)}<br>" if path else ""
    encoder = f"{escape(card.text_encoder)} text encoder"
    return f'<p class="small">{file}Model {card.sha256[:12]} ({encoder}), windows of {card.window_s:g} s.</p>'


def table(head: Row, rows: Sequence[Row], none: str) -> str:
    """Cells are HTML."""
    if not rows:
        return f"<p>{none}</p>"
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _moment(moment: Moment, name: str, shown: Intervals) -> tuple[str, str]:
    return f"{moment.rate_bpm:.0f}/min", f"{name} ten seconds, {_at(moment.at_s, shown)}"


def _at(at_s: float, shown: Intervals) -> str:
    """A time that leads to its strip; plain where none holds it."""
    is_shown = any(one.start_s - _ROUNDING_S <= at_s <= one.end_s + _ROUNDING_S for one in shown)
    return f'<button type="button" data-at="{at_s:.2f}">{clock(at_s)}</button>' if is_shown else clock(at_s)


def _count(figures: Figures, kind: Kind) -> int:
    return sum(spell.kind == kind for spell in figures.alerts)


def _no_alert(figures: Figures) -> str:
    """What it means that there is none."""
    if not figures.is_scored:
        why = "; the alerts of the signal, below, say why" if _count(figures, "technical") else ""
        return f"Not assessable: no window could be scored{why}."
    part = f" in the {figures.assessed_share:.1%} that could be assessed" if figures.assessed_share < 1 else ""
    return f"No alert was raised{part}."


def _no_beat(figures: Figures, shown: Intervals) -> str:
    if not figures.no_beat:
        return ""
    longest = sorted(figures.no_beat, key=lambda one: (-one.length_s, one.start_s))[:MOST_PAUSES]
    more = len(figures.no_beat) - len(longest)
    words = (
        f"No clear beat for more than {SILENCE_S:g} s though some lead is good, {_length(figures.no_beat_s)} in all: the heart "
        "stands still, fibrillates or flutters, or the leads show too little of it. Nothing in it counts as a beat or as a pause."
    )
    rows = [(f"{one.length_s:.1f} s", _at(one.start_s, shown)) for one in longest]
    return f"<p>{words}</p>" + table(("without a clear beat", "begins"), rows, "") + (f"<p>And {more} more.</p>" if more else "")


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else clock(seconds)


def _sentences(words: Iterable[str]) -> str:
    return "".join(f"<p>{sentence}</p>" for sentence in words)


def _rhythm_colours(figures: Figures) -> dict[str, str]:
    """The rhythms that led, the longest first, in the colours of their priority."""
    length_s: dict[str, float] = {}
    for one in figures.rhythm:
        if one.rhythm not in (None, NOT_ASSESSABLE):
            length_s[str(one.rhythm)] = length_s.get(str(one.rhythm), 0.0) + one.end_s - one.start_s
    priority = {one.finding: one.priority for one in figures.burdens}
    left = {name: cycle(colours) for name, colours in _COLOURS.items()}
    return {name: next(left[priority.get(name, "none")]) for name in sorted(length_s, key=lambda name: -length_s[name])}


def _rhythm_pieces(figures: Figures, colours: Mapping[str, str]) -> dict[str, list[Interval]]:
    pieces: dict[str, list[Interval]] = {}
    for one in figures.rhythm:
        colour = {None: "unclear", NOT_ASSESSABLE: "blind"}.get(one.rhythm) or colours[str(one.rhythm)]
        pieces.setdefault(colour, []).append(Interval(one.start_s, one.end_s))
    return pieces


def _on(figures: Figures, finding: str) -> list[Interval]:
    return [spell.on for spell in figures.alerts if spell.finding == finding]


def _colour(burden: Burden, colours: Mapping[str, str]) -> str:
    return colours.get(burden.finding, burden.priority)


def _lane_name(burden: Burden, figures: Figures) -> str:
    share = f"{burden.on_share:.1%}" if burden.on_share is not None else ""
    return f"{in_words(burden.finding)} <small>{share}</small>"


def _legend(colours: Mapping[str, str]) -> str:
    named = [
        *((in_words(name), colour) for name, colour in colours.items()),
        ("no rhythm stands out", "unclear"),
        (NOT_ASSESSABLE, "blind"),
    ]
    return "".join(f'<span><i style="background:var(--{colour})"></i>{name}</span>' for name, colour in named)


def _hourly(hours: Sequence[Step], shown: Intervals) -> str:
    if not hours:
        return ""
    told = [(one, (one.lowest_bpm, one.mean_bpm, one.highest_bpm)) for one in hours]
    rows = [(_at(one.start_s, shown), *("" if bpm is None else f"{bpm:.0f}" for bpm in rates)) for one, rates in told]
    return "<details><summary>By the hour</summary>" + table(("from", "lowest", "mean", "highest"), rows, "") + "</details>"
