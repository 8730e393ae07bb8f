"""A recording and a number of sources in; how a daemon of its own, over a real broker and real pseudo-terminals, kept up with them out."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from kernels.findings import ConfigError
from kernels.signal import HALF_LENGTH_S, LEADS

from .config import Mqtt
from .decode.chunk import Chunk
from .decode.device import Device
from .decode.devices import DEVICES, device
from .fir import resample
from .simulate import PIECE_S, Stream, pieces, plan, play
from .transport.file import RecordingFile, open_recording
from .transport.mqtt import Broker
from .transport.pty import PtyDevice

_SITE = "load"
_SETTLE_S = 1.0
_LAG_S = 0.2
"""The last window is complete only once so much follows it: half of the resampler."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the daemon did, seen from outside."""

    sources: int
    minutes: float
    windows_expected: int
    windows_scored: int
    dropped_bytes: int
    lost_samples: int
    latency_p50_ms: float
    """From the moment the last sample of a window is taken to the arrival of its scores at a subscriber."""
    latency_p99_ms: float
    latency_worst_ms: float
    alerts: int
    """Messages of raised, updated and cleared alerts."""
    alert_p50_ms: float | None
    """From the moment the sample that decides is sent to the arrival of the alert at a subscriber; None without alerts."""
    alert_p99_ms: float | None
    alert_worst_ms: float | None
    cores: float
    """Processor time of the daemon over time."""
    memory_mb: float
    memory_growth_mb: float
    """From a third of the time on."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a recording at another rate, in memory, so that the bench itself does not take the time of the daemon."""

    name: str
    whole: Chunk

    @property
    def duration_s(self) -> float | None:
        """Of the excerpt."""
        return self.whole.end / self.whole.rate_hz

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        """A second at a time."""
        step = round(self.whole.rate_hz)
        for at in range(0, self.whole.end, step):
            yield replace(self.whole, start=at, samples_mv=self.whole.samples_mv[:, at : at + step])


def excerpt(recording: RecordingFile, rate_hz: float, longest_s: float = 600.0) -> Excerpt:
    """At most so much of it, resampled."""
    chunks = list(itertools.takewhile(lambda chunk: chunk.start < longest_s * chunk.rate_hz, recording.chunks()))
    samples = np.concatenate([chunk.samples_mv for chunk in chunks], axis=1)
    return Excerpt(recording.name, Chunk(0, rate_hz, chunks[0].leads, resample(samples, chunks[0].rate_hz, rate_hz)))


@dataclass(slots=True)
class Watcher:
    """Notes when each score and each alert came."""

    begin_s: dict[str, float] = field(default_factory=dict)
    """When the first sample of each source was taken."""
    latency_s: array[float] = field(default_factory=lambda: array("d"))
    alert_latency_s: array[float] = field(default_factory=lambda: array("d"))

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message of `<prefix>/<site>/<source>/scores` or `/alert`."""
        now_s = time.monotonic()
        message = json.loads(payload)
        begin_s = self.begin_s.get(message["source"])
        if begin_s is None:
            return
        late_s = now_s - begin_s - message["at_s"]
        if message["type"] == "scores":
            self.latency_s.append(late_s)
        elif message["finding"] != "stalled":
            self.alert_latency_s.append(late_s - _decided_after_s(message["at_s"]))


def _decided_after_s(at_s: float) -> float:
    """How long after the end of a window the sample is sent that decides: the resampler looks ahead, and devices send by the piece."""
    return math.ceil((at_s + HALF_LENGTH_S) / PIECE_S - 1e-6) * PIECE_S - at_s


def load(recording: Path, sources: int = 64, serial: int = 8, minutes: float = 10.0, rate_hz: float = 500.0) -> Figures:
    """Simulate so many sources of twelve leads over MQTT, and so many serial devices, and watch a daemon watch them, on Linux.

    Raises ConfigError where there is no mosquitto, or the daemon does not start.
    """
    recorded = open_recording(recording)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, pages = free_port(), free_port()
        stack.enter_context(process(mosquitto_command(folder, port), subprocess.DEVNULL))
        ports = {f"serial-{i}": (kind, PtyDevice(folder / f"tty{i}")) for i, kind in enumerate(_serial_devices(serial))}
        config = _write_config(folder, port, pages, {name: kind for name, (kind, _) in ports.items()}, recorded)
        daemon = stack.enter_context(process([sys.executable, "-m", "edge", "run", str(config)]))
        watcher = Watcher()
        broker = Broker(Mqtt(port=port, version="3.1.1"), "load", on_message=watcher.take)
        broker.subscribe(f"cardiogloss/{_SITE}/+/scores", qos=0)
        broker.subscribe(f"cardiogloss/{_SITE}/+/alert")
        broker.start()
        stack.callback(broker.stop)
        _wait_until_ready(daemon, [port for _, port in ports.values()], pages, broker)
        streams = list(_streams(recorded, broker, sources, ports, rate_hz, watcher))
        begun_cpu_s, begun_s, memory = cpu_s(daemon.pid), time.monotonic(), _watch_memory(daemon.pid, minutes)
        for stream in streams:
            stream.pieces = itertools.takewhile(lambda piece: piece.due_s <= minutes * 60, stream.pieces)
        play(streams)
        cores = (cpu_s(daemon.pid) - begun_cpu_s) / (time.monotonic() - begun_s)
        time.sleep(_SETTLE_S)
        return _figures(sources + serial, minutes, watcher, scrape(pages), cores, memory)


def _serial_devices(count: int) -> Iterator[Device]:
    """Every kind in turn that says its rate itself."""
    kinds = [one for one in DEVICES.values() if one.baud and one.wiring.leads and one.wiring.rate_hz]
    return (kinds[i % len(kinds)] for i in range(count))


def _streams(
    recorded: RecordingFile, broker: Broker, sources: int, ports: dict[str, tuple[Device, PtyDevice]], rate_hz: float, watcher: Watcher
) -> Iterator[Stream]:
    """Begun a little apart, as no two devices are switched on at once."""
    frame = device("frame")
    wiring, whole = frame.wire(LEADS, rate_hz), excerpt(recorded, rate_hz)
    begin_s = time.monotonic() + 1.0
    for i in range(sources):
        name, topic = f"mqtt-{i}", f"cardiogloss/{_SITE}/mqtt-{i}/ecg"
        watcher.begin_s[name] = begin_s + i / sources
        yield Stream(pieces(whole, frame, wiring, repeat=True), partial(broker.publish, topic), watcher.begin_s[name])
    for i, (name, (kind, port)) in enumerate(ports.items()):
        watcher.begin_s[name] = begin_s + i / len(ports)
        yield Stream(pieces(recorded, kind, plan(recorded, kind), repeat=True), port.send, watcher.begin_s[name])


def mosquitto_command(folder: Path, port: int) -> list[str]:
    """What starts a broker that keeps nothing. Raises ConfigError where there is none."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ConfigError("this needs a broker: apt-get install mosquitto")
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    return [program, "-c", str(settings)]


@contextmanager
def process(command: list[str], stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Ended by SIGTERM with the block."""
    started = subprocess.Popen(command, stderr=stderr)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


def _write_config(folder: Path, port: int, pages: int, serial: dict[str, Device], recorded: RecordingFile) -> Path:
    """Of a daemon that takes every MQTT source it hears, and each of these ports."""
    lines = [f'site = "{_SITE}"', "[mqtt]", f"port = {port}", "[http]", f"port = {pages}", "[log]", 'level = "error"']
    lines += ["[outbox]", f'file = "{folder / "outbox.db"}"']
    lines += ["[[source]]", f'mqtt = "cardiogloss/{_SITE}/+/ecg"']
    for i, (name, kind) in enumerate(serial.items()):
        leads = json.dumps(plan(recorded, kind).leads)
        lines += ["[[source]]", f'name = "{name}"', f'device = "{kind.name}"', f'serial = "{folder / f"tty{i}"}"', f"leads = {leads}"]
    config = folder / "edge.toml"
    config.write_text("\n".join(lines) + "\n")
    return config


def _wait_until_ready(daemon: subprocess.Popen[bytes], ports: list[PtyDevice], pages: int, broker: Broker) -> None:
    """Until every port is open, and both sides have reached the broker."""
    for port in ports:
        port.wait(60)
    until_s = time.monotonic() + 60
    while not (broker.connected and scrape(pages).get("cardiogloss_broker_connected") == 1):
        if daemon.poll() is not None or time.monotonic() > until_s:
            raise ConfigError("the daemon did not start; see what it said above")
        time.sleep(0.2)


def scrape(pages: int) -> dict[str, float]:
    """The sum over all sources of each metric; empty while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pages}/metrics", timeout=10) as page:
            text = page.read().decode()
    except OSError:
        return {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def _watch_memory(pid: int, minutes: float) -> array[float]:
    """MB every second, as a thread fills it in."""
    memory: array[float] = array("d")

    def watch() -> None:
        until_s = time.monotonic() + 60 * minutes
        while time.monotonic() < until_s:
            memory.append(resident_mb(pid))
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
    return memory


def resident_mb(pid: int) -> float:
    """Of a process, by Linux."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has had, by Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _figures(sources: int, minutes: float, watcher: Watcher, metrics: dict[str, float], cores: float, memory: array[float]) -> Figures:
    if not watcher.latency_s or not metrics:
        raise ConfigError("no score arrived, or the daemon ended; see what it said above")
    latency_ms = np.array(watcher.latency_s) * 1e3
    half, worst = np.percentile(latency_ms, [50, 99])
    third = len(memory) // 3
    return Figures(
        sources=sources,
        minutes=minutes,
        windows_expected=sources * max(int(minutes * 60 - _LAG_S) - 9, 0),
        windows_scored=len(latency_ms),
        dropped_bytes=int(metrics["cardiogloss_source_dropped_bytes_total"]),
        lost_samples=int(metrics["cardiogloss_source_lost_total"]),
        latency_p50_ms=round(float(half), 1),
        latency_p99_ms=round(float(worst), 1),
        latency_worst_ms=round(float(latency_ms.max()), 1),
        alerts=len(watcher.alert_latency_s),
        alert_p50_ms=_percentile_ms(watcher.alert_latency_s, 50),
        alert_p99_ms=_percentile_ms(watcher.alert_latency_s, 99),
        alert_worst_ms=_percentile_ms(watcher.alert_latency_s, 100),
        cores=round(cores, 2),
        memory_mb=round(max(memory), 1),
        memory_growth_mb=round(memory[-1] - memory[third], 2),
    )


def _percentile_ms(latency_s: array[float], percent: float) -> float | None:
    return round(float(np.percentile(np.array(latency_s) * 1e3, percent)), 1) if latency_s else None
