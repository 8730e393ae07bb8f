"""A recording in; what one source like it costs on this machine in processor time and memory, and so how many fit on a core, out."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from kernels.bundle import Bundle, Card, shipped_names
from kernels.engine import Engine, Result, StreamEngine, cores, open_engine
from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples
from kernels.terminal import bare_table, console

from .bench import on_one_core
from .capacity import FASTEST_HZ, SLOWEST_HZ
from .clock import Arrival
from .decode.devices import device
from .inbox import Inbox
from .live import Live
from .live_command import Json, Recorded
from .load import excerpt, load, mosquitto_command, resident_mb
from .pipeline import Options, Pipeline
from .publish import Publisher
from .simulate import pieces
from .supervisor import Supervisor
from .transport.file import open_recording
from .worker import Post, Worker

BUSY = 0.7
"""Of a core: what comes in bursts waits longer than a window is late on one that is busier."""

_PIECE_S = 0.25
_STEPS = round(1 / _PIECE_S)
_LIVE_MINUTES = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    recording: Path
    engine: str = "onnx"
    hop_s: float = 1.0
    rate_hz: float = 250.0
    sources: int = 32
    seconds: float = 20.0
    """Of virtual time, after the first windows."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one source, with one bundle, on one core with one thread."""

    bundle: str
    engine_ms: float
    """A window, in batches of a quarter of the sources."""
    stages_ms: float
    """A second of a source in all that is not the engine: decoding, quality, beats, windows, alerts, and the JSON of what is told."""
    process_mb: float
    """Resident memory of the program with its engine before the first source."""
    source_mb: float
    """What each source adds."""

    def ms_a_second(self, hop_s: float, transport_ms: float) -> float:
        """Processor time in ms that a second of a source takes."""
        return self.stages_ms + transport_ms + self.engine_ms / hop_s

    def sources_a_core(self, hop_s: float, transport_ms: float) -> int:
        """On a core that is busy for seven tenths of the time."""
        return int(1e3 * BUSY / self.ms_a_second(hop_s, transport_ms))


@dataclass(frozen=True, slots=True)
class Sizing:
    """What this machine takes."""

    machine: str
    cores: int
    leads: int
    rate_hz: float
    hop_s: float
    engine: str
    transport_ms: float | None
    """More for a second of a source that sends twelve leads over MQTT in ten messages, and is told of; None where it was not measured."""
    costs: tuple[Cost, ...]

    @property
    def sources(self) -> dict[str, int]:
        """By bundle, how many one core takes."""
        return {cost.bundle: cost.sources_a_core(self.hop_s, self.transport_ms or 0.0) for cost in self.costs}


def size(plan: Plan, bundles: Sequence[str] = (), live: int = 0) -> Sizing:
    """Each bundle in a process of its own; with `live`, so many sources over a real broker for half a minute.

    `bundles` are names or files, all that are shipped where none is given; those that the engine cannot run are left out.
    Raises ConfigError or BundleError where the recording, a bundle or the engine cannot be used, or there is no mosquitto.
    """
    if not SLOWEST_HZ <= plan.rate_hz <= FASTEST_HZ:
        raise ConfigError(f"--rate {plan.rate_hz:g} must lie between {SLOWEST_HZ:g} and {FASTEST_HZ:g}")
    leads = _leads(plan.recording)
    if live:
        _check_broker()
    named = bundles or [name for name in shipped_names() if plan.engine == "onnx" or Bundle.read(Path(name)).card.stride is None]
    for name in named:
        _check_hop(plan.hop_s, Bundle.read(Path(name)).card)
    costs = tuple(_apart(plan, bundle) for bundle in named)
    transport_ms = _transport_ms(plan, live, costs) if live else None
    return Sizing(platform.machine(), cores(), len(leads), plan.rate_hz, plan.hop_s, plan.engine, transport_ms, costs)


def _check_broker() -> None:
    """Before the work, not after it."""
    with TemporaryDirectory() as folder:
        try:
            mosquitto_command(Path(folder), 0)
        except ConfigError as error:
            raise ConfigError(f"{error}; or leave MQTT out with --live 0") from error


def _check_hop(hop_s: float, card: Card) -> None:
    if not 1 / card.rate_hz <= hop_s <= card.window_s:
        raise ConfigError(f"--hop {hop_s:g} must lie between {1 / card.rate_hz:g} and the window's {card.window_s:g} s")


def _apart(plan: Plan, bundle: str) -> Cost:
    return on_one_core(measure, plan, bundle)


def measure(plan: Plan, bundle: str) -> Cost:
    """In this process, in virtual time, as fast as it goes. Raises as `size` does."""
    read = Bundle.read(Path(bundle))
    with open_engine(read, plan.engine) as opened:
        clock = _clock_of(plan.engine)
        engine = metered(opened, clock)
        engine.run(_blank(engine))
        frames = _frames(plan, read.card.window_s + 2 + plan.seconds)
        before_mb = resident_mb(os.getpid())
        worker, windows, spent_s = _play(plan, engine, frames, clock)
        whole_s = spent_s - engine.spent_s
        return Cost(
            bundle=bundle,
            engine_ms=round(1e3 * engine.spent_s / max(worker.windows - windows, 1), 3),
            stages_ms=round(1e3 * whole_s / (plan.sources * plan.seconds), 3),
            process_mb=round(before_mb, 1),
            source_mb=round((resident_mb(os.getpid()) - before_mb) / plan.sources, 2),
        )


def _play(plan: Plan, engine: Metered, frames: Sequence[bytes], clock: Callable[[], float]) -> tuple[Worker, int, float]:
    """The worker at the end; the windows before the time that counts; and all seconds of the clock in that time."""
    posts = [_post(str(i), engine, plan.hop_s) for i in range(plan.sources)]
    publisher = Publisher("cardiogloss", "sizing", lambda topic, payload, qos, retain: None)
    worker = Worker(publisher.tell, Supervisor())
    begun, windows, spent_s = len(frames) - round(plan.seconds / _PIECE_S), 0, 0.0
    for step in range(len(frames)):
        if step == begun:
            engine.spent_s, windows, spent_s = 0.0, worker.windows, clock()
        for i, post in enumerate(posts):
            _give(post, frames, step - i % _STEPS)
        worker.round(posts)
    return worker, windows, clock() - spent_s


def _give(post: Post, frames: Sequence[bytes], k: int) -> None:
    """No two of four neighbours are in step, as devices are switched on one after the other."""
    if k >= 0:
        at_s = (k + 1) * _PIECE_S
        post.inbox.put(Arrival(frames[k], at_s, at_s, opened=k == 0))


def _post(name: str, engine: Engine, hop_s: float) -> Post:
    frame = device("frame")
    return Post(Live(name, partial(frame.decoder, frame.wire()), Pipeline(name, engine, Options(hop_s))), Inbox(lambda: None))


def _frames(plan: Plan, seconds: float) -> list[bytes]:
    frame = device("frame")
    whole = excerpt(open_recording(plan.recording), plan.rate_hz)
    sent = pieces(whole, frame, frame.wire(_leads(plan.recording), plan.rate_hz), _PIECE_S, repeat=True)
    return [next(sent).data for _ in range(round(seconds / _PIECE_S))]


def _leads(recording: Path) -> tuple[str, ...]:
    chunk = next(open_recording(recording).chunks(), None)
    known = tuple(lead for lead in LEADS if chunk and lead in chunk.leads)
    if not known:
        raise ConfigError(f"{recording}: none of its signals is named as a lead; give another recording")
    return known


def _transport_ms(plan: Plan, sources: int, costs: Sequence[Cost]) -> float:
    """What a daemon spends beside stages and engine, which here are those of twelve leads with the default bundle."""
    figures = load(plan.recording, sources, 0, _LIVE_MINUTES, plan.rate_hz)
    ready = costs if plan.engine == "onnx" else ()
    default = next((cost for cost in ready if cost.bundle == "cardiogloss"), None) or _apart(replace(plan, engine="onnx"), "cardiogloss")
    engine_ms = figures.windows_scored * default.engine_ms / (sources * 60 * _LIVE_MINUTES)
    return round(max(1e3 * figures.cores / sources - engine_ms - default.stages_ms, 0.0), 3)


class Metered(Engine):
    """An engine, and how long it has worked."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self.bundle = engine.bundle
        self.spent_s = 0.0
        self._engine = engine
        self._clock = clock

    def run(self, ecg: Samples) -> Result:
        """As the engine does."""
        with self.measured():
            return self._engine.run(ecg)

    def close(self) -> None:
        """Whoever opened the engine closes it."""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What is done meanwhile is the engine's work."""
        begun_s = self._clock()
        yield
        self.spent_s += self._clock() - begun_s


class MeteredStream(Metered, StreamEngine):
    """The same of one that takes streams."""

    def __init__(self, engine: StreamEngine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock)
        self.stride = engine.stride
        self._stream = engine

    def begin(self) -> Samples:
        """As the engine does."""
        return self._stream.begin()

    def step(self, ecg: Samples, states: Samples) -> tuple[Result, Samples]:
        """As the engine does."""
        with self.measured():
            return self._stream.step(ecg, states)


def metered(engine: Engine, clock: Callable[[], float] = time.process_time) -> Metered:
    """Of the same kind."""
    return MeteredStream(engine, clock) if isinstance(engine, StreamEngine) else Metered(engine, clock)


def _clock_of(engine: str) -> Callable[[], float]:
    # While a GPU works the processor rests, and whoever scores waits all the same.
    return time.perf_counter if engine == "tensorrt" else time.process_time


def _blank(engine: Engine) -> Samples:
    return np.zeros((2, len(LEADS), engine.bundle.card.samples), np.float32)


def sizing_command(
    recording: Recorded,
    bundle: Annotated[list[str] | None, typer.Option(help="A model; more than one may be given.", show_default="all shipped")] = None,
    engine: Annotated[str, typer.Option(help="onnx, openvino or tensorrt.")] = "onnx",
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    rate: Annotated[float, typer.Option(help="Samples a second of each source.")] = 250.0,
    live: Annotated[int, typer.Option(min=0, help="Measure MQTT with so many sources, a real broker and half a minute; 0: do not.")] = 16,
    as_json: Json = False,
) -> None:
    """Say how many sources like a recording this machine takes: ms a window, ms a second, MB a source, sources a core."""
    sized = size(Plan(recording, engine, hop, rate), bundle or (), live)
    if as_json:
        sys.stdout.write(json.dumps(asdict(sized) | {"sources_a_core": sized.sources}) + "\n")
    else:
        _show(sized)


def _show(sized: Sizing) -> None:
    """What was measured, on what, in a table and sentences."""
    _say(f"{sized.machine}, {sized.cores} cores; sources of {sized.leads} leads at {sized.rate_hz:g} Hz, a window every {sized.hop_s:g} s")
    table = bare_table(("bundle", "engine ms", "stages ms", "MB", "MB a source", "sources a core"))
    for cost in sized.costs:
        figures = (cost.engine_ms, cost.stages_ms, cost.process_mb, cost.source_mb, sized.sources[cost.bundle])
        table.add_row(Path(cost.bundle).stem, *map("{:g}".format, figures))
    console.print(table)
    _say(f"Engine {sized.engine}, one thread: ms a window. Stages: ms a second of a source. {_transport(sized.transport_ms)}")
    _say(f"A core is planned to be busy for {BUSY:.0%} of the time. One daemon takes one core; shards of a site take more.")


def _transport(transport_ms: float | None) -> str:
    if transport_ms is None:
        return "MQTT was not measured (--live 0), and is not counted."
    return f"MQTT, ten messages a second: {transport_ms:g} ms more."


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
