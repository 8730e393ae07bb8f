"""The pages of the last alerts: what was told of them and seen around them, held in bounded memory."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from starlette.applications import Starlette

from edge import gallery as module
from edge.gallery import Gallery, pages
from kernels.findings import ConfigError

from .test_schema import BEGUN_TIME, replayed

Json = dict[str, Any]


def told() -> list[Json]:
    """Alerts and evidence of the replayed excerpt, in order."""
    return [message for topic, message in replayed().messages if topic.endswith(("/alert", "/evidence"))]


@dataclass(frozen=True)
class Answer:
    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Asks as a server does, without one."""

    def __init__(self, gallery: Gallery) -> None:
        self._app = Starlette(routes=[*pages(gallery)])

    def get(self, path: str) -> Answer:
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> Answer:
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
        told: list[Any] = []

        async def _send(message: Any) -> None:
            told.append(message)

        async def _receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self._app(scope, _receive, _send)
        head, *bodies = told
        headers = {name.decode(): value.decode() for name, value in head["headers"]}
        return Answer(head["status"], headers, b"".join(body.get("body", b"") for body in bodies))


@pytest.fixture(scope="module")
def hung() -> Gallery:
    gallery = Gallery()
    for message in told():
        gallery.add(message)
    return gallery


@pytest.fixture(scope="module")
def client(hung: Gallery) -> Client:
    return Client(hung)


@pytest.fixture(scope="module")
def shown() -> Json:
    """The first alert of the heart."""
    return next(message for message in told() if message["type"] == "alert" and message["kind"] == "physiological")


def test_the_list_holds_the_last_word_about_each_alert_newest_first_without_strips(client: Client) -> None:
    last = {message["id"]: message for message in told() if message["type"] == "alert"}
    listed = client.get("/alerts").json()
    assert {alert["id"]: (alert["seq"], alert["state"]) for alert in listed} == {i: (m["seq"], m["state"]) for i, m in last.items()}
    assert all(alert["evidence"]["strip"] is None for alert in listed)
    assert [alert["number"] for alert in listed] == sorted((m["number"] for m in last.values()), reverse=True)


def test_a_page_holds_the_messages_as_they_were_told(client: Client, shown: Json) -> None:
    page = client.get(f"/alerts/{shown['id']}.json").json()
    assert page["raised"] == shown
    assert page["evidence"] == next(message for message in told() if message["type"] == "evidence" and message["id"] == shown["id"])


def test_the_record_shows_the_seconds_before_and_after_as_the_source_sent_them(client: Client, shown: Json, tmp_path: Path) -> None:
    """Read by WFDB's own reader, compared with the samples in the messages."""
    for ending in ("hea", "dat"):
        (tmp_path / f"{shown['id']}.{ending}").write_bytes(client.get(f"/alerts/{shown['id']}.{ending}").content)
    record = wfdb.rdrecord(str(tmp_path / shown["id"]))
    after = next(message for message in told() if message["type"] == "evidence" and message["id"] == shown["id"])
    both = np.concatenate([np.array(part["uv"]).T for part in (shown["evidence"]["strip"], after["strip"])]) / 1000
    assert after["strip"]["start_s"] == shown["evidence"]["strip"]["start_s"] + 10
    np.testing.assert_allclose(record.p_signal, both, atol=1e-9)
    begun_time = BEGUN_TIME + shown["evidence"]["strip"]["start_s"]
    # WFDB knows no time zones: ours is in UTC.
    assert record.base_datetime.replace(tzinfo=timezone.utc).timestamp() == pytest.approx(begun_time, abs=0.001)


def test_the_picture_is_a_png(client: Client, shown: Json) -> None:
    answer = client.get(f"/alerts/{shown['id']}.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png") and answer.content[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("ending", ["json", "png", "hea", "dat"])
def test_an_alert_that_is_not_held_is_said_to_be_so(client: Client, ending: str) -> None:
    answer = client.get(f"/alerts/feed.{ending}")
    assert answer.status_code == 404 and "no alert feed is held" in answer.json()["why"]


def test_without_matplotlib_the_page_says_what_to_install(client: Client, shown: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    def _refuse(*given: Any) -> bytes:
        raise ConfigError("pip install it")

    monkeypatch.setattr(module, "to_png", _refuse)
    answer = client.get(f"/alerts/{shown['id']}.png")
    assert (answer.status_code, answer.json()) == (501, {"why": "pip install it"})


def test_an_alert_without_samples_has_a_page_and_no_picture(shown: Json) -> None:
    gallery = Gallery()
    gallery.add(shown | {"id": "a1", "evidence": {"decided": [], "strip": None}})
    client = Client(gallery)
    assert client.get("/alerts/a1.json").json()["evidence"] is None
    assert client.get("/alerts/a1.png").status_code == client.get("/alerts/a1.dat").status_code == 404


def test_seconds_that_came_an_hour_later_make_no_picture_of_an_hour(shown: Json) -> None:
    gallery = Gallery()
    after = next(message for message in told() if message["type"] == "evidence" and message["id"] == shown["id"])
    gallery.add(shown)
    gallery.add(after | {"strip": after["strip"] | {"start_s": 3600.0}})
    answer = Client(gallery).get(f"/alerts/{shown['id']}.hea")
    assert answer.text.split("\n")[0].split()[3] == "1000"


def test_only_the_last_are_held_and_those_that_changed_stay(shown: Json) -> None:
    gallery = Gallery(most=3)
    for name in ("a", "b", "c"):
        gallery.add(shown | {"id": name})
    gallery.add(shown | {"id": "a", "seq": 1, "state": "cleared"})
    gallery.add(shown | {"id": "d"})
    assert [alert["id"] for alert in gallery.newest_first()] == ["d", "a", "c"]
    assert gallery.page("a")["raised"]["state"] == "raised"
    gallery.add({"type": "evidence", "id": "b", "strip": None})
    gallery.add({"type": "scores"})
    assert len(gallery.newest_first()) == 3


def test_two_hundred_alerts_of_twelve_leads_cost_few_megabytes(shown: Json) -> None:
    """Of real samples: the strips of the excerpt, six times over."""
    gallery = Gallery()
    strip = shown["evidence"]["strip"]
    wide = strip | {"leads": strip["leads"] * 6, "uv": strip["uv"] * 6}
    for number in range(250):
        shifted = wide | {"uv": [[uv + number for uv in lead] for lead in wide["uv"]]} if number % 50 == 0 else wide
        gallery.add(shown | {"id": str(number), "evidence": {"decided": [], "strip": shifted}})
    held = sum(len(one.first) + len(json.dumps(one.last)) for one in gallery._held.values())
    assert len(gallery.newest_first()) == 200 and held < 10e6


def test_many_threads_may_use_it_at_once(shown: Json) -> None:
    gallery = Gallery(most=20)

    def _use(first: int) -> None:
        for number in range(first, first + 30):
            gallery.add(shown | {"id": str(number)})
            assert gallery.newest_first()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(_use, (0, 100, 200, 300)))
    assert len(gallery.newest_first()) == 20
