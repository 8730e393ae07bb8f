"""The dashboard as a nurse has it: a real Chromium on a real daemon, a real broker and devices that play real recordings."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import wfdb

from edge.decode.chunk import Chunk
from edge.web.bench import Plan
from kernels.findings import ConfigError

from .broker import Mosquitto, free_port, wait_for
from .chromium import BareTab, chromium, complaints
from .conftest import EXCERPT
from .daemon import ROOT, SITE, Client, Daemon, Json, between, config, frames, on_topic, source, write_excerpt

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, CDPSession, Locator, Page

BEDS = ("bed-001", "bed-002", "bed-003", "bed-004")
LEADS = ("II", "V1", "V5")
AF = "af"
AF_S = 75
"""Seconds of the excerpt from its beginning that are atrial fibrillation."""
AF_SPEED = 8
QUIET = "quiet"
PATIENCE_MS = 60_000.0
DRAWN = """(wanted) => wanted.every(([source, lead]) =>
  window.ward?.strips.some((one) => one.source === source && one.lead === lead && one.state === "live" && one.painted_s > 0.5))"""
LOADED = "() => !/Loading/.test(document.getElementById('view').textContent)"
MEASURE = re.compile("Measure")
MM_PX = 96 / 25.4
LIVE = "() => window.ward?.connection === 'live'"


@dataclass(slots=True)
class Ward:
    """What every test looks at."""

    daemon: Daemon
    client: Client
    address: str

    def told(self, source: str, kind: str) -> list[Json]:
        """What the daemon published of a source so far."""
        return [one.payload for one in list(self.client.messages) if one.topic == f"cardiogloss/{SITE}/{source}/{kind}"]


@contextmanager
def _devices(port: int, record: Path, source: str, copies: int = 1, speed: float = 1.0) -> Iterator[None]:
    """`cardiogloss simulate`, until the end of the block."""
    command = [sys.executable, "-m", "edge", "simulate", str(record), "--mqtt", f"127.0.0.1:{port}", "--site", SITE, "--source", source]
    command += ["--copies", str(copies), "--speed", str(speed), "--repeat"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as simulating:
        try:
            yield
        finally:
            simulating.kill()


def _write_bed(folder: Path, excerpt: Chunk) -> Path:
    """A minute of sinus rhythm in three leads; V5 is a mixture of the two that were recorded."""
    two = excerpt.samples_mv[:, round(100 * excerpt.rate_hz) : round(160 * excerpt.rate_hz)]
    three = np.stack([two[0], two[1], 0.7 * two[0] + 0.2 * two[1]]).T.astype(float)
    wfdb.wrsamp("bed", excerpt.rate_hz, ["mV"] * 3, list(LEADS), three, fmt=["16"] * 3, write_dir=str(folder))
    return folder / "bed"


def _web(port: int, more: str = "") -> str:
    return f'[web]\nport = {port}\nleads = ["II", "V1", "V5"]\n{more}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    with Mosquitto(folder) as broker:
        yield broker


@pytest.fixture(scope="module")
def ward(folder: Path, mosquitto: Mosquitto, excerpt: Chunk) -> Iterator[Ward]:
    port, anything = free_port(), f'mqtt = "cardiogloss/{SITE}/+/ecg"'
    settings = config(on_topic(QUIET, stall_s=1.0), anything, broker=mosquitto.port, more=_web(port))
    with ExitStack() as stack:
        client = stack.enter_context(Client(mosquitto.port))
        daemon = stack.enter_context(Daemon(folder / "daemon", settings))
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        stack.enter_context(_devices(mosquitto.port, _write_bed(folder, excerpt), "bed", copies=4))
        stack.enter_context(_devices(mosquitto.port, write_excerpt(folder, "excerpt", AF_S), AF, speed=AF_SPEED))
        yield Ward(daemon, client, f"http://127.0.0.1:{port}")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Settings of its own."""
    with browser.new_context(viewport={"width": 1920, "height": 1080}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, ward: Ward) -> Iterator[Page]:
    """The wall, with every strip drawn; whatever it complains of fails the test."""
    page = context.new_page()
    told = complaints(page)
    page.goto(ward.address)
    _wait(page, LIVE)
    _wait(page, DRAWN, [[source, LEADS[0]] for source in (*BEDS, AF)])
    yield page
    assert told == []


def _wait(page: Page, condition: str, about: object = None) -> None:
    page.wait_for_function(condition, arg=about, timeout=PATIENCE_MS)


def _go(page: Page, view: str) -> None:
    """By the address, as a link does."""
    page.evaluate("(view) => { location.hash = view; }", view)


def _alert(ward: Ward) -> Json | None:
    """The first word of the fibrillation that is on, or None."""
    told = ward.told(AF, "alert")
    states = {alert["id"]: alert["state"] for alert in told}
    return next((alert for alert in told if alert["finding"] == "atrial_fibrillation" and states[alert["id"]] != "cleared"), None)


@pytest.fixture
def alert(ward: Ward) -> Json:
    """Fibrillation, on."""
    ward.daemon.wait(lambda: _alert(ward), "atrial fibrillation")
    found = _alert(ward)
    assert found
    return found


def test_the_page_loads_little_and_nothing_of_anybody_else(context: BrowserContext, ward: Ward) -> None:
    page, loaded = context.new_page(), dict[str, int]()
    told = complaints(page)
    page.on("requestfinished", lambda request: loaded.update({request.url: len(request.response().body())}))
    page.goto(ward.address)
    _wait(page, LIVE)
    for view in ("#/history", "#/health", f"#/source/{BEDS[0]}", "#/"):
        _go(page, view)
        _wait(page, LOADED)
    _wait(page, DRAWN, [[BEDS[0], LEADS[0]]])
    assert told == []
    assert {url.removeprefix(ward.address)[0] for url in loaded} == {"/"}
    assert f"{ward.address}/static/main.js" in loaded
    assert sum(loaded.values()) < 150_000, loaded


def test_strips_of_four_sources_and_three_leads_move_on(page: Page) -> None:
    wanted = [[bed, lead] for bed in BEDS for lead in LEADS]
    page.set_viewport_size({"width": 1920, "height": 1600})
    _wait(page, DRAWN, wanted)
    drawn_s, pixels = {bed: _newest_s(page, bed) for bed in BEDS}, [_pixels(page, *key) for key in wanted]
    _wait(page, "(drawn) => window.ward.strips.every((one) => !(one.source in drawn) || one.painted_s > drawn[one.source] + 1)", drawn_s)
    assert [key for key, before in zip(wanted, pixels, strict=True) if before == _pixels(page, *key)] == []


def _newest_s(page: Page, source: str) -> float:
    return max(strip["painted_s"] for strip in page.evaluate("window.ward.strips") if strip["source"] == source)


def _pixels(page: Page, source: str, lead: str) -> str:
    return page.evaluate(f"([source, lead]) => ({_TRACE}).toDataURL()", [source, lead])


_TRACE = """[...document.querySelectorAll(`[data-source="${source}"] .ecg`)]
  .find((host) => host.querySelector(".lead").textContent.split(" ")[0] === lead).querySelector("canvas")"""


def test_the_trace_is_the_recording_in_millimetres(page: Page, folder: Path) -> None:
    """Read back from the pixels: 25 mm/s, 10 mm/mV, a millimetre being 96 / 25.4 pixels."""
    _go(page, f"#/source/{BEDS[0]}")
    _wait(page, "() => window.ward.strips.length === 3 && window.ward.strips.every((strip) => strip.painted_s > 8)")
    top_px = np.array(page.evaluate(f"() => ({_TOP})(document.querySelector('.ecg canvas'))"), float)
    run = max(np.split(np.arange(len(top_px)), np.flatnonzero(np.isnan(top_px))), key=len)[1:]
    assert len(run) > 4 * 25 * MM_PX
    drawn_mv, recorded_mv = -top_px[run] / (10 * MM_PX), _highest_mv(wfdb.rdsamp(str(folder / "bed"))[0][:, 0], 360.0)
    fits = [np.corrcoef(recorded_mv[i : i + len(run)], drawn_mv)[0, 1] for i in range(len(recorded_mv) - len(run))]
    best = int(np.argmax(fits))
    assert fits[best] > 0.9
    assert np.polyfit(recorded_mv[best : best + len(run)], drawn_mv, 1)[0] == pytest.approx(1, abs=0.1)


_TOP = """(canvas) => {
  const { width, height } = canvas, pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const isInk = (x, y) => pixels[4 * (y * width + x)] + pixels[4 * (y * width + x) + 1] + pixels[4 * (y * width + x) + 2] < 330;
  const column = [...Array(height).keys()];
  return Array.from({ length: width }, (_, x) => (x < 60 ? NaN : column.find((y) => isInk(x, y)) ?? NaN));
}"""
"""The highest dark pixel of each column, of the light theme; right of the calibration pulse, which belongs to the paper."""


def _highest_mv(samples_mv: np.ndarray[Any, Any], rate_hz: float) -> np.ndarray[Any, Any]:
    """Of each pixel of a strip that shows the recording twice, as it is sent again and again."""
    loop = np.tile(samples_mv, 2)
    begins = np.round(np.arange(0, len(loop), rate_hz / (25 * MM_PX))).astype(int)
    return np.array([loop[at : at + 4].max() for at in begins[:-1]])


def test_heart_rate_and_findings_are_those_that_were_published(page: Page, ward: Ward) -> None:
    _go(page, f"#/source/{AF}")
    _wait(page, "() => /^[0-9]+$/.test(document.querySelector('.right .rate').textContent) && document.querySelector('[data-finding]')")
    rate, shown = page.locator(".right .rate").inner_text(), dict(page.evaluate(_BARS))
    assert float(shown["atrial_fibrillation"]) > 0.5
    wait_for(lambda: shown in [{name: f"{p:.2f}" for name, p in one["probability"].items()} for one in ward.told(AF, "scores")])
    wait_for(lambda: rate in [str(int(one["heart_rate_bpm"] + 0.5)) for one in ward.told(AF, "vitals") if one["heart_rate_bpm"]])


_BARS = "[...document.querySelectorAll('[data-finding]')].map((bar) => [bar.dataset.finding, bar.querySelector('.figure').textContent])"


def test_an_alert_is_acknowledged_by_keyboard_and_everybody_sees_it(page: Page, browser: Browser, ward: Ward, alert: Json) -> None:
    seen = "(id) => document.querySelector(`[data-alert='${id}']`)?.textContent.includes('✓')"
    with browser.new_context() as elsewhere:
        other = elsewhere.new_page()
        other.goto(ward.address)
        _press_until(page, "Tab", f"document.activeElement.dataset.source === '{AF}'")
        page.keyboard.press("a")
        _wait(page, seen, alert["id"])
        _wait(other, seen, alert["id"])
    wait_for(lambda: any(one["id"] == alert["id"] and one["acknowledged_by"] for one in ward.told(AF, "alert")), "the broker to hear it")


def _press_until(page: Page, key: str, condition: str, most: int = 60) -> None:
    """Raises AssertionError where nothing comes of it."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate(condition):
            return
    raise AssertionError(f"{most} times {key} did not make it that {condition}")


def test_an_alert_shows_the_seconds_before_and_after_and_calipers_measure_them(page: Page, ward: Ward, alert: Json) -> None:
    ward.daemon.wait(lambda: any(one["id"] == alert["id"] for one in ward.told(AF, "evidence")), "the evidence")
    after = next(one["strip"] for one in ward.told(AF, "evidence") if one["id"] == alert["id"])
    before = alert["evidence"]["strip"]
    _go(page, f"#/alert/{alert['id']}")
    figure = page.locator("figure.strip")
    figure.get_by_role("button", name=MEASURE).wait_for(timeout=PATIENCE_MS)
    data = {name: figure.get_attribute(f"data-{name}") or "" for name in ("samples", "leads", "uv")}
    digits = np.frombuffer(base64.b64decode(data["samples"]), "<i2").reshape(len(data["leads"].split()), -1)
    told = [earlier + later for earlier, later in zip(before["uv"], after["uv"], strict=True)]
    assert data["leads"].split() == before["leads"]
    assert np.array_equal(digits * float(data["uv"]), np.array(told, float))
    _measure(page, figure)


def _measure(page: Page, figure: Locator) -> None:
    """Over half of the strip, whose length and scale it tells: 0:00:06.0 to 0:00:26.0, 25 mm/s, 10 mm/mV, zoom 1.0."""
    shown = [float(word) for word in re.findall(r"\d+(?:\.\d+)?", figure.locator("output").inner_text())]
    begin, end, (_, gain, zoom) = shown[:3], shown[3:6], shown[6:]
    length_ms = 1000 * float(np.dot(np.subtract(end, begin), [3600, 60, 1]))
    figure.get_by_role("button", name=MEASURE).click()
    box = figure.locator("canvas").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 4
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] / 2, y + 20 * MM_PX, steps=4)
    page.mouse.up()
    measured = re.match(r"(\d+) ms.*, ([\d.]+) mV", figure.locator("output").inner_text())
    assert measured
    assert float(measured[1]) == pytest.approx(length_ms / 2, rel=0.02)
    assert float(measured[2]) == pytest.approx(20 / zoom / gain, rel=0.08)


def test_every_view_is_reached_by_keyboard_with_the_focus_in_sight(page: Page, alert: Json) -> None:
    for name in ("History", "Health", "Wall"):
        _press_until(page, "Tab", f"document.activeElement.textContent === '{name}' && !!document.activeElement.closest('nav')")
        assert page.evaluate(_FOCUS_IN_SIGHT)
        page.keyboard.press("Enter")
        _wait_for_view(page, name.lower())
    for view, target in (("source", f"document.activeElement.dataset.source === '{AF}'"), ("alert", IS_EVIDENCE)):
        _press_until(page, "Tab", target)
        assert page.evaluate(_FOCUS_IN_SIGHT)
        page.keyboard.press("Enter")
        _wait_for_view(page, view)
    for key, view in (("Escape", "wall"), ("h", "history"), ("s", "health"), ("w", "wall")):
        page.keyboard.press(key)
        _wait_for_view(page, view)


IS_EVIDENCE = "document.activeElement.matches('[data-alert] a[href^=\"#/alert/\"]')"


def _wait_for_view(page: Page, name: str) -> None:
    _wait(page, "(name) => window.ward.view === name && (location.hash.split('/')[1] || 'wall') === name", name)


_FOCUS_IN_SIGHT = """() => {
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement), box = document.activeElement.getBoundingClientRect();
  return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && box.top < innerHeight && box.bottom > 0;
}"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_no_serious_fault_in_any_view(theme: Literal["dark", "light"], page: Page, alert: Json) -> None:
    page.emulate_media(color_scheme=theme)
    for name, view in (("wall", ""), ("source", AF), ("alert", alert["id"]), ("history", ""), ("health", "")):
        _go(page, "#/" if name == "wall" else f"#/{name}/{view}".rstrip("/"))
        _wait_for_view(page, name)
        _wait(page, LOADED)
        assert _faults(page) == [], name


def _faults(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")]


def test_a_source_that_is_silent_says_so_and_draws_no_flat_line(page: Page, ward: Ward, excerpt: Chunk) -> None:
    inked = f"([source, lead]) => ({_TOP})({_TRACE}).some((y) => y >= 0)"
    for frame in frames(between(excerpt, 0, 3)):
        ward.client.put(QUIET, frame)
    _wait(page, DRAWN, [[QUIET, "II"]])
    ward.client.wait_for_state(QUIET, "stalled")
    tile = page.locator(f"[data-source={QUIET}]")
    tile.get_by_text("no signal").first.wait_for(timeout=PATIENCE_MS)
    tile.locator("[data-alert]").wait_for(timeout=PATIENCE_MS)
    assert tile.locator(".rate").inner_text() == "– –"  # noqa: RUF001
    assert page.evaluate(inked, [BEDS[0], "II"])
    _wait(page, f"(strip) => !({inked})(strip)", [QUIET, "II"])


def test_a_hidden_tab_stops_drawing_and_is_up_to_date_when_it_is_shown_again(browser: Browser, ward: Ward) -> None:
    tab = BareTab(browser)
    tab.open(ward.address)
    tab.wait_for("window.ward?.frames > 30")
    other = BareTab(browser, tab.window)
    tab.wait_for("document.hidden")
    drawn, newest = tab.evaluate(f"[window.ward.frames, window.ward.newest['{BEDS[0]}']]")
    tab.wait_for(f"window.ward.newest['{BEDS[0]}'] > {newest + 1.5}")
    assert tab.evaluate("window.ward.frames") <= drawn + 1
    tab.bring_to_front()
    tab.wait_for(f"!document.hidden && window.ward.frames > {drawn + 5}")
    tab.wait_for("window.ward.strips.every((one) => one.state !== 'live' || window.ward.newest[one.source] - one.painted_time < 2)")
    for one in (other, tab):
        one.close()


def test_a_slow_browser_is_skipped_forward_and_scoring_goes_on(context: BrowserContext, ward: Ward) -> None:
    page = context.new_page()
    line = context.new_cdp_session(page)
    line.send("Network.enable")
    page.goto(ward.address)
    _wait(page, DRAWN, [[source, LEADS[0]] for source in (*BEDS, AF)])
    jumps, windows = page.evaluate("window.ward.jumps"), ward.daemon.metric("windows_scored_total")
    _throttle(line, 8000)
    _wait(page, "() => /[0-9]+ s behind/.test(document.getElementById('connection').textContent)")
    _wait(page, "(jumps) => window.ward.jumps > jumps", jumps)
    ward.daemon.wait(lambda: ward.daemon.metric("windows_scored_total") > windows + 50, "windows to be scored meanwhile")
    assert [ward.daemon.metric("source_dropped_bytes_total", source) for source in (*BEDS, AF)] == [0] * 5
    _throttle(line, -1)
    _wait(page, f"() => window.ward.connection === 'live' && Math.abs(Date.now() / 1000 - window.ward.newest['{BEDS[0]}']) < 1.5")


def test_a_source_that_is_not_on_the_page_makes_no_line_slow(page: Page) -> None:
    """Its samples are not asked for, so that none come."""
    _go(page, f"#/source/{BEDS[0]}")
    _wait(page, "(other) => Date.now() / 1000 - window.ward.newest[other] > 5", BEDS[1])
    assert not page.evaluate("'late' in document.documentElement.dataset")


def _throttle(line: CDPSession, bytes_per_s: float) -> None:
    """-1 ends it."""
    line.send(
        "Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": bytes_per_s, "uploadThroughput": -1}
    )


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_daemon_that_comes_back_is_shown_without_a_reload(end: str, context: BrowserContext, ward: Ward, alert: Json) -> None:
    page, is_told = context.new_page(), f"(id) => document.querySelector(`[data-source={AF}] [data-alert='${{id}}']`)"
    told = complaints(page)
    page.goto(ward.address)
    _wait(page, is_told, alert["id"])
    page.evaluate("window.marked = 'a reload would forget this'")
    session = page.evaluate("window.ward.session")
    getattr(ward.daemon, end)()
    page.locator("#lost").get_by_text("NOT LIVE").wait_for(timeout=PATIENCE_MS)
    _wait(page, "() => window.ward.strips.every((strip) => strip.state === 'frozen')")
    ward.daemon.start()
    _wait(page, "(before) => window.ward.connection === 'live' && window.ward.session !== before", session)
    page.locator("#lost").wait_for(state="hidden", timeout=PATIENCE_MS)
    _wait(page, DRAWN, [[source, LEADS[0]] for source in (*BEDS, AF)])
    _wait(page, is_told, alert["id"])
    _go(page, "#/history")
    _wait(page, "(id) => document.querySelector(`tr[data-alert='${id}'] a`)", alert["id"])
    assert page.evaluate("window.marked")
    assert [words for words in told if "ERR_CONNECTION_REFUSED" not in words and "/live" not in words] == []


def test_only_who_knows_the_token_sees_anything(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    address, settings = (
        f"http://127.0.0.1:{port}",
        config(source("nobody", "frame", serial=tmp_path / "tty"), more=_web(port, 'token_env = "TOKEN"')),
    )
    with Daemon(tmp_path, settings, {"TOKEN": "nine lives ü"}), browser.new_context() as context:
        page = context.new_page()
        told = complaints(page)
        page.goto(address)
        assert page.evaluate("location.pathname") == "/login"
        assert _faults(page) == []
        page.get_by_label("Token").fill("eight lives")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("That is not the token").wait_for(timeout=PATIENCE_MS)
        assert {context.request.get(f"{address}/{name}").status for name in ("history.json", "alerts", "static/main.js")} == {401}
        page.get_by_label("Token").fill("nine lives ü")
        page.keyboard.press("Enter")
        _wait(page, LIVE)
        (cookie,) = context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("cardiogloss", True, "Strict")
        assert told == []


def test_a_wall_of_32_sources_shows_each_on_one_screen(browser: Browser, tmp_path: Path) -> None:
    port, names = free_port(), [f"bed-{i:03}" for i in range(1, 33)]
    with ExitStack() as stack:
        mosquitto = stack.enter_context(Mosquitto(tmp_path))
        settings = config(f'mqtt = "cardiogloss/{SITE}/+/ecg"', broker=mosquitto.port, more="[model]\nhop_s = 5\n" + _web(port))
        daemon = stack.enter_context(Daemon(tmp_path / "daemon", settings))
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        stack.enter_context(_devices(mosquitto.port, write_excerpt(tmp_path, "excerpt", AF_S), "bed", copies=32))
        page = stack.enter_context(browser.new_context(viewport={"width": 1920, "height": 1080})).new_page()
        told = complaints(page)
        page.goto(f"http://127.0.0.1:{port}/")
        _wait(page, DRAWN, [[name, LEADS[0]] for name in names])
        boxes = [box for name in names if (box := page.locator(f"[data-source={name}]").bounding_box())]
        assert len({(box["x"], box["y"]) for box in boxes}) == 32
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 1920 and box["y"] + box["height"] <= 1080 for box in boxes)
        assert told == []


def test_the_bench_refuses_a_recording_with_too_few_leads() -> None:
    with pytest.raises(ConfigError, match="--leads 2"):
        Plan.of(EXCERPT, sources=1, leads=3, rate_hz=250.0)
