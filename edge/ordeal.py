"""A recording and a number of kills in; which alerts a subscriber had at the end, beside those of an undisturbed run, out.

Everything is real: daemons, a broker (mosquitto) that keeps nothing, a network that is cut, a file-size limit as the full disk.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kernels.findings import ConfigError

from .config import Mqtt
from .contract import AlertMessage, EvidenceMessage
from .decode.devices import device
from .load import free_port, mosquitto_command
from .outbox import Outbox
from .simulate import pieces, plan
from .subscribe import Subscription, subscribe
from .transport.file import open_recording
from .transport.proxy import Proxy

log = structlog.get_logger()

_SITE = "ordeal"
_SOURCES = 3
_BETWEEN_S = 1.2
"""The mean time from one kill to the next."""
_PATIENCE_S = 120.0
_FULL_S = 0.5
_AWAY_S = 0.3
KINDS = ("daemon", "broker", "connection", "disk")
_WEIGHTS = (4, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the alerts."""

    kills: int
    of_daemon: int
    of_broker: int
    of_connection: int
    full_disks: int
    runs: int
    """Each from the first sample to the last alert at the subscriber."""
    alerts: int
    """Of one undisturbed run: messages of raised, updated and cleared alerts."""
    told: int
    """In all disturbed runs, each message once."""
    lost: int
    """Told in the undisturbed run and not in a disturbed one."""
    unexpected: int
    """The other way round."""
    repeated: int
    """Given to the subscriber's program more than once."""
    minutes: float


class _Heard:
    """What the subscriber's program was given, by a thread of its own."""

    def __init__(self, alerts: Subscription) -> None:
        self.keys: Counter[tuple[str, int]] = Counter()
        self.alerts: dict[tuple[str, int], AlertMessage] = {}
        self.numbers: set[int] = set()
        self._alerts = alerts
        threading.Thread(target=self._take_all, daemon=True).start()

    def _take_all(self) -> None:
        while message := self._alerts.receive():
            if isinstance(message, AlertMessage):
                self.keys[message.id, message.seq] += 1
                self.alerts[message.id, message.seq] = message
            if isinstance(message, AlertMessage | EvidenceMessage):
                self.numbers.add(message.number)


def ordeal(recording: Path, kills: int = 500, seed: int = 1) -> Figures:
    """Watch copies of a recording with one daemon after another, until so many times something was killed.

    Raises ConfigError where there is no mosquitto, or a run does not come to its end.
    """
    rng, begun_s, done, runs = random.Random(seed), time.monotonic(), Counter[str](), 0
    differences: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        files = _write_sources(recording, Path(name))
        calm = _run(files, None, done)
        while done.total() < kills:
            heard = _run(files, rng, done)
            runs += 1
            differences["told"] += len(heard.keys)
            differences["lost"] += _tell_missing("alert lost", calm, heard)
            differences["unexpected"] += _tell_missing("alert unexpected", heard, calm)
            differences["repeated"] += sum(count - 1 for count in heard.keys.values())
            log.info("survived", runs=runs, kills=done.total(), **differences)
    return Figures(
        kills=done.total(),
        of_daemon=done["daemon"],
        of_broker=done["broker"],
        of_connection=done["connection"],
        full_disks=done["disk"],
        runs=runs,
        alerts=len(calm.keys),
        told=differences["told"],
        lost=differences["lost"],
        unexpected=differences["unexpected"],
        repeated=differences["repeated"],
        minutes=round((time.monotonic() - begun_s) / 60, 1),
    )


def _tell_missing(words: str, these: _Heard, those: _Heard) -> int:
    """How many of these are not among those; each is logged."""
    missing = these.alerts.keys() - those.alerts.keys()
    for key in missing:
        log.warning(words, **these.alerts[key].model_dump(include={"source", "finding", "state", "at_s", "why", "id", "seq", "number"}))
    return len(missing)


def _write_sources(recording: Path, folder: Path) -> list[Path]:
    """The recording as a device's bytes, in files that begin at different places of it."""
    recorded, frame = open_recording(recording), device("frame")
    frames = [piece.data for piece in pieces(recorded, frame, plan(recorded, frame))]
    files = [folder / f"bed{i}.bin" for i in range(_SOURCES)]
    for i, file in enumerate(files):
        file.write_bytes(b"".join(frames[len(frames) * i // (2 * _SOURCES) :]))
    return files


def _run(files: list[Path], rng: random.Random | None, done: Counter[str]) -> _Heard:
    """One run with an outbox of its own; without `rng` nothing is killed."""
    with ExitStack() as stack:
        stage = _Stage(files, stack)
        heard = _Heard(stage.subscribe())
        while not stage.is_over():
            if stage.runs_for(rng.expovariate(1 / _BETWEEN_S) if rng else _PATIENCE_S) and rng:
                kind = rng.choices(KINDS, _WEIGHTS)[0]
                stage.strike(kind)
                done[kind] += 1
        stage.deliver(heard.numbers)
    return heard


class _Stage:
    """The daemon, the broker, the network between them, and a subscriber."""

    def __init__(self, files: list[Path], stack: ExitStack) -> None:
        self._stack = stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._broker_port = free_port()
        self._broker = self._start_broker()
        self._proxy = stack.enter_context(Proxy(self._broker_port))
        self._watching = self._write_config("watch", [f'name = "{file.stem}"\ndevice = "frame"\nfile = "{file}"' for file in files])
        self._disk_was_full = False
        """While a daemon began it says so by its exit code alone, as its log is on that disk, too."""
        self._daemon = self._start_daemon(self._watching)
        stack.callback(self._end)

    def subscribe(self) -> Subscription:
        """Through the same network."""
        mqtt = Mqtt(host="127.0.0.1", port=self._proxy.port)
        alerts = subscribe(mqtt, site=_SITE, since="beginning", also=["evidence"])
        return self._stack.enter_context(alerts)

    def is_over(self) -> bool:
        """Whether the daemon has read its files to the end; where it was killed, or found no room on the disk, another begins.

        Raises ConfigError where it failed otherwise.
        """
        code = self._daemon.poll()
        if code == -signal.SIGKILL or (code == 1 and self._disk_was_full):
            self._daemon = self._start_daemon(self._watching)
        elif code:
            raise ConfigError(f"the daemon failed with exit code {code}: {self._log.read_text()[-400:]}")
        return code == 0

    def runs_for(self, seconds: float) -> bool:
        """Wait so long; whether it still runs."""
        with suppress(subprocess.TimeoutExpired):
            self._daemon.wait(seconds)
        return self._daemon.poll() is None and '"stopped"' not in self._log.read_text()

    def strike(self, kind: str) -> None:
        """Kill something, as a power cut would; what is not the daemon comes back soon."""
        self._disk_was_full = kind == "disk"
        match kind:
            case "daemon":
                _kill(self._daemon)
            case "broker":
                _kill(self._broker)
                time.sleep(_AWAY_S)
                self._broker = self._start_broker()
            case "connection":
                self._proxy.cut()
            case "disk":
                self._fill_disk()

    def deliver(self, heard: set[int]) -> None:
        """What is still in the outbox is told by a daemon that has nothing else to do. Raises ConfigError where it does not all arrive."""
        last = self._read_last()
        idle = self._start_daemon(self._write_config("idle", [f'mqtt = "cardiogloss/{_SITE}/+/ecg"']))
        until_s = time.monotonic() + _PATIENCE_S
        while len(heard) < last and time.monotonic() < until_s:
            time.sleep(0.05)
        _kill(idle)
        if len(heard) < last:
            raise ConfigError(f"of {last} messages only {len(heard)} have come after {_PATIENCE_S:g} s")

    def _fill_disk(self) -> None:
        """No file that the daemon writes can grow for a moment."""
        usual = resource.prlimit(self._daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._daemon.pid, resource.RLIMIT_FSIZE, (1, usual[1]))
        time.sleep(_FULL_S)
        with suppress(ProcessLookupError):
            resource.prlimit(self._daemon.pid, resource.RLIMIT_FSIZE, usual)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    @property
    def _outbox(self) -> Path:
        return self._folder / "outbox.db"

    def _read_last(self) -> int:
        outbox = Outbox(self._outbox, 1 << 26, 1e9)
        outbox.close()
        return outbox.last

    def _write_config(self, name: str, sources: list[str]) -> Path:
        lines = [f'site = "{_SITE}"', "[mqtt]", 'host = "127.0.0.1"', f"port = {self._proxy.port}", "[http]", "port = 0"]
        lines += ["[outbox]", f'file = "{self._outbox}"', *(f"[[source]]\n{source}" for source in sources)]
        config = self._folder / f"{name}.toml"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _start_daemon(self, config: Path) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "edge", "run", str(config)], stderr=log)

    def _start_broker(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(mosquitto_command(self._folder, self._broker_port), stderr=subprocess.DEVNULL)

    def _end(self) -> None:
        for process in (self._daemon, self._broker):
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
