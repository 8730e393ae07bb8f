"""The laws of single modules of the page, each loaded by a real Chromium, with bytes that the monitor's own code wrote."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.page import strip_html
from edge.strip import Strip
from edge.web.frame import Digits, Frame
from edge.web.site import page_files

from .chromium import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

RATE_HZ = 100.0
EPOCH_S = 1.7e9
ADDRESS = "http://page.test/"
ZONE = "Asia/Kolkata"
"""Half an hour off the full ones."""
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shared() -> Iterator[Page]:
    files = page_files()

    def answer(route: Route) -> None:
        file = files.get(route.request.url.rpartition("/")[2])
        route.fulfill(body=file.content, content_type=file.headers["content-type"]) if file else route.fulfill(
            body="", content_type="text/html"
        )

    with chromium() as browser:
        page = browser.new_page(timezone_id=ZONE)
        page.route("**/*", answer)
        page.goto(ADDRESS)
        yield page


@pytest.fixture
def page(shared: Page) -> Page:
    """Empty, under the address that the modules have."""
    shared.goto(ADDRESS)
    return shared


def _frame(start_s: float, time_s: float, values_mv: np.ndarray[Any, Any], rate_hz: float = RATE_HZ) -> str:
    digits = Digits.of(values_mv[np.newaxis].astype(np.float32))
    return base64.b64encode(Frame(0, 1, start_s, time_s, rate_hz, digits).encode()).decode()


_TAKE = """async (texts) => {
  const { readFrames } = await import("/static/frame.js"), { Signal } = await import("/static/signal.js");
  const signal = new Signal(0), ends = [];
  for (const text of texts) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    for (const frame of readFrames(bytes.buffer)) signal.take(frame, ["II"]);
    ends.push(signal.end_s);
  }
  const { mv } = signal.rows.get("II"), kept = [];
  for (let i = signal.first; i < signal.end; i++) kept.push(mv[i & signal.wrap]);
  return { ends, time_s: signal.time_s, jumps: signal.jumps, kept: kept.slice(-400) };
}"""
"""Samples less the first, as a baseline that never follows is the median of the first second."""


def _second(at: int, rate_hz: float = RATE_HZ) -> np.ndarray[Any, Any]:
    """Recognised by its values: zero in the middle, apart from its number at the end."""
    second = np.zeros(int(rate_hz))
    second[-1] = at / 10
    return second


def test_samples_that_are_sent_again_keep_their_place(page: Page) -> None:
    frames = [_frame(s, EPOCH_S + s, _second(s)) for s in (5, 6, 7, 5, 6, 7, 8)]
    took = page.evaluate(_TAKE, frames)
    assert took["ends"] == [6, 7, 8, 8, 8, 8, 9]
    assert took["time_s"] == pytest.approx(EPOCH_S + 9)
    assert took["kept"][-301::100] == pytest.approx([0.5, 0.6, 0.7, 0.8])


@pytest.mark.parametrize("put_back_s", [0.0, 3600.0])
@pytest.mark.parametrize("rate_hz", [RATE_HZ, 250.0])
def test_a_device_that_starts_anew_goes_on_where_its_strip_ended_whatever_its_rate_and_the_clock(
    put_back_s: float, rate_hz: float, page: Page
) -> None:
    before = [_frame(s, EPOCH_S + s, _second(s)) for s in range(500, 503)]
    after = [_frame(s, EPOCH_S + 504 + s - put_back_s, _second(s, rate_hz), rate_hz) for s in range(3)]
    took = page.evaluate(_TAKE, before + after)
    assert took["ends"][2] == 503
    assert took["ends"][3:] == pytest.approx([504.4, 505.4, 506.4], abs=2 / rate_hz)
    assert took["jumps"] == 1
    assert took["time_s"] == pytest.approx(EPOCH_S + 507 - put_back_s)


@SHARED
@given(
    heights_mv=st.lists(st.floats(0, 6), min_size=1, max_size=12),
    wanted=st.sampled_from([2.5, 5, 10, 20]),
    now=st.sampled_from([0, 1, 2, 3]),
    room_mm=st.floats(2, 60),
)
def test_a_gain_is_the_largest_halving_at_which_all_seconds_but_one_fit(
    shared: Page, heights_mv: list[float], wanted: float, now: int, room_mm: float
) -> None:
    gain = shared.evaluate(_FIT, [heights_mv, wanted, wanted / 2**now, room_mm])
    tallest_mv = float(np.float32(sorted(heights_mv)[-2 if len(heights_mv) > 3 else -1]))
    fits = [one for one in (wanted, wanted / 2, wanted / 4) if tallest_mv * one <= room_mm * (0.8 if one > wanted / 2**now else 0.96)]
    assert gain == (fits or [wanted / 8])[0]


_FIT = """async ([heights, wanted, now, room]) => {
  const { fitting, reach } = await import("/static/gain.js");
  const rate = 50, mv = new Float32Array(1024), signal = { rate, wrap: 1023, first: 0, end: rate * heights.length };
  heights.forEach((height, s) => { mv[s * rate + 25] = height; });
  return fitting(wanted, now, reach(signal, mv, 0, heights.length), { up: room, down: room });
}"""


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "bed-1"])
def test_a_source_of_any_name_can_be_watched(name: str, page: Page) -> None:
    assert page.evaluate(_WATCH, name) == f'{{"{name}":["II","V1"]}}'


_WATCH = """async (source) => {
  const { Desk } = await import("/static/desk.js"), told = [];
  const loop = { strips: ["II", "V1"].map((lead) => ({ source, lead })) };
  const connection = { send: ({ watch }) => told.push(JSON.stringify(watch)) };
  new Desk({ loop, connection, ward: new EventTarget() }).watch();
  return told[0];
}"""


def test_the_monitors_clock_is_that_of_what_came_soonest_until_it_is_put_back(page: Page) -> None:
    """A message is never early; one that says an hour less is of another clock."""
    assert page.evaluate(_CLOCK, [[0, 1000], [2, 990], [4, 1004.5], [6, 1006], [8, -2592]]) == pytest.approx(
        [0, 0, 0.5, 0.5, -3600], abs=1e-6
    )


_CLOCK = """async (heard) => {
  const { Ward } = await import("/static/ward.js");
  let now_s = 0;
  performance.now = () => 1000 * now_s;
  const ward = new Ward();
  ward.take({ type: "hello", session: "a", time: heard[0][1], findings: [] });
  return heard.map(([at_s, time]) => {
    now_s = at_s;
    ward.take({ type: "health", time });
    return ward.now() - now_s - 1000;
  });
}"""


@SHARED
@given(probability=st.lists(st.integers(0, 100), min_size=1, max_size=12))
def test_bars_fall_from_top_to_bottom_and_below_a_tenth_stand_by_name(shared: Page, probability: list[int]) -> None:
    scores = {f"f{i:02d}": one / 100 for i, one in enumerate(probability)}
    above, below = shared.evaluate(_SORT, scores)
    assert [scores[name] for name in above] == sorted((one for one in scores.values() if one >= 0.1), reverse=True)
    assert below == sorted(name for name, one in scores.items() if one < 0.1)


_SORT = """async (probability) => {
  const { Bars } = await import("/static/bars.js"), { Ward } = await import("/static/ward.js");
  const bars = new Bars(new Ward());
  bars.update({ probability }, "probability", "");
  return [...bars.root.querySelectorAll("ul")].map((list) => [...list.children].map((bar) => bar.dataset.finding));
}"""


def test_what_a_connection_that_was_given_up_still_says_is_not_heard(page: Page) -> None:
    assert page.evaluate(_LATE) == ["open", "hello", "lost", "open", "hello"]


_LATE = """async () => {
  const made = [], told = [];
  window.WebSocket = class { constructor() { made.push(this); } close() {} send() {} };
  window.fetch = async () => ({ status: 200 });
  const { Connection } = await import("/static/connection.js");
  const on = { open: () => told.push("open"), message: ({ type }) => told.push(type), samples: () => told.push("samples"),
    state: ({ state }) => state === "lost" && told.push(state) };
  new Connection("ws://page.test/live", on);
  const hello = { data: JSON.stringify({ type: "hello" }) };
  made[0].onopen(); made[0].onmessage(hello); made[0].onclose();
  while (made.length < 2) await new Promise((done) => setTimeout(done, 20));
  made[0].onopen(); made[0].onmessage(hello); made[0].onmessage({ data: new ArrayBuffer(32) });
  made[1].onopen(); made[0].onclose(); made[1].onmessage(hello);
  return told;
}"""


def test_a_strip_is_labelled_with_the_time_of_day_where_its_figure_tells_when_the_stream_began(page: Page) -> None:
    strip = Strip(250.5, RATE_HZ, ("II",), np.zeros((1, 400), np.float32))
    shown = [page.evaluate(_LABEL, [strip_html(strip, "x"), began_s]) for began_s in (None, EPOCH_S)]
    begins = datetime.fromtimestamp(EPOCH_S + strip.start_s, ZoneInfo(ZONE)).strftime("%H:%M:%S.%f")[:10]
    assert [one.split()[0] for one in shown] == ["0:04:10.5", begins]


_LABEL = """async ([html, began]) => {
  const figure = new DOMParser().parseFromString(html, "text/html").querySelector("figure");
  if (began) figure.dataset.began = began;
  document.body.replaceChildren(document.adoptNode(figure));
  await import("/static/strips.js");
  document.dispatchEvent(new Event("strips-changed"));
  while (!figure.querySelector("output")?.textContent) await new Promise(requestAnimationFrame);
  return figure.querySelector("output").textContent;
}"""
