"""The dashboard's server alone, over real TCP and TLS: who may see it, and what nobody may make it do."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest

pytest.importorskip("websockets", reason="the dashboard's extra: pip install cardiogloss[web]")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from edge.command import Command
from edge.config import Config, parse_config
from edge.decode.chunk import Chunk
from edge.health import Health, SourceHealth
from edge.supervisor import Supervisor
from edge.web import dashboard, protocol, viewer
from edge.web import site as pages
from edge.web.dashboard import MOST_VIEWERS, Dashboard
from edge.web.login import COOKIE, LASTS_S, Login, Tries
from edge.web.lookout import Model
from edge.web.site import POLICY
from kernels.bundle import Bundle
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .broker import wait_for
from .test_web_frame import read

Json = dict[str, Any]
TOKEN = "Schlüssel zur Station 3 ✓"
PATIENCE_S = 30.0
ACCOUNTS = {"samples": 0, "lost": 0}


@dataclass
class Site:
    """A dashboard that is served by a loop in a thread of its own, of a ward that the test makes up."""

    config: Config
    bundle: Bundle
    sources: list[str] = field(default_factory=list)
    obeyed: list[tuple[str, Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.config.web is not None
        self.supervisor = Supervisor()
        self.dashboard = Dashboard(self.config, self.config.web, self.supervisor, self._health, self._model, self._obey)
        for name in self.sources:
            self.dashboard.tap(name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Site:
        self._thread.start()
        self._do(self.dashboard.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self.dashboard.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        assert self.supervisor.faults == 0

    @property
    def address(self) -> str:
        assert self.dashboard._serving is not None
        return self.dashboard._serving.address

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(self, path: str, method: str = "GET", body: str | bytes = b"", host: str | None = None, **headers: str) -> Answer:
        """One request, over a connection of its own."""
        given = {"Host": host or f"127.0.0.1:{self.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        line = self._line()
        try:
            line.request(method, path, body or None, {name: value.encode() for name, value in given.items()})
            answer = line.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            line.close()

    def live(self, **options: Any) -> Connection:
        scheme = "wss" if self.address.startswith("https") else "ws"
        return connect(f"{scheme}://127.0.0.1:{self.port}/live", compression=None, proxy=None, **options)

    def log_in(self, token: str = TOKEN, **headers: str) -> Answer:
        headers.setdefault("Content_Type", "application/x-www-form-urlencoded")
        return self.ask("/login", "POST", urlencode({"token": token}), **headers)

    def _line(self) -> HTTPConnection:
        if self.address.startswith("https"):
            return HTTPSConnection("127.0.0.1", self.port, timeout=20, context=_trusting())
        return HTTPConnection("127.0.0.1", self.port, timeout=20)

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _health(self) -> Health:
        sources = tuple(SourceHealth(name, "online", True, None, ACCOUNTS, 0, 1, 0, 250.0, None) for name in self.sources)
        return Health("b", True, None, sources, 0, 0, 0, 0, {})

    def _model(self) -> Model:
        return Model(self.bundle.card, 1.0, "b")

    def _obey(self, source: str, command: Command) -> bool:
        self.obeyed.append((source, command))
        return source in self.sources


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cookie(self) -> str:
        return self.headers["set-cookie"].partition(";")[0]


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


Start = Callable[..., Site]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Start:
    def _start(**web: object) -> Site:
        folder = tmp_path_factory.mktemp("web")
        given = {"port": 0, "history": str(folder / "history.db")} | web
        source = {"name": "bed1", "device": "frame", "serial": "/dev/null"}
        return Site(parse_config({"web": given, "source": [source]}, folder / "edge.toml"), bundle, ["bed1"])

    return _start


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def site(start: Start) -> Iterator[Site]:
    """Without a token, for this machine alone."""
    with start() as started:
        yield started


@pytest.fixture(scope="module")
def locked(start: Start, token_file: str) -> Iterator[Site]:
    """With a token."""
    with start(token_file=token_file) as started:
        yield started


@pytest.fixture(scope="module")
def cookie(locked: Site) -> str:
    return locked.log_in().cookie


@contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(InvalidStatus) as error:
        yield
    assert error.value.response.status_code == status


DATA = ("/health.json", "/history.json", "/alerts", "/alerts/x.json", "/alerts/x/strip", "/static/main.js", "/", "/nowhere")


def test_without_the_token_there_is_a_form_and_its_style_and_nothing_else(locked: Site) -> None:
    for path in DATA:
        assert locked.ask(path).status == (303 if path == "/" else 401)
    assert locked.ask("/").headers["location"] == "/login"
    assert b'name="token"' in locked.ask("/login").body
    assert locked.ask("/static/login.css").status == 200
    with refused(401):
        locked.live()
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}=9999999999.00", f"{COOKIE}=9999999999.{'0' * 64}", f"{COOKIE}=nan.x", f"{COOKIE}=ü"):
        assert locked.ask("/health.json", Cookie=cookie).status == 401


def test_the_token_opens_all_by_cookie_and_by_bearer_though_it_is_not_ascii(locked: Site) -> None:
    answer = locked.log_in()
    assert (answer.status, answer.headers["location"]) == (303, "/")
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes and "secure" not in attributes
    for shown in ({"Cookie": answer.cookie}, {"Authorization": f"Bearer {TOKEN}"}):
        assert locked.ask("/health.json", **shown).status == 200
        assert locked.ask("/", **shown).status == 200
    with locked.live(additional_headers={"Cookie": answer.cookie}) as live:
        assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"


def test_a_program_shows_the_token_to_the_websocket_as_bearer(start: Start, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("plain")
    with start(token_file=str(tmp_path / "plain")) as site:
        with refused(401):
            site.live(additional_headers={"Authorization": "Basic plain"})
        with site.live(additional_headers={"Authorization": "bearer plain"}) as live:
            assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"


def test_wrong_tokens_are_refused_and_after_ten_nobody_guesses_on_though_who_is_in_stays_in(start: Start, token_file: str) -> None:
    with start(token_file=token_file) as site:
        cookie = site.log_in().cookie
        wrong = [site.log_in("Schlüssel") for _ in range(5)]
        wrong += [site.ask("/login", "POST", body) for body in (b"", b"token=", b"token=" + b"x" * 5000, b"\xff=\xfe", b'{"token": 1}')]
        assert {(answer.status, answer.headers["location"]) for answer in wrong} == {(303, "/login#wrong")}
        assert not any("set-cookie" in answer.headers for answer in wrong)
        assert site.log_in().headers["location"] == "/login#wait"
        assert site.ask("/health.json", Authorization=f"Bearer {TOKEN}").status == 401
        assert site.ask("/health.json", Cookie=cookie).status == 200


def test_tries_are_counted_for_a_minute_by_address_and_in_all() -> None:
    now_s = 0.0
    tries = Tries(lambda: now_s)
    for i in range(100):
        assert tries.may_try(f"10.0.0.{i // 10}")
        tries.note_failure(f"10.0.0.{i // 10}")
    assert not tries.may_try("10.9.9.9")
    now_s = 61.0
    assert tries.may_try("10.0.0.1")


def test_a_cookie_outlives_a_restart_and_neither_its_time_nor_another_token() -> None:
    now_s = 1e9
    cookie = Login("a", lambda: now_s).cookie()
    assert Login("a", lambda: now_s + LASTS_S - 2).admits(cookie)
    assert not Login("a", lambda: now_s + LASTS_S + 2).admits(cookie)
    assert not Login("b", lambda: now_s).admits(cookie)
    end, _, signature = cookie.partition(".")
    assert not Login("a", lambda: now_s).admits(f"{int(end) + 1}.{signature}")


def test_leaving_takes_the_cookie_away(locked: Site, cookie: str) -> None:
    answer = locked.ask("/logout", "POST", Cookie=cookie)
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert answer.headers["set-cookie"].startswith(f'{COOKIE}=""') and "max-age=0" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1", ""])
def test_the_page_of_another_site_opens_no_websocket_and_posts_nothing_with_the_nurses_cookie(
    origin: str, locked: Site, cookie: str
) -> None:
    with refused(403):
        locked.live(origin=origin, additional_headers={"Cookie": cookie})
    assert locked.ask("/logout", "POST", Cookie=cookie, Origin=origin).status == 403
    assert locked.log_in(Origin=origin).status == 403
    with locked.live(origin=locked.address, additional_headers={"Cookie": cookie}) as live:
        assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"]
)
def test_without_a_token_a_name_that_was_rebound_to_this_machine_sees_nothing(host: str, site: Site) -> None:
    name = host.format(port=site.port)
    for path in (*DATA, "/login", "/static/login.css"):
        assert site.ask(path, host=name).status == 421
    bare = name.removesuffix(f":{site.port}")
    # The library names in Host what it is told to connect to; the line leads here.
    with refused(421), socket.create_connection(("127.0.0.1", site.port)) as line:
        connect(f"ws://{bare}:{site.port}/live", sock=line, proxy=None)


@pytest.mark.parametrize("host", ["localhost", "localhost:{port}", "127.0.0.1:{port}", "127.1.2.3", "[::1]:{port}", "[::1]"])
def test_without_a_token_this_machine_is_served_under_its_own_names(host: str, site: Site) -> None:
    assert site.ask("/health.json", host=host.format(port=site.port)).status == 200


def test_every_answer_carries_the_headers_that_keep_a_browser_from_harm(locked: Site, cookie: str) -> None:
    asked = [locked.ask(path, Cookie=shown) for path in (*DATA, "/login") for shown in ("", cookie)]
    for answer in [*asked, locked.log_in("wrong"), locked.ask("/", "PUT"), locked.ask("/health.json", Origin="http://x", method="POST")]:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
    assert locked.ask("/health.json", Cookie=cookie).headers["cache-control"] == "no-store"


def test_a_file_of_the_page_comes_once_and_no_other_file_does(site: Site) -> None:
    first = site.ask("/static/main.js")
    assert first.status == 200 and first.headers["content-type"].startswith("text/javascript")
    again = site.ask("/static/main.js", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    packed = site.ask("/static/main.js", Accept_Encoding="gzip, br")
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == first.body
    assert packed.headers["vary"] == "accept-encoding" and "content-encoding" not in first.headers
    for path in ("/static/", "/static/..%2Fsite.py", "/static/../site.py", "/static/site.py", "/static/__init__.py", "/static/%00"):
        assert site.ask(path).status == 404
    assert b"<canvas" not in site.ask("/static/strips.js").body and site.ask("/static/strips.js").status == 200


def test_what_is_asked_wrongly_is_told_so(site: Site) -> None:
    for query in ("hours=x", "hours=-1", "hours=nan", "hours=inf", "hours=1e9"):
        answer = site.ask(f"/history.json?{query}")
        assert answer.status == 400 and "hours" in json.loads(answer.body)["why"]
    assert site.ask("/history.json?hours=24&source=" + quote("bed ü")).status == 200
    assert json.loads(site.ask("/alerts/x/strip").body)["why"]


# The WebSocket.


def _until(live: Connection, kind: str) -> Json:
    """The next message of this kind."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        told = live.recv(PATIENCE_S)
        if isinstance(told, str) and (message := json.loads(told))["type"] == kind:
            return dict(message)
    raise AssertionError(f"no {kind} came")


def test_a_hello_tells_of_site_model_and_findings_then_sources_then_health(start: Start, bundle: Bundle) -> None:
    with start(leads=["V1"]) as site, site.live() as live:
        hello = json.loads(live.recv(PATIENCE_S))
        assert (hello["type"], hello["site"], hello["leads"], hello["window_s"]) == ("hello", "home", ["V1"], bundle.card.window_s)
        assert abs(hello["time"] - time.time()) < 60
        titles = {finding["name"]: (finding["title"], finding["kind"]) for finding in hello["findings"]}
        assert titles["atrial_fibrillation"] == ("atrial fibrillation", "physiological") and titles["lead_off"][1] == "technical"
        source = json.loads(live.recv(PATIENCE_S))
        assert (source["type"], source["source"], source["state"], source["number"]) == ("source", "bed1", "online", 0)
        assert _until(live, "health")["viewers"] == 1
        with site.live() as other:
            assert json.loads(other.recv(PATIENCE_S))["session"] == hello["session"]


def test_a_new_model_is_greeted_anew(start: Start) -> None:
    with start() as site, site.live() as live:
        _until(live, "hello")
        site.bundle = replace(site.bundle, card=site.bundle.card.model_copy(update={"window_s": 7.0}))
        assert _until(live, "hello")["window_s"] == 7.0


def test_a_source_that_leaves_is_gone_and_a_new_one_is_told(start: Start) -> None:
    with start() as site, site.live() as live:
        _until(live, "source")
        site.dashboard.tap("bed2")
        site.sources.append("bed2")
        assert _until(live, "source")["source"] == "bed2"
        site.sources.remove("bed2")
        assert _until(live, "gone") == {"type": "gone", "source": "bed2"}


def test_commands_are_obeyed_and_what_cannot_be_is_answered_at_once(start: Start) -> None:
    with start() as site, site.live() as live:
        live.send(json.dumps({"command": "acknowledge", "id": "x", "by": "Ada", "command_id": "1", "source": "bed1"}))
        wait_for(lambda: site.obeyed)
        ((source, command),) = site.obeyed
        assert (source, command.by, command.id) == ("bed1", "Ada", "x")  # type: ignore[union-attr]
        refusals: list[tuple[Json, str]] = [
            ({"command": "acknowledge", "id": "x", "command_id": "2", "source": "bed9"}, "no source bed9 is watched"),
            ({"command": "acknowledge", "command_id": "3", "source": "bed1"}, "id: Field required"),
            ({"command": "silence", "for_s": -1, "command_id": "4", "source": "bed1"}, "for_s"),
            ({"command": "explode", "command_id": "5", "source": "bed1"}, "acknowledge"),
        ]
        for sent, part in refusals:
            live.send(json.dumps(sent))
            # The first was obeyed, and is answered by its source alone.
            reply = _until(live, "reply")
            assert (reply["ok"], reply["command_id"], reply["source"]) == (False, sent["command_id"], sent["source"])
            assert part in reply["why"]


UNREADABLE = (
    "",
    "{",
    "[]",
    "null",
    "{}",
    '{"watch": 1}',
    '{"watch": {"bed1": [[]]}}',
    "[" * 60_000,
    '{"seen": "x"}',
    b"\0",
    '{"source": 1}',
)


def test_whatever_a_browser_sends_it_is_answered_and_goes_on(site: Site) -> None:
    with site.live() as live:
        for sent in UNREADABLE:
            live.send(sent)
            assert not _until(live, "reply")["ok"]
        for told in ({"seen": -5}, {"seen": 10**30}, {"watch": {"nobody": ["II"], "bed1": ["II"] * 1000}}):
            live.send(json.dumps(told))
        assert _until(live, "health")["alive"]


def test_a_message_larger_than_any_wish_closes_the_connection(start: Start) -> None:
    with start() as site, site.live() as live:
        live.send(" " * 100_000)
        with pytest.raises(ConnectionClosed):
            while True:
                live.recv(PATIENCE_S)


def test_only_so_many_may_look_and_a_place_that_is_left_is_free(start: Start) -> None:
    with start() as site:
        viewers = [site.live() for _ in range(MOST_VIEWERS)]
        with refused(503):
            site.live()
        assert site.ask("/health.json").status == 200
        viewers.pop().close()
        wait_for(lambda: len(site.dashboard._viewers) < MOST_VIEWERS)
        viewers.append(site.live())
        for viewer in viewers:
            viewer.close()


# Slow viewers.


def hang(port: int, leads: list[str]) -> socket.socket:
    """A viewer that reads nothing once it is let in, and takes as little as it can."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", port))
    line.sendall(
        f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".encode()
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert line.recv(12) == b"HTTP/1.1 101"
    line.sendall(_masked(json.dumps({"watch": {"bed1": leads}})))
    return line


def _masked(text: str) -> bytes:
    """A short text as a frame of a client (RFC 6455, 5.2), under a mask of zeros."""
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _connections(site: Site) -> Collection[object]:
    assert site.dashboard._serving is not None
    return site.dashboard._serving._server.server_state.connections


def _chunk(start: int) -> Chunk:
    return Chunk(start, 1000.0, LEADS, np.zeros((12, 1000), np.float32))


def _watch(live: Connection, leads: Sequence[str]) -> None:
    _until(live, "source")
    live.send(json.dumps({"watch": {"bed1": list(leads)}}))


def _samples(live: Connection, until_s: float) -> int:
    """How many came, of one source, until those of this second of the stream are there."""
    count = 0
    while True:
        told = live.recv(PATIENCE_S)
        for frame in read(told) if isinstance(told, bytes) else ():
            count += len(frame.uv[0])
            if frame.start_s + len(frame.uv[0]) / frame.rate_hz >= until_s:
                return count


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory is read where Linux tells it")
def test_viewers_that_read_nothing_cost_no_memory_and_are_left_in_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "HANGS_S", 1.0)
    monkeypatch.setattr(protocol, "_LINGERS_S", 0.1)
    with start() as site, site.live() as live:
        tap = site.dashboard.tap("bed1")
        _watch(live, LEADS)
        hung = [hang(site.port, ["I", *LEADS[6:]]) for _ in range(8)]
        wait_for(lambda: len(site.dashboard._viewers) == 9)
        # Until the ring is full, so that only what is sent counts.
        for second in range(15):
            tap(_chunk(1000 * second), float(second))
            _samples(live, second + 1)
        before_mb = _resident_mb()
        for second in range(15, 415):
            tap(_chunk(1000 * second), float(second))
        # 5.6 MB for each of them, if it waited anywhere.
        _samples(live, 415)
        assert _resident_mb() - before_mb < 20
        wait_for(lambda: len(site.dashboard._viewers) == 1)
        wait_for(lambda: len(_connections(site)) == 1)
        for line in hung:
            line.close()


def test_whoever_scores_waits_for_nobody_though_the_loop_hangs(start: Start) -> None:
    with start() as site, site.live() as live:
        tap = site.dashboard.tap("bed1")
        _watch(live, LEADS)
        told = threading.Event()
        site._loop.call_soon_threadsafe(told.wait)
        try:
            for second in range(1000):
                tap(_chunk(1000 * second), float(second))
                site.dashboard.show(
                    {"type": "vitals", "source": "bed1", "at_s": second, "heart_rate_bpm": 60.0, "quality": {}, "time": 1e9}
                )
        finally:
            told.set()
        assert _samples(live, 1000) <= 12_000


def test_who_says_what_it_has_seen_is_sent_nothing_while_it_is_late_and_then_what_is_new(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "LATE_S", 0.3)
    with start() as site, site.live() as live:
        tap = site.dashboard.tap("bed1")
        _watch(live, ["II"])
        live.send(json.dumps({"seen": 0}))
        tap(_chunk(0), 0.0)
        assert _samples(live, 1) == 1000
        wait_for(lambda: next(iter(site.dashboard._viewers))._on_the_way.is_late(time.monotonic()))
        for second in range(1, 9):
            # What was told before it was late, then nothing.
            with suppress(TimeoutError):
                while not isinstance(live.recv(0.2), bytes):
                    pass
                pytest.fail("samples were sent to a viewer who is late")
            tap(_chunk(1000 * second), float(second))
        live.send(json.dumps({"seen": 1}))
        assert _samples(live, 9) == 1000


def test_who_connects_and_does_not_ask_is_let_go_and_who_looks_is_not(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_S", 0.3)
    with start() as site, site.live() as live, ExitStack() as lines:
        opened = [lines.enter_context(socket.create_connection(("127.0.0.1", site.port), PATIENCE_S)) for _ in range(3)]
        opened[1].sendall(b"GET / HTTP/1.1\r\nHost: ")
        opened[2].sendall(f"GET /health.json HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\nGET ".encode())
        for line in opened:
            with suppress(ConnectionResetError):
                while line.recv(4096):
                    pass
        assert _until(live, "health")["viewers"] == 1


def test_a_form_that_never_ends_is_answered(start: Start, token_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_FORM_S", 0.3)
    with start(token_file=token_file) as site, socket.create_connection(("127.0.0.1", site.port), PATIENCE_S) as line:
        line.sendall(f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 30\r\n\r\ntoken=".encode())
        assert line.recv(12) == b"HTTP/1.1 408"


def test_only_so_many_connections_take_a_descriptor(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(protocol, "_REQUEST_S", 3600.0)
    with start() as site, ExitStack() as lines:
        opened = [lines.enter_context(socket.create_connection(("127.0.0.1", site.port), PATIENCE_S)) for _ in range(5)]
        with suppress(ConnectionResetError):
            assert opened[-1].recv(1) == b""


# TLS, ports and files.


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    names = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    given = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", *given, "-keyout", names["key"], "-out", names["certificate"]], check=True, capture_output=True
    )
    return names


def test_over_tls_the_cookie_is_secure_and_plain_http_ends_nothing(start: Start, token_file: str, pem: dict[str, str]) -> None:
    with start(token_file=token_file, **pem) as site:
        assert site.address.startswith("https://")
        with suppress(OSError), socket.create_connection(("127.0.0.1", site.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        answer = site.log_in()
        assert "secure" in answer.headers["set-cookie"].lower()
        with site.live(ssl=_trusting(), additional_headers={"Cookie": answer.cookie}) as live:
            assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"


def test_old_tls_is_refused(start: Start, pem: dict[str, str]) -> None:
    with start(**pem) as site:
        context = _trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", site.port)) as line, context.wrap_socket(line) as secured:
            assert "GCM" in str(secured.cipher()) or "CHACHA" in str(secured.cipher())
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
        with socket.create_connection(("127.0.0.1", site.port)) as line, pytest.raises(OSError):
            context.wrap_socket(line)


def test_a_certificate_that_is_none_is_named_before_anything_is_served(start: Start, pem: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no")
    for certificate, key in (("no.pem", pem["key"]), (pem["certificate"], "no.pem"), ("absent.pem", pem["key"])):
        with pytest.raises(ConfigError, match="web: certificate"):
            start(certificate=certificate, key=key)


@pytest.mark.parametrize("found", ["0.52.0", "0.9.9"])
def test_a_server_that_never_waits_for_a_viewer_is_refused(found: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "version", {"uvicorn": found}.__getitem__)
    with pytest.raises(ConfigError, match=r"uvicorn 0\.53 or newer; pip install cardiogloss\[web\]"):
        start()


def test_a_port_that_is_taken_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site = start(port=port)
        with pytest.raises(ConfigError, match=f"web: cannot listen on 127.0.0.1:{port}.*choose another port"):
            asyncio.run(site.dashboard.start())


def test_ipv6_is_served_where_the_machine_has_it(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with start(host="::1") as site:
        assert site.address.startswith("http://[::1]:")
        line = HTTPConnection("::1", site.port, timeout=20)
        line.request("GET", "/health.json")
        assert line.getresponse().status == 200
        line.close()


def test_a_history_that_cannot_be_kept_keeps_nobody_from_being_watched(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with start(history=str(tmp_path / "file" / "history.db")) as site:
        assert json.loads(site.ask("/history.json").body)["why"]
        assert json.loads(site.ask("/health.json").body)["history"]["problem"]
        assert json.loads(site.ask("/alerts").body) == []
        with site.live() as live:
            assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"
