"""One WebSocket and a `View` in; what the viewer is to see, sent as fast as it is taken, and what it asks for, obeyed, out."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..command import Command, command_id_of, read_command
from ..message import Message
from .view import LATE_S, View
from .ward import Missed

PERIOD_S = 0.05
HANGS_S = 15.0
"""A viewer that takes nothing for so long is left."""
AGAIN = 1013
"""Close code: try again (RFC 6455, IANA registry)."""

_MOST_UNSEEN = 1000
_BREATH_S = 0.02
"""Between two messages of a viewer, however fast it sends them."""

Obey = Callable[[str, Command], bool]
"""A source and a command for it; whether there is such a source."""

log = structlog.get_logger()


class _Asked(BaseModel):
    """What a viewer sends: the strips it wants, how much it has seen, or a command with the source it is for."""

    model_config = ConfigDict(extra="allow", strict=True)

    watch: dict[str, list[str]] | None = None
    seen: int | None = None
    source: str = Field(default="", max_length=64)


class _OnTheWay:
    """Counts the binary messages that a viewer was sent and has not seen.

    The buffers of both systems between hold minutes of a few strips, so that who only waits for room in them shows the past.
    """

    def __init__(self) -> None:
        self._sent = 0
        self._unseen: deque[tuple[int, float]] = deque(maxlen=_MOST_UNSEEN)
        self._is_told = False
        """Whether the viewer says at all what it sees."""

    def send(self, now_s: float) -> None:
        """One more."""
        self._sent += 1
        self._unseen.append((self._sent, now_s))

    def see(self, count: int) -> None:
        """So many came in all."""
        self._is_told = True
        while self._unseen and self._unseen[0][0] <= count:
            self._unseen.popleft()

    def is_late(self, now_s: float) -> bool:
        """Whether one is not seen yet that was sent long ago."""
        return self._is_told and bool(self._unseen) and now_s - self._unseen[0][1] > LATE_S


class Viewer:
    """Serves one WebSocket until it ends, hangs or has missed something."""

    def __init__(self, socket: WebSocket, view: View, obey: Obey) -> None:
        self._socket = socket
        self._view = view
        self._obey = obey
        self._on_the_way = _OnTheWay()
        self._was_late = False
        self._address = socket.client.host if socket.client else ""

    async def serve(self) -> None:
        """After the handshake. Raises what nobody thought of."""
        await self._socket.accept()
        tasks = [asyncio.create_task(self._tell_all()), asyncio.create_task(self._hear_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _tell_all(self) -> None:
        try:
            while True:
                await self._tell()
                await asyncio.sleep(PERIOD_S)
        except Missed:
            await asyncio.wait_for(self._socket.close(AGAIN), HANGS_S)
        except asyncio.TimeoutError:
            log.info("viewer hangs", address=self._address)
        except WebSocketDisconnect:
            return

    async def _tell(self) -> None:
        """Nothing while it is late, as all would only stand behind what is on the way; then all that changed, and what is new."""
        is_late, was_late = self._on_the_way.is_late(time.monotonic()), self._was_late
        self._was_late = is_late
        if is_late:
            return
        if was_late:
            self._view.skip()
        await self._send_all(self._view.news())
        await self._send_all(self._view.strips())

    async def _send_all(self, told: Iterable[str | bytes]) -> None:
        for one in told:
            await asyncio.wait_for(self._send(one), HANGS_S)

    async def _send(self, told: str | bytes) -> None:
        if isinstance(told, str):
            await self._socket.send_text(told)
        else:
            self._on_the_way.send(time.monotonic())
            await self._socket.send_bytes(told)

    async def _hear_all(self) -> None:
        with suppress(WebSocketDisconnect):
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                reply = self._hear(message.get("text") or "")
                if reply:
                    await self._send(json.dumps(reply))
                await asyncio.sleep(_BREATH_S)

    def _hear(self, text: str) -> Message | None:
        """What is to be said to it at once; a command that is obeyed is answered by its source."""
        try:
            asked = _Asked.model_validate_json(text)
            if asked.watch is None and asked.seen is None:
                return self._command(asked)
            self._view.watch(asked.watch) if asked.watch is not None else self._on_the_way.see(asked.seen or 0)
        except ValidationError as error:
            return _refusal("", None, f"not understood: {error.errors(include_url=False)[0]['msg']}")
        return None

    def _command(self, asked: _Asked) -> Message | None:
        given: dict[str, Any] = asked.model_extra or {}
        payload = json.dumps(given).encode()
        why = f"no source {asked.source} is watched, or too many commands for it wait"
        try:
            command = read_command(payload)
            log.info("command", source=asked.source, address=self._address, **command.model_dump(exclude_none=True))
            if self._obey(asked.source, command):
                return None
        except ValueError as error:
            why = str(error)
        return _refusal(asked.source, command_id_of(payload), why)


def _refusal(source: str, command_id: str | None, why: str) -> Message:
    return {"type": "reply", "source": source, "command_id": command_id, "ok": False, "why": why}
