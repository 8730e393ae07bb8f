"""Whatever happens to lines, devices, broker, disk or daemon: it goes on, only what the fault took is lost, and that is counted."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

import edge.daemon
import edge.model
from edge.config import read_config
from edge.decode.chunk import Chunk
from edge.decode.cyton import CytonEncoder
from edge.decode.device import Wiring
from edge.decode.devices import device
from edge.decode.frame import FrameEncoder
from edge.decode.json_frame import JsonEncoder
from edge.simulate import Stream, play
from edge.transport.file import open_recording
from kernels.engine import Engine, Result
from kernels.signal import Samples

from .broker import Mosquitto, wait_for
from .conftest import heart
from .daemon import (
    PATIENCE_S,
    ROOT,
    SITE,
    Client,
    Daemon,
    Port,
    between,
    config,
    frames,
    in_background,
    later,
    on_topic,
    paced,
    scored,
    source,
)  # fmt: skip

FRAME = 36
"""Samples of each lead in a frame of the excerpt."""
RNG = np.random.default_rng(7)


@pytest.fixture
def stretch(excerpt: Chunk) -> Chunk:
    """Half a minute of two leads at 360 Hz."""
    return between(excerpt, 0, 30)


# One daemon that has to bear many faults of its sources.


class House:
    """A daemon with serial ports that tests may treat as they like, and a wildcard."""

    def __init__(self, folder: Path, mosquitto: Mosquitto, client: Client) -> None:
        self.folder, self.client = folder, client
        self.ports = {name: Port(folder / name) for name in ("garbled", "restarted", "pulled", "wrong")}
        kinds = {name: "cyton" if name == "wrong" else "frame" for name in self.ports}
        sources = [source(name, kind, serial=folder / name, stall_s=1.0) for name, kind in kinds.items()]
        sources.append(f'mqtt = "cardiogloss/{SITE}/+/ecg"')
        self.daemon = Daemon(folder / "house", config(*sources, broker=mosquitto.port))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("faults")
    with Mosquitto(folder) as mosquitto, Client(mosquitto.port) as client:
        client.send("old", json.dumps({"hz": 250, "leads": ["I"], "mv": [0.0] * 25}).encode(), retain=True)
        house = House(folder, mosquitto, client)
        with house.daemon as daemon:
            daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
            yield house
        for port in house.ports.values():
            port.close()


def test_garbage_between_frames_costs_nothing_and_a_broken_frame_itself(house: House, stretch: Chunk, engine: Engine) -> None:
    sent, junk = frames(stretch), RNG.bytes(333)
    spoilt = bytearray(sent[150])
    spoilt[60] ^= 1
    broken = [*sent[:50], junk, *sent[50:150], bytes(spoilt), *sent[151:]]
    house.ports["garbled"].feed(house.daemon, "garbled", broken)
    house.daemon.wait_for_samples("garbled", 299 * FRAME)
    counts = house.daemon.counts("garbled")
    assert (counts["samples"], counts["lost"], counts["garbage"]) == (299 * FRAME, FRAME, len(junk) + len(spoilt))
    expected = scored([between(stretch, 0, 15), between(stretch, 15.1, 30)], "garbled", engine, ended=False)
    assert house.client.wait_for_events("garbled", expected) == expected


def test_a_device_that_restarts_goes_on_after_a_gap(house: House, stretch: Chunk, engine: Engine) -> None:
    before, after = between(stretch, 0, 15), between(stretch, 15, 30)
    house.ports["restarted"].feed(house.daemon, "restarted", [*frames(before), *frames(after)])
    house.daemon.wait_for_samples("restarted", stretch.end)
    counts = house.daemon.counts("restarted")
    assert (counts["restarts"], counts["repeated"], counts["garbage"]) == (1, 0, 0)
    # How long it was away nobody knows: the gap is a sample, or what the times of arrival say.
    expected = scored([before, later(after, 1 + counts["lost"])], "restarted", engine, ended=False)
    assert house.client.wait_for_events("restarted", expected) == expected


def test_a_cable_that_is_pulled_costs_only_the_time_it_was_out(house: House, stretch: Chunk, engine: Engine) -> None:
    before, after = between(stretch, 0, 15), between(stretch, 15, 30)
    encoder = FrameEncoder(Wiring(stretch.leads, stretch.rate_hz, 200.0))
    begun_s = time.monotonic()
    house.ports["pulled"].feed(house.daemon, "pulled", frames(before, encoder))
    house.daemon.wait_for_samples("pulled", before.end)
    house.client.wait_for_state("pulled", "online")
    house.ports.pop("pulled").close()
    house.client.wait_for_state("pulled", "offline")
    assert any(words in house.client.status("pulled")["why"] for words in ("unplugged", "no port"))
    house.ports["pulled"] = Port(house.folder / "pulled")
    house.ports["pulled"].wait_for(house.daemon, "pulled", times=2)
    for frame in frames(after, encoder):
        house.ports["pulled"].pour(frame)
    house.daemon.wait_for_samples("pulled", stretch.end)
    lost = house.daemon.counts("pulled")["lost"]
    assert 0 < lost / stretch.rate_hz < time.monotonic() - begun_s
    expected = scored([before, later(after, lost)], "pulled", engine, ended=False)
    assert house.client.wait_for_events("pulled", expected) == expected
    house.client.wait_for_state("pulled", "online")


def test_a_wrong_baud_is_told_in_words_and_the_right_one_is_heard_at_once(house: House) -> None:
    port, status = house.ports["wrong"], partial(house.client.status, "wrong")
    port.wait_for(house.daemon, "wrong")
    _send_until(port, cycle([RNG.bytes(200)]), lambda: status().get("state") == "stalled" and "baud" in status()["why"])
    assert house.client.events("wrong") == []
    encoder = CytonEncoder(device("cyton").wiring)
    heard = heart(75, 1, 250)[:8]
    _send_until(port, (encoder.feed(heard[:, :50]) for _ in cycle([0])), lambda: status()["state"] == "online")
    _send_until(port, (encoder.feed(heard) for _ in cycle([0])), lambda: house.client.count("wrong/scores") > 2 and status()["why"] is None)


def _send_until(port: Port, data: Iterator[bytes], known: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not known():
        assert time.monotonic() < until_s, "waited in vain"
        port.send(next(data))
        time.sleep(0.05)


def test_repeated_and_shuffled_messages_are_scored_as_if_in_order(house: House, stretch: Chunk, engine: Engine) -> None:
    sent = frames(stretch)
    order = [i ^ 1 if i % 10 > 5 else i for i in range(len(sent))]
    shuffled = [sent[i] for at in order for i in ([at, at] if at % 7 == 0 else [at])]
    house.client.send_all("shuffled", [*shuffled[:200], sent[3], *shuffled[200:]])
    expected = scored([stretch], "shuffled", engine, ended=False)
    assert house.client.wait_for_events("shuffled", expected) == expected
    wait_for(lambda: house.daemon.counts("shuffled")["repeated"] == len(shuffled) - len(sent) + 1, "the last repeat", PATIENCE_S)
    assert house.daemon.counts("shuffled")["lost"] == 0


def test_lost_messages_are_counted_exactly_and_no_window_spans_them(house: House, stretch: Chunk, engine: Engine) -> None:
    sent = frames(stretch)
    house.client.send_all("lossy", [frame for i, frame in enumerate(sent) if i not in (130, 131, 132, 260)])
    house.daemon.wait_for_samples("lossy", 296 * FRAME)
    assert house.daemon.counts("lossy")["lost"] == 4 * FRAME
    parts = [between(stretch, 0, 13), between(stretch, 13.3, 26), between(stretch, 26.1, 30)]
    expected = scored(parts, "lossy", engine, ended=False)
    assert house.client.wait_for_events("lossy", expected) == expected
    ends_s = [message["at_s"] for message in expected if message["type"] == "scores"]
    assert ends_s and all(end_s <= 13 or 23.3 <= end_s <= 26 for end_s in ends_s)


def test_a_retained_message_is_no_part_of_a_stream(house: House) -> None:
    assert house.daemon.metric("mqtt_ignored_total") >= 1
    assert "old" not in house.daemon.ready()["sources"] and house.client.status("old") == {}


def test_junk_on_many_topics_is_never_online_and_stops_nobody(house: House, stretch: Chunk, engine: Engine) -> None:
    junk = [f"junk-{i}" for i in range(50)]
    sent = frames(stretch)
    for i, name in enumerate(junk):
        for j in range(6):
            house.client.put(name, RNG.bytes(int(RNG.integers(0, 2000))))
            house.client.put("amid", sent[6 * i + j])
    expected = scored([stretch], "amid", engine, ended=False)
    assert house.client.wait_for_events("amid", expected) == expected
    house.daemon.wait(lambda: all(house.daemon.ready()["sources"].get(name) == "offline" for name in junk), "the junk to be known")
    assert all(house.client.status(name).get("state") != "online" for name in junk)
    assert house.daemon.metric("faults_total") == 0


def test_a_rate_too_slow_for_the_model_is_told_in_words(house: House) -> None:
    message = {"hz": 50, "leads": ["I"], "mv": [0.0] * 50}
    for seq in range(3):
        house.client.send("slow", json.dumps(message | {"seq": seq}).encode())
    wait_for(lambda: "50 Hz is too slow" in (house.client.status("slow").get("why") or ""), "the reason", PATIENCE_S)
    assert house.client.status("slow")["state"] != "online"


# Faults that take time: one daemon, all at once.


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """In real time: a device that pauses for 3 s, one that begins to count anew after 2.5 s, and one that is a tenth too fast."""
    folder = tmp_path_factory.mktemp("storm")
    kinds = {"paused": "ads1292r", "reset": "cyton", "fast": "cyton"}
    ports = {name: Port(folder / name) for name in kinds}
    sources = [source(name, kind, serial=folder / name) for name, kind in kinds.items()]
    with Daemon(folder / "daemon", config(*sources)) as daemon:
        for name, port in ports.items():
            port.wait_for(daemon, name)
        begin_s = time.monotonic()
        play(
            [
                Stream(paced([*_sent("ads1292r", 5)], 0.1), ports["paused"].pour, begin_s),
                Stream(paced([*_sent("ads1292r", 5)], 0.1, 8.0), ports["paused"].pour, begin_s),
                Stream(paced([*_sent("cyton", 5)], 0.1), ports["reset"].pour, begin_s),
                Stream(paced([*_sent("cyton", 5)], 0.1, 7.5), ports["reset"].pour, begin_s),
                Stream(paced([*_sent("cyton", 37)], 0.1 / 1.1), ports["fast"].pour, begin_s),
            ]
        )
        yield daemon
    for port in ports.values():
        port.close()


def _sent(kind: str, seconds: int) -> list[bytes]:
    """A tenth of a second each."""
    one = device(kind)
    encoder, size = one.encoder(one.wiring), round(one.wiring.rate_hz / 10)
    samples = heart(75, seconds, one.wiring.rate_hz)[: len(one.wiring.leads)]
    return [encoder.feed(samples[:, at : at + size]) for at in range(0, samples.shape[1], size)]


def test_a_pause_of_a_device_without_a_counter_is_a_gap_as_long_as_it_was(storm: Daemon) -> None:
    counts = storm.counts("paused")
    assert counts["samples"] == sum(len(piece) for piece in _sent("ads1292r", 10)) // len(_one_frame("ads1292r"))
    assert 2.0 * 125 < counts["lost"] < 4.0 * 125


def test_a_device_that_counts_anew_after_a_silence_lost_that_silence_to_a_turn_of_its_counter(storm: Daemon) -> None:
    counts = storm.counts("reset")
    assert counts["samples"] == 10 * 250
    assert abs(counts["lost"] - 2.5 * 250) <= 256 / 2 + 100


def test_a_source_a_tenth_too_fast_loses_nothing_and_is_measured(storm: Daemon) -> None:
    counts = storm.counts("fast")
    assert (counts["samples"], counts["lost"], counts["dropped_bytes"]) == (37 * 250, 0, 0)
    assert storm.metric("source_drift_ppm", "fast") == pytest.approx(100_000, abs=20_000)
    assert np.isnan(storm.metric("source_drift_ppm", "paused"))


def _one_frame(kind: str) -> bytes:
    one = device(kind)
    return one.encoder(one.wiring).feed(np.zeros((len(one.wiring.leads), 1), np.float32))


# Each with a daemon of its own.


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def client(mosquitto: Mosquitto) -> Iterator[Client]:
    with Client(mosquitto.port) as client:
        yield client


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    with Port(tmp_path / "tty") as port:
        yield port


def test_a_broker_that_is_absent_at_boot_is_named_and_waited_for(tmp_path: Path, stretch: Chunk) -> None:
    mosquitto = Mosquitto(tmp_path)
    with Daemon(tmp_path / "daemon", config(on_topic("late"), broker=mosquitto.port)) as daemon:
        assert daemon.page("healthz")[0] == 200
        assert daemon.page("readyz")[0] == 503 and "broker" in daemon.ready()["missing"][0]
        with mosquitto, Client(mosquitto.port) as client:
            client.wait_for_site("online")
            daemon.wait(lambda: daemon.ready()["missing"] == ["late is offline"], "only the source to be missing")
            client.send_all("late", frames(stretch))
            daemon.wait(lambda: daemon.page("readyz")[0] == 200, "readiness")
            wait_for(lambda: client.count("late/scores") > 0, "scores", PATIENCE_S)


def test_a_broker_that_dies_silences_nobody_for_longer_than_it_is_away(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, excerpt: Chunk
) -> None:
    over, sent, published = threading.Event(), frames(excerpt), list[bytes]()
    sources = [source("wired", "frame", serial=tmp_path / "tty"), on_topic("wireless")]

    with Daemon(tmp_path / "daemon", config(*sources, broker=mosquitto.port)) as daemon:
        port.wait_for(daemon, "wired")
        client.wait_for_site("online")
        with in_background(partial(_trickle, sent, port.pour, over), partial(_trickle, sent, partial(_publish, client, published), over)):
            wait_for(lambda: client.count("wired/scores") > 2 and client.count("wireless/scores") > 2, "scores", PATIENCE_S)
            mosquitto.kill()
            daemon.wait(lambda: daemon.metric("broker_connected") == 0, "the loss to be seen")
            daemon.wait_for_samples("wired", daemon.counts("wired")["samples"] + 20 * FRAME)
            heard = {name: client.count(f"{name}/scores") for name in ("wired", "wireless")}
            mosquitto.start()
            wait_for(lambda: all(client.count(f"{name}/scores") > n + 2 for name, n in heard.items()), "scores", PATIENCE_S)
            over.set()
        assert daemon.counts("wired")["lost"] == 0
        # What was in the broker when it died, or came to it before the daemon did, is gone, and counted.
        daemon.wait(lambda: _accounted(daemon, "wireless") == FRAME * len(published), "every sample to be accounted for")
        assert daemon.metric("mqtt_reconnects_total") == 1
        with Client(mosquitto.port) as late:
            for name in ("", "wired", "wireless"):
                late.wait_for_state(name, "online")


def _publish(client: Client, published: list[bytes], frame: bytes) -> None:
    published.append(frame)
    client.put("wireless", frame)


def _accounted(daemon: Daemon, name: str) -> int:
    counts = daemon.counts(name)
    return counts["samples"] + counts["lost"]


def _trickle(data: list[bytes], send: Callable[[bytes], object], over: threading.Event) -> None:
    """Ten times as fast as it was recorded."""
    for piece in data:
        if over.wait(0.01):
            return
        send(piece)


def test_a_daemon_that_stands_still_loses_only_what_nobody_could_hold(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port
) -> None:
    """A port holds a few kilobytes for a process that does not read, a connection far more."""
    wide = Wiring(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), 4000.0, 1000.0)
    encoder, slow = FrameEncoder(wide), JsonEncoder(Wiring(("II",), 250.0, 0.0))
    loud = [encoder.feed(x) for x in np.split(heart(75, 7, 4000)[:8], 70, axis=1)]
    quiet = [slow.feed(x) for x in np.split(heart(75, 7, 250)[1:2], 70, axis=1)]
    with Port(tmp_path / "narrow") as narrow:
        sources = [
            source("wide", "frame", serial=tmp_path / "tty"),
            source("narrow", "cyton", serial=tmp_path / "narrow"),
            on_topic("far", "json"),
        ]
        with Daemon(tmp_path / "daemon", config(*sources, broker=mosquitto.port)) as daemon:
            port.wait_for(daemon, "wide")
            narrow.wait_for(daemon, "narrow")
            client.wait_for_site("online")
            begin_s = time.monotonic()
            streams = [
                Stream(paced(loud, 0.1), port.send, begin_s),
                Stream(paced(_sent("cyton", 7), 0.1), narrow.send, begin_s),
                Stream(paced(quiet, 0.1), partial(client.put, "far"), begin_s),
            ]
            with in_background(partial(play, streams)):
                daemon.wait_for_samples("wide", 4000)
                daemon.signal(signal.SIGSTOP)
                time.sleep(3)
                daemon.signal(signal.SIGCONT)
            daemon.wait_for_samples("far", 7 * 250)
            assert daemon.counts("far")["lost"] == 0
            assert port.lost_bytes > 0
            daemon.wait(lambda: _accounted(daemon, "wide") == 7 * 4000, "every sample of the wide port")
            daemon.wait(lambda: _accounted(daemon, "narrow") == 7 * 250, "every sample of the narrow port")
            assert bool(daemon.counts("narrow")["lost"]) == bool(narrow.lost_bytes)


def test_a_full_disk_costs_the_record_and_nothing_else(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, excerpt: Chunk, engine: Engine
) -> None:
    """A limit on the size of files stands in for the disk's; a new record is tried ten seconds later."""
    whole = between(excerpt, 0, 60)
    sent, record = frames(whole), f'[record]\nfolder = "{tmp_path / "kept"}"'
    tables = config(source("kept", "frame", serial=tmp_path / "tty", record=True), broker=mosquitto.port, more=record)
    with Daemon(tmp_path / "daemon", tables) as daemon:
        client.wait_for_site("online")
        port.feed(daemon, "kept", sent[:150])
        daemon.wait_for_samples("kept", 150 * FRAME)
        daemon.wait(lambda: _bytes(tmp_path / "kept") == 4 * 150 * FRAME, "the record")
        unlimited = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4 * 150 * FRAME + 1000, resource.RLIM_INFINITY))
        port.feed(daemon, "kept", sent[150:200])
        client.wait_for_state("kept", "online", "cannot record")
        daemon.wait(lambda: daemon.counts("kept")["unrecorded"] > 40 * FRAME, "the loss to be counted")
        (first,) = (tmp_path / "kept").rglob("*.hea")
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, unlimited)
        port.feed(daemon, "kept", sent[200:])
        daemon.wait_for_samples("kept", whole.end)
        assert daemon.terminate() == 0
    client.wait_for_site("offline")
    assert client.events("kept") == scored([whole], "kept", engine)
    unrecorded = client.status("kept")["unrecorded"]
    # Not by the time in their names: what plays faster than it was recorded may lie about that.
    records = [_recorded(header) for header in sorted((tmp_path / "kept").rglob("*.hea"), key=lambda header: header != first)]
    assert len(records) == 2 and sum(part.shape[1] for part in records) == whole.end - unrecorded
    assert np.array_equal(records[0], whole.samples_mv[:, : records[0].shape[1]])
    assert np.array_equal(records[1], whole.samples_mv[:, -records[1].shape[1] :])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.dat"))


def _recorded(header: Path) -> Samples:
    return np.concatenate([chunk.samples_mv for chunk in open_recording(header).chunks()], axis=1)


def test_a_daemon_that_is_killed_is_missed_and_comes_back(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, stretch: Chunk
) -> None:
    record = f'[record]\nfolder = "{tmp_path / "kept"}"'
    tables = config(source("kept", "frame", serial=tmp_path / "tty", record=True), broker=mosquitto.port, more=record)
    with Daemon(tmp_path / "daemon", tables) as daemon:
        port.feed(daemon, "kept", frames(stretch))
        daemon.wait_for_samples("kept", stretch.end)
        client.wait_for_state("kept", "online")
        daemon.wait(lambda: _bytes(tmp_path / "kept") >= 4 * (stretch.end - 360), "all but the last second on disk")
        daemon.kill()
        client.wait_for_site("offline")
        (header,) = tmp_path.rglob("*.hea")
        kept = _recorded(header)
        assert kept.shape[1] >= stretch.end - 360 and np.array_equal(kept, stretch.samples_mv[:, : kept.shape[1]])
        scores = client.count("kept/scores")
        daemon.start()
        client.wait_for_site("online")
        port.feed(daemon, "kept", frames(stretch))
        wait_for(lambda: client.count("kept/scores") > scores + 15, "scores", PATIENCE_S)


def test_a_daemon_that_is_told_to_stop_says_and_keeps_all_it_knows(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, stretch: Chunk, engine: Engine
) -> None:
    """The last windows are known only at the end: the resampler looks a little ahead."""
    record = f'[record]\nfolder = "{tmp_path / "kept"}"'
    tables = config(source("kept", "frame", serial=tmp_path / "tty", record=True), broker=mosquitto.port, more=record)
    with Daemon(tmp_path / "daemon", tables) as daemon:
        client.wait_for_site("online")
        port.feed(daemon, "kept", frames(stretch))
        daemon.wait_for_samples("kept", stretch.end)
        assert daemon.terminate() == 0
    client.wait_for_site("offline")
    assert client.status("kept")["state"] == "offline" and client.status("kept")["samples"] == stretch.end
    assert client.events("kept") == scored([stretch], "kept", engine)
    assert [event["at_s"] for event in client.events("kept") if event["type"] == "scores"][-1] == 30.0
    (header,) = tmp_path.rglob("*.hea")
    assert header.read_text().split()[3] == str(stretch.end)
    assert np.array_equal(_recorded(header), stretch.samples_mv)


def test_a_reload_adds_and_removes_sources_while_the_others_go_on(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, stretch: Chunk, engine: Engine
) -> None:
    """A config with a mistake changes nothing."""
    sent = frames(stretch)
    stays, goes, comes = source("stays", "frame", serial=tmp_path / "tty"), on_topic("goes"), on_topic("comes")
    with Daemon(tmp_path / "daemon", config(stays, goes, broker=mosquitto.port)) as daemon:
        client.wait_for_site("online")
        port.feed(daemon, "stays", sent[:100])
        client.send_all("goes", sent[:200])
        daemon.wait_for_samples("goes", 200 * FRAME)
        with in_background(partial(_feed_slowly, port, sent[100:200])):
            daemon.reload(config(stays, goes, 'name = "wrong"', broker=mosquitto.port))
            assert "transport" in daemon.told("config not reloaded")[0]["why"] or "serial" in daemon.told("config not reloaded")[0]["why"]
            assert sorted(daemon.ready()["sources"]) == ["goes", "stays"]
            daemon.reload(config(stays, comes, broker=mosquitto.port))
        client.wait_for_state("goes", "offline")
        port.feed(daemon, "stays", sent[200:])
        client.send_all("comes", sent)
        daemon.wait_for_samples("comes", stretch.end)
        daemon.wait_for_samples("stays", stretch.end)
        assert sorted(daemon.ready()["sources"]) == ["comes", "stays"] and daemon.metric("reloads_total") == 1
        assert daemon.metric("source_opened_total", "stays") == 1
        client.send("goes", sent[200])
        assert daemon.terminate() == 0
    client.wait_for_site("offline")
    for name, chunk in (("stays", stretch), ("comes", stretch), ("goes", between(stretch, 0, 20))):
        assert client.events(name) == scored([chunk], name, engine)


def _feed_slowly(port: Port, data: list[bytes]) -> None:
    for piece in data:
        port.pour(piece)
        time.sleep(0.01)


def test_systemd_hears_of_the_start_of_samples_and_of_the_end(tmp_path: Path, port: Port, stretch: Chunk) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(PATIENCE_S)
        tables = config(source("one", "frame", serial=tmp_path / "tty"))
        with Daemon(tmp_path / "daemon", tables, {"NOTIFY_SOCKET": str(tmp_path / "n")}) as daemon:
            assert systemd.recv(100) == b"READY=1"
            with in_background(partial(_feed_slowly, port, frames(stretch))):
                assert [systemd.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
            daemon.signal(signal.SIGHUP)
            wait_for(lambda: systemd.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC="), "the reload")
            wait_for(lambda: systemd.recv(100) == b"READY=1", "its end")
            daemon.signal(signal.SIGTERM)
            wait_for(lambda: systemd.recv(100) == b"STOPPING=1", "the farewell")
            assert daemon.end() == 0


class _Hanging(Engine):
    """An engine that scores only while it is let."""

    def __init__(self, engine: Engine) -> None:
        self.bundle = engine.bundle
        self.let, self.asked = threading.Event(), threading.Event()
        self._engine = engine

    def run(self, ecg: Samples) -> Result:
        self.asked.set()
        assert self.let.wait(PATIENCE_S)
        return self._engine.run(ecg)

    def close(self) -> None:
        """It is not ours."""


def test_systemd_hears_nothing_more_of_a_scoring_thread_that_hangs(
    tmp_path: Path, stretch: Chunk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, as no fault from outside can make the engine hang."""
    told: list[str] = []
    monkeypatch.setattr(edge.daemon, "notify", told.append)
    monkeypatch.setattr(edge.daemon, "_LATE_S", 1.0)
    os.mkfifo(tmp_path / "fifo")
    hanging, path = _Hanging(engine), tmp_path / "edge.toml"
    path.write_text(config(source("one", "frame", file=tmp_path / "fifo")))
    monkeypatch.setattr(edge.model, "open_engine", lambda bundle, name, threads: hanging)

    async def scenario() -> int:
        daemon = edge.daemon.Daemon(path, read_config(path))
        running = asyncio.create_task(daemon.run())
        writer = os.open(tmp_path / "fifo", os.O_RDWR)
        os.write(writer, b"".join(frames(stretch))[:40_000])
        await _until(hanging.asked.is_set)
        await asyncio.sleep(1.5)
        assert not daemon.health().alive
        before = told.count("WATCHDOG=1")
        await asyncio.sleep(1.0)
        assert told.count("WATCHDOG=1") == before
        hanging.let.set()
        await _until(lambda: told.count("WATCHDOG=1") > before)
        assert daemon.health().alive
        os.kill(os.getpid(), signal.SIGTERM)
        os.close(writer)
        return await running

    assert asyncio.run(scenario()) == 0
    assert told[0] == "READY=1" and told[-1] == "STOPPING=1"


async def _until(known: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not known():
        assert time.monotonic() < until_s, "waited in vain"
        await asyncio.sleep(0.02)


def test_a_port_that_is_taken_ends_the_start_with_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        tables = config(source("one", "frame", serial=tmp_path / "none")).replace("port = 0", f"port = {number}")
        daemon = Daemon(tmp_path, tables).spawn()
        assert daemon.end() == 2
    assert f"127.0.0.1:{number}" in daemon.said and "another port" in daemon.said and "Traceback" not in daemon.said


def test_a_mistake_in_the_config_ends_the_start_with_words(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, config(source("one", "fraem", serial=tmp_path / "none"))).spawn()
    assert daemon.end() == 2
    assert "fraem" in daemon.said and "frame" in daemon.said and "Traceback" not in daemon.said


def test_two_daemons_cannot_share_a_port_and_the_first_does_not_notice(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, port: Port, stretch: Chunk, engine: Engine
) -> None:
    sent = frames(stretch)
    first = config(source("first", "frame", serial=tmp_path / "tty"), broker=mosquitto.port)
    second = config(source("second", "frame", serial=tmp_path / "tty", stall_s=0.5))
    with Daemon(tmp_path / "first", first) as owner:
        port.feed(owner, "first", sent[:150])
        with Daemon(tmp_path / "second", second) as rival:
            rival.wait(lambda: "another program holds" in rival.ready()["missing"][0], "the reason")
            port.feed(owner, "first", sent[150:])
            owner.wait_for_samples("first", stretch.end)
            assert rival.counts("second")["samples"] == 0
        assert owner.counts("first")["lost"] == 0 and owner.terminate() == 0
    client.wait_for_site("offline")
    assert client.events("first") == scored([stretch], "first", engine)


def test_a_topic_as_long_as_mqtt_allows_is_ignored_and_stops_nobody(house: House, stretch: Chunk) -> None:
    """The status of such a source would have a longer topic than MQTT allows."""
    house.client.send("x" * 65_000, frames(stretch)[0])
    house.client.send_all("after-it", frames(between(stretch, 0, 1)))
    house.client.wait_for_state("after-it", "online")
    assert house.daemon.page("healthz")[0] == 200
    assert house.daemon.metric("faults_total") == 0


def test_when_whoever_reads_standard_output_goes_the_daemon_ends_and_says_so(tmp_path: Path, port: Port, stretch: Chunk) -> None:
    """As with `cardiogloss run edge.toml | head -1`."""
    text = config(source("one", "frame", serial=str(port.path)))
    (tmp_path / "edge.toml").write_text(text)
    command = [sys.executable, "-m", "edge", "run", str(tmp_path / "edge.toml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        port.wait(PATIENCE_S)
        assert process.stdout is not None and process.stderr is not None
        port.send(b"".join(frames(between(stretch, 0, 1))))
        process.stdout.readline()
        process.stdout.close()
        for frame in frames(between(stretch, 1, 25)):
            time.sleep(0.01)
            port.send(frame)
            if process.poll() is not None:
                break
        assert process.wait(PATIENCE_S) == 1
        assert b"Traceback" not in process.stderr.read()
