"""What serves one live source in; the state it is in, and what an operator should know of it, out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .command import Report, Wake
from .config import Source
from .health import SourceHealth
from .live import State
from .reader import Reader
from .worker import Post

FORGET_S = 3600.0
"""A discovered source that was silent for so long is no longer watched."""

_WAKE_S = 1.0
_NEWS_S = 5.0
"""New words about the same state are told no more often."""
_UNREAD_S = 1.0
"""Bytes that come so long after the last sample make none: a cut frame is no such thing."""


@dataclass(slots=True)
class Watched:
    """One source with all that serves it."""

    config: Source
    name: str
    post: Post
    reader: Reader | None
    begun_s: float
    """When its state last changed."""
    stream: str
    """The stretch of time that its seconds count in."""
    since_s: float
    """When it began to be watched."""
    stalled: bool = False
    """Whether the alert that nothing comes is on, or about to be."""
    woken_s: float = -math.inf
    """When its alarm was last told the time, as no sample does."""
    flushed: bool = False
    """Whether the end of its stream has been told."""
    topic: str | None = None
    """What it is heard under, where it was discovered."""
    state: State = "offline"
    heard_s: float | None = None
    """When the last message came, for a source on MQTT."""
    told: tuple[State, str | None] = ("offline", None)
    """State and reason as they were last told."""
    told_s: float = -math.inf

    @property
    def required(self) -> bool:
        """Whether the config names it, so that its silence is a fault."""
        return bool(self.config.name)

    @property
    def why(self) -> str | None:
        """Why it is not online, or what is wrong although it is."""
        silence = _silence(self) if self.state == "stalled" else None
        return (self.reader.problem if self.reader else None) or silence or self.post.live.problem

    def health(self) -> SourceHealth:
        """Everything an operator may want to know."""
        live, inbox, reader = self.post.live, self.post.inbox, self.reader
        opened = reader.opened if reader else 0
        return SourceHealth(
            self.name, self.state, self.required, self.why, live.accounts(), inbox.dropped_bytes, opened, inbox.held_bytes,
            live.clock.rate_hz, live.clock.drift_ppm,
        )  # fmt: skip


def look_at(watched: Watched, now_s: float, time_s: float) -> bool:
    """Take note of its state; whether there is news. A stalled line is opened anew, and alerted of."""
    before, watched.state = watched.state, _state(watched, now_s)
    if watched.state != before:
        watched.begun_s = now_s
    elif watched.state == "stalled" and watched.reader and _is_quiet(watched, now_s):
        watched.reader.reopen(_silence(watched))
    _alert(watched, now_s, time_s)
    return _is_news(watched, now_s)


def _alert(watched: Watched, now_s: float, time_s: float) -> None:
    """Have the alert that nothing comes raised or cleared."""
    stalled = _is_missed(watched, now_s)
    if stalled != watched.stalled:
        watched.stalled = stalled
        watched.post.commands.put((Report("stalled", (watched.why or _silence(watched)) if stalled else None), time_s))
    elif stalled and now_s - watched.woken_s >= _WAKE_S:
        watched.woken_s = now_s
        watched.post.commands.put((Wake(), time_s))


def _is_missed(watched: Watched, now_s: float) -> bool:
    """Whether something should come and does not. A file that has been read to its end, or waits for us, owes nothing."""
    if watched.state == "online" or (watched.reader and (watched.reader.ended or watched.reader.is_waiting)):
        return False
    if watched.post.live.sampled_at_s is not None:
        return True
    return watched.required and (watched.stalled or now_s - watched.since_s > watched.config.stall_s)


def _is_news(watched: Watched, now_s: float) -> bool:
    """Another state at once, other words about the same only now and then: they may change with every message."""
    news = watched.state, watched.why
    if news == watched.told or (news[0] == watched.told[0] and now_s - watched.told_s < _NEWS_S):
        return False
    watched.told, watched.told_s = news, now_s
    return True


def _state(watched: Watched, now_s: float) -> State:
    sampled_s, reader = watched.post.live.sampled_at_s, watched.reader
    if sampled_s is not None and now_s - sampled_s <= watched.config.stall_s:
        return "online"
    if reader and (reader.failed or reader.ended):
        return "offline"
    if reader is None:
        return "offline" if sampled_s is None else "stalled"
    return "stalled" if sampled_s is not None or _is_quiet(watched, now_s) else watched.state


def _is_quiet(watched: Watched, now_s: float) -> bool:
    """Whether its line has been open for long enough to have sent something."""
    opened_s = watched.reader.opened_s if watched.reader else 0.0
    return now_s - max(opened_s, watched.begun_s) > watched.config.stall_s


def is_forgotten(watched: Watched, now_s: float) -> bool:
    """Whether a discovered source was away for so long that it is no longer watched."""
    return not watched.required and watched.state != "online" and now_s - watched.begun_s > FORGET_S


def _silence(watched: Watched) -> str:
    live, stall_s = watched.post.live, watched.config.stall_s
    if watched.post.inbox.held_bytes:
        return f"what came waits for {stall_s:g} s to be scored: the monitor is late"
    if live.heard_at_s is not None and live.heard_at_s - (live.sampled_at_s or 0.0) > _UNREAD_S:
        found = f" ({live.problem})" if live.problem else ""
        return f"bytes come, but no sample for {stall_s:g} s: check {'baud and device' if watched.reader else 'device'}{found}"
    return f"nothing came for {stall_s:g} s: check {'the cable, and ' if watched.reader else ''}that the device sends"
