"""A `RecordingFile` in; step by step its events out, where the engine may be shared with other recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from kernels.bundle import Card
from kernels.engine import Engine
from kernels.findings import ConfigError
from kernels.signal import Samples

from .decode.chunk import Chunk
from .formats.recording import RecordingFile, readable
from .pipeline import Event, Options, Pending, Pipeline
from .score import Scores
from .track import Job, score

SLOWEST_SHARE = 0.8
"""A source may be this much slower than the bundle's rate before the QRS loses its shape."""


@dataclass(frozen=True, slots=True)
class Step:
    """A chunk of a recording on its way through the pipeline; the last has none."""

    chunk: Chunk | None
    pending: Pending

    @property
    def jobs(self) -> list[Job]:
        """What the engine is to do for it."""
        return self.pending.jobs


class Play:
    """One recording on its way through a pipeline of its own: `next` step, its jobs to the engine, `finish` it, and so on.

    Raises ConfigError for a recording that is damaged, too slow, or nowhere long enough for one window.
    """

    def __init__(self, recording: RecordingFile, chunks: Iterator[Chunk], engine: Engine, options: Options = Options()) -> None:
        self.source = readable(recording.name)
        """What it is called in scores and alerts."""
        self._chunks = chunks
        self._card = engine.bundle.card
        self._pipeline = Pipeline(self.source, engine, options)
        self._ended = False
        self._scored = False

    def next(self) -> Step | None:
        """None after the end. What comes next may be read before the last step is finished."""
        if self._ended:
            return None
        chunk = next(self._chunks, None)
        if chunk is None:
            self._ended = True
            return Step(None, self._pipeline.prepare_end())
        _check_rate(self.source, chunk, self._card)
        return Step(chunk, self._pipeline.prepare(chunk))

    def finish(self, step: Step, probability: Samples) -> list[Event]:
        """With the engine's rows [jobs, findings]."""
        events = list(self._pipeline.finish(step.pending, probability))
        self._scored = self._scored or any(isinstance(event, Scores) for event in events)
        if step.chunk is None and not self._scored:
            longest = f"no stretch of {self._card.window_s:g} s without a gap, so there is nothing to score"
            raise ConfigError(f"{self.source}: {longest}; give a longer recording")
        return events


def _check_rate(name: str, chunk: Chunk, card: Card) -> None:
    slowest_hz = SLOWEST_SHARE * card.rate_hz
    if chunk.rate_hz < slowest_hz:
        raise ConfigError(
            f"{name}: {chunk.rate_hz:g} Hz is too slow for this model, which needs {slowest_hz:g} Hz or more; record at a higher rate"
        )


def share(engine: Engine, steps: Sequence[Step]) -> list[Samples]:
    """The rows of each step of several recordings, all from one call of the engine."""
    jobs = [step.jobs for step in steps]
    rows = score(engine, [job for of_step in jobs for job in of_step])
    ends = list(accumulate(map(len, jobs)))
    return [rows[end - len(of_step) : end] for of_step, end in zip(jobs, ends, strict=True)]
