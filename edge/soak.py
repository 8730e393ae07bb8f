"""A recording in; how the memory of the daemon's inner loop grows over days of virtual time out."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import open_engine

from .config import Config, Source
from .decode.devices import device
from .load import resident_mb
from .publish import Publisher
from .roster import Roster
from .simulate import Piece, pieces, plan
from .supervisor import Supervisor
from .transport.file import open_recording
from .worker import Worker

_SAMPLES = 144
"""Times that the memory is measured: every ten minutes of a day."""
_WARM_UP_S = 3600.0
_TICK_S = 10.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How the memory of a process went that watched its sources as fast as it could."""

    hours: float
    sources: int
    windows: int
    lost_samples: int
    memory_mb: float
    growth_mb_per_hour: float
    """The slope of a line through all after the first virtual hour."""


class _Virtual:
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        return self.now_s


def soak(recording: Path, hours: float = 24.0, sources: int = 2) -> Growth:
    """Everything but the network, as in `run`: messages come, are queued, decoded, scored and told, states and accounts kept."""
    recorded, frame, clock = open_recording(recording), device("frame"), _Virtual()
    told = [0]
    with open_engine(Bundle.read(SHIPPED_BUNDLE)) as engine:
        publisher = Publisher("cardiogloss", "soak", lambda topic, payload, qos, retain: told.append(told.pop() + 1))
        supervisor = Supervisor()
        worker = Worker(publisher.tell, supervisor)
        roster = Roster(engine, supervisor, lambda: None, publisher.owns, monotonic_s=clock, since_1970_s=clock)
        roster.apply(Config(source=(Source(mqtt="cardiogloss/soak/+/ecg"),)))
        wiring = plan(recorded, frame)
        streams = [pieces(recorded, frame, wiring, repeat=True) for _ in range(sources)]
        memory = list(_run(roster, worker, publisher, streams, clock, hours))
        lost = sum(watched.post.live.accounts()["lost"] for watched in roster.watched())
    at_hours, mb = np.array([point for point in memory if point[0] >= min(_WARM_UP_S, hours * 1200)]).T / [[3600.0], [1.0]]
    slope = float(np.polyfit(at_hours, mb, 1)[0]) if len(mb) > 1 else 0.0
    return Growth(hours, sources, worker.windows, lost, round(float(mb[-1]), 1), round(slope, 3))


def _run(
    roster: Roster, worker: Worker, publisher: Publisher, streams: list[Iterator[Piece]], clock: _Virtual, hours: float
) -> Iterator[tuple[float, float]]:
    """(virtual seconds, MB) now and then."""
    begin_s, next_sample_s, next_tick_s = clock.now_s, 0.0, 0.0
    while clock.now_s - begin_s < hours * 3600:
        due = [next(stream) for stream in streams]
        clock.now_s = begin_s + due[0].due_s
        for number, piece in enumerate(due):
            roster.hear(f"cardiogloss/soak/bed{number}/ecg", piece.data, retained=False)
        worker.round(roster.posts())
        if due[0].due_s >= next_tick_s:
            next_tick_s += _TICK_S
            for watched in (*roster.tick(clock.now_s), *roster.watched()):
                publisher.tell_status(watched.name, watched.state, watched.why, clock.now_s, watched.health().accounts)
        if due[0].due_s >= next_sample_s:
            next_sample_s += hours * 3600 / _SAMPLES
            gc.collect()
            yield due[0].due_s, resident_mb(os.getpid())
