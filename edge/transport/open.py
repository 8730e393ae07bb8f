"""A `[[source]]` in; the transport that brings its bytes out."""

from __future__ import annotations

from ..config import Source
from .stream import FileStream, Stdin, Tcp, Transport


def open_transport(source: Source) -> Transport | None:
    """Not opened yet. None where the bytes come by MQTT, whose one connection is the daemon's."""
    if source.serial is not None:
        from .serial import SerialPort

        baud = source.line_baud
        assert baud is not None
        return SerialPort(source.serial, baud, source.kind.wake, source.kind.sleep)
    if source.tcp is not None:
        return Tcp(*source.tcp_address)
    if source.file is not None:
        return FileStream(source.file)
    return Stdin() if source.stdin else None
