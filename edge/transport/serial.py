"""A serial port, as a path, in; the bytes of the device on it out."""

from __future__ import annotations

import contextlib
import errno
import termios
from pathlib import Path
from typing import Any

import serial
from serial.tools import list_ports

from .stream import Handle

_WRITE_S = 1.0
_BY_ID = Path("/dev/serial/by-id")

_FAILURES: tuple[type[Exception], ...] = (OSError, termios.error, ValueError)
"""What pyserial lets out: its own SerialException is an OSError, termios has an error that is none, an odd baud is a ValueError."""


class SerialPort(Handle):
    """A serial port, held against other programs. Its path is opened as it is given, so a by-id link finds a replugged device."""

    def __init__(self, port: str, baud: int, wake: bytes = b"", sleep: bytes = b"") -> None:
        """`wake` is sent once the port is open, `sleep` before it is closed."""
        super().__init__(port)
        self._baud = baud
        self._wake = wake
        self._sleep = sleep
        self._port: Any = None

    def _acquire(self) -> None:
        try:
            self._port = serial.Serial(self.name, self._baud, timeout=0, write_timeout=_WRITE_S, exclusive=True)
            self._hasten()
            # Stale input is gone: pyserial discards it as it opens.
            self._port.write(self._wake)
        except _FAILURES as error:
            raise _in_words(self.name, error) from error

    def _hasten(self) -> None:
        """Some USB adapters gather bytes for 16 ms otherwise; a driver that cannot do better refuses."""
        with contextlib.suppress(ValueError, NotImplementedError):
            self._port.set_low_latency_mode(True)

    def _take(self, timeout_s: float) -> bytes:
        try:
            if self._port.timeout != timeout_s:
                self._port.timeout = timeout_s
            first: bytes = self._port.read(1)
            return first + self._port.read(self._port.in_waiting) if first else b""
        except _FAILURES as error:
            raise OSError(errno.EIO, f"{self.name} was unplugged, or another program reads it too ({error})") from error

    def _release(self) -> None:
        if self._port is None:
            return
        with contextlib.suppress(*_FAILURES):
            self._port.write(self._sleep)
        with contextlib.suppress(*_FAILURES):
            self._port.close()
        self._port = None


def present_ports() -> list[str]:
    """The paths of the ports that are plugged in, by their lasting names where the system keeps them."""
    links = sorted(_BY_ID.iterdir()) if _BY_ID.is_dir() else []
    linked = {str(link.resolve()) for link in links}
    return [*map(str, links), *sorted(port.device for port in list_ports.comports() if port.device not in linked)]


def _in_words(port: str, error: Exception) -> OSError:
    """With the number of the error kept, so that Python picks the class: FileNotFoundError, PermissionError and so on."""
    code = error.errno if isinstance(error, OSError) else error.args[0] if isinstance(error, termios.error) else None
    match code:
        case errno.ENOENT:
            there = ", ".join(present_ports()) or "none"
            return OSError(code, f"there is no port {port}; plugged in: {there}")
        case errno.EACCES | errno.EPERM:
            return OSError(
                code, f"no permission to open {port}; add the user to the group dialout (usermod -aG dialout USER), then log in anew"
            )
        case errno.EWOULDBLOCK | errno.EBUSY:
            return OSError(code, f"another program holds {port}; end it (fuser -v {port} names it)")
        case _:
            return OSError(code or errno.EIO, f"{port} cannot be opened as a serial port: {error}")
