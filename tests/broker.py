"""A real mosquitto on a free port for the tests, which can be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_PATIENCE_S = 15.0


def wait_for(known: Callable[[], object], what: str = "", patience_s: float = _PATIENCE_S) -> None:
    """Polls until it is true. Raises AssertionError after a patience that a slow machine does not reach."""
    end = time.monotonic() + patience_s
    while not known():
        assert time.monotonic() < end, f"waited {patience_s:g} s in vain for {what or known}"
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """`with Mosquitto(tmp_path) as broker:` starts it. `extra` are lines for its one listener, such as TLS and passwords."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true") -> None:
        self.program = _find()
        self.port = free_port()
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(extra)

    def configure(self, extra: str) -> None:
        """Holds from the next start on."""
        # Without this line a broker started by root becomes another user, who may not read the test's files.
        user = "user root\n" if os.geteuid() == 0 else ""
        self._config.write_text(f"{user}listener {self.port} 127.0.0.1\nlog_dest stderr\nlog_type all\n{extra}\n")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self.program, "-c", str(self._config)], stdout=log, stderr=log)
        wait_for(self._answers, "mosquitto to start")

    def stop(self) -> None:
        """As an operator does, with a farewell to its clients."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
        self._process = None

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_PATIENCE_S)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, f"mosquitto ended: {self.log.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _find() -> str:
    found = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise FileNotFoundError("these tests need the broker mosquitto: apt-get install mosquitto, or brew install mosquitto")
    return found
