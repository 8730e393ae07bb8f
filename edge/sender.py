"""A recording and a device in; its bytes sent over a pseudo-terminal or to an MQTT broker, when they are due, out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from kernels.findings import ConfigError
from kernels.terminal import console, errors

from .config import Mqtt
from .decode.devices import device
from .simulate import Piece, Stream, pieces, plan, play
from .transport.file import RecordingFile
from .transport.mqtt import Broker
from .transport.pty import PtyDevice


class Sender:
    """A recording that plays as a device. Tells what to put into edge.toml to watch it, before it begins."""

    def __init__(self, recording: RecordingFile, kind: str, leads: Sequence[str], speed: float, repeat: bool) -> None:
        """Raises ConfigError where the recording or the device cannot be."""
        self._recording = recording
        self._kind = device(kind)
        self._wiring = plan(recording, self._kind, leads)
        self._speed = speed
        self._repeat = repeat

    def to_terminal(self, link: Path | None) -> None:
        """As a serial device, from the moment somebody opens the port. Raises OSError where `link` is taken."""
        if self._kind.by_message:
            raise ConfigError(
                f"--device {self._kind.name} comes in whole messages, so only over --mqtt; over a terminal use frame or lines"
            )
        port = PtyDevice(link)
        try:
            self._tell_config('name = "simulated"', f'serial = "{link.absolute() if link else port.path}"')
            port.wait()
            play([Stream(self._pieces(), port.send, time.monotonic())], self._speed)
        finally:
            port.close()
        if port.lost_bytes:
            errors.print(f"{port.lost_bytes} bytes were lost: nobody took them in time", style="yellow")

    def to_broker(self, mqtt: Mqtt, site: str, names: Sequence[str]) -> None:
        """As a device, or as many, that publish; each of the copies begins a little after the one before."""
        root = f"{mqtt.prefix}/{site}"
        self._tell_config(*_source_of(root, names))
        broker = Broker(mqtt, "", mqtt.password(), on_state=_tell_state)
        broker.start()
        begin_s = time.monotonic()
        sends = [partial(broker.publish, f"{root}/{name}/ecg", qos=1) for name in names]
        try:
            play([Stream(self._pieces(), send, begin_s + i / len(names)) for i, send in enumerate(sends)], self._speed)
        finally:
            broker.stop()

    def _pieces(self) -> Iterator[Piece]:
        return pieces(self._recording, self._kind, self._wiring, repeat=self._repeat)

    def _tell_config(self, *where: str) -> None:
        kind = self._kind
        leads = [] if kind.says_itself else [f"leads = {json.dumps(self._wiring.leads)}"]
        rate = [] if kind.says_itself or kind.wiring.rate_hz else [f"rate_hz = {self._wiring.rate_hz:g}"]
        lines = ["[[source]]", *where, f'device = "{kind.name}"', *leads, *rate]
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        console.file.flush()


def broker_at(address: str) -> Mqtt:
    """An open broker at `host` or `host:port`. Raises ConfigError for anything else."""
    host, _, port = address.partition(":")
    if not host or (port and not port.isdigit()):
        raise ConfigError(f"--mqtt {address!r} must be a host or host:port; a broker that asks for more stands in a config, see --config")
    return Mqtt(host=host, port=int(port) if port else None)


def _source_of(root: str, names: Sequence[str]) -> tuple[str, ...]:
    return ('name = "simulated"', f'mqtt = "{root}/{names[0]}/ecg"') if len(names) == 1 else (f'mqtt = "{root}/+/ecg"',)


def _tell_state(connected: bool, why: str) -> None:
    errors.print(why, style=None if connected else "yellow", highlight=False, markup=False, soft_wrap=True)
