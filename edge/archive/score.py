"""A task in; its recordings scored, as many at once as the engine takes together, and their part written, out."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from kernels.bundle import Bundle
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError
from kernels.signal import Samples

from ..decode.csv import Columns
from ..formats.recording import RecordingFile, annotations_of, readable
from ..pipeline import Options
from ..play import Play, Step, share
from ..supervisor import Supervisor
from ..transport.file import format_of, open_recording
from .find import Entry
from .lines import Lines, failure
from .manifest import Task
from .part import PartWriter, write_part

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room to write."""

_AT_ONCE = 16
"""Recordings that share the engine's calls."""

_BLOCK = 1 << 17
"""Bytes that are read at a time: all of a short recording, some minutes of a long one."""


@dataclass(frozen=True, slots=True)
class Work:
    """All that a worker must know besides its tasks."""

    bundle: Bundle
    options: Options
    columns: Columns
    partial: bool
    parts: Path


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task."""

    recordings: int
    bytes: int
    seconds: float
    """Of ECG."""
    failed: dict[str, str]


class Worker:
    """One engine and what is done with it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        # One thread: with more, the engine adds up in another order, and the last digits depend on their number.
        self._engine = open_engine(work.bundle, threads=1)

    def ready(self) -> bool:
        """That the engine is open."""
        return True

    def run(self, task: Task) -> Done:
        """Raises OSError where the part cannot be written; what is wrong with a recording stands in its line."""
        failed: dict[str, str] = {}
        seconds = 0.0
        with write_part(self._work.parts, task.name) as part:
            for scoring in _score(task, part, self._engine, self._work):
                seconds += scoring.seconds
                if scoring.why is not None:
                    failed[scoring.entry.name] = scoring.why
        return Done(len(task.entries), task.bytes, seconds, failed)


def give_up(task: Task, parts: Path, why: str) -> Done:
    """Write down that the only recording of a task cannot be scored."""
    (entry,) = task.entries
    with write_part(parts, task.name) as part, part.block(entry) as block:
        block.failed = True
        block.file.write(failure(entry.name, why))
    return Done(1, task.bytes, 0.0, {entry.name: why})


def _score(task: Task, part: PartWriter, engine: Engine, work: Work) -> Iterator[_Scoring]:
    """Each recording once it is finished. While the engine works on one round of steps of a long one, the next one is read."""
    waiting = (_Scoring(entry, part, engine, work) for entry in task.entries)
    active = list(islice(waiting, _AT_ONCE))
    with ExitStack() as threads:
        begin = _beside(threads) if len(task.entries) == 1 else _at_once
        while active:
            running = [(scoring, scoring.step) for scoring in active if scoring.step is not None]
            rows = begin(partial(share, engine, [step for _, step in running]))
            for scoring, _ in running:
                scoring.advance()
            ended = [scoring for scoring in active if scoring.step is None]
            entering = list(islice(waiting, len(ended)))
            for (scoring, step), of_step in zip(running, rows(), strict=True):
                scoring.finish(step, of_step)
            for scoring in ended:
                scoring.close()
                yield scoring
            active = [scoring for scoring in active if scoring.step is not None] + entering


def _at_once(work: Callable[[], T]) -> Callable[[], T]:
    """Where other processes keep the cores busy, a thread only costs."""
    result = work()
    return lambda: result


def _beside(threads: ExitStack) -> Callable[[Callable[[], T]], Callable[[], T]]:
    """In a thread, while this one goes on."""
    pool = threads.enter_context(ThreadPoolExecutor(1))
    return lambda work: pool.submit(work).result


class _Scoring:
    """One recording on its way to its block."""

    def __init__(self, entry: Entry, part: PartWriter, engine: Engine, work: Work) -> None:
        self.entry = entry
        self.why: str | None = None
        self.step: Step | None = None
        self.seconds = 0.0
        self._block = ExitStack()
        self._lines_of = self._block.enter_context(part.block(entry))
        self._lines = Lines(entry.name, self._lines_of.file, engine.bundle.card)
        self._supervisor = Supervisor()
        self._opened = self._excuse(partial(self._open, engine, work))
        self.advance()

    def advance(self) -> None:
        """Read what comes next. At the end there is no step."""
        self.step = self._excuse(self._opened.play.next) if self._opened and self.why is None else None

    def finish(self, step: Step, rows: Samples) -> None:
        """Write down what the step made known."""
        assert self._opened is not None
        if step.chunk is not None:
            self.seconds = step.chunk.end / step.chunk.rate_hz
        events = self._excuse(partial(self._opened.play.finish, step, rows))
        if events is not None:
            self._lines.add(step.chunk, events)

    def close(self) -> None:
        """Of a recording that cannot be scored only the reason stands in its block."""
        if self._opened and self.why is None:
            self._lines.annotate(self._excuse(partial(annotations_of, self._opened.recording)) or ())
        if self._opened and self.why is None:
            self.why = self._lines.end(self._opened.play.source, format_of(Path(self.entry.path)))
        else:
            self._lines_of.replace(failure(self.entry.name, self.why or "cannot be read"))
        self._lines_of.failed = self.why is not None
        self._block.close()

    def _open(self, engine: Engine, work: Work) -> _Opened:
        recording = open_recording(Path(self.entry.path), work.columns, work.partial, mixed=True)
        return _Opened(recording, Play(recording, recording.chunks(_BLOCK), engine, work.options))

    def _excuse(self, reading: Callable[[], T]) -> T | None:
        """What goes wrong here is the recording's fault, or its reader's; None then."""
        faults = self._supervisor.faults
        result = self._supervisor.guard(self.entry.name, partial(self._read, reading))
        if self._supervisor.faults > faults:
            self.why = "its reader failed as it should not, as the log says; please report it"
        return result

    def _read(self, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except ConfigError as error:
            said = str(error).removeprefix(f"{self.entry.path}: ").removeprefix(f"{Path(self.entry.path).stem}: ")
            self.why = readable(said)
        except OSError as error:
            self.why = f"cannot be read ({error.strerror or error}); check its permissions and its disk"
        except MemoryError:
            self.why = "does not fit into the memory; cut it into pieces"
        return None


class _Opened(NamedTuple):
    recording: RecordingFile
    play: Play
