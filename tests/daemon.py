"""A config in; a real `cardiogloss run` in a process of its own, what it says on every side, and devices to feed it out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families

from edge.decode.chunk import Chunk
from edge.decode.device import Device, Encoder, Wiring
from edge.decode.frame import FrameEncoder
from edge.message import to_message
from edge.pipeline import Pipeline
from edge.simulate import Piece, pieces
from edge.transport.file import open_recording
from edge.transport.pty import PtyDevice
from kernels.engine import Engine

from .broker import wait_for
from .conftest import EXCERPT

ROOT = Path(__file__).parent.parent
SITE = "test"
PATIENCE_S = 60.0
"""A quiet machine needs a second or two; a busy one may take its time."""

Json = dict[str, Any]

_OUTGOING = ("status", "+/status", "+/scores", "+/vitals", "+/alert", "+/alert/+", "+/evidence", "+/reply")
_EVENTS = ("scores", "vitals", "alert", "evidence")
_ADDED = ("time", "schema", "site", "shard", "onset_time", "outbox", "number", "stream", "id")
"""What the daemon knows and a replay does not. A live stream has a name, which its ids depend on."""
_ENDINGS = ("the stream has ended", "no longer watched")


class Daemon:
    """`with Daemon(folder, config) as daemon:` starts it and waits until it watches; the end of the block ends it, whatever happened."""

    def __init__(self, folder: Path, config: str, environment: dict[str, str] | None = None, stdin: bytes | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "edge.toml"
        self.path.write_text(config)
        self.stdin = stdin
        self._environment = environment or {}
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def start(self) -> Daemon:
        """Again too, after its end. Raises AssertionError, with what it said, where it does not come to watch."""
        self._from = len(self.log)
        self.spawn()
        self.wait(lambda: self.told("watching"), "the daemon to watch")
        return self

    def spawn(self) -> Daemon:
        """Start it, and no more."""
        command = [sys.executable, "-m", "edge", "run", str(self.path)]
        given = subprocess.DEVNULL if self.stdin is None else subprocess.PIPE
        with self._stdout.open("ab") as out, self._stderr.open("ab") as told:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.path.parent)} | self._environment
            self._process = subprocess.Popen(command, stdin=given, stdout=out, stderr=told, env=environment, cwd=ROOT)
        if self.stdin is not None:
            threading.Thread(target=self._process.communicate, args=(self.stdin,), daemon=True).start()
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; it said:\n{self.said}") from None

    def terminate(self) -> int:
        """As systemd does."""
        self.signal(signal.SIGTERM)
        return self.end()

    def kill(self) -> None:
        """As a power cut does."""
        self.signal(signal.SIGKILL)
        self.end()

    def reload(self, config: str) -> None:
        """Have it read another config, and wait until it says what became of that."""
        self.path.write_text(config)
        before = len(self.log)
        self.signal(signal.SIGHUP)
        self.wait(lambda: any("reloaded" in str(line["event"]) for line in self.log[before:]), "the reload")

    def wait(self, known: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Until it is true. Raises AssertionError, with what it said, where it ends before or does not come to it."""

        def _known() -> bool:
            assert self._process is not None and (self._process.poll() is None or known()), f"it ended before {what}; it said:\n{self.said}"
            return bool(known())

        wait_for(_known, what, patience_s)

    def wait_for_samples(self, source: str, count: int) -> None:
        self.wait(lambda: self.metric("source_samples_total", source) >= count, f"{count} samples of {source}")

    @property
    def said(self) -> str:
        """All of standard error since it was started."""
        return self._stderr.read_text()

    @property
    def log(self) -> list[Json]:
        """What of it is log lines."""
        text = self._stderr.read_text() if self._stderr.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def told(self, event: str) -> list[Json]:
        """The log lines of this start that say so."""
        return [line for line in self.log[self._from :] if line["event"] == event]

    @property
    def printed(self) -> list[Json]:
        """The lines on standard output."""
        return [json.loads(line) for line in self._stdout.read_text().splitlines()]

    @property
    def address(self) -> str:
        return str(self.told("pages")[-1]["address"])

    def page(self, name: str) -> tuple[int, str]:
        """Status and text of /healthz, /readyz or /metrics."""
        try:
            with urllib.request.urlopen(f"{self.address}/{name}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> Json:
        answer: Json = json.loads(self.page("readyz")[1])
        return answer

    def metric(self, name: str, source: str | None = None) -> float:
        """NaN where there is no such figure."""
        wanted = {} if source is None else {"source": source}
        for family in text_string_to_metric_families(self.page("metrics")[1]):
            for sample in family.samples:
                if sample.name == f"cardiogloss_{name}" and sample.labels == wanted:
                    return sample.value
        return float("nan")

    def counts(self, source: str) -> dict[str, int]:
        """Every counter of a source."""
        families = text_string_to_metric_families(self.page("metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.labels == {"source": source}]
        names = [(sample, sample.name.removeprefix("cardiogloss_source_")) for sample in samples]
        return {name.removesuffix("_total"): int(sample.value) for sample, name in names if name.endswith("_total")}


@dataclass(frozen=True, slots=True)
class Message:
    """As it came from the broker."""

    topic: str
    payload: Json
    retained: bool
    qos: int


class Client:
    """A subscriber to all that the site says, and a publisher. It comes back by itself when the broker does."""

    def __init__(self, port: int) -> None:
        self.messages: list[Message] = []
        self._port = port
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(0.2, 0.5)  # type: ignore[arg-type]
        # Not to the devices' own messages, behind which those of QoS 1 would have to wait.
        self._client.on_connect = lambda client, *rest: client.subscribe([(f"cardiogloss/{SITE}/{topic}", 1) for topic in _OUTGOING])
        self._client.on_subscribe = lambda *rest: self._subscribed.set()
        self._client.on_message = self._take

    def __enter__(self) -> Client:
        self._client.connect_async("127.0.0.1", self._port)
        self._client.loop_start()
        wait_for(self._subscribed.is_set, "the subscription of the test")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send_all(self, source: str, payloads: Iterable[bytes]) -> None:
        """In order, from when on the broker has the last."""
        topic = f"cardiogloss/{SITE}/{source}/ecg"
        for sent in [self._client.publish(topic, payload, qos=1) for payload in payloads]:
            sent.wait_for_publish(PATIENCE_S)

    def put(self, source: str, payload: bytes) -> None:
        """Without waiting for the broker."""
        self._client.publish(f"cardiogloss/{SITE}/{source}/ecg", payload, qos=1)

    def send(self, source: str, payload: bytes, retain: bool = False) -> None:
        """As a device, from when on the broker has it."""
        self._client.publish(f"cardiogloss/{SITE}/{source}/ecg", payload, qos=1, retain=retain).wait_for_publish(PATIENCE_S)

    def events(self, source: str) -> list[Json]:
        """What `bare` has of it, in the order in which it came."""
        topics = {f"cardiogloss/{SITE}/{source}/{kind}" for kind in _EVENTS}
        return bare(message.payload for message in self.messages if message.topic in topics)

    def wait_for_events(self, source: str, expected: Sequence[Json]) -> list[Json]:
        """Its events, once there are as many as expected."""
        wait_for(lambda: len(self.events(source)) >= len(expected), f"{len(expected)} events of {source}", PATIENCE_S)
        return self.events(source)

    def status(self, source: str = "") -> Json:
        """The last one of a source, or of the site; empty where none came."""
        topic = "/".join(filter(None, ("cardiogloss", SITE, source, "status")))
        return next((message.payload for message in reversed(self.messages) if message.topic == topic), {})

    def wait_for_site(self, state: str) -> None:
        """Once the site says so, all that it said before has come too."""
        self.wait_for_state("", state)

    def wait_for_state(self, source: str, state: str, words: str = "") -> None:
        """Until a source says so, with these words in its reason."""
        wait_for(
            lambda: self.status(source).get("state") == state and words in (self.status(source).get("why") or ""),
            f"{source or 'the site'} to be {state} {words}; it said {self.status(source)}",
            PATIENCE_S,
        )

    def count(self, topic: str) -> int:
        return sum(message.topic == f"cardiogloss/{SITE}/{topic}" for message in self.messages)

    def _take(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        if not message.payload:
            # A retained message that is taken back.
            return
        self.messages.append(Message(message.topic, json.loads(message.payload), message.retain, message.qos))


class Port(PtyDevice):
    """A device that can also wait for whoever reads, so that no load on this machine makes it lose a byte."""

    def pour(self, data: bytes) -> None:
        """All of it, as fast as it is taken."""
        until_s = time.monotonic() + PATIENCE_S
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                assert time.monotonic() < until_s, f"nobody reads {self.path}"
                time.sleep(0.002)

    def feed(self, daemon: Daemon, source: str, data: Iterable[bytes]) -> None:
        """Once the daemon has opened it."""
        self.wait_for(daemon, source)
        for piece in data:
            self.pour(piece)

    def wait_for(self, daemon: Daemon, source: str, times: int = 1) -> None:
        """Until it has been opened so often, and whatever an opening discards is gone."""
        daemon.wait(lambda: daemon.metric("source_opened_total", source) >= times, f"{source} to be opened")

    def __enter__(self) -> Port:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def config(*sources: str, broker: int | None = None, more: str = "") -> str:
    """The text of a config; `sources` are the lines of a table each."""
    tables = [f'site = "{SITE}"', "[http]", "port = 0"]
    tables += [] if broker is None else ["[mqtt]", 'host = "127.0.0.1"', f"port = {broker}"]
    return "\n".join([*tables, more, *(f"[[source]]\n{source}" for source in sources)]) + "\n"


def source(name: str, device: str, **keys: str | int | float | bool | Sequence[str] | Path) -> str:
    """The lines of one source."""
    given = {"name": name, "device": device} | {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return "\n".join([f"{key} = {json.dumps(value)}" for key, value in given.items()])


def on_topic(name: str, device: str = "frame", **keys: Any) -> str:
    """The lines of a source that publishes."""
    return source(name, device, mqtt=f"cardiogloss/{SITE}/{name}/ecg", **keys)


def bare(messages: Iterable[Json]) -> list[Json]:
    """Events as `to_message` has them, type by type, as each has its own way out; without what the daemon noticed, and no sample."""
    told = (message for message in messages if message["type"] in _EVENTS)
    own = [message for message in told if message.get("finding") != "stalled" and message.get("why") not in _ENDINGS]
    stripped = [{key: value for key, value in message.items() if key not in _ADDED} for message in own]
    return sorted(stripped, key=lambda message: _EVENTS.index(message["type"]))


def scored(chunks: Iterable[Chunk], name: str, engine: Engine, ended: bool = True) -> list[Json]:
    """What a pipeline makes of these chunks, in one thread and without a daemon, as it would come over the wire."""
    pipeline = Pipeline(name, engine)
    events = [event for chunk in chunks for event in pipeline.feed(chunk)]
    events += pipeline.flush() if ended else ()
    return bare(json.loads(json.dumps(to_message(event))) for event in events)


def decoded(data: bytes, device: Device, wiring: Wiring) -> list[Chunk]:
    """What a decoder makes of these bytes, given at once."""
    decoder = device.decoder(wiring)
    return [*decoder.feed(data), *decoder.flush()]


def write_excerpt(folder: Path, name: str, seconds: float) -> Path:
    """The beginning of the excerpt as a WFDB record of this name. Format 212 has 3 bytes for a sample of both leads."""
    samples = round(seconds * 360)
    header = EXCERPT.with_suffix(".hea").read_text().replace("mitdb201af", name).replace("97200", str(samples))
    (folder / f"{name}.hea").write_text(header)
    (folder / f"{name}.dat").write_bytes(EXCERPT.with_suffix(".dat").read_bytes()[: 3 * samples])
    return folder / name


def encoded(record: Path, device: Device, wiring: Wiring) -> list[bytes]:
    """A record as a device sends it, a tenth of a second at a time."""
    return [piece.data for piece in pieces(open_recording(record), device, wiring)]


def frames(chunk: Chunk, encoder: Encoder | None = None) -> list[bytes]:
    """A stretch as binary frames of a tenth of a second, in the units of the excerpt, so that nothing is rounded."""
    encoder = encoder or FrameEncoder(Wiring(chunk.leads, chunk.rate_hz, 200.0))
    size = round(chunk.rate_hz / 10)
    return [encoder.feed(chunk.samples_mv[:, at : at + size]) for at in range(0, chunk.samples_mv.shape[1], size)]


def between(chunk: Chunk, begin_s: float, end_s: float) -> Chunk:
    """The stretch of it from one moment to another."""
    first, last = round(begin_s * chunk.rate_hz), round(end_s * chunk.rate_hz)
    return replace(chunk, start=first, samples_mv=chunk.samples_mv[:, first:last])


def later(chunk: Chunk, samples: int) -> Chunk:
    """The same after a gap of so many."""
    return replace(chunk, start=chunk.start + samples)


def paced(data: Sequence[bytes], piece_s: float, begin_s: float = 0.0) -> Iterator[Piece]:
    """Pieces that are due one after another."""
    for i, piece in enumerate(data):
        yield Piece(begin_s + (i + 1) * piece_s, piece)


@contextmanager
def in_background(*work: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Threads that are waited for at the end of the block; what one of them raises is raised there."""
    failures = _Failures()
    threads = [threading.Thread(target=failures.guard, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures.seen, failures.seen


@dataclass(slots=True)
class _Failures:
    seen: list[BaseException] = field(default_factory=list)

    def guard(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self.seen.append(error)
            raise


def at_random(data: bytes, seed: int, most: int = 700) -> list[bytes]:
    """The bytes in pieces of any size."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.integers(1, most, len(data) // (most // 2) + 1)).clip(max=len(data))
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True) if b > a]
