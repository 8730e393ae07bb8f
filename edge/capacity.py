"""A recording and a number of sources in; whether one core keeps up with so many in real time, and how late its scores are, out."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from kernels.bundle import Bundle
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .bench import on_one_core
from .clock import Arrival
from .decode.devices import device
from .inbox import Inbox
from .live import Dated, Live
from .load import excerpt
from .pipeline import Options, Pipeline
from .score import Draft, Scores
from .simulate import Piece, pieces
from .supervisor import Supervisor
from .transport.file import open_recording
from .worker import Post, Worker

SLOWEST_HZ, FASTEST_HZ = 100.0, 10_000.0
PIECE_S = 0.25
"""A source sends so much at a time."""
LATEST_MS = 500.0
"""Of a hundred scores 99 are told sooner than this after their last sample, or the sources are too many."""

_VOICES = 4
"""So many sources differ; the bytes of more would take memory that no daemon needs."""
_SETTLE_S = 5.0
_GIVE_UP_S = 5.0
"""So long after the end what was too much is still worked off."""
_FIRST_TRIAL = 32
_CLOSE_ENOUGH = 0.02
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Capacity:
    """One run in a process of its own on one core, with one thread."""

    sources: int
    seconds: float
    """Measured, after the first windows of all sources."""
    sustained: bool
    """Whether at the end nothing had waited for a second or longer."""
    backlog_s: float
    """How long what waited longest at the end had done so."""
    p50_ms: float
    p99_ms: float
    worst_ms: float
    """From when the last frame of a window was due to its scores; of a window without scores, up to the end."""
    core: float
    """The share of the core that was used."""
    windows_per_s: float
    unscored: int
    """Windows that were due and were not scored by the end."""
    peak_memory_mb: float

    @property
    def is_enough(self) -> bool:
        """Whether the core keeps up with so many."""
        return self.sustained and self.p99_ms < LATEST_MS


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    recording: Path
    bundle: Path
    rate_hz: float = 250.0
    seconds: float = 60.0


def capacity(plan: Plan, sources: int) -> Capacity:
    """In a process of its own. Raises ConfigError or BundleError where the recording or the bundle cannot be used."""
    return on_one_core(_measure, plan, sources)


def most(plan: Plan, tell: Callable[[Capacity], object]) -> Capacity:
    """The largest number of sources, to 2 %, that one core keeps up with; `tell` hears of every trial. Raises as `capacity` does."""
    trial = capacity(plan, _FIRST_TRIAL)
    tell(trial)
    enough, too_many = (trial, None) if trial.is_enough else (None, trial.sources)
    while (sources := _next(enough, too_many)) is not None:
        trial = capacity(plan, sources)
        tell(trial)
        enough, too_many = (trial, too_many) if trial.is_enough else (enough, sources)
    if enough is None:
        raise ConfigError("one core does not keep up with a single source; give a smaller --bundle")
    return enough


def _next(enough: Capacity | None, too_many: int | None) -> int | None:
    """How many to try next; None where nothing is left to find."""
    least = enough.sources if enough else 0
    if too_many is None:
        assert enough is not None
        return max(round(0.95 * least / max(enough.core, 0.01)), least + max(least // 8, 1))
    return (least + too_many) // 2 if too_many - least > max(_CLOSE_ENOUGH * least, 1) else None


@dataclass(slots=True)
class Told:
    """Notes which scores came when."""

    windows: list[tuple[int, float]] = field(default_factory=list)
    """The source and the time of the end of each window."""
    at_s: array[float] = field(default_factory=lambda: array("d"))

    def __call__(self, source: str, dated: Dated) -> None:
        if isinstance(dated.event, Scores):
            self.windows.append((int(source), dated.event.at_s))
            self.at_s.append(time.monotonic())


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen of some sources that were played in real time; all times are seconds since its beginning."""

    begin_s: Sequence[float]
    """When the first sample of each source was taken."""
    told: dict[tuple[int, float], float]
    """When each window (source, at_s) was scored."""
    repeated: int
    """Windows that were scored more than once."""
    warm_s: float
    end_s: float
    backlog_s: float
    core: float


def voices(plan: Plan, seconds: float) -> list[list[Piece]]:
    """The frames of several sources, from different places of the recording, again and again. Raises ConfigError."""
    if not SLOWEST_HZ <= plan.rate_hz <= FASTEST_HZ:
        raise ConfigError(f"--rate {plan.rate_hz:g} must lie between {SLOWEST_HZ:g} and {FASTEST_HZ:g}")
    frame = device("frame")
    whole = excerpt(open_recording(plan.recording), plan.rate_hz)
    shift = whole.whole.end // _VOICES
    turned = [replace(whole.whole, samples_mv=np.roll(whole.whole.samples_mv, -i * shift, axis=1)) for i in range(_VOICES)]
    sent = (pieces(replace(whole, whole=one), frame, frame.wire(LEADS, plan.rate_hz), PIECE_S, repeat=True) for one in turned)
    return [list(takewhile(lambda piece: piece.due_s <= seconds, one)) for one in sent]


def completed(engine: Engine, frames: Sequence[Piece]) -> dict[float, float]:
    """Of each window, by the time of its end, when the frame that completes it is due, in seconds after the first sample."""
    (post,) = _posts(engine, 1)
    arrivals = [Arrival(piece.data, piece.due_s, piece.due_s) for piece in frames]
    pending = [(arrival.at_s, one) for arrival in arrivals for one in post.live.prepare(arrival)]
    return {item.scores.at_s: due_s for due_s, one in pending for item, _ in one.known if isinstance(item, Draft)}


def play(engine: Engine, frames: Sequence[Sequence[Piece]], sources: int, seconds: float) -> Run:
    """All stages in real time, for `seconds` after the first windows; no frame is taken before it is due."""
    window_s = engine.bundle.card.window_s
    # In no step with a second or with each other, as devices are switched on.
    begin_s = [window_s * (i * _GOLDEN % 1) for i in range(sources)]
    warm_s = 2 * window_s + _SETTLE_S
    told, posts = Told(), _posts(engine, sources)
    worker = Worker(told, Supervisor())
    zero_s, cpu_s, backlog_s = time.monotonic(), 0.0, 0.0
    for now_s in _rounds(begin_s, posts, frames, zero_s, warm_s + seconds):
        cpu_s = time.process_time() if now_s < warm_s else cpu_s
        worker.round(posts)
    end_s = time.monotonic() - zero_s
    backlog_s = max(end_s - warm_s - seconds, 0.0)
    at_s = {window: at - zero_s for window, at in zip(told.windows, told.at_s, strict=True)}
    core = (time.process_time() - cpu_s) / (end_s - warm_s)
    return Run(begin_s, at_s, len(told.windows) - len(at_s), warm_s, end_s, backlog_s, core)


def _rounds(
    begin_s: Sequence[float], posts: Sequence[Post], frames: Sequence[Sequence[Piece]], zero_s: float, end_s: float
) -> Iterator[float]:
    """Gives the frames that are due to their sources, and then the time, again and again until all that were due by the end are given."""
    all_due = ((begin + piece.due_s, i, k) for i, begin in enumerate(begin_s) for k, piece in enumerate(frames[i % len(frames)]))
    due = sorted(one for one in all_due if one[0] <= end_s)
    at = 0
    while at < len(due) and (now_s := time.monotonic() - zero_s) < end_s + _GIVE_UP_S:
        if due[at][0] > now_s:
            time.sleep(due[at][0] - now_s)
            continue
        while at < len(due) and due[at][0] <= now_s:
            _, i, k = due[at]
            posts[i].inbox.put(Arrival(frames[i % len(frames)][k].data, zero_s + now_s, now_s, opened=k == 0))
            at += 1
        yield now_s


def _posts(engine: Engine, sources: int) -> list[Post]:
    decoder = partial(device("frame").decoder, device("frame").wire())
    return [Post(Live(str(i), decoder, Pipeline(str(i), engine, Options())), Inbox(lambda: None)) for i in range(sources)]


def _measure(plan: Plan, sources: int) -> Capacity:
    with open_engine(Bundle.read(plan.bundle)) as engine:
        frames = voices(plan, 2 * engine.bundle.card.window_s + _SETTLE_S + plan.seconds)
        complete = [completed(engine, one) for one in frames]
        return _sum_up(play(engine, frames, sources, plan.seconds), complete, plan.seconds)


def _sum_up(run: Run, complete: Sequence[dict[float, float]], seconds: float) -> Capacity:
    due = {(i, at_s): begin + due_s for i, begin in enumerate(run.begin_s) for at_s, due_s in complete[i % len(complete)].items()}
    measured = {window: due_s for window, due_s in due.items() if run.warm_s <= due_s <= run.warm_s + seconds}
    late_ms = 1e3 * np.array([run.told.get(window, run.end_s) - due_s for window, due_s in measured.items()])
    if not measured:
        raise ConfigError("no window was due in that time; give more --seconds, or a --rate that the model takes")
    p50, p99 = np.percentile(late_ms, [50, 99])
    unscored = len(measured.keys() - run.told.keys())
    return Capacity(
        sources=len(run.begin_s),
        seconds=seconds,
        sustained=run.backlog_s < 1 and not unscored,
        backlog_s=round(run.backlog_s, 3),
        p50_ms=round(float(p50), 1),
        p99_ms=round(float(p99), 1),
        worst_ms=round(float(late_ms.max()), 1),
        core=round(run.core, 3),
        windows_per_s=round(sum(0 <= at - run.warm_s < seconds for at in run.told.values()) / seconds, 1),
        unscored=unscored,
        peak_memory_mb=round(_peak_mb(), 1),
    )


def _peak_mb() -> float:
    """Of this process alone: what the kernel counts for `getrusage` is taken over from whoever started it."""
    import resource

    status = Path("/proc/self/status")
    if status.is_file():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024
    kept: float = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept / (1 << 20 if sys.platform == "darwin" else 1 << 10)
