"""The masked windows of many sources in; the engine's probabilities, whether it takes windows or streams, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.engine import Engine, StreamEngine
from kernels.signal import Samples

from .window import Window


@dataclass(frozen=True, slots=True)
class Job:
    """A window that waits for the engine."""

    track: Track
    ecg: Samples
    """[12, n] in mV, NaN where there is no signal: what the engine is to be given for it."""
    anew: bool = True
    """Whether the engine is to forget what it has seen of the source."""


class Track:
    """What an engine that takes streams has seen of one source; for one that takes windows, nothing.

    What it is given depends on the windows alone: of a stretch without a gap the whole strides up to the end of
    each, from the window's own masked samples. After a gap, after a window that it was not given, where a sample before
    the window was not given, and where other leads are masked than before, it begins anew with the whole window:
    what it was not shown of a lead that is good again, or was shown of one that is not, cannot be undone.
    """

    def __init__(self, engine: Engine) -> None:
        self.state: Samples = engine.begin() if isinstance(engine, StreamEngine) else np.empty(0, np.float32)
        self.probability: Samples = np.empty(0, np.float32)
        """The last row [findings]."""
        self._stride = engine.stride if isinstance(engine, StreamEngine) else None
        self._begun: int | None = None
        self._masked: frozenset[str] = frozenset()
        self._origin = 0
        self._given = 0

    def job(self, window: Window, masked_mv: Samples, masked: frozenset[str] = frozenset()) -> Job:
        """`masked` are the leads of the window that are blanked. Windows come in order; their jobs must be done in that order."""
        if self._stride is None:
            return Job(self, masked_mv)
        anew = window.begun != self._begun or masked != self._masked or self._origin + self._given < window.start
        if anew:
            self._begun, self._masked, self._origin, self._given = window.begun, masked, window.start, 0
        begin, self._given = self._given, (window.end - self._origin) // self._stride * self._stride
        offset = self._origin - window.start
        return Job(self, masked_mv[:, offset + begin : offset + self._given], anew)

    def skip(self) -> None:
        """A window that the engine is not given."""
        self._begun = None


def score(engine: Engine, jobs: Sequence[Job]) -> Samples:
    """The probabilities [jobs, findings], each as if it had been done alone; streams of as many samples share a call."""
    if not jobs:
        return np.empty((0, len(engine.bundle.card.findings)), np.float32)
    if not isinstance(engine, StreamEngine):
        return engine.run(np.stack([job.ecg for job in jobs])).probability
    rows: list[Samples] = [jobs[0].track.probability] * len(jobs)
    for group in _groups(jobs):
        _step(engine, [jobs[i] for i in group])
        for i in group:
            rows[i] = jobs[i].track.probability
    return np.stack(rows)


def _groups(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Of the first job of each track those of one length, then the others', then of the second jobs, and so on."""
    rounds: defaultdict[int, int] = defaultdict(int)
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        groups[rounds[id(job.track)], job.ecg.shape[1]].append(i)
        rounds[id(job.track)] += 1
    for _, group in sorted(groups.items()):
        yield group


def _step(engine: StreamEngine, jobs: Sequence[Job]) -> None:
    """One job of each of several tracks. Without a new sample the last word holds."""
    if jobs[0].ecg.shape[1] == 0:
        return
    states = np.stack([engine.begin() if job.anew else job.track.state for job in jobs])
    result, states = engine.step(np.stack([job.ecg for job in jobs]), states)
    for job, state, probability in zip(jobs, states, result.probability, strict=True):
        # A row would keep the states of all the others.
        job.track.state, job.track.probability = state.copy(), probability.copy()
