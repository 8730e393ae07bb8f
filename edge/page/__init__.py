"""Strips in; the parts of a self-contained HTML page that shows them on zoomable ECG paper out.

A page is `page_head(title)`, any HTML with `strip_html` in it, and `PAGE_END`. It loads nothing, which its own policy forbids.
An element with `data-at="12.5"` that is clicked moves the nearest strip to that second.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from ..strip import Strip

PAGE_END = "</main></body></html>\n"

NONE = -32768
"""The digit where there is no sample."""

_LARGEST = 32767
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
"""No script but the viewer runs, whatever a file may hold."""

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
<script>{script}</script>
</head><body><main>
"""

_STRIP = """<figure class="strip{whole}" data-start="{start:.6f}" data-rate="{rate:.6f}" data-leads="{leads}" data-uv="{uv:g}"
 data-marks="{marks}" data-samples="{samples}"><figcaption>{title}</figcaption>
<canvas tabindex="0" role="application" aria-label="ECG strip: {title}"></canvas>
<div class="tools"></div><noscript><p>The strip needs JavaScript, which this page holds itself.</p></noscript></figure>
"""


def page_head(title: str) -> str:
    """Everything up to the content of the page, with the style and the viewer of strips."""
    script = _part("strips.js")
    policy = _POLICY.format(digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    return _HEAD.format(policy=policy, title=escape(title), style=_part("style.css"), script=script)


def strip_html(strip: Strip, title: str, marks_s: Sequence[float] = (), whole: bool = False) -> str:
    """A `<figure>`: the samples as little-endian int16 in base64, lead by lead, `data-uv` microvolts a digit, `NONE` where there is none.

    `marks_s` are stream times to mark, as beats. `whole` says that the strip shows the whole recording: then it is the one
    that `data-at` moves.
    """
    uv = _unit_uv(strip)
    inside = (f"{at_s - strip.start_s:.2f}" for at_s in marks_s if strip.start_s <= at_s < strip.end_s)
    return _STRIP.format(
        whole=" whole" if whole else "",
        start=strip.start_s,
        rate=strip.rate_hz,
        leads=escape(" ".join(strip.leads)),
        uv=uv,
        marks=" ".join(inside),
        samples=base64.b64encode(_digits(strip, uv).tobytes()).decode(),
        title=escape(title),
    )


@cache
def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _unit_uv(strip: Strip) -> float:
    """A microvolt, or the power of ten of it in which the largest sample fits."""
    largest_uv = 1000 * float(np.nanmax(np.abs(strip.samples_mv), initial=0.0))
    return 10.0 ** max(math.ceil(math.log10(max(largest_uv, 1.0) / _LARGEST)), 0)


def _digits(strip: Strip, uv: float) -> npt.NDArray[np.int16]:
    digits = np.rint(strip.samples_mv * np.float64(1000 / uv)).clip(-_LARGEST, _LARGEST)
    return np.where(np.isnan(digits), NONE, digits).astype("<i2")
