"""uvicorn's protocols in; the same, which let go of whoever keeps a connection and says or takes nothing, out."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST_CONNECTIONS = 256
"""Files and lines to devices need descriptors too."""

_REQUEST_S = 20.0
_WAITING_BYTES = 1 << 14
"""Written and not sent: who takes it slowly sees what is new, and not what waited for minutes."""
_LINGERS_S = 5.0


class HttpProtocol(H11Protocol):
    """HTTP/1.1. uvicorn itself waits for ever for the end of a request that has begun, or for the first."""

    _answered: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.transport.abort()
        self.loop.call_later(_REQUEST_S, self._look)

    def _look(self) -> None:
        """Whether there was no new request since the last look."""
        if self.transport.is_closing() or self not in self.connections:
            return
        if self.cycle is self._answered and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()
        self._answered = self.cycle
        self.loop.call_later(_REQUEST_S, self._look)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """RFC 6455. uvicorn itself waits for ever until what was written last is taken, though nobody serves the connection any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_WAITING_BYTES)

    async def send(self, message: Any) -> None:
        await super().send(message)
        # uvicorn takes a connection that was refused for one that was forgotten, and says so for each.
        self.handshake_complete |= message["type"] == "websocket.http.response.body"

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LINGERS_S, self.transport.abort)
