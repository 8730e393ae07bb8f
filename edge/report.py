"""The summary and the picture of a replay in; one self-contained HTML page out."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from kernels.bundle import Card

from .replay import Summary
from .table import clock, episode_rows, finding_rows, unobservable

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem }}
th, td {{ text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #ddd }}
td {{ font-variant-numeric: tabular-nums }} svg {{ width: 100%; height: auto }} .small {{ color: #555; font-size: .85rem }}
</style></head><body>
<h1>{title}</h1>
<p>{overview}</p>
<h2>Alerts</h2>{alerts}
<h2>Findings</h2>{findings}<p>{unseen}</p>
<h2>Picture</h2>{picture}
<p class="small">Model {sha} ({encoder} text encoder), format {format}. Times are seconds of the recording.
A research tool, not a medical device.</p>
</body></html>
"""


def page(title: str, summary: Summary, card: Card, picture_svg: str) -> str:
    """Everything in one file: no script, no link to elsewhere."""
    return _PAGE.format(
        title=escape(title),
        overview=escape(overview(summary)),
        alerts=_table(("finding", "priority", "raised", "cleared", "peak probability"), episode_rows(summary)),
        findings=_table(("finding", "median", "highest", "windows above threshold"), finding_rows(summary, card)),
        unseen=escape(unobservable(summary)),
        picture=picture_svg,
        sha=card.sha256[:12],
        encoder=escape(card.text_encoder),
        format=card.cardiogloss_bundle,
    )


def overview(summary: Summary) -> str:
    """One sentence on length, heart rate and what could not be scored."""
    rates = summary.heart_rates_bpm
    heart = f"heart rate {min(rates):.0f} to {max(rates):.0f} per minute" if rates else "no heart rate found"
    scored = summary.windows - sum(summary.abstained.values())
    silent = f", {summary.windows - scored} without a usable lead" if summary.abstained else ""
    return f"{clock(summary.duration_s)} long, {scored} window{'' if scored == 1 else 's'} scored{silent}, {heart}."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>" if body else "<p>None.</p>"
