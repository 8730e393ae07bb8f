"""An address in (a TCP server, a file or FIFO, standard input); the bytes that come from there, as they come, out."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import threading
from abc import ABC, abstractmethod
from pathlib import Path

from kernels.findings import ConfigError

_BLOCK = 1 << 14
_CONNECT_S = 5.0
_STDIN = 0

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that lost power is noticed after 25 s. Linux names; where one is missing the system's own time holds."""


class EndOfStream(Exception):
    """A file or standard input has ended for good: nothing follows, and to open it anew would not help."""


class Transport(ABC):
    """Where the bytes of one device come from. One thread opens and reads it; any thread may close it."""

    name: str
    """For people."""
    can_wait: bool = False
    """Whether nothing is lost while nobody reads, as with a file."""

    @abstractmethod
    def open(self) -> None:
        """Raises OSError, in words, where it cannot be opened now. One that is open is closed first."""

    @abstractmethod
    def read(self, timeout_s: float) -> bytes:
        """What has come, at the latest after `timeout_s`; b"" where nothing came.

        Raises OSError where the line is gone or closed, EndOfStream where the bytes have ended for good.
        """

    @abstractmethod
    def close(self) -> None:
        """Never raises. A read in another thread ends within its timeout; later ones raise OSError."""


class Handle(Transport):
    """A transport on something that the system must not give away while a read in another thread still holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._turn = threading.Lock()
        self._is_open = False

    def open(self) -> None:
        """Raises OSError, in words, where it cannot be opened now. One that is open is closed first."""
        with self._turn:
            self._release()
            try:
                self._acquire()
            except OSError:
                self._release()
                raise
            self._is_open = True

    def read(self, timeout_s: float) -> bytes:
        """What has come, at the latest after `timeout_s`. Raises OSError or EndOfStream."""
        with self._turn:
            if not self._is_open:
                raise OSError(errno.EBADF, f"{self.name} is not open")
            return self._take(timeout_s)

    def close(self) -> None:
        """Waits for a read in another thread, which its timeout ends: a descriptor closed under it may already be another file's."""
        self._is_open = False
        with self._turn:
            self._is_open = False
            self._release()

    @abstractmethod
    def _acquire(self) -> None:
        """Raises OSError."""

    @abstractmethod
    def _take(self, timeout_s: float) -> bytes:
        """As `read`, of what is open."""

    @abstractmethod
    def _release(self) -> None:
        """Of what may be open, open in part or closed. Never raises."""


class _Descriptor(Handle):
    """A file descriptor that `poll` can wait for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._fd: int | None = None

    def _take(self, timeout_s: float) -> bytes:
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(max(timeout_s, 0.0) * 1000):
            return b""
        try:
            data = os.read(self._fd, _BLOCK)
        except BlockingIOError:
            return b""
        return data or self._ended()

    def _release(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None

    @abstractmethod
    def _ended(self) -> bytes:
        """What a read gives, or raises, where nothing follows."""


class Tcp(_Descriptor):
    """A client of a TCP server that sends as soon as it is connected, such as a serial port server."""

    def __init__(self, host: str, port: int) -> None:
        """Raises ConfigError where no host can have that name or no server that port."""
        super().__init__(f"{host}:{port}")
        check_address(host, port)
        self._address = (host, port)

    def _acquire(self) -> None:
        try:
            connection = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            raise OSError(error.errno or errno.ETIMEDOUT, f"cannot connect to {self.name}: {error.strerror or error}") from error
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            self._fd = connection.detach()

    def _ended(self) -> bytes:
        raise ConnectionResetError(errno.ECONNRESET, f"{self.name} closed the connection")


class FileStream(_Descriptor):
    """A regular file, read to its end as fast as it is asked for, or a FIFO, whose writers may come and go."""

    can_wait = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def _acquire(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if stat.S_ISDIR(os.fstat(self._fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, f"{self.name} is a folder; name a file or a FIFO")

    def _ended(self) -> bytes:
        assert self._fd is not None
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            raise EndOfStream(f"{self.name} has ended")
        last = self._fd
        # Opened anew before the last one is closed: a writer that comes in between would be killed by SIGPIPE.
        self._acquire()
        os.close(last)
        return b""


class Stdin(_Descriptor):
    """Standard input, as from a pipe."""

    can_wait = True

    def __init__(self) -> None:
        super().__init__("stdin")

    def _acquire(self) -> None:
        # A copy, so that close() leaves standard input itself to the process.
        self._fd = os.dup(_STDIN)

    def _ended(self) -> bytes:
        raise EndOfStream("standard input has ended")


def check_address(host: str, port: int) -> None:
    """Raises ConfigError for what would not fail as an OSError once it is connected to."""
    try:
        encoded = host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(f"{host!r} is no name of a host ({error}); give a name or an IP address") from error
    if not encoded:
        raise ConfigError("the host is empty; give a name or an IP address")
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {port} must be from 1 to 65535")
