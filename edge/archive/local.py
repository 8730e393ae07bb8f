"""Tasks in; what became of each, done by processes of this machine, out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from kernels.bundle import BundleError
from kernels.engine import cores
from kernels.findings import ConfigError

from ..config import Log
from ..log import configure_log
from .crew import Ended
from .manifest import Task
from .score import Done, Work, Worker

_TURN_S = 1e-4

_Answer = Done | OSError | BundleError | ConfigError


class LocalCrew:
    """A process a worker, started when it is first needed."""

    def __init__(self, work: Work, jobs: int) -> None:
        self._work, self._jobs = work, jobs
        self._idle: list[tuple[Connection, SpawnProcess]] = []
        self._under_way: dict[Connection, tuple[Task, SpawnProcess]] = {}

    @property
    def busy(self) -> int:
        return len(self._under_way)

    def begin(self, task: Task) -> bool:
        if not self._idle and self.busy == self._jobs:
            return False
        fresh = not self._idle
        line, process = _start() if fresh else self._idle.pop()
        self._under_way[line] = task, process
        if not fresh:
            _send(line, task)
        return True

    def wait(self) -> Ended | None:
        line = next(line for line in wait(list(self._under_way)) if isinstance(line, Connection))
        task, process = self._under_way[line]
        try:
            answer: _Answer | None = line.recv()
        except (EOFError, ConnectionResetError):
            del self._under_way[line]
            process.join()
            return task, None
        if answer is None:
            _send(line, self._work)
            _send(line, task)
            return None
        del self._under_way[line]
        self._idle.append((line, process))
        if isinstance(answer, Done):
            return task, answer
        raise answer

    def close(self) -> None:
        """Whatever they do: a part is there whole, or not at all."""
        running = [process for _, process in (*self._idle, *self._under_way.values())]
        for process in running:
            process.kill()
        for process in running:
            process.join()


@contextmanager
def local_crew(work: Work, jobs: int) -> Iterator[LocalCrew]:
    """As many processes as `jobs`; 0 stands for all cores that this process may use."""
    crew = LocalCrew(work, jobs or cores())
    try:
        yield crew
    finally:
        crew.close()


def _start() -> tuple[Connection, SpawnProcess]:
    """A process that will say when it is ready to hear: what is sent to one that dies before would be waited for without end."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    # Ctrl-C reaches all processes of a terminal; the one that asked for the work answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _send(line: Connection, what: object) -> None:
    """To one that has just died, nothing: that shows when it is waited for."""
    with suppress(BrokenPipeError, ConnectionResetError):
        line.send(what)


def _serve(line: Connection) -> None:
    """The life of a worker, which ends with the process that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_log(Log())
    # The engine's thread comes back to Python after each of its short calls, and would wait as long for its turn.
    sys.setswitchinterval(_TURN_S)
    _send(line, None)
    with suppress(EOFError, ConnectionResetError):
        work: Work = line.recv()
        worker: Worker | None = None
        while True:
            task: Task = line.recv()
            try:
                worker = worker or Worker(work)
                answer: _Answer = worker.run(task)
            except (OSError, BundleError, ConfigError) as error:
                answer = error
            _send(line, answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
