"""A command of cardiogloss and its config in; a process of its own, what it logged, and whether it is at work, out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kernels.findings import ConfigError

Json = dict[str, Any]


class Process:
    """A command of ours with its log."""

    def __init__(self, command: str, config: Path, stdin: int = subprocess.DEVNULL) -> None:
        self._log = config.with_suffix(f".{time.monotonic_ns()}.log")
        with self._log.open("wb") as told:
            self.process = subprocess.Popen([sys.executable, "-m", "edge", command, str(config)], stdin=stdin, stderr=told)

    def told(self, event: str) -> list[Json]:
        """The lines of its log that say so."""
        lines = [line for line in self._log.read_text().splitlines() if f'"{event}"' in line and line.endswith("}")]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def is_running(self) -> bool:
        """Raises ConfigError, with what it said last, where it failed."""
        code = self.process.poll()
        if code:
            raise ConfigError(f"a process failed with exit code {code}: {self._log.read_text()[-400:]}")
        return code is None

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()

    def play(self, data: bytes) -> None:
        """On its standard input, as fast as it is taken."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as to:
            to.write(data)

    def is_connected(self) -> bool:
        """Whether it has reached the broker, and not lost it since. Raises ConfigError where it failed."""
        return self.is_running() and len(self.told("broker connected")) > len(self.told("broker lost"))

    def is_ready(self) -> bool:
        """Whether a monitor has both of its connections. Raises ConfigError where it failed."""
        return self.is_connected() and bool(self.told("fleet connected"))
