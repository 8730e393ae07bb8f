"""The dashboard of a real daemon, as a program of one's own would see it, from real recordings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("websockets", reason="the dashboard's extra: pip install cardiogloss[web]")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from edge.decode.chunk import Chunk

from .broker import Mosquitto, wait_for
from .daemon import PATIENCE_S, ROOT, Client, Daemon, Json, Port, between, config, frames, on_topic, source
from .test_web_frame import Read, microvolts, read
from .test_web_site import hang

AF = "atrial_fibrillation"
WEB = "[web]\nport = 0\n"
NEVER_S = 600.0


class Viewer:
    """Keeps all that a dashboard sends, in a thread of its own; it says what it has seen, as the page does."""

    def __init__(self, daemon: Daemon, says_seen: bool = True) -> None:
        self.messages: list[Json] = []
        self.frames: list[Read] = []
        self.code: int | None = None
        """Of the close."""
        self._live = connect(_address(daemon).replace("http", "ws") + "/live", compression=None, proxy=None, max_size=None)
        self._says_seen = says_seen
        self._thread = threading.Thread(target=self._take_all, daemon=True)
        self._thread.start()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._thread.join(PATIENCE_S)

    def send(self, **told: Any) -> None:
        self._live.send(json.dumps(told))

    def of(self, kind: str, **wanted: Any) -> list[Json]:
        """The messages of this kind with these fields."""
        return [one for one in list(self.messages) if one["type"] == kind and all(one.get(key) == value for key, value in wanted.items())]

    def wait(self, kind: str, **wanted: Any) -> Json:
        """The last such message, once there is one."""
        wait_for(lambda: self.of(kind, **wanted), f"{kind} {wanted}", PATIENCE_S)
        return self.of(kind, **wanted)[-1]

    def wait_for_close(self) -> int | None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.code

    def _take_all(self) -> None:
        seen = 0
        try:
            while True:
                told = self._live.recv()
                if isinstance(told, str):
                    self.messages.append(json.loads(told))
                    continue
                seen += 1
                self.frames += read(told)
                if self._says_seen:
                    self.send(seen=seen)
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else None


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def _uv(chunk: Chunk, lead: str) -> list[float | None]:
    return [microvolts(mv) for mv in chunk.samples_mv[chunk.leads.index(lead)]]


def test_a_nurse_sees_the_strip_and_an_alert_acknowledges_it_and_finds_both_after_a_restart(
    tmp_path: Path, mosquitto: Mosquitto, excerpt: Chunk
) -> None:
    sent = frames(between(excerpt, 0, 40))
    with (
        Client(mosquitto.port) as device,
        Daemon(tmp_path, config(on_topic("bed1", stall_s=NEVER_S), broker=mosquitto.port, more=WEB)) as daemon,
    ):
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        with Viewer(daemon) as early:
            device.send_all("bed1", sent[:40])
            assert early.wait("source", leads=["II", "V1"])["rate_hz"] == 360
            early.send(watch={"bed1": ["V1"]})
            wait_for(lambda: early.frames, "the strip", PATIENCE_S)
            device.send_all("bed1", sent[40:])
            alert = early.wait("alert", finding=AF, state="raised")
            assert "evidence" not in alert and alert["acknowledged_by"] is None
            early.send(command="acknowledge", id=alert["id"], by="Ada", command_id="7", source="bed1")
            assert early.wait("reply", command_id="7")["ok"]
            assert early.wait("alert", id=alert["id"], acknowledged_by="Ada")["state"] == "updated"
            scores = early.wait("scores", source="bed1")
            known = {finding["name"] for finding in early.wait("hello")["findings"] if finding["kind"] == "physiological"}
            assert scores["probability"].keys() | set(scores["unobservable"]) == known
            assert early.wait("vitals", source="bed1")["quality"] == {"II": "good", "V1": "good"}
            _check_strip(early.frames, _uv(excerpt, "V1"))
        assert daemon.terminate() == 0
        daemon.start()
        with Viewer(daemon) as late:
            assert late.wait("alert", id=alert["id"])["acknowledged_by"] == "Ada"
            assert late.wait("hello")["session"] != early.wait("hello")["session"]
        assert AF in {one["finding"] for one in _json(daemon, "/history.json?hours=24&source=bed1")["alerts"]}
        _check_page(daemon, alert["id"])
        assert daemon.terminate() == 0
        for kept in tmp_path.rglob("*-history.db*"):
            kept.unlink()
        daemon.start()
        wait_for(lambda: alert["id"] in {one["id"] for one in json.loads(_get(daemon, "/alerts"))}, "what the outbox knows", PATIENCE_S)
        _check_page(daemon, alert["id"])
        assert not [line for line in daemon.log if line["level"] == "error"]


def _check_page(daemon: Daemon, alert_id: str) -> None:
    strip = _get(daemon, f"/alerts/{alert_id}/strip").decode()
    assert strip.startswith('<figure class="strip"') and 'data-leads="II V1"' in strip


def _check_strip(frames: list[Read], expected: list[float | None]) -> None:
    """Each frame holds the samples of its place; they are of one lead and one source."""
    ends = [0]
    for frame in frames:
        begin = round(frame.start_s * 360)
        assert (frame.number, frame.mask) == (0, 2) and begin >= ends[-1]
        assert frame.uv == [expected[begin : begin + len(frame.uv[0])]]
        ends.append(begin + len(frame.uv[0]))
    assert sum(len(frame.uv[0]) for frame in frames) > 360 * 10


def _address(daemon: Daemon) -> str:
    return str(daemon.told("dashboard")[-1]["address"])


def _get(daemon: Daemon, path: str) -> bytes:
    with urllib.request.urlopen(_address(daemon) + path, timeout=30) as answer:
        return bytes(answer.read())


def _json(daemon: Daemon, path: str) -> Json:
    return dict(json.loads(_get(daemon, path)))


def test_viewers_that_read_nothing_hold_up_no_scores_and_do_not_keep_the_daemon_from_ending(tmp_path: Path, excerpt: Chunk) -> None:
    with Port(tmp_path / "tty") as port, Daemon(tmp_path, config(source("bed1", "frame", serial=tmp_path / "tty"), more=WEB)) as daemon:
        sent = frames(between(excerpt, 0, 60))
        port.feed(daemon, "bed1", sent[:300])
        daemon.wait_for_samples("bed1", 30 * 360)
        hung = [hang(int(_address(daemon).rpartition(":")[2]), ["II", "V1"]) for _ in range(8)]
        with Viewer(daemon) as reader:
            wait_for(lambda: reader.wait("health")["viewers"] == 9, "all to be there", PATIENCE_S)
            port.pour(b"".join(sent[300:]))
            wait_for(lambda: reader.wait("scores")["at_s"] > 55, "the last scores", PATIENCE_S)
            began_s = time.monotonic()
            assert daemon.terminate() == 0
            assert time.monotonic() - began_s < 15
            assert reader.wait_for_close() == 1012
        for line in hung:
            line.close()


def test_a_reload_keeps_viewers_and_says_what_takes_a_restart(tmp_path: Path) -> None:
    one, two = source("one", "frame", serial=tmp_path / "one"), source("two", "frame", serial=tmp_path / "two")
    with Daemon(tmp_path, config(one, more=WEB)) as daemon, Viewer(daemon) as viewer:
        assert viewer.wait("source")["source"] == "one"
        daemon.reload(config(two, more=WEB + 'leads = ["V6"]\n'))
        assert [line["table"] for line in daemon.told("takes a restart")] == ["web"]
        viewer.wait("source", source="two")
        viewer.wait("gone", source="one")
        assert viewer.code is None and len(viewer.of("hello")) == 1
        assert viewer.wait("health", reloads=1)["crashes"] == 0


def test_without_the_extra_the_start_ends_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(config(source("one", "frame", serial=tmp_path / "tty"), more=WEB))
    code = "import sys; sys.modules['websockets'] = None; from edge.__main__ import main; main()"
    command = [sys.executable, "-c", code, "run", str(tmp_path / "edge.toml")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"XDG_STATE_HOME": str(tmp_path)})
    assert ended.returncode == 2 and "pip install cardiogloss[web]" in ended.stderr and "Traceback" not in ended.stderr


def test_without_web_no_websocket_is_loaded_though_pages_are_served() -> None:
    code = (
        "import asyncio, sys, edge.daemon, edge.serving\n"
        "async def main():\n"
        "    served = await edge.serving.serve('http', '127.0.0.1', 0, None)\n"
        "    await asyncio.sleep(0.2); served.leave()\n"
        "asyncio.run(main())\n"
        "print(sorted(name for name in sys.modules if name.startswith(('websockets', 'edge.web'))))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
