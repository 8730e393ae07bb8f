"""Tasks in; what became of each, done by a crew of workers of which any may die, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .manifest import Task
from .score import Done, give_up

MOST_DEATHS = 3
"""So many workers a recording may take down: others may have killed them, and machines of a cluster come and go."""

_LOST = f"took {MOST_DEATHS} processes down, perhaps for want of memory; cut the recording into pieces"


Ended = tuple[Task, Done | None]
"""A task that is done, or whose worker died."""


class Crew(Protocol):
    """Workers, each with an engine and at most one task."""

    @property
    def busy(self) -> int:
        """Tasks under way."""
        ...

    def begin(self, task: Task) -> bool:
        """False where all have something to do."""
        ...

    def wait(self) -> Ended | None:
        """The next task that ended; None where instead a worker has become ready.

        Raises OSError where results cannot be written, BundleError and ConfigError where the engine does not open.
        """
        ...


def run_tasks(tasks: Sequence[Task], crew: Crew, parts: Path) -> Iterator[Done]:
    """Each task once it is done. A worker that dies takes nothing with it: its recordings are tried again, each by itself."""
    waiting = list(reversed(tasks))
    deaths: Counter[Task] = Counter()
    while waiting or crew.busy:
        while waiting and crew.begin(waiting[-1]):
            waiting.pop()
        ended = crew.wait()
        if ended is None:
            continue
        task, done = ended
        if done is not None:
            yield done
            continue
        for alone in task.alone():
            deaths[alone] += 1
            if deaths[alone] < MOST_DEATHS:
                waiting.append(alone)
            else:
                yield give_up(alone, parts, _LOST)
