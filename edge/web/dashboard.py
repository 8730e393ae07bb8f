"""The config, and what the daemon knows, in; the dashboard, served until it is stopped, out."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.websockets import WebSocket

from kernels.findings import ConfigError

from ..config import Config, Web
from ..contract import AlertState
from ..delivery import Delivery
from ..gallery import Shown, pages
from ..health import Health
from ..live import Tap
from ..message import Message
from ..page import strip_html
from ..serving import Serving, serve
from ..supervisor import Supervisor
from .catching_up import CatchingUp
from .history import History
from .login import Login
from .lookout import Lookout, Model
from .site import refuse, site
from .unkept import Unkept
from .view import View
from .viewer import Obey, Viewer
from .ward import Ward

MOST_VIEWERS = 64

_LOOK_S = 0.25
_DAY_S = 86400.0
_MOST_HOURS = 31 * 24.0
_LARGEST_MESSAGE = 1 << 16
"""Of a viewer: what it wishes to see."""
_PING_S = 20.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all sound."""

log = structlog.get_logger()


class Dashboard:
    """What viewers see, and the server that shows it. `tap` and `show` are for whoever scores; the rest is for the daemon's loop."""

    def __init__(
        self, config: Config, web: Web, supervisor: Supervisor, health: Callable[[], Health], model: Callable[[], Model], obey: Obey
    ) -> None:
        """Raises ConfigError for a token that cannot be read, a certificate that is none, and a package that is missing or too old."""
        _check_packages()
        self._web = web
        self._supervisor = supervisor
        self._health = health
        self._obey = obey
        token = web.token()
        self._login = Login(token) if token else None
        self._tls = _tls(web)
        self._ward = Ward()
        self.history = _open_history(config, web, supervisor)
        """The alerts that were told, for every page that shows them."""
        head = {"site": config.site, "name": config.name, "leads": list(web.leads), "login": self._login is not None}
        self._lookout = Lookout(self._ward, head, health, model, self._figures)
        self._viewers: set[Viewer] = set()
        self._serving: Serving | None = None
        self._looking: asyncio.Task[None] | None = None
        self._catching_up: CatchingUp | None = None

    def tap(self, source: str) -> Tap:
        """Takes the samples of a source that begins."""
        return self._ward.tap(source)

    def show(self, message: Message) -> None:
        """Takes every event, as it is published."""
        self._ward.show(message)
        self.history.add(message)

    def go_on(self, states: Sequence[AlertState], delivery: Delivery | None, last: int) -> None:
        """With what was on when the last daemon ended, and what it told up to a number. Before the first sample comes."""
        for state in states:
            self._ward.show(state.model_dump(by_alias=True))
        if delivery and isinstance(self.history, History):
            going_on = [state.id for state in states]
            self._catching_up = CatchingUp(self.history, delivery, last, going_on, self._supervisor)

    async def start(self) -> None:
        """Serve. Raises ConfigError where the port is taken."""
        from .protocol import MOST_CONNECTIONS, HttpProtocol, WebSocketProtocol

        has_open_door = self._login is None and self._web.is_local
        pages = site(self._routes(), self._live, self._login, has_open_door)
        self._serving = await serve(
            "web", self._web.host, self._web.port, pages, **self._tls,
            http=HttpProtocol, ws=WebSocketProtocol, ws_max_size=_LARGEST_MESSAGE, ws_ping_interval=_PING_S, ws_ping_timeout=_PING_S,
            ws_per_message_deflate=False, limit_concurrency=MOST_CONNECTIONS // 2, h11_max_incomplete_event_size=_LARGEST_MESSAGE,
            proxy_headers=self._web.behind_proxy, forwarded_allow_ips="*" if self._web.behind_proxy else "",
        )  # fmt: skip
        self._looking = asyncio.create_task(self._look_all())
        log.info("dashboard", address=self._serving.address)

    async def stop(self) -> None:
        """Send everybody away, and let go of the history."""
        if self._looking:
            self._looking.cancel()
        if self._catching_up:
            self._catching_up.stop()
        if self._serving:
            await self._serving.stop()
        await asyncio.to_thread(self.history.close)

    async def _look_all(self) -> None:
        while True:
            if self._viewers:
                self._supervisor.guard("dashboard", self._lookout.look)
            await asyncio.sleep(_LOOK_S)

    async def _live(self, socket: WebSocket) -> None:
        if len(self._viewers) >= MOST_VIEWERS:
            await refuse(503, f"{MOST_VIEWERS} look already")(socket.scope, socket.receive, socket.send)
            return
        viewer = Viewer(socket, View(self._ward, time.time), self._obey)
        self._viewers.add(viewer)
        self._supervisor.guard("dashboard", self._lookout.look)
        try:
            await viewer.serve()
        finally:
            self._viewers.discard(viewer)

    def _figures(self) -> Message:
        return {"viewers": len(self._viewers), "history": {**self.history.counts, "problem": self.history.problem}}

    def _routes(self) -> list[BaseRoute]:
        own = [
            Route("/health.json", self._tell_health),
            Route("/history.json", partial(_day, self.history)),
            Route("/alerts/{id}/strip", partial(_strip, self.history)),
        ]
        return [*own, *pages(self.history)]

    async def _tell_health(self, request: Request) -> Response:
        return JSONResponse(self._lookout.tell(self._health()))


def _check_packages() -> None:
    # Before 0.53 uvicorn never made whoever sends wait, so that a viewer who reads nothing would take all memory.
    major, minor = version("uvicorn").split(".")[:2]
    if find_spec("websockets") is None or (int(major), int(minor)) < (0, 53):
        raise ConfigError("web: the dashboard needs websockets, and uvicorn 0.53 or newer; pip install cardiogloss[web]")


def _open_history(config: Config, web: Web, supervisor: Supervisor) -> History | Unkept:
    """Whatever is wrong with its disk, patients are watched."""
    try:
        return History(web.history_of(config.name), web.history_days * _DAY_S, supervisor, config.mqtt is not None)
    except (ConfigError, OSError) as error:
        log.error("no history is kept", why=str(error))
        return Unkept(str(error))


def _day(history: History | Unkept, request: Request) -> Response:
    try:
        hours = float(request.query_params.get("hours", "24"))
    except ValueError:
        hours = 0.0
    if not 0 < hours <= _MOST_HOURS:
        return refuse(400, f"hours must be a number above 0, at most {_MOST_HOURS:g}")
    return JSONResponse(history.day(time.time(), hours, request.query_params.get("source")))


def _strip(history: History | Unkept, request: Request) -> Response:
    """The seconds before and after an alert, with a mark where it was raised, as a part of a page."""
    alert_id = request.path_params["id"]
    try:
        page = history.page(alert_id)
    except KeyError:
        return refuse(404, f"no alert {alert_id} is held")
    shown, raised = Shown.of(page), page["raised"]
    if shown is None:
        return refuse(404, "no samples came with this alert")
    clock = (shown.begun + timedelta(seconds=raised["at_s"] - shown.strip.start_s)).astimezone()
    return HTMLResponse(strip_html(shown.strip, f"{shown.title}, {clock:%Y-%m-%d %H:%M:%S %Z}", (raised["at_s"],)))


def _tls(web: Web) -> dict[str, Any]:
    """What uvicorn is to be told of it. Raises ConfigError where a file is missing, or holds no certificate or key."""
    if web.certificate is None:
        return {}
    try:
        # With a password of its own OpenSSL would ask for it on the terminal, and wait.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.certificate, web.key, password="")
    except OSError as error:
        words = error.strerror or error
        raise ConfigError(f"web: certificate {web.certificate} and key {web.key}: {words}; give PEM files that belong together") from error
    return {"ssl_certfile": web.certificate, "ssl_keyfile": web.key, "ssl_ciphers": _CIPHERS}
