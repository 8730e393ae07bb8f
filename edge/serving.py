"""Pages and an address in; a server for them in this asyncio loop, until it is stopped, out."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from kernels.findings import ConfigError

from .config import in_address

_FAREWELL_S = 2
"""For whoever is being answered."""
_WAITING_BYTES = 1 << 14
_OPTIONS: dict[str, Any] = {
    "log_config": None,
    # What strangers send wrongly is no news.
    "log_level": "error",
    "access_log": False,
    "lifespan": "off",
    "http": "h11",
    "ws": "none",
    "server_header": False,
    "timeout_graceful_shutdown": _FAREWELL_S,
}


log = structlog.get_logger()


class _ToLog(logging.Handler):
    """What uvicorn has to say goes where all else is told."""

    def emit(self, record: logging.LogRecord) -> None:
        log.error("a fault in a page, please report it", why=record.getMessage(), exc_info=record.exc_info)


class _Server(uvicorn.Server):
    """Without its own handling of signals, which is the daemon's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Serving:
    """Pages that are being served."""

    address: str
    _server: _Server
    _task: asyncio.Task[None]

    def leave(self) -> None:
        """Answer nobody new, and end soon."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Say goodbye to whoever looks, and end; nobody waits for one who does not answer."""
        self.leave()
        await asyncio.wait({self._task}, timeout=2 * _FAREWELL_S)


async def serve(table: str, host: str, port: int, pages: ASGIApp, **options: Any) -> Serving:
    """Serve them from now on; `options` are uvicorn's. Raises ConfigError, naming the table, where the port is taken."""
    logging.getLogger("uvicorn.error").handlers[:] = [_ToLog()]
    logging.getLogger("uvicorn.error").propagate = False
    config = uvicorn.Config(pages, **(_OPTIONS | options))
    listening = _listen(table, host, port)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    task.add_done_callback(lambda _: listening.close())
    at, bound = listening.getsockname()[:2]
    return Serving(f"{'https' if config.is_ssl else 'http'}://{in_address(at)}:{bound}", server, task)


def _listen(table: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"{table}: cannot listen on {host}:{port} ({error.strerror}); choose another port") from error
    # Inherited by every connection: the system, too, keeps little for who takes it slowly (Linux tcp(7)).
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _WAITING_BYTES)
    return listening
