"""States of the daemon in; sd_notify(3) datagrams to systemd out, where it listens."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1` and the like to $NOTIFY_SOCKET. False where nobody asked for it or nobody hears."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        try:
            to.sendto(state.encode(), address)
        except OSError:
            return False
    return True
