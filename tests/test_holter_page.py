"""The page of a recording: it loads nothing, its strips are the samples, and a real browser draws them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from edge import holter_page
from edge.burden import Burden
from edge.chart import histogram_chart, lane, time_axis, trend_chart
from edge.decode.chunk import Chunk
from edge.disclosure import LONGEST_S, Disclosure
from edge.evaluate.interval import Interval, total_s
from edge.heart import Bin, Step
from edge.holter import Holter
from edge.holter_page import cards
from edge.page import NONE, PAGE_END, page_head, strip_html
from edge.pipeline import Pipeline
from edge.replay import replay
from edge.report import Report
from edge.strip import Strip
from edge.timeline import Segment
from edge.transport.file import open_recording
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import Engine

from .chromium import chromium, complaints
from .conftest import EXCERPT, cut, heart


@pytest.fixture(scope="module")
def report(engine: Engine) -> Report:
    report = Report(engine.bundle.card)
    for chunk, events in replay(open_recording(EXCERPT), engine):
        report.add(chunk, events)
    return report


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return report.page("Bed <1> & more")


class Reader(HTMLParser):
    """Collects tags with their attributes, and that each is closed."""

    VOID = frozenset({"meta", "br", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def figures(self) -> list[dict[str, str]]:
        return [{name: value or "" for name, value in attrs.items()} for tag, attrs in self.tags if tag == "figure"]


def _decoded(figure: dict[str, str]) -> np.ndarray:
    digits = np.frombuffer(base64.b64decode(figure["data-samples"]), "<i2").reshape(len(figure["data-leads"].split()), -1)
    return np.where(digits == NONE, np.nan, digits * float(figure["data-uv"]) / 1000)


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    read = Reader(page)
    assert read.open == []
    code = re.sub(r'data-samples="[^"]*"', "", page)
    assert not re.search(r"https?:|\w//|url\(|@import|\bimport\b|fetch|XMLHttp|WebSocket", code)
    assert {name for _, attrs in read.tags for name in attrs} & {"src", "href", "srcset", "action", "poster", "data", "background"} == set()
    assert {tag for tag, _ in read.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"} == set()
    policy = next(attrs["content"] for tag, attrs in read.tags if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src '{_digest(script)}';" in policy
    assert policy.endswith("base-uri 'none'; form-action 'none'")


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def test_the_page_says_what_was_found_and_what_it_is_not(page: str, report: Report) -> None:
    words = " ".join(Reader(page).texts)
    for wanted in ("research tool, not a medical device", "atrial fibrillation", "Pauses", "Not visible in these leads", "Bed <1> & more"):
        assert wanted in words
    assert f"{report.holter.figures().beats:,}" in words
    assert len(page) < 1e6


def test_the_same_samples_give_the_same_page(page: str, engine: Engine) -> None:
    again = Report(engine.bundle.card)
    for chunk, events in replay(open_recording(EXCERPT), engine):
        again.add(chunk, events)
    assert again.page("Bed <1> & more") == page


def test_every_strip_on_the_page_is_a_part_of_the_recording(page: str, excerpt: Chunk) -> None:
    figures = Reader(page).figures()
    assert len(figures) > 5
    for figure in figures:
        decoded, rate_hz, start_s = _decoded(figure), float(figure["data-rate"]), float(figure["data-start"])
        together = round(excerpt.rate_hz / rate_hz)
        source = excerpt.samples_mv[:, round(start_s * excerpt.rate_hz) :][:, : decoded.shape[1] * together]
        means = source.reshape(len(source), -1, together).mean(axis=2)
        assert tuple(figure["data-leads"].split()) == excerpt.leads
        np.testing.assert_allclose(decoded, means, atol=0.0026 if "whole" in figure["class"] else 0.0006)


def _strips_and_times(page: str) -> tuple[list[tuple[float, float]], list[float]]:
    read = Reader(page)
    strips = [
        (float(one["data-start"]), float(one["data-start"]) + _decoded(one).shape[1] / float(one["data-rate"])) for one in read.figures()
    ]
    return strips, [float(attrs["data-at"] or "nan") for _, attrs in read.tags if "data-at" in attrs]


def test_times_to_jump_to_lie_in_the_recording(page: str) -> None:
    _, at_s = _strips_and_times(page)
    assert at_s
    assert all(0 <= one <= 270 for one in at_s)


def test_in_a_long_recording_a_time_is_a_button_only_where_a_strip_shows_it(engine: Engine) -> None:
    """The excerpt, and then nothing until after more than half an hour."""
    report = Report(engine.bundle.card)
    for chunk, events in replay(open_recording(EXCERPT), engine):
        report.add(chunk, events)
    report.add(Chunk(700000, 360.0, ("II", "V1"), np.zeros((2, 1), np.float32)), [])
    page = report.page("long")
    strips, at_s = _strips_and_times(page)
    assert "whole" not in {name for one in Reader(page).figures() for name in one["class"].split()}
    assert len(at_s) > len(strips)
    assert all(any(start_s - 0.02 <= one <= end_s + 0.02 for start_s, end_s in strips) for one in at_s)
    pins = [float(one) for one in re.findall(r'data-at="([\d.]+)" aria-label="Strip', page)]
    assert pins == pytest.approx([(start_s + end_s) / 2 for start_s, end_s in strips], abs=0.02)
    assert len(re.findall(r"<td>0:0\d:\d\d</td>", page)) > 3


samples = stn.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(0, 60)), elements=st.floats(-400, 400, width=32) | st.just(np.nan)
)


@given(samples)
def test_embedded_samples_decode_to_those_of_the_strip(samples_mv: np.ndarray) -> None:
    strip = Strip(1.5, 250.0, ("I", "II", "V1", "V2")[: len(samples_mv)], samples_mv)
    (figure,) = Reader(strip_html(strip, "x")).figures()
    uv = float(figure["data-uv"])
    np.testing.assert_allclose(_decoded(figure), samples_mv, atol=uv / 2000 + 1e-4)
    assert uv == 1 or np.nanmax(np.abs(samples_mv)) * 1000 > 3276 * uv


@given(
    st.text()
    | st.lists(st.sampled_from(["<", ">", '"', "&", "<figure>", "</figure>", "</title>", "<script>", "'", "{title}"])).map("".join)
)
def test_any_title_stays_text(title: str) -> None:
    strip = Strip(0.0, 100.0, ("II",), np.zeros((1, 10), np.float32))
    read = Reader(page_head(title) + strip_html(strip, title, marks_s=(0.05, 3.0)) + PAGE_END)
    assert read.open == []
    assert [tag for tag, _ in read.tags].count("figure") == 1
    assert read.figures()[0]["data-marks"] == "0.05"


@given(st.lists(st.integers(0, 7500), max_size=10))
def test_the_whole_recording_is_the_mean_of_its_samples_for_any_cut(at: list[int]) -> None:
    disclosure = Disclosure()
    for chunk in cut(Chunk(0, 250.0, ("V1", "aVR", "II"), STEADY), at):
        disclosure.add(chunk)
    strip = disclosure.strip()
    assert strip is not None
    assert (strip.leads, strip.rate_hz) == (("V1", "II"), 125.0)
    np.testing.assert_allclose(strip.samples_mv, STEADY[[0, 2]].reshape(2, -1, 2).mean(axis=2), atol=0.00126)


STEADY = heart(75, 30, 250)[[6, 3, 1]] + np.float32(250.0)


def test_lost_samples_are_missing_in_the_whole_recording_and_a_long_one_has_none() -> None:
    disclosure = Disclosure()
    disclosure.add(Chunk(0, 100.0, ("II",), np.ones((1, 500), np.float32)))
    disclosure.add(Chunk(700, 100.0, ("II",), np.ones((1, 300), np.float32)))
    strip = disclosure.strip()
    assert strip is not None
    assert np.flatnonzero(np.isnan(strip.samples_mv[0])).tolist() == list(range(500, 700))
    disclosure.add(Chunk(round(100 * LONGEST_S), 100.0, ("II",), np.ones((1, 1), np.float32)))
    assert disclosure.strip() is None


def test_a_recording_without_anything_makes_a_page(engine: Engine) -> None:
    assert "none told" in cards(Report(engine.bundle.card).holter.figures())
    assert Reader(Report(engine.bundle.card).page("nothing")).open == []


def test_what_could_not_be_assessed_is_not_called_absent(engine: Engine) -> None:
    page = _page_of(np.zeros((2, 15000), np.float32), engine)
    words = " ".join(Reader(page).texts)
    assert words.count("Not assessable") >= 5
    assert words.count("not assessable") >= 2
    assert "below, say why" in words
    for reassuring in ("No alert was raised", "No interval", "No episode", "Every window could be assessed"):
        assert reassuring not in words


def _page_of(samples_mv: np.ndarray, engine: Engine, path: str = "") -> str:
    report, pipeline = Report(engine.bundle.card), Pipeline("bed1", engine)
    chunk = Chunk(0, 250.0, ("II", "V1"), samples_mv)
    report.add(chunk, list(pipeline.feed(chunk)))
    report.add(None, list(pipeline.flush()))
    return report.page("title", path)


def test_a_standstill_is_told_with_its_length(engine: Engine) -> None:
    samples = heart(75, 60, 250)[[1, 6]]
    noise = 0.02 * np.random.default_rng(4).standard_normal(30 * 250).astype(np.float32)
    samples[:, 30 * 250 :] = noise + 0.1 * np.sin(np.arange(30 * 250, dtype=np.float32) / 250)
    words = " ".join(Reader(_page_of(samples, engine)).texts)
    assert "without a clear beat" in words
    assert re.search(r"No clear beat for more than 4 s though some lead is good, (29|30|31) s in all", words)


def test_the_head_names_the_file_and_the_model(engine: Engine) -> None:
    words = " ".join(Reader(_page_of(heart(75, 20, 250)[[1, 6]], engine, "ward <3>/bed.edf")).texts)
    head = words[: words.index("of it assessed")]
    assert "ward <3>/bed.edf" in head
    assert engine.bundle.card.sha256[:12] in head
    assert "windows of 10 s" in head


def test_the_page_says_what_makes_its_figures_wrong(page: str) -> None:
    words = " ".join(Reader(page).texts)
    assert "flutter waves are counted twice" in words
    assert "alerts clear some seconds late" in words


def test_a_strip_takes_keys_and_says_which(page: str) -> None:
    read = Reader(page)
    assert {attrs["role"] for tag, attrs in read.tags if tag == "canvas"} == {"application"}
    assert "canvas:focus ~ .tools .help { display: inline }" in page


def test_colours_of_rhythms_go_by_priority() -> None:
    names = {"rest": "none", "slow": "low", "fast": "low", "af": "medium", "vt": "high"}
    burdens = tuple(Burden(name, priority, 0.1, 0.1, 1, 0.5, 0.9, 0.0, ()) for name, priority in names.items())
    rhythm = tuple(Segment(10.0 * i, 10.0 * i + 10 + i, name) for i, name in enumerate(names))
    told = holter_page._rhythm_colours(replace(NO_FIGURES, rhythm=rhythm, burdens=burdens))
    style = (Path(holter_page.__file__).parent / "page" / "style.css").read_text()
    for name, priority in names.items():
        red, green, blue = (int(digits, 16) for digits in re.findall("..", re.findall(f"--{told[name]}: #(\\w{{6}})", style)[0]))
        assert (red > max(green, blue)) == (priority in ("medium", "high")), name
        assert (green > 0.5 * red) == (priority != "high"), name
    assert told["slow"] != told["fast"]


NO_FIGURES = Holter(Bundle.read(SHIPPED_BUNDLE).card).figures()


# Charts


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(20, 60)), min_size=1, max_size=8))
def test_a_lane_covers_what_it_shows(drawn: list[tuple[int, int]]) -> None:
    where = [Interval(float(start), float(start + length)) for start, length in drawn]
    blocks = re.findall(r"M([\d.]+) 0H([\d.]+)V100", lane({"r1": where}, 1000.0))
    assert sum(float(end) - float(begin) for begin, end in blocks) == pytest.approx(total_s(where), abs=2)


@pytest.mark.parametrize("duration_s", [10, 61, 1806, 7200, 86400, 1e6])
def test_an_axis_has_some_labels_and_not_too_many(duration_s: float) -> None:
    assert 2 <= time_axis(duration_s).count("<span") <= 9


@pytest.mark.parametrize("most", [4, 8])
@pytest.mark.parametrize("wide_px", [360, 390, 700, 1000])
@given(duration_s=st.floats(10, 2e5))
def test_labels_of_an_axis_never_meet(duration_s: float, most: int, wide_px: int) -> None:
    """A label is 48 px wide; below 960 px a page shows every other one. Two charts side by side are half as wide as lanes."""
    axis = time_axis(duration_s, most)
    found = re.findall(r'<span class="([a-z ]*)" style="left:([\d.]+)%">', axis)
    shown = [(float(left) / 100 * wide_px, "last" in names) for names, left in found if wide_px > 960 or most == 4 or "minor" not in names]
    edges = [
        (at, at + 48) if i == 0 else (at - 48, at) if last else (at - 24, at + 24) for i, (at, last) in enumerate(shown)
    ]  # fmt: skip
    assert all(a[1] < b[0] for a, b in pairwise(edges))


def test_charts_of_odd_figures_hold_no_nan() -> None:
    steps = [Step(0.0, None, None, None), Step(60.0, None, 70.0, None), Step(120.0, 60.0, 70.0, 80.0), Step(180.0, None, None, None)]
    for drawn in (trend_chart(steps, 240.0), trend_chart(steps[:1], 60.0), histogram_chart([Bin(60, 1.0)])):
        assert not re.search(r"nan|inf", drawn)
        assert Reader(drawn).open == []


# A real browser


def test_a_browser_draws_the_strips_and_reports_no_error(page: str, tmp_path: Path) -> None:
    """The words below a strip come from the viewer: they say what it shows."""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        told = complaints(opened)
        opened.goto((tmp_path / "page.html").as_uri())
        shows = re.compile(r"0:00:00\.0 \S 0:00:1\d\.\d \S 25 mm/s, 10 mm/mV \S \S \d\.\d")
        opened.locator("output").filter(has_text=shows).first.wait_for()
        drawn = opened.content()
    assert told == []
    assert drawn.count('class="here"') >= 3
