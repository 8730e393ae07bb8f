"""The inboxes of all live sources in; their events out, the windows of all scored in one batch a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from kernels.engine import Engine

from .clock import Arrival
from .inbox import Inbox
from .live import Live
from .pipeline import Event, Pending, score
from .supervisor import Supervisor

Tell = Callable[[str, Event, float], None]
"""Called with the source, the event and its seconds since 1970."""

_MOST_WINDOWS = 64
"""A batch of so many gains nothing by more."""


@dataclass(slots=True)
class Post:
    """A live source and what waits for it."""

    live: Live
    inbox: Inbox
    ended: bool = False
    """Set to have the source flushed by the next round."""


@dataclass(slots=True)
class Worker:
    """Scores in rounds: whatever came while one round ran is the next one's. Used by one thread at a time."""

    tell: Tell
    supervisor: Supervisor
    windows: int = 0
    rounds: int = 0
    progress_s: float = field(default_factory=time.monotonic)
    """When the last batch was told, or the last round was over."""

    def round(self, posts: Iterable[Post]) -> int:
        """Take what waits, score it, tell it. Returns how many arrivals it took."""
        # Whether a source has ended is asked before what waits is taken: what came before its end must not come after its flush.
        busy = [post for post in posts if post.ended or post.inbox.held_bytes or post.live.is_holding]
        taken = [(post, post.ended, post.inbox.take()) for post in busy]
        prepared = ((post.live, pending) for post, ended, arrivals in taken for pending in self._prepare(post, ended, arrivals))
        for batch in _batches(prepared):
            for engine, same in groupby(batch, key=lambda item: item[0].engine):
                self._finish(engine, list(same))
        self.rounds += 1
        self.progress_s = time.monotonic()
        return sum(len(arrivals) for _, _, arrivals in taken)

    def _finish(self, engine: Engine, batch: Sequence[tuple[Live, Pending]]) -> None:
        windows = [window for _, pending in batch for window in pending.windows]
        probability = score(engine, windows)
        done = 0
        for live, pending in batch:
            rows = probability[done : done + len(pending.windows)]
            done += len(rows)
            self.supervisor.guard(live.name, partial(self._tell, live, live.finish(pending, rows)))
        self.windows += len(windows)
        self.progress_s = time.monotonic()

    def _prepare(self, post: Post, ended: bool, arrivals: Sequence[Arrival]) -> Iterator[Pending]:
        for arrival in arrivals:
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare, arrival)) or ()
        if post.live.is_holding:
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare_late, time.monotonic())) or ()
        if ended:
            post.ended = False
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare_end, _end())) or ()

    def _tell(self, live: Live, events: Iterator[tuple[Event, float]]) -> None:
        for event, time_s in events:
            self.tell(live.name, event, time_s)


def _batches(prepared: Iterable[tuple[Live, Pending]]) -> Iterator[list[tuple[Live, Pending]]]:
    """In order, each with few enough windows that a backlog of minutes takes no more memory than a moment, and is told as it goes."""
    batch: list[tuple[Live, Pending]] = []
    windows = 0
    for live, pending in prepared:
        batch.append((live, pending))
        windows += len(pending.windows)
        if windows >= _MOST_WINDOWS:
            yield batch
            batch, windows = [], 0
    yield batch


def _end() -> Arrival:
    return Arrival(b"", time.monotonic(), time.time())
