"""The inboxes of all live sources in; their events out, the windows of all scored in one batch a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from queue import Queue

from kernels.engine import Engine

from .clock import Arrival
from .command import Close, Command, TakeOver
from .inbox import Inbox
from .live import Dated, Live
from .pipeline import Pending
from .supervisor import Supervisor
from .track import score

Tell = Callable[[str, Dated], None]
"""Called with the source and each event."""

_MOST_WINDOWS = 64
"""A batch of so many gains nothing by more."""


@dataclass(slots=True)
class Post:
    """A live source and what waits for it."""

    live: Live
    inbox: Inbox
    ended: bool = False
    """Set to have the source flushed by the next round."""
    commands: Queue[tuple[Command, float]] = field(default_factory=Queue)
    """Each with the seconds since 1970 when it was given; obeyed by the next round, after its samples."""


@dataclass(slots=True)
class Worker:
    """Scores in rounds: whatever came while one round ran is the next one's. Used by one thread at a time."""

    tell: Tell
    supervisor: Supervisor
    windows: int = 0
    rounds: int = 0
    progress_s: float = field(default_factory=time.monotonic)
    """When the last batch was told, or the last round was over."""
    _posts: Sequence[Post] = ()
    """The sources in this round."""
    _bound: frozenset[int] = frozenset()
    """Those for which something is to be obeyed at its end, by identity."""

    def round(self, posts: Iterable[Post]) -> int:
        """Take what waits, score it, tell it. Returns how many arrivals it took."""
        posts = list(posts)
        busy = [post for post in posts if post.ended or post.inbox.held_bytes or post.live.is_holding or not post.commands.empty()]
        # Commands, and whether a source has ended, are taken before what waits: what came before them must not come after them.
        taken = [(post, list(_given(post.commands)), post.ended, post.inbox.take()) for post in busy]
        self._posts, self._bound = posts, frozenset(id(post) for post, commands, _, _ in taken if commands)
        prepared = ((post.live, pending) for post, _, ended, arrivals in taken for pending in self._prepare(post, ended, arrivals))
        for batch in _batches(prepared):
            for engine, same in groupby(batch, key=lambda item: item[0].engine):
                self._finish(engine, list(same))
        for post, commands, _, _ in taken:
            for command, time_s in commands:
                self.supervisor.guard(post.live.name, partial(self._obey, post.live, command, time_s))
        self._posts = ()
        self.rounds += 1
        self.progress_s = time.monotonic()
        return sum(len(arrivals) for *_, arrivals in taken)

    def obey_meanwhile(self) -> None:
        """For an engine that waits in a round, in the same thread: that the monitor is late must be told while it is.

        What ends or begins a stream, and all behind it, stays behind the samples that came before.
        """
        for post in (post for post in self._posts if id(post) not in self._bound):
            while not post.commands.empty() and not isinstance(post.commands.queue[0][0], Close | TakeOver):
                command, time_s = post.commands.get()
                self.supervisor.guard(post.live.name, partial(self._obey, post.live, command, time_s))

    def _finish(self, engine: Engine, batch: Sequence[tuple[Live, Pending]]) -> None:
        jobs = [pending.jobs for _, pending in batch]
        probability = score(engine, list(chain.from_iterable(jobs)))
        done = 0
        for (live, pending), asked in zip(batch, jobs, strict=True):
            rows = probability[done : done + len(asked)]
            done += len(rows)
            self.supervisor.guard(live.name, partial(self._tell, live, live.finish(pending, rows)))
        self.windows += done
        self.progress_s = time.monotonic()

    def _prepare(self, post: Post, ended: bool, arrivals: Sequence[Arrival]) -> Iterator[Pending]:
        for arrival in arrivals:
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare, arrival)) or ()
        if post.live.is_holding:
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare_late, time.monotonic())) or ()
        if ended:
            post.ended = False
            yield from self.supervisor.guard(post.live.name, partial(post.live.prepare_end, _end())) or ()

    def _obey(self, live: Live, command: Command, time_s: float) -> None:
        self._tell(live, live.obey(command, time_s))

    def _tell(self, live: Live, events: Iterator[Dated]) -> None:
        for event in events:
            self.tell(live.name, event)


def _given(commands: Queue[tuple[Command, float]]) -> Iterator[tuple[Command, float]]:
    while not commands.empty():
        yield commands.get()


def _batches(prepared: Iterable[tuple[Live, Pending]]) -> Iterator[list[tuple[Live, Pending]]]:
    """In order, each with few enough windows that a backlog of minutes takes no more memory than a moment, and is told as it goes."""
    batch: list[tuple[Live, Pending]] = []
    windows = 0
    for live, pending in prepared:
        batch.append((live, pending))
        windows += len(pending.jobs)
        if windows >= _MOST_WINDOWS:
            yield batch
            batch, windows = [], 0
    yield batch


def _end() -> Arrival:
    return Arrival(b"", time.monotonic(), time.time())
