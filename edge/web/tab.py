"""The address of a dashboard in; what a tab of a real Chromium loaded, drew and held out, over Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kernels.findings import ConfigError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

_PATIENCE_MS = 60_000.0
_POLL_MS = 10.0
_LOOK_MS = 500.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update")
_VIEWS = ("#/history", "#/health", "#/")

_READY = "() => window.ward?.first_ms > 0"
_ALL_DRAWN = "(count) => window.ward?.strips.filter((strip) => strip.painted_s > 0).length >= count"
_ANEW = "(before) => window.ward.connection === 'live' && window.ward.session !== before"
_PAINTED = "() => window.ward.strips.reduce((sum, strip) => sum + strip.painted, 0)"
_PAINTED_SINCE = "(before) => window.ward.strips.reduce((sum, strip) => sum + strip.painted, 0) !== before"
_NEWEST = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() =>
  done([Date.now() / 1000, window.ward.strips.map((strip) => [strip.source, strip.painted_s])]))))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's own, without a window. Raises ConfigError where there is none, or no Playwright."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None or find_spec("playwright") is None:
        raise ConfigError("this needs a browser: apt-get install chromium, and pip install playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One viewer at 1920 x 1080, whose page is to show so many strips at least."""

    def __init__(self, browser: Browser, least: int) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1920, "height": 1080})
        self.complaints: list[str] = []
        """Errors of the console and of scripts."""
        self.requests: list[str] = []
        self.loaded_kb = 0.0
        """Of all answers, heads and bodies, as they came over the line."""
        self._least = least
        self._browser: CDPSession = browser.new_browser_cdp_session()
        self._tab: CDPSession = self.page.context.new_cdp_session(self.page)
        self._tab.send("Network.enable")
        self._tab.on("Network.loadingFinished", self._count)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, address: str) -> float:
        """ms from the beginning of the navigation until the first strip was drawn; waits for all strips."""
        self.page.goto(address)
        self.page.wait_for_function(_READY, timeout=_PATIENCE_MS)
        self._wait_for_strips()
        return float(self.page.evaluate("window.ward.first_ms"))

    def wait(self, seconds: float) -> None:
        """Only so are events of the browser heard meanwhile."""
        self.page.wait_for_timeout(seconds * 1000)

    def drawn(self) -> int:
        """Times that strips were drawn, by the page's own count."""
        return int(self.page.evaluate("window.ward.frames"))

    def strips(self) -> int:
        """On the page now."""
        return int(self.page.evaluate("window.ward.strips.length"))

    def session(self) -> str:
        """Of the daemon that the page is connected to."""
        return str(self.page.evaluate("window.ward.session"))

    def shown_s(self, seconds: float) -> list[float]:
        """The moments within the next seconds at which a frame of the page reached the screen. Raises ConfigError where none is told."""
        events: list[dict[str, Any]] = []
        ended: list[object] = []
        self._browser.on("Tracing.dataCollected", lambda told: events.extend(told["value"]))
        self._browser.on("Tracing.tracingComplete", lambda told: ended.append(told))
        self._browser.send("Tracing.start", {"traceConfig": {"includedCategories": ["devtools.timeline"]}, "transferMode": "ReportEvents"})
        self.wait(seconds)
        self._browser.send("Tracing.end")
        while not ended:
            self.wait(0.05)
        shown = sorted(event["ts"] / 1e6 for event in events if event["name"] == "AnimationFrame::Presentation")
        if len(shown) < 3:
            raise ConfigError("this Chromium does not tell when a frame was shown, or showed none; try a newer one")
        return shown

    def cpu_s(self) -> float:
        """Processor time of all processes of the browser so far."""
        told = self._browser.send("SystemInfo.getProcessInfo")
        return float(sum(one["cpuTime"] for one in told["processInfo"]))

    def heap_mb(self) -> float:
        """What is left after a collection, with what typed arrays hold."""
        self._tab.send("HeapProfiler.collectGarbage")
        told = self._tab.send("Runtime.getHeapUsage")
        return float(told["usedSize"] + told.get("backingStorageSize", 0)) / 1e6

    def counts(self) -> tuple[int, int]:
        """Nodes and listeners."""
        told = self._tab.send("Memory.getDOMCounters")
        return int(told["nodes"]), int(told["jsEventListeners"])

    def ages_ms(self, begin_time: dict[str, float]) -> list[float]:
        """How long ago the last sample that each strip shows was taken, by when (since 1970) the first of each source was."""
        now, strips = self.page.evaluate(_NEWEST)
        return [(now - begin_time[source] - painted_s) * 1000 for source, painted_s in strips]

    def wait_for_another(self, session: str) -> None:
        """Until it shows another session, with something drawn in it."""
        self.page.wait_for_function(_ANEW, arg=session, timeout=_PATIENCE_MS, polling=_POLL_MS)
        before = self.page.evaluate(_PAINTED)
        self.page.wait_for_function(_PAINTED_SINCE, arg=before, timeout=_PATIENCE_MS, polling=_POLL_MS)

    def look_around(self, source: str) -> None:
        """Every view once, and back to the wall."""
        for view in (f"#/source/{source}", *_VIEWS):
            self.page.evaluate("(view) => { location.hash = view; }", view)
            self.page.wait_for_timeout(_LOOK_MS)
        self._wait_for_strips()

    def _wait_for_strips(self) -> None:
        self.page.wait_for_function(_ALL_DRAWN, arg=self._least, timeout=_PATIENCE_MS)

    def _count(self, event: dict[str, Any]) -> None:
        self.loaded_kb += event["encodedDataLength"] / 1000
