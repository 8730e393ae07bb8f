"""The alert and evidence messages of a daemon in; pages that show the last alerts with their strips out."""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernels.findings import ConfigError, in_words

from .contract import StripPart, to_strip
from .message import Message
from .strip import Strip
from .strip_file import to_png, to_wfdb

MOST_ALERTS = 200
_LONGEST_GAP_S = 10.0
"""Seconds after an alert that came so late, for a source that was away meanwhile, do not belong into one picture with it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST_TIME = 253_402_300_799.0
"""The end of the year 9999."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 150


class Kept(Protocol):
    """Where `pages` finds the alerts."""

    def newest_first(self) -> list[Message]:
        """The last word about each alert, without strips."""

    def page(self, alert_id: str) -> Message:
        """`alert`, the last word; `raised`, the first, with the seconds before; `evidence`, with those after, or null. Raises KeyError."""


@dataclass(slots=True)
class _Held:
    """One alert from raised to cleared; what holds strips is compressed, as all of them together are tens of megabytes."""

    last: Message
    """The last that was told of it, without its strip."""
    first: bytes
    evidence: bytes | None = None

    def page(self) -> Message:
        """The messages as they were published."""
        return {"alert": self.last, "raised": _unpack(self.first), "evidence": _unpack(self.evidence) if self.evidence else None}


class Gallery:
    """The last alerts of all sources, those that changed last at the end. Any thread may use it."""

    def __init__(self, most: int = MOST_ALERTS) -> None:
        self._most = most
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, message: Message) -> None:
        """A message of type alert or evidence; others are left alone."""
        if message["type"] == "alert":
            self._add_alert(message)
        elif message["type"] == "evidence":
            self._add_evidence(message)

    def newest_first(self) -> list[Message]:
        """The last word about each alert, without strips."""
        with self._lock:
            return [held.last for held in reversed(self._held.values())]

    def page(self, alert_id: str) -> Message:
        """`alert`, the last word; `raised`, the first, with the seconds before; `evidence`, with those after, or null. Raises KeyError."""
        with self._lock:
            held = self._held[alert_id]
        return held.page()

    def _add_alert(self, message: Message) -> None:
        last = message | {"evidence": message["evidence"] | {"strip": None}}
        first = _pack(message)
        with self._lock:
            before = self._held.get(message["id"])
            self._held[message["id"]] = _Held(last, before.first, before.evidence) if before else _Held(last, first)
            self._held.move_to_end(message["id"])
            while len(self._held) > self._most:
                self._held.popitem(last=False)

    def _add_evidence(self, message: Message) -> None:
        packed = _pack(message)
        with self._lock:
            if message["id"] in self._held:
                self._held[message["id"]].evidence = packed


def _pack(message: Message) -> bytes:
    return zlib.compress(json.dumps(message).encode(), 1)


def _unpack(packed: bytes) -> Message:
    read: Message = json.loads(zlib.decompress(packed))
    return read


@dataclass(frozen=True, slots=True)
class Shown:
    """The seconds around an alert."""

    strip: Strip
    title: str
    begun: datetime
    """When the first sample was."""
    name: str
    """For files: fit for any disk, whatever the source is called."""

    @classmethod
    def of(cls, page: Message) -> Shown | None:
        """What a page of the gallery shows; None where no sample came with the alert."""
        raised, after = page["raised"], page["evidence"]
        told = (raised["evidence"]["strip"], after["strip"] if after else None)
        parts = [StripPart.model_validate(part) for part in told if part]
        if not parts:
            return None
        end_s = parts[0].start_s + parts[0].length_s
        strip = to_strip([part for part in parts if part.start_s <= end_s + _LONGEST_GAP_S])
        begun_time = raised["time"] - (raised["at_s"] - strip.start_s)
        begun = _EPOCH + timedelta(seconds=min(max(begun_time, 0.0), _LAST_TIME))
        title = f"{in_words(raised['finding'])} ({raised['priority']}) {raised['state']} at {raised['at_s']:.0f} s, {raised['source']}"
        name = f"{begun:%Y%m%dT%H%M%S}_{raised['source']}_{raised['finding']}_{raised['id']}"
        words = "".join(filter(str.isprintable, title))[:_LONGEST_NAME]
        return cls(strip, words, begun, _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME])


def pages(gallery: Kept) -> list[Route]:
    """/alerts, and for each /alerts/ID with .json, .png, .hea or .dat; an alert that is not held is a 404 with `why`."""
    drawing = threading.Lock()

    def listed(request: Request) -> Response:
        return JSONResponse(gallery.newest_first())

    def one(render: Callable[[Shown, str], Response], request: Request) -> Response:
        alert_id = request.path_params["id"]
        try:
            shown = Shown.of(gallery.page(alert_id))
        except KeyError:
            return _unknown(alert_id)
        return render(shown, alert_id) if shown else _why(404, "no samples came with this alert")

    def as_json(request: Request) -> Response:
        try:
            return JSONResponse(gallery.page(request.path_params["id"]))
        except KeyError:
            return _unknown(request.path_params["id"])

    def as_png(shown: Shown, alert_id: str) -> Response:
        # matplotlib draws in one thread at a time.
        with drawing:
            return _picture(shown)

    routes: list[tuple[str, Callable[[Request], Response]]] = [
        ("", listed),
        ("/{id}.json", as_json),
        ("/{id}.png", partial(one, as_png)),
        ("/{id}.hea", partial(one, partial(_wfdb, "hea", "text/plain"))),
        ("/{id}.dat", partial(one, partial(_wfdb, "dat", "application/octet-stream"))),
    ]
    return [Route(f"/alerts{path}", endpoint) for path, endpoint in routes]


def _picture(shown: Shown) -> Response:
    try:
        return Response(to_png(shown.strip, shown.title), media_type="image/png")
    except ConfigError as error:
        return _why(501, str(error))


def _wfdb(ending: str, media_type: str, shown: Shown, alert_id: str) -> Response:
    return Response(to_wfdb(shown.strip, alert_id, shown.begun)[f"{alert_id}.{ending}"], media_type=media_type)


def _unknown(alert_id: str) -> Response:
    return _why(404, f"no alert {alert_id} is held; /alerts lists those that are")


def _why(status: int, words: str) -> Response:
    return JSONResponse({"why": words}, status)
