"""`Chunk`s of all sources in; the same given to their `Recorder`s by a thread of its own, so that no score waits for a disk, out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from .decode.chunk import Chunk
from .record import Recorder
from .supervisor import Supervisor

_MOST_BYTES = 1 << 26
"""What may wait for the disk: minutes of many sources."""
_FAREWELL_S = 10.0


class Scribe:
    """The thread that writes, for all sources, in the order of the calls. No call waits for the disk but `close`, and that not for ever."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._waiting: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()

    def ask(self, work: Callable[[], None], size: int = 0) -> bool:
        """Have it done; False where there is no room to remember so many bytes."""
        with self._lock:
            if size and self._held_bytes + size > _MOST_BYTES:
                return False
            self._held_bytes += size
        self._waiting.put((work, size))
        return True

    def close(self) -> None:
        """Write what waits, then end; a disk that hangs is left to itself."""
        self._waiting.put(None)
        self._thread.join(_FAREWELL_S)

    def _write(self) -> None:
        while (asked := self._waiting.get()) is not None:
            work, size = asked
            self._supervisor.guard("recording", work)
            with self._lock:
                self._held_bytes -= size


class Recording:
    """A source's recorder, as the scoring thread sees it: every call returns at once."""

    def __init__(self, scribe: Scribe, recorder: Recorder) -> None:
        self._scribe = scribe
        self._recorder = recorder
        self._refused = 0

    def keep(self, chunk: Chunk, at_s: float) -> None:
        """Have these samples recorded; `at_s` is when the first was measured, in seconds since 1970. Without room they are counted."""
        if not self._scribe.ask(lambda: self._recorder.feed(chunk, at_s), chunk.samples_mv.nbytes):
            self._refused += chunk.samples_mv.shape[1]

    def end(self) -> None:
        """Have the record completed."""
        self._scribe.ask(self._recorder.close)

    @property
    def lost(self) -> int:
        """Samples of each lead that are on no disk."""
        return self._recorder.lost + self._refused

    @property
    def error(self) -> str | None:
        """Why nothing is recorded just now."""
        return self._recorder.error
