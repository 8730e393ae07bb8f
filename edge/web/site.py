"""What a dashboard shows, and who may see it, in; its pages over HTTP, each with the headers that keep browsers safe, out."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .. import page
from .login import COOKIE, LASTS_S, Login, Tries

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: with it a browser hides the origin of our own form, too (Fetch standard, 3.2).
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_LONGEST_FORM = 4096
_FORM_S = 10.0
_OPEN = ("/login", "/static/login.js")

Serve = Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page, as it is and compressed."""

    content: bytes
    packed: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, content: bytes, media_type: str) -> File:
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"etag": etag, "cache-control": "no-cache", "vary": "accept-encoding", "content-type": media_type}
        return cls(content, gzip.compress(content, mtime=0), headers)

    def answer(self, request: Request) -> Response:
        """Nothing where the browser has it already."""
        if request.headers.get("if-none-match") == self.headers["etag"]:
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers=self.headers | {"content-encoding": "gzip"})
        return Response(self.content, headers=self.headers)


def page_files() -> dict[str, File]:
    """What the page is made of, by name."""
    ours = {one.name: one for one in (files(page) / "strips.js", *(files(__package__) / "page").iterdir())}
    return {name: File.of(one.read_bytes(), KINDS[ending]) for name, one in ours.items() if (ending := _ending(name)) in KINDS}


def _ending(name: str) -> str:
    return name[name.rfind(".") :]


def site(routes: list[BaseRoute], live: Serve, login: Login | None, is_local: bool) -> ASGIApp:
    """The page at /, its files under /static, the WebSocket at /live, who logs in at /login, and these `routes`."""
    shown = page_files()
    door = _Door(login)
    own = [
        Route("/", _page(shown, "index.html")),
        Route("/static/{name}", _page(shown)),
        Route("/login", _page(shown, "login.html")),
        Route("/login", door.enter, methods=["POST"]),
        Route("/logout", door.leave, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
    return _WithHeaders(_Guard(Starlette(routes=[*own, *routes]), door, is_local))


def _page(shown: dict[str, File], name: str = "") -> Callable[[Request], Awaitable[Response]]:
    """Answers with this file, or with the one that the path names."""

    async def answer(request: Request) -> Response:
        file = shown.get(name or request.path_params["name"])
        return file.answer(request) if file else refuse(404, "no such file")

    return answer


def refuse(status: int, why: str) -> Response:
    """With the reason, for programs and people."""
    return JSONResponse({"why": why}, status)


class _Door:
    """Lets those in who know the token; everybody where there is none."""

    def __init__(self, login: Login | None) -> None:
        self._login = login
        self._tries = Tries()

    def is_open(self, connection: HTTPConnection) -> bool:
        """Whether this browser, or program, has shown the token."""
        if self._login is None or self._login.admits(connection.cookies.get(COOKIE, "")):
            return True
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._admits(connection, _as_sent(token.strip()))

    async def enter(self, request: Request) -> Response:
        """With the token in a form; wrong ones are counted."""
        if not self._tries.may_try(_address(request)):
            return RedirectResponse("/login#wait", 303)
        try:
            token = await asyncio.wait_for(_token(request), _FORM_S)
        except asyncio.TimeoutError:
            return refuse(408, "the form did not come to its end")
        if self._login and not self._admits(request, token):
            return RedirectResponse("/login#wrong", 303)
        answer = RedirectResponse("/", 303)
        if self._login:
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, self._login.cookie(), LASTS_S, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    async def leave(self, request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    def _admits(self, connection: HTTPConnection, token: str) -> bool:
        address = _address(connection)
        if self._login is None or not self._tries.may_try(address):
            return False
        if self._login.knows(token):
            return True
        self._tries.note_failure(address)
        return False


async def _token(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            return ""
    return parse_qs(body.decode(errors="replace")).get("token", [""])[0]


def _as_sent(header: str) -> str:
    """HTTP reads headers as Latin-1; whoever types a token beyond ASCII means UTF-8."""
    return header.encode("latin-1").decode(errors="surrogateescape")


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


class _Guard:
    """Lets nobody through who comes from another site's page, under a false name, or without the token."""

    def __init__(self, inner: ASGIApp, door: _Door, is_local: bool) -> None:
        self._inner = inner
        self._door = door
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(HTTPConnection(scope)) if scope["type"] in ("http", "websocket") else None
        await (answer or self._inner)(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        path, headers = connection.scope["path"], connection.headers
        if self._is_local and not _is_loopback(headers.get("host", "")):
            return refuse(421, "without a token only this machine is served, under localhost or 127.0.0.1")
        if _changes(connection.scope) and not _is_same_origin(headers):
            return refuse(403, "this came from another site's page; behind a proxy: it must pass on Host as the browser sent it")
        if path in _OPEN or (path.startswith("/static/") and path.endswith(".css")) or self._door.is_open(connection):
            return None
        return RedirectResponse("/login", 303) if path == "/" else refuse(401, "log in first, or send Authorization: Bearer TOKEN")


def _changes(scope: Scope) -> bool:
    """Whether more than a page is asked for. Cookies go along with a WebSocket that any site opens (RFC 6455, 10.2)."""
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")


def _is_same_origin(headers: Headers) -> bool:
    """Programs send no Origin; browsers always do where it matters (RFC 6454)."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine: another site's name that leads here would let its pages in (DNS rebinding)."""
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    parts = name.split(".")
    is_ipv4 = len(parts) == 4 and parts[0] == "127" and all(part.isascii() and part.isdigit() for part in parts)
    return is_ipv4 or name.lower() in ("localhost", "[::1]")


class _WithHeaders:
    """Adds to each answer what keeps a browser from doing more with it than it should."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def _send(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._inner(scope, receive, _send)
