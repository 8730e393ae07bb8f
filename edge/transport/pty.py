"""The bytes of a device that is not there in; a pseudo-terminal that sends them as if it were out."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
import tty
from pathlib import Path

_BOOT_S = 0.3
"""A device needs a moment after its port was opened; whoever opened it discards what came before."""


class PtyDevice:
    """A serial device. As on a wire, what nobody takes in time is lost."""

    def __init__(self, link: Path | None = None) -> None:
        """`link` is a name to find it by, such as a by-id name is. Raises OSError where that exists."""
        self.lost_bytes = 0
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        self._link = link
        if link is not None:
            self._name(link)

    def _name(self, link: Path) -> None:
        # What a device that was killed has left leads nowhere, or by chance to this one.
        if link.is_symlink() and (not link.exists() or str(link.readlink()) == self.path):
            link.unlink()
        if os.path.lexists(link):
            raise FileExistsError(errno.EEXIST, "is there already; end the program that made it, or give another name", str(link))
        link.symlink_to(self.path)

    @property
    def is_open(self) -> bool:
        """Whether somebody has opened the port."""
        poll = select.poll()
        poll.register(self._master, 0)
        return not any(flags & select.POLLHUP for _, flags in poll.poll(0))

    def wait(self, timeout_s: float = 3600.0) -> None:
        """Until somebody has opened it and the device has booted. Raises TimeoutError."""
        until_s = time.monotonic() + timeout_s
        while not self.is_open:
            if time.monotonic() > until_s:
                raise TimeoutError(errno.ETIMEDOUT, f"nobody opened {self.path}")
            time.sleep(0.02)
        time.sleep(_BOOT_S)

    def send(self, data: bytes) -> None:
        """Now; what does not fit is lost, and so is all while the port is closed."""
        done = 0
        with contextlib.suppress(BlockingIOError):
            while done < len(data) and self.is_open:
                done += os.write(self._master, data[done:])
        self.lost_bytes += len(data) - done

    def close(self) -> None:
        """As if the cable were pulled."""
        os.close(self._master)
        if self._link is not None:
            self._link.unlink(missing_ok=True)
