"""The system's Chromium, driven by Playwright, and what a page in it complained of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from .broker import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_GIVEN_UP = "net::ERR_ABORTED"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips where there is none. asyncio.run() does not work in this thread meanwhile, so keep it to one module."""
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("needs Chromium and the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def complaints(page: Page) -> list[str]:
    """Errors of the console and of scripts, and requests that failed, as they come; call it before the page is opened.

    A request that the page itself gave up, as its answer was needed no more, did not fail.
    """
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("requestfailed", lambda request: None if request.failure == _GIVEN_UP else told.append(f"{request.url}: {request.failure}"))
    return told


class BareTab:
    """A tab beside Playwright, which keeps its own ones visible whatever lies before them: this one is hidden by the next of its window."""

    def __init__(self, browser: Browser, window: str | None = None) -> None:
        self._session = browser.new_browser_cdp_session()
        self.window = window or str(self._session.send("Target.createBrowserContext")["browserContextId"])
        opened = self._session.send("Target.createTarget", {"url": "about:blank", "browserContextId": self.window})
        self._session.on("Target.receivedMessageFromTarget", self._hear)
        self._tab = self._session.send("Target.attachToTarget", {"targetId": opened["targetId"], "flatten": False})["sessionId"]
        self._answers: dict[int, Any] = {}
        self._asked = 0

    def open(self, address: str) -> None:
        """Without waiting for it."""
        self._send("Page.navigate", url=address)

    def bring_to_front(self) -> None:
        self._send("Page.bringToFront")

    def close(self) -> None:
        self._session.detach()

    def evaluate(self, expression: str) -> Any:
        """Its value; None while there is none."""
        return self._send("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {}).get("value")

    def wait_for(self, expression: str) -> None:
        wait_for(lambda: self.evaluate(expression), expression, 60.0)

    def _send(self, method: str, **parameters: object) -> dict[str, Any]:
        self._asked += 1
        message = json.dumps({"id": self._asked, "method": method, "params": parameters})
        self._session.send("Target.sendMessageToTarget", {"sessionId": self._tab, "message": message})
        # Any call lets Playwright hear what has come.
        wait_for(lambda: self._session.send("Target.getTargets") and self._asked in self._answers, method)
        answer: dict[str, Any] = self._answers.pop(self._asked).get("result", {})
        return answer

    def _hear(self, event: dict[str, str]) -> None:
        message = json.loads(event["message"])
        if "id" in message:
            self._answers[message["id"]] = message
