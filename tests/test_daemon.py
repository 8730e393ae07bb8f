"""Live equals replay: whatever way the samples come, the daemon says of them what a replay says, line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from edge.decode.chunk import Chunk
from edge.decode.devices import device
from edge.message import to_message
from edge.replay import replay
from edge.simulate import plan
from edge.transport.file import open_recording
from kernels.bundle import Bundle
from kernels.engine import Engine, open_engine

from .broker import Mosquitto
from .conftest import ARCHIVE
from .daemon import (
    ROOT,
    Client,
    Daemon,
    Json,
    Port,
    at_random,
    bare,
    config,
    decoded,
    encoded,
    in_background,
    on_topic,
    scored,
    source,
    write_excerpt,
)  # fmt: skip

SECONDS = 40
KINDS = {"serial": "frame", "frame": "frame", "json": "json"}
CAPTURES = [path for path in sorted((ARCHIVE / "devices" / "olimex").glob("*.bin")) if path.stem in ("afib", "sinus-pvc", "vf")]
QUANTISED: dict[str, tuple[str, ...]] = {"cyton": ("II", *["-"] * 7), "shimmer3": ("II", "I", "-", "-"), "ads1292r": ()}
"""Devices with a rate and a resolution of their own, and the leads on their signals."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a device sends."""

    kind: str
    leads: tuple[str, ...]
    data: bytes

    @property
    def chunks(self) -> list[Chunk]:
        """As its decoder reads it, all at once."""
        return decoded(self.data, device(self.kind), device(self.kind).wire(self.leads))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    with Mosquitto(folder) as broker:
        yield broker


@pytest.fixture(scope="module")
def told(folder: Path, mosquitto: Mosquitto) -> dict[str, list[Json]]:
    """The same samples over a serial port, over MQTT as frames and over MQTT as JSON, each under the name of its record."""
    records = {name: write_excerpt(folder, name, SECONDS) for name in KINDS}
    wired = {name: (device(kind), device(kind).wire(("II", "V1"), 360.0, 200.0)) for name, kind in KINDS.items()}
    data = {name: encoded(records[name], *wired[name]) for name in KINDS}
    sources = [source("serial", "frame", serial=folder / "tty-serial"), on_topic("frame"), on_topic("json", "json")]
    with Port(folder / "tty-serial") as port, Client(mosquitto.port) as client:
        with Daemon(folder / "daemon", config(*sources, broker=mosquitto.port)) as daemon:
            daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
            publish = [partial(client.send_all, name, data[name]) for name in ("frame", "json")]
            with in_background(partial(port.feed, daemon, "serial", data["serial"]), *publish):
                for name in KINDS:
                    daemon.wait_for_samples(name, SECONDS * 360)
            assert daemon.terminate() == 0
        client.wait_for_site("offline")
        return {name: client.events(name) for name in KINDS}


def _replayed(record: Path, engine: Engine) -> list[Json]:
    steps = replay(open_recording(record), engine)
    return bare(json.loads(json.dumps(to_message(event))) for _, events in steps for event in events)


@pytest.mark.parametrize("name", KINDS)
def test_live_scores_vitals_and_alerts_equal_those_of_a_replay(
    name: str, told: dict[str, list[Json]], folder: Path, engine: Engine
) -> None:
    expected = _replayed(folder / name, engine)
    kinds = Counter(message["type"] for message in expected)
    assert kinds["scores"] == SECONDS - 9 and kinds["vitals"] == SECONDS and kinds["alert"] > 0
    assert told[name] == expected


def test_live_equals_the_replay_command_byte_by_byte(told: dict[str, list[Json]], folder: Path) -> None:
    command = [sys.executable, "-m", "edge", "replay", "--json", str(folder / "serial")]
    lines = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert [json.dumps(message) for message in told["serial"]] == [json.dumps(message) for message in bare(map(json.loads, lines))]


@pytest.fixture(scope="module")
def sent(folder: Path) -> dict[str, Sent]:
    """Real captures as they are, and a recording as devices of other rates and resolutions send it."""
    record = write_excerpt(folder, "excerpt", 30)
    found = {path.stem: Sent("olimex-logston", (), path.read_bytes()) for path in CAPTURES}
    for name, leads in QUANTISED.items():
        kind = device(name)
        found[name] = Sent(name, leads, b"".join(encoded(record, kind, plan(open_recording(record), kind, leads))))
    return found


@pytest.fixture(scope="module")
def heard(folder: Path, mosquitto: Mosquitto, sent: dict[str, Sent]) -> dict[str, list[Json]]:
    """All at once over serial ports, in pieces of any size."""
    ports = {name: Port(folder / f"tty-{name}") for name in sent}
    sources = [source(name, one.kind, serial=folder / f"tty-{name}", leads=one.leads) for name, one in sent.items()]
    with Client(mosquitto.port) as client, Daemon(folder / "devices", config(*sources, broker=mosquitto.port)) as daemon:
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        with in_background(
            *(partial(port.feed, daemon, name, at_random(sent[name].data, seed)) for seed, (name, port) in enumerate(ports.items()))
        ):
            for name, one in sent.items():
                # The very last may be held back until the end, where nothing can follow it any more.
                daemon.wait_for_samples(name, sum(chunk.samples_mv.shape[1] for chunk in one.chunks) - 1)
        assert daemon.terminate() == 0
        client.wait_for_site("offline")
        for port in ports.values():
            port.close()
        return {name: client.events(name) for name in sent}


@pytest.mark.skipif(not CAPTURES, reason="the captures of real devices are not there")
@pytest.mark.parametrize("name", [path.stem for path in CAPTURES])
def test_a_real_capture_over_a_serial_port_is_scored_as_its_bytes_are_offline(
    name: str, heard: dict[str, list[Json]], sent: dict[str, Sent], engine: Engine
) -> None:
    chunks = sent[name].chunks
    lost = chunks[-1].end - sum(chunk.samples_mv.shape[1] for chunk in chunks)
    assert len(chunks) > 1 or lost == 0
    assert heard[name] == scored(chunks, name, engine)
    assert sum(message["type"] == "scores" for message in heard[name]) > 10


@pytest.mark.parametrize("name", QUANTISED)
def test_a_device_with_its_own_rate_and_resolution_is_scored_as_its_bytes_are_offline(
    name: str, heard: dict[str, list[Json]], sent: dict[str, Sent], engine: Engine
) -> None:
    assert heard[name] == scored(sent[name].chunks, name, engine)
    assert sum(message["type"] == "scores" for message in heard[name]) == 21


def test_files_and_standard_input_are_watched_to_their_end_and_told_on_standard_output(folder: Path, engine: Engine) -> None:
    """Without a broker. Far more than fits the queue of a source, so that whoever reads must wait for whoever scores."""
    frame = device("frame")
    wiring = frame.wire(("II", "V1"), 360.0, 200.0)
    pieces = {name: encoded(write_excerpt(folder, name, seconds), frame, wiring) for name, seconds in (("piped", 25), ("filed", 270))}
    (folder / "filed.bin").write_bytes(b"".join(pieces["filed"]))
    sources = [source("filed", "frame", file=folder / "filed.bin"), source("piped", "frame", stdin=True)]
    with Daemon(folder / "files", config(*sources), stdin=b"".join(pieces["piped"])) as daemon:
        assert daemon.end() == 0
        printed = daemon.printed
    for name in pieces:
        events = [line for line in printed if line.get("source") == name and line["type"] != "status"]
        assert bare(events) == _replayed(folder / name, engine)


def test_streams_scored_together_give_what_each_gives_alone_in_a_replay(folder: Path, mosquitto: Mosquitto) -> None:
    """By the bundle that takes streams; and the engine that it cannot have is told, and another runs it."""
    records = {name: write_excerpt(folder, name, 40) for name in ("ward1", "ward2", "ward3")}
    wired = device("frame"), device("frame").wire(("II", "V1"), 360.0, 200.0)
    model = '[model]\nbundle = "cardiogloss-stream"\nengine = "tensorrt"\n'
    with Client(mosquitto.port) as client:
        with Daemon(folder / "ward", config(*map(on_topic, records), broker=mosquitto.port, more=model)) as daemon:
            assert [line["instead"] for line in daemon.told("engine not to be had")] == ["onnx"]
            daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
            with in_background(*(partial(client.send_all, name, encoded(record, *wired)) for name, record in records.items())):
                for name in records:
                    daemon.wait_for_samples(name, 40 * 360)
            assert daemon.terminate() == 0
        client.wait_for_site("offline")
        with open_engine(Bundle.read(Path("cardiogloss-stream"))) as streams:
            for name, record in records.items():
                expected = _replayed(record, streams)
                assert sum(message["type"] == "scores" for message in expected) == 31
                assert client.events(name) == expected
