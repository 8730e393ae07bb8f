"""The name of a device in; the `Device`, one of all that are known, out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kernels.findings import ConfigError

from . import bitalino, cyton, fhir, frame, json_frame, lines, olimex, protocentral, shimmer
from .device import Device, Wiring
from .json_frame import MOST_SIGNALS, JsonEncoder, MessageDecoder, Refused, parse
from .sequence import Frame


class AutoDecoder(MessageDecoder):
    """Each message by its own first bytes: binary frames, FHIR, or else the project's JSON. One source may mix them."""

    def read(self, message: bytes) -> Iterable[Frame]:
        """Raises Refused."""
        if message.startswith(frame.MAGIC):
            return _unpack(message)
        document = parse(message)
        read = fhir.to_frame if fhir.is_fhir(document) else json_frame.to_frame
        return (read(document, self._wiring),)


def _unpack(message: bytes) -> list[Frame]:
    frames = frame.unpack_all(message)
    if frames is None:
        raise Refused("the message is no whole binary frame; check its length, its header and its CRC-32")
    return frames


AUTO = Device(
    name="auto",
    title="messages in any of the project's formats",
    wiring=Wiring(leads=(), rate_hz=0.0, units_per_mv=0.0),
    decoder=AutoDecoder,
    encoder=JsonEncoder,
    signals=range(1, MOST_SIGNALS + 1),
    by_message=True,
)

_ALL = (
    *cyton.DEVICES,
    *olimex.DEVICES,
    *protocentral.DEVICES,
    *bitalino.DEVICES,
    shimmer.DEVICE,
    *lines.DEVICES,
    frame.DEVICE,
    json_frame.DEVICE,
    fhir.DEVICE,
    AUTO,
)

DEVICES: dict[str, Device] = {each.name: each for each in _ALL}
"""Every device by its name."""


def device(name: str) -> Device:
    """Raises ConfigError for an unknown name, with the nearest known one and all others."""
    if name not in DEVICES:
        near = difflib.get_close_matches(name.casefold(), DEVICES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise ConfigError(f"unknown device {name!r}{hint} allowed are {', '.join(DEVICES)}")
    return DEVICES[name]
