"""A fleet of real processes over a real broker: its scores are to the bit those of the engine, none is lost, and none told twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge.__main__ import app
from edge.config import Mqtt
from edge.decode.devices import device
from edge.fleet import command, patience
from edge.fleet import remote as remote_module
from edge.fleet.remote import RemoteEngine
from edge.fleet.settings import read_settings
from edge.fleet.window import Answer, Ticket, pack_answer, unpack_window
from edge.message import to_message
from edge.pipeline import Pipeline
from edge.replay import replay
from edge.transport.file import open_recording
from edge.transport.mqtt import Broker
from kernels.bundle import Bundle, BundleError
from kernels.engine import Engine
from kernels.findings import ConfigError
from kernels.signal import Samples

from .broker import Mosquitto, wait_for
from .conftest import EXCERPT
from .daemon import PATIENCE_S, ROOT, Client, Daemon, bare, config, encoded, on_topic, write_excerpt

GATEWAYS = 3
WINDOWS = 72
"""For each gateway."""
FRAMES = (device("frame"), device("frame").wire(("II", "V1"), 360.0, 200.0))


class Worker:
    """`with Worker(folder, broker) as worker:` starts a score-worker of its own; the end of the block ends it."""

    def __init__(self, folder: Path, port: int, *options: str, prefix: str = "cardiogloss", more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config, self._log, self._options = folder / "worker.toml", folder / "worker.log", options
        self._config.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprefix = "{prefix}"\n{more}\n')

    def __enter__(self) -> Worker:
        command = [sys.executable, "-m", "edge", "score-worker", str(self._config), *self._options]
        with self._log.open("wb") as told:
            self.process = subprocess.Popen(command, stderr=told, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT)
        return self

    def __exit__(self, *error: object) -> None:
        # One that is stopped would not hear anything else.
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def told(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def wait(self, event: str) -> dict[str, Any]:
        """Until it says so. Raises AssertionError, with its log, where it ends before."""

        def _known() -> bool:
            assert self.told(event) or self.process.poll() is None, self._log.read_text()
            return bool(self.told(event))

        wait_for(_known, event, PATIENCE_S)
        return self.told(event)[-1]

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def page(self, name: str) -> tuple[int, str]:
        address = self.wait("pages")["address"]
        try:
            with urllib.request.urlopen(f"{address}/{name}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class Gateway:
    """A remote engine that runs rounds in a thread."""

    def __init__(self, engine: RemoteEngine, ecg: Samples, batch: int = 32) -> None:
        self.engine = engine
        self.rows: list[Samples] = []
        self.error: BaseException | None = None
        self._ecg, self._batch = ecg, batch
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> Samples:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"it still waits: {self.engine.problem}, {self.engine.counts}"
        if self.error:
            raise self.error
        return np.concatenate(self.rows)

    def _run(self) -> None:
        try:
            for at in range(0, len(self._ecg), self._batch):
                self.rows.append(self.engine.run(self._ecg[at : at + self._batch]).probability)
        except (TimeoutError, BundleError) as error:
            self.error = error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    with Mosquitto(folder, "allow_anonymous true\nset_tcp_nodelay true") as broker:
        yield broker


@pytest.fixture(scope="module", autouse=True)
def lonely(folder: Path, mosquitto: Mosquitto) -> Iterator[Daemon]:
    """A monitor that nobody scores for, and that has windows to be scored; it waits while the other tests run."""
    record = write_excerpt(folder, "lonely", 20)
    with Client(mosquitto.port) as client, Daemon(folder / "lonely-daemon", _remote_config("lonely", mosquitto, "alone")) as daemon:
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        client.send_all("lonely", encoded(record, *FRAMES))
        yield daemon


@pytest.fixture(scope="module")
def ecg(engine: Engine) -> Samples:
    """The windows of a real recording."""
    pipeline = Pipeline("x", engine)
    jobs = [job.ecg for chunk in open_recording(EXCERPT).chunks() for job in pipeline.prepare(chunk).jobs]
    return np.stack(jobs)


@pytest.fixture
def remote(mosquitto: Mosquitto, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RemoteEngine]]:
    """Makes engines, under prefixes that no other test uses, that are not as patient as others."""
    monkeypatch.setattr(remote_module, "_SILENT_S", 0.6)
    monkeypatch.setattr(patience, "MOST_S", 0.5)
    made: list[RemoteEngine] = []

    def make(prefix: str, gateway: str = "gw", meanwhile: Callable[[], object] = lambda: None) -> RemoteEngine:
        made.append(RemoteEngine(bundle, Mqtt(host="127.0.0.1", port=mosquitto.port, prefix=prefix), "ward", gateway, meanwhile))
        return made[-1]

    yield make
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(RemoteEngine.close, made))


def _remote_config(name: str, mosquitto: Mosquitto, prefix: str) -> str:
    text = config(on_topic(name, stall_s=1.0), broker=mosquitto.port)
    return text.replace("[mqtt]", f'[model]\nengine = "remote"\n[mqtt]\nclient_id = "{name}"\nprefix = "{prefix}"')


@dataclass(frozen=True, slots=True)
class Struck:
    """What became of a fleet of which one worker was killed with windows in its hands."""

    engines: list[RemoteEngine]
    rows: list[Samples]
    survivor: str
    scored: int
    """By the survivor, as it said when it was told to end."""
    code: int
    """With which it ended."""


@pytest.fixture(scope="module")
def struck(mosquitto: Mosquitto, folder: Path, ecg: Samples, bundle: Bundle) -> Struck:
    mqtt = Mqtt(host="127.0.0.1", port=mosquitto.port, prefix="struck")
    with Worker(folder / "a", mosquitto.port, prefix="struck") as killed, Worker(folder / "b", mosquitto.port, prefix="struck") as other:
        killed.wait("broker connected")
        other.wait("broker connected")
        engines = [RemoteEngine(bundle, mqtt, "ward", f"gw{i}") for i in range(GATEWAYS)]
        for one in engines:
            one.run(ecg[:1])
        # It takes windows and does nothing with them.
        killed.process.send_signal(signal.SIGSTOP)
        gateways = [Gateway(one, ecg[i * WINDOWS : (i + 1) * WINDOWS]) for i, one in enumerate(engines)]
        wait_for(lambda: all(one.counts.scored > 1 for one in engines), "the other worker to score", PATIENCE_S)
        killed.process.kill()
        rows = [gateway.join() for gateway in gateways]
        code = other.terminate()
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(RemoteEngine.close, engines))
        return Struck(engines, rows, other.told("scoring")[-1]["worker"], other.told("stopped")[-1]["scored"], code)


def test_three_gateways_lose_nothing_when_one_of_two_workers_is_killed_with_windows_in_its_hands(
    struck: Struck, ecg: Samples, engine: Engine
) -> None:
    for i, rows in enumerate(struck.rows):
        assert rows.tobytes() == engine.run(ecg[i * WINDOWS : (i + 1) * WINDOWS]).probability.tobytes()
    counts = [one.counts for one in struck.engines]
    assert [one.scored for one in counts] == [one.asked for one in counts] == [WINDOWS + 1] * GATEWAYS
    assert sum(one.again for one in counts) > 0


def test_a_worker_acknowledges_a_window_after_the_broker_has_its_answer_and_in_order(struck: Struck, mosquitto: Mosquitto) -> None:
    """By the broker's own log of packets."""
    name = re.escape(struck.survivor)
    dealt, acknowledged, answered = [], [], 0
    for line in mosquitto.log.read_text().splitlines():
        if found := re.search(rf"Sending PUBLISH to {name} \(d0, q1, r0, m(\d+), 'struck/", line):
            dealt.append(found[1])
        elif re.search(rf"Sending PUBACK to {name} ", line):
            answered += 1
        elif found := re.search(rf"Received PUBACK from {name} \(Mid: (\d+)", line):
            acknowledged.append(found[1])
            assert len(acknowledged) <= answered, "acknowledged before the broker had the answer"
    assert len(dealt) > WINDOWS
    assert acknowledged == dealt


def test_a_worker_that_is_told_to_end_has_answered_all_it_was_dealt(struck: Struck, mosquitto: Mosquitto) -> None:
    assert struck.code == 0
    assert struck.scored == mosquitto.log.read_text().count(f"Sending PUBLISH to {struck.survivor} ")


def test_who_has_another_bundle_says_so_and_a_gateway_that_nobody_answers_recovers_once_somebody_does(
    mosquitto: Mosquitto, folder: Path, ecg: Samples, engine: Engine, remote: Callable[..., RemoteEngine]
) -> None:
    polled: list[float] = []
    one = remote("other", meanwhile=lambda: polled.append(time.monotonic()))
    gateway = Gateway(one, ecg[:5])
    wait_for(lambda: one.problem == "no score-worker answers", "the engine to say that nobody answers", PATIENCE_S)
    assert len(polled) >= 2
    with Worker(folder / "d", mosquitto.port, "--bundle", "cardiogloss-int8", prefix="other") as other:
        other.wait("broker connected")
        wait_for(lambda: "it has the bundle" in (one.problem or ""), "the engine to say who has another bundle", PATIENCE_S)
        assert engine.bundle.card.sha256[:12] in (one.problem or "")
        assert engine.bundle.card.sha256[:12] in other.wait("window refused")["why"]
        with Worker(folder / "e", mosquitto.port, prefix="other") as right:
            right.wait("broker connected")
            # With one of two who cannot score among those who share.
            assert gateway.join().tobytes() == engine.run(ecg[:5]).probability.tobytes()
            assert one.problem is None
            assert len(other.told("window refused")) == 1


def test_who_is_to_leave_waits_no_longer(ecg: Samples, remote: Callable[..., RemoteEngine]) -> None:
    one = remote("left")
    gateway = Gateway(one, ecg[:3])
    wait_for(lambda: one.counts.asked == 3, "the windows to be asked for")
    one.leave(0.1)
    with pytest.raises(TimeoutError, match="no score-worker answers; 3 windows are not scored"):
        gateway.join()
    assert one.counts.unanswered == 3


def test_what_is_no_answer_to_a_window_that_was_asked_is_counted_and_nothing_else(
    mosquitto: Mosquitto, ecg: Samples, remote: Callable[..., RemoteEngine], bundle: Bundle
) -> None:
    """Of another session, damaged, of a window that is not asked yet, and scores that are no probabilities."""
    seen: list[bytes] = []
    sender = Broker(Mqtt(host="127.0.0.1", port=mosquitto.port), "sender", on_message=lambda topic, payload, _: seen.append(payload))
    sender.subscribe("foreign/ward/fleet/window/gw")
    sender.start()
    wait_for(lambda: sender.connected, "the sender")
    one = remote("foreign")
    gateway = Gateway(one, ecg[:1])
    wait_for(lambda: bool(seen), "the window")
    asked = unpack_window(seen[0])
    assert asked is not None
    low = np.zeros(len(bundle.card.findings), np.float32)
    foreign, early = Ticket(bytes(16), 0), Ticket(asked.ticket.session, asked.ticket.number + 1)
    own = [(foreign, low), (early, low), (asked.ticket, low + 1.5), (asked.ticket, low - np.inf), (asked.ticket, low[1:])]
    wrong = [pack_answer(Answer(ticket, asked.bundle, "w", scores)) for ticket, scores in own]
    for payload in (*wrong, b"no answer", wrong[0][:-1]):
        sender.publish("foreign/ward/fleet/result/gw", payload, qos=1)
    wait_for(lambda: one.counts.unsound == 7, f"seven messages that are no answers; {one.counts}")
    assert one.counts.scored == 0
    one.leave(0.0)
    with pytest.raises(TimeoutError):
        gateway.join()
    sender.stop()


def test_what_nobody_answers_is_scored_by_the_engine_that_it_is_handed_over_to(
    ecg: Samples, engine: Engine, remote: Callable[..., RemoteEngine]
) -> None:
    """As where a config that is read again says to score here, while all workers are gone."""
    one = remote("handed")
    gateway = Gateway(one, ecg[:3])
    wait_for(lambda: one.counts.asked == 3, "the windows to be asked for")
    assert one.hand_over(engine)
    assert gateway.join().tobytes() == engine.run(ecg[:3]).probability.tobytes()
    assert one.counts.scored == one.counts.unanswered == 0


def test_windows_are_not_handed_over_to_a_bundle_of_other_findings(remote: Callable[..., RemoteEngine], bundle: Bundle) -> None:
    other = remote("fewer")
    other.bundle = replace(bundle, card=bundle.card.model_copy(update={"findings": bundle.card.findings[1:]}))
    assert not remote("all").hand_over(other)


@pytest.mark.parametrize("leaves_first", [True, False])
def test_who_is_to_leave_waits_no_longer_for_those_whom_another_engine_asks(
    ecg: Samples, remote: Callable[..., RemoteEngine], leaves_first: bool
) -> None:
    one, other = remote("first"), remote("second")
    gateway = Gateway(one, ecg[:2])
    if leaves_first:
        one.leave(60.0)
    one.hand_over(other)
    wait_for(lambda: other.counts.asked == 2, "the windows to be asked for anew")
    one.leave(0.1)
    with pytest.raises(TimeoutError, match="2 windows are not scored"):
        gateway.join()


def test_an_engine_goes_on_once_the_one_that_it_took_over_from_is_closed(ecg: Samples, remote: Callable[..., RemoteEngine]) -> None:
    one, other = remote("closed"), remote("open")
    one.hand_over(other)
    one.close()
    gateway = Gateway(other, ecg[:1])
    wait_for(lambda: other.problem == "no score-worker answers", "the engine to say that nobody answers", PATIENCE_S)
    other.leave(0.0)
    with pytest.raises(TimeoutError):
        gateway.join()


def test_no_two_workers_have_one_name_though_all_processes_of_containers_have_one_number(tmp_path: Path) -> None:
    """A broker keeps one client of a name: they would throw each other out, again and again."""
    (tmp_path / "worker.toml").write_text("[mqtt]\n")
    settings = read_settings(tmp_path / "worker.toml")
    assert command._name(settings) != command._name(settings)


def test_the_help_says_which_tables_a_worker_reads() -> None:
    said = CliRunner().invoke(app, ["score-worker", "--help"]).output
    assert all(table in said for table in ("model", "mqtt", "http", "log"))


def test_a_worker_waits_for_a_broker_that_is_away_and_says_how_it_is(folder: Path, ecg: Samples) -> None:
    (folder / "late").mkdir()
    late = Mosquitto(folder / "late")
    with Worker(folder / "f", late.port, more="[http]\nport = 0") as worker:
        worker.wait("broker lost")
        assert worker.page("healthz")[0] == 200
        assert worker.page("readyz") == (503, '{"ready":false,"missing":["the broker cannot be reached"]}')
        with late:
            worker.wait("broker connected")
            assert worker.page("readyz")[0] == 200
            sender = Broker(Mqtt(host="127.0.0.1", port=late.port), "sender")
            sender.start()
            wait_for(lambda: sender.connected, "the sender")
            sender.publish("cardiogloss/ward/fleet/window/gw", b"no window", qos=1)
            wait_for(lambda: "cardiogloss_worker_windows_unsound_total 1.0" in worker.page("metrics")[1], "the metric")
            sender.stop()
            assert worker.terminate() == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mqtt: missing"),
        ('[model]\nengine = "remote"\n[mqtt]\n', "model.engine: a score-worker scores itself"),
        ('[mqtt]\nversion = "3.1.1"\n', "mqtt.version: workers share windows by a subscription of MQTT 5"),
        ('[mqtt]\npassword_env = "X"\n', "mqtt.user: missing"),
        ('[mqtt]\nhots = "x"\n', "did you mean host"),
    ],
)
def test_an_operator_s_mistake_is_told_in_words(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_settings(tmp_path / "edge.toml")
    assert words in str(error.value)


def test_the_config_of_a_monitor_serves_its_workers_too(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(config(on_topic("bed1"), broker=1884, more="[outbox]\nlimit_days = 1\n"))
    settings = read_settings(path)
    assert (settings.mqtt.port, settings.site) == (1884, "test")


def test_a_worker_for_a_bundle_of_streams_ends_with_2(tmp_path: Path) -> None:
    with Worker(tmp_path, 1884, "--bundle", "cardiogloss-stream") as worker:
        assert worker.process.wait(PATIENCE_S) == 2


def test_a_monitor_scores_what_waited_once_a_worker_comes_and_alerts_meanwhile_that_it_is_late(
    mosquitto: Mosquitto, folder: Path, engine: Engine
) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    record = write_excerpt(folder, "waits", 20)
    listener = Broker(Mqtt(host="127.0.0.1", port=mosquitto.port), "hears", on_message=lambda topic, data, _: _note(heard, topic, data))
    for kind in ("scores", "vitals", "alert", "evidence"):
        listener.subscribe(f"late/test/waits/{kind}")
    listener.start()
    expected = bare(json.loads(json.dumps(to_message(event))) for _, events in replay(open_recording(record), engine) for event in events)

    def stalled() -> list[str]:
        return [message["state"] for topic, message in heard if message.get("finding") == "stalled"]

    with Client(mosquitto.port) as client, Daemon(folder / "waits-daemon", _remote_config("waits", mosquitto, "late")) as daemon:
        daemon.wait(lambda: listener.connected and daemon.metric("broker_connected") == 1, "the broker")
        client.send_all("waits", encoded(record, *FRAMES))
        daemon.wait(lambda: "raised" in stalled(), "the alert that the monitor is late")
        assert not any(message["type"] == "scores" for _, message in heard)
        with Worker(folder / "g", mosquitto.port, prefix="late") as worker:
            worker.wait("broker connected")
            daemon.wait(lambda: sum(message["type"] == "scores" for _, message in heard) >= 10, "all scores but what the end makes known")
            assert daemon.terminate() == 0
        listener.stop()
    got = bare(message for _, message in heard)
    scores = [message for message in got if message["type"] == "scores"]
    assert scores == [message for message in expected if message["type"] == "scores"]


def _note(heard: list[tuple[str, dict[str, Any]]], topic: str, data: bytes) -> None:
    heard.append((topic, json.loads(data)))


def test_a_monitor_that_nobody_scores_for_lives_says_so_and_ends_in_time(lonely: Daemon) -> None:
    """Last of all, as it has waited meanwhile."""
    lonely.wait(lambda: "no score-worker answers" in lonely.ready()["missing"], "the page to say so")
    assert lonely.page("healthz")[0] == 200
    assert lonely.metric("fleet_asked_total") > 0 and lonely.metric("fleet_scored_total") == 0
    begun_s = time.monotonic()
    assert lonely.terminate() == 0
    assert time.monotonic() - begun_s < 20
    assert "are not scored" in lonely.told("what waits is not scored")[-1]["why"]
    assert not lonely.told("a fault of cardiogloss, please report it")
