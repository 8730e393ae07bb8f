"""A recording and a number of kills in; which windows and alerts of a fleet came, beside those of an undisturbed replay, out.

Everything is real: gateways and score-workers are processes of their own, the broker is mosquitto, a kill is SIGKILL.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError

from ..config import Mqtt
from ..decode.devices import device
from ..load import free_port, mosquitto_command
from ..message import to_message
from ..pipeline import Pipeline
from ..simulate import pieces, plan
from ..transport.file import open_recording
from ..transport.mqtt import Broker
from ..transport.proxy import Proxy
from .measure import Pace, measure
from .process import Process

log = structlog.get_logger()

_SOURCE = "bed"
_BETWEEN_S = 0.8
"""The mean time from one blow to the next."""
_CUT_SHARE = 0.2
"""Of the blows so many cut the connections of all workers instead."""
_PATIENCE_S = 120.0
_KINDS = ("scores", "alert", "evidence")
_ADDED = ("time", "schema", "site", "shard", "onset_time", "outbox", "number", "stream", "id")
"""What a monitor knows and a replay does not."""
_ENDINGS = ("the stream has ended", "no longer watched")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the windows."""

    gateways: int
    workers: int
    kills: int
    """Of workers that took windows."""
    cuts: int
    """Of the connections of all workers."""
    runs: int
    """Each from the first sample to the last word of every gateway."""
    windows: int
    """That an undisturbed replay scores, in all runs."""
    lost: int
    """Of those, without scores from the gateway."""
    twice: int
    """With scores more than once."""
    differing: int
    """With other scores, by a single bit of what is told."""
    asked_again: int
    """Windows that gateways published once more."""
    dropped: int
    """Answers that gateways dropped, as they had one."""
    alerts: int
    """Alerts and evidence that the replay tells."""
    alerts_differing: int
    """Told by one of both only."""
    window_bytes: int
    """Of a message, at the middle."""
    pack_ms: float
    """To make and read a message of a window."""
    local_ms: float
    """A window, one at a time, in the process itself."""
    remote_ms: float
    """The same by the workers."""
    local_per_s: float
    """Windows a second, 64 at a time, in the process itself."""
    remote_per_s: float
    """The same by the workers."""
    minutes: float


@dataclass(frozen=True, slots=True)
class _Tape:
    """What one gateway is given, and what it should say."""

    data: bytes
    expected: list[Json]


def ordeal_fleet(recording: Path, kills: int = 100, gateways: int = 3, workers: int = 2, seed: int = 1) -> Figures:
    """Have gateways watch copies of a recording, again and again, until so many workers were killed; with 0 once, in peace.

    Raises ConfigError where there is no mosquitto, or a run does not come to its end.
    """
    rng, begun_s, total, runs = random.Random(seed), time.monotonic(), Counter[str](), 0
    with open_engine(Bundle.read(SHIPPED_BUNDLE)) as engine:
        tapes = list(_tapes(recording, engine, gateways))
        pace = _in_peace(recording, engine, workers)
        while not runs or total["kills"] < kills:
            with ExitStack() as stack:
                total.update(_Fleet(tapes, workers, stack, kills > 0).run(rng if kills else None, kills - total["kills"]))
            runs += 1
            log.info("survived", runs=runs, **total)
    told = ("kills", "cuts", "windows", "lost", "twice", "differing", "asked_again", "dropped", "alerts", "alerts_differing")
    return Figures(
        gateways,
        workers,
        runs=runs,
        **{name: total[name] for name in told},
        **{name: getattr(pace, name) for name in Pace.__slots__},
        minutes=round((time.monotonic() - begun_s) / 60, 1),
    )


def _tapes(recording: Path, engine: Engine, count: int) -> Iterable[_Tape]:
    """The recording as a device's bytes, from different places of it on, and the replay of these."""
    recorded, frame = open_recording(recording), device("frame")
    frames = [piece.data for piece in pieces(recorded, frame, plan(recorded, frame))]
    for i in range(count):
        data = b"".join(frames[len(frames) * i // (2 * count) :])
        pipeline, decoder = Pipeline(_SOURCE, engine), frame.decoder(plan(recorded, frame))
        events = [event for chunk in (*decoder.feed(data), *decoder.flush()) for event in pipeline.feed(chunk)]
        yield _Tape(data, list(_bare(map(to_message, (*events, *pipeline.flush())))))


def _bare(messages: Iterable[Json]) -> Iterable[Json]:
    """What a replay says, too, as it looks once it was JSON."""
    for message in messages:
        own = message.get("finding") != "stalled" and message.get("why") not in _ENDINGS
        if message["type"] in _KINDS and own:
            yield json.loads(json.dumps({key: value for key, value in message.items() if key not in _ADDED}))


def _in_peace(recording: Path, engine: Engine, workers: int) -> Pace:
    with ExitStack() as stack:
        fleet = _Fleet((), workers, stack)
        fleet.wait(fleet.is_complete, "the workers to be connected")
        return measure(recording, engine, Mqtt(host="127.0.0.1", port=fleet.port))


class _Fleet:
    """Gateways, workers, a broker, the network between workers and broker, and somebody who listens."""

    def __init__(self, tapes: Sequence[_Tape], workers: int, stack: ExitStack, is_struck: bool = False) -> None:
        """`is_struck` says whether the connections of workers are to be cut."""
        self._tapes = tapes
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._heard: list[tuple[str, bytes]] = []
        self.port = free_port()
        broker = subprocess.Popen(mosquitto_command(self._folder, self.port), stderr=subprocess.DEVNULL)
        stack.callback(broker.wait)
        stack.callback(broker.kill)
        self._proxy = stack.enter_context(Proxy(self.port))
        # Through the proxy every answer would take 40 ms longer, as it holds small packets back.
        self._worker_port = self._proxy.port if is_struck else self.port
        self._listen(stack)
        self._workers = [self._start_worker() for _ in range(workers)]
        self._gateways = [Process("run", self._gateway(i), subprocess.PIPE) for i in range(len(tapes))]
        stack.callback(self._end)

    def run(self, rng: random.Random | None, kills: int) -> Counter[str]:
        """Until every gateway has told all; without `rng` nothing is killed."""
        self.wait(lambda: self.is_complete() and all(one.is_ready() for one in self._gateways), "all to be connected")
        for gateway, tape in zip(self._gateways, self._tapes, strict=True):
            threading.Thread(target=gateway.play, args=(tape.data,), daemon=True).start()
        done = Counter[str]()
        while self._is_watching(rng.expovariate(1 / _BETWEEN_S) if rng else _PATIENCE_S):
            if rng and done["kills"] < kills:
                done[self._strike(rng)] += 1
        self.wait(self._has_heard_all, "the last word of every gateway")
        return done + sum((self._judge(i) for i in range(len(self._tapes))), Counter[str]())

    def wait(self, known: Callable[[], bool], what: str) -> None:
        """Raises ConfigError where it does not come true."""
        until_s = time.monotonic() + _PATIENCE_S
        while not known():
            if time.monotonic() > until_s:
                raise ConfigError(f"waited {_PATIENCE_S:g} s in vain for {what}")
            time.sleep(0.02)

    def is_complete(self) -> bool:
        """Whether all workers take windows."""
        return all(worker.is_connected() for worker in self._workers)

    def _is_watching(self, seconds: float) -> bool:
        """Wait so long; whether a gateway still watches."""
        until_s = time.monotonic() + seconds
        while running := [gateway for gateway in self._gateways if gateway.is_running()]:
            if time.monotonic() > until_s:
                return True
            with suppress(subprocess.TimeoutExpired):
                running[0].process.wait(0.02)
        return False

    def _strike(self, rng: random.Random) -> str:
        """At those who are at work; "missed" where nobody is."""
        if rng.random() < _CUT_SHARE:
            self._proxy.cut()
            return "cuts"
        victim = rng.randrange(len(self._workers))
        if not self._workers[victim].is_connected():
            return "missed"
        self._workers[victim].kill()
        self._workers[victim] = self._start_worker()
        return "kills"

    def _judge(self, i: int) -> Counter[str]:
        """What a gateway said beside what it should have said."""
        heard = _bare(json.loads(payload) for topic, payload in self._heard if topic.startswith(f"cardiogloss/{_site(i)}/{_SOURCE}/"))
        (told, words), (expected, due) = _sorted_out(heard), _sorted_out(self._tapes[i].expected)
        at_s, expected_at_s = Counter(at_s for at_s, _ in told.elements()), {at_s for at_s, _ in expected}
        left = self._gateways[i].told("left the fleet")[-1]
        return Counter(
            windows=len(expected),
            lost=len(expected_at_s - at_s.keys()),
            twice=sum(count - 1 for count in at_s.values()),
            differing=len(told.keys() - expected.keys()),
            asked_again=left["again"],
            dropped=left["repeated"] + left["late"],
            alerts=due.total(),
            alerts_differing=((words - due) + (due - words)).total(),
        )

    def _end(self) -> None:
        for one in (*self._workers, *self._gateways):
            one.kill()

    def _has_heard_all(self) -> bool:
        offline = {topic for topic, payload in self._heard if topic.endswith("/status") and json.loads(payload).get("state") == "offline"}
        return all(f"cardiogloss/{_site(i)}/status" in offline for i in range(len(self._tapes)))

    def _listen(self, stack: ExitStack) -> None:
        listener = Broker(
            Mqtt(host="127.0.0.1", port=self.port), "listener", on_message=lambda topic, data, _: self._heard.append((topic, data))
        )
        for topic in ("status", *(f"{_SOURCE}/{kind}" for kind in _KINDS)):
            listener.subscribe(f"cardiogloss/+/{topic}")
        listener.start()
        stack.callback(listener.stop)
        self.wait(lambda: listener.connected, "the broker")

    def _start_worker(self) -> Process:
        return Process("score-worker", self._write("worker", ["[mqtt]", 'host = "127.0.0.1"', f"port = {self._worker_port}"]))

    def _gateway(self, i: int) -> Path:
        lines = [f'site = "{_site(i)}"', "[model]", 'engine = "remote"', "[mqtt]", 'host = "127.0.0.1"', f"port = {self.port}", "[http]"]
        lines += ["port = 0", "[outbox]", f'file = "{self._folder / _site(i)}.db"']
        return self._write(_site(i), [*lines, "[[source]]", f'name = "{_SOURCE}"', 'device = "frame"', "stdin = true"])

    def _write(self, name: str, lines: Sequence[str]) -> Path:
        config = self._folder / f"{name}.toml"
        config.write_text("\n".join(lines) + "\n")
        return config


def _site(i: int) -> str:
    return f"ordeal-{i}"


def _sorted_out(messages: Iterable[Json]) -> tuple[Counter[tuple[float, str]], Counter[str]]:
    """The scores, each with its time, and all else."""
    scores, others = Counter[tuple[float, str]](), Counter[str]()
    for message in messages:
        line = json.dumps(message, sort_keys=True)
        if message["type"] == "scores":
            scores[message["at_s"], line] += 1
        else:
            others[line] += 1
    return scores, others
