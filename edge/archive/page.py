"""The overview of an archive and its strips in; a Markdown and an HTML page with pictures out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from kernels.bundle import Card
from kernels.findings import in_words

from ..chart import bar
from ..holter_page import table
from ..page import PAGE_END, page_head, strip_html
from ..strip import Strip
from ..strip_file import to_png
from .find import Found
from .overview import Overview
from .pictures import Picture

STRIPS = "strips"
_MOST_LEFT_OUT = 100
_MONITOR = ("II", "V1", "V5")
_NOTE = "A research tool, not a medical device."
_FINDINGS = ("finding", "recordings that can show it", "above threshold", "share", "with an alert")
_QUALITY = ("lead", "recordings", "good for nine tenths or more")


def write_pages(out: Path, overview: Overview, found: Found, card: Card, pictures: Sequence[Picture]) -> None:
    """`overview.md` with its pictures in `strips`, and `overview.html`, which needs nothing else."""
    for picture in pictures:
        (out / STRIPS / picture.file).write_bytes(to_png(few_leads(picture.strip), _caption(picture)))
    (out / "overview.md").write_text(markdown(overview, found, card, pictures), encoding="utf-8")
    (out / "overview.html").write_text(html(overview, found, card, pictures), encoding="utf-8")


def _caption(picture: Picture) -> str:
    what = f"{in_words(picture.finding.name)} ({picture.striking.probability:.2f})"
    return f"{what}: {picture.striking.recording}, {picture.strip.start_s:.0f} to {picture.strip.end_s:.0f} s"


def markdown(overview: Overview, found: Found, card: Card, pictures: Sequence[Picture]) -> str:
    """The page as text."""
    sections = [
        "# Overview",
        overview.summary(),
        "## Findings",
        _rows(_FINDINGS, overview.finding_rows()),
        "## The most striking strips",
        *(f"**{_plain(_caption(picture))}**\n\n![{_plain(_caption(picture))}](strips/{picture.file})" for picture in pictures),
        "## Quality",
        _abstained(overview),
        _rows(_QUALITY, overview.quality_rows()),
        "## Not scored",
        _rows(("file", "why"), overview.unreadable_rows()) if overview.unreadable else "Nothing.",
        "## Left out",
        _left_out(found),
        _rows(("file", "why"), _some(found)),
        f"Model {card.sha256[:12]}. {_NOTE}",
    ]
    return "\n\n".join(sections) + "\n"


def html(overview: Overview, found: Found, card: Card, pictures: Sequence[Picture]) -> str:
    """The page with zoomable strips of all leads; one file that loads nothing."""
    title = f"Overview of {found.root.name}"
    most = max((count.positive / count.scored for count in overview.counts.values() if count.scored), default=0.0)
    bars = {in_words(count.finding.name): count.positive / count.scored / most for count in overview.counts.values() if count.positive}
    findings = [(name, *cells, bar(bars.get(name, 0.0))) for name, *cells in _escaped(overview.finding_rows())]
    sections = {
        "Findings": table((*_FINDINGS, ""), findings, "None."),
        "The most striking strips": "".join(strip_html(picture.strip, _caption(picture)) for picture in pictures) or "<p>None.</p>",
        "Quality": f"<p>{_abstained(overview)}</p>" + table(_QUALITY, _escaped(overview.quality_rows()), ""),
        "Not scored": table(("file", "why"), _escaped(overview.unreadable_rows()), "Nothing."),
        "Left out": f"<p>{_left_out(found)}</p>" + table(("file", "why"), _escaped(_some(found)), ""),
    }
    body = "".join(f"<section><h2>{name}</h2>{inside}</section>" for name, inside in sections.items())
    head = f"<h1>{escape(title)}</h1><p>{escape(overview.summary())}</p>"
    return f'{page_head(title)}{head}{body}<p class="small">Model {card.sha256[:12]}. {_NOTE}</p>{PAGE_END}'


def few_leads(strip: Strip) -> Strip:
    """Those of a monitor, as far as they are there: a picture of all twelve is too high for a page of text."""
    shown = [i for i, lead in enumerate(strip.leads) if lead in _MONITOR] or list(range(len(strip.leads)))[: len(_MONITOR)]
    return replace(strip, leads=tuple(strip.leads[i] for i in shown), samples_mv=strip.samples_mv[shown])


def _escaped(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    return [tuple(escape(cell) for cell in row) for row in rows]


def _some(found: Found) -> list[tuple[str, str]]:
    return list(found.left_out.items())[:_MOST_LEFT_OUT]


def _left_out(found: Found) -> str:
    return f"{len(found.left_out):,} other files and folders are no recordings, as far as could be seen."


def _abstained(overview: Overview) -> str:
    told = sum(overview.abstained.values())
    if not told:
        return "Every window had a usable lead."
    return f"{told:,} of {overview.windows:,} windows had no usable lead."


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Nothing in it is a sign of Markdown."""
    return re.sub(r"([\\`*_\[\]()!<>|&#~])", r"\\\1", " ".join(text.split()))
