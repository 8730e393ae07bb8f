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
from kernels.findings import ConfigError

from ..config import Log
from ..log import configure_log
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
        line, process = self._idle.pop() if self._idle else _start(self._work)
        self._under_way[line] = task, process
        # One that has just died is found out when it is waited for.
        with suppress(BrokenPipeError):
            line.send(task)
        return True

    def wait(self) -> tuple[Task, Done | None]:
        line = next(line for line in wait(list(self._under_way)) if isinstance(line, Connection))
        task, process = self._under_way.pop(line)
        try:
            answer: _Answer = line.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            return task, None
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
    crew = LocalCrew(work, jobs or len(os.sched_getaffinity(0)))
    try:
        yield crew
    finally:
        crew.close()


def _start(work: Work) -> tuple[Connection, SpawnProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    # Ctrl-C reaches all processes of a terminal; the one that asked for the work answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _serve(work: Work, line: Connection) -> None:
    """The life of a worker, which ends with the process that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_log(Log())
    # The engine's thread comes back to Python after each of its short calls, and would wait as long for its turn.
    sys.setswitchinterval(_TURN_S)
    worker: Worker | None = None
    for task in _tasks(line):
        try:
            worker = worker or Worker(work)
            answer: _Answer = worker.run(task)
        except (OSError, BundleError, ConfigError) as error:
            answer = error
        with suppress(BrokenPipeError):
            line.send(answer)


def _tasks(line: Connection) -> Iterator[Task]:
    """Until nobody is there any more to send one."""
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield line.recv()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
