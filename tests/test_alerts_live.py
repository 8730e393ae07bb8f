"""Alerts through the real daemon and a real broker: whatever ends, fills up or goes away, each is told, once, and under one id."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import wfdb
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.publish import single
from scipy.signal import resample_poly

from edge.config import Mqtt
from edge.contract import AlertMessage, AlertState, EvidenceMessage
from edge.decode.chunk import Chunk
from edge.decode.device import Wiring
from edge.decode.frame import FrameEncoder
from edge.ordeal import ordeal
from edge.subscribe import Kind, Subscription, Told, subscribe
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import Engine

from .broker import Mosquitto, wait_for
from .conftest import EXCERPT
from .daemon import PATIENCE_S, SITE, Client, Daemon, Json, Port, between, config, frames, on_topic, scored, source

AF = "atrial_fibrillation"
OUTBOX = f"cardiogloss/{SITE}.db"
NEVER_S = 600.0
"""A `stall_s` that no test waits for."""
ANYWHERE = f'mqtt = "cardiogloss/{SITE}/+/ecg"\nstall_s = {NEVER_S}'


class Heard:
    """What a program gets that subscribes with `edge.subscribe`, taken by a thread of its own."""

    def __init__(self, broker: Mqtt, also: Sequence[Kind] = ("evidence",)) -> None:
        self.messages: list[Told] = []
        self.alerts: Subscription = subscribe(broker, site=SITE, since="beginning", also=also)
        self._thread = threading.Thread(target=self._take_all, daemon=True)

    def __enter__(self) -> Heard:
        self._thread.start()
        wait_for(lambda: self.alerts.connected, "the subscription")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.alerts.close()

    def of(self, name: str, finding: str | None = None) -> list[AlertMessage]:
        """Its alerts, of one finding or of all, in the order in which they came."""
        alerts = [message for message in self.messages if isinstance(message, AlertMessage) and message.source == name]
        return [alert for alert in alerts if finding in (None, alert.finding)]

    def wait(self, name: str, finding: str, state: str, seq: int | None = None, patience_s: float = PATIENCE_S) -> AlertMessage:
        """The first such alert, once it has come."""

        def _found() -> list[AlertMessage]:
            return [alert for alert in self.of(name, finding) if alert.state == state and seq in (None, alert.seq)]

        wait_for(_found, f"{finding} of {name} to be {state}; it had {brief(self.of(name))}", patience_s)
        return _found()[0]

    def wait_for_evidence(self, alert: AlertMessage) -> EvidenceMessage:
        def _found() -> list[EvidenceMessage]:
            return [message for message in self.messages if isinstance(message, EvidenceMessage) and message.id == alert.id]

        wait_for(_found, f"the evidence of {alert.finding}", PATIENCE_S)
        return _found()[0]

    def _take_all(self) -> None:
        while message := self.alerts.receive():
            self.messages.append(message)


def brief(alerts: Sequence[AlertMessage]) -> list[tuple[str, int, str, float]]:
    """What a replay knows of them, too."""
    return [(alert.finding, alert.seq, alert.state, alert.at_s) for alert in alerts]


def replayed(chunk: Chunk, engine: Engine) -> list[tuple[str, int, str, float]]:
    """The same, as a pipeline without a daemon tells it."""
    alerts = [message for message in scored([chunk], "any", engine, ended=False) if message["type"] == "alert"]
    return [(alert["finding"], alert["seq"], alert["state"], alert["at_s"]) for alert in alerts]


class Wire:
    """All that comes on some topics, by paho alone, as bytes."""

    def __init__(self, port: int, topic: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._port = port
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *rest: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *rest: self._subscribed.set()
        self._client.on_message = lambda client, userdata, message: self.messages.append(message)

    def __enter__(self) -> Wire:
        self._client.connect_async("127.0.0.1", self._port)
        self._client.loop_start()
        wait_for(self._subscribed.is_set, "the subscription")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def payloads(self, part: str) -> list[bytes]:
        """Of the topics with this in their names."""
        return [bytes(message.payload) for message in self.messages if part in message.topic]


def put(port: int, topic: str, payload: bytes, retain: bool = False) -> None:
    """By paho's one-shot client, under the topics of the site; returns once the broker has it."""
    single(f"cardiogloss/{SITE}/{topic}", payload, qos=1, retain=retain, hostname="127.0.0.1", port=port)


def retained(port: int, topic: str) -> Json:
    """What a program that comes now is told there at once."""
    with Client(port) as late:

        def _found() -> list[Json]:
            return [message.payload for message in late.messages if message.retained and message.topic == f"cardiogloss/{SITE}/{topic}"]

        wait_for(_found, f"the retained message of {topic}", PATIENCE_S)
        return _found()[0]


def count_of(daemon: Daemon, name: str) -> float:
    """What /metrics says of the outbox."""
    found = re.search(rf"^cardiogloss_\w*outbox_{name}(?:_total)? (\S+)$", daemon.page("metrics")[1], re.MULTILINE)
    assert found, f"no {name} in /metrics"
    return float(found[1])


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mosquitto(tmp_path: Path, scope: ExitStack) -> Mosquitto:
    return scope.enter_context(Mosquitto(tmp_path))


@pytest.fixture
def client(mosquitto: Mosquitto, scope: ExitStack) -> Client:
    return scope.enter_context(Client(mosquitto.port))


@pytest.fixture
def heard(mosquitto: Mosquitto, scope: ExitStack) -> Heard:
    return scope.enter_context(Heard(Mqtt(host="127.0.0.1", port=mosquitto.port)))


# One daemon with whatever sources appear, one that falls silent and one that never sends.


@dataclass(frozen=True, slots=True)
class Ward:
    daemon: Daemon
    client: Client
    heard: Heard
    port: int


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    sources = [ANYWHERE, on_topic("silent", stall_s=1.0), on_topic("never", stall_s=1.0)]
    with Mosquitto(folder) as broker, Client(broker.port) as client, Heard(Mqtt(host="127.0.0.1", port=broker.port)) as heard:
        put(broker.port, "never/command", json.dumps({"command": "silence", "for_s": 600, "command_id": "old"}).encode(), retain=True)
        with Daemon(folder / "daemon", config(*sources, broker=broker.port)) as daemon:
            client.wait_for_site("online")
            yield Ward(daemon, client, heard, broker.port)


def loosened(chunk: Chunk, leads: Sequence[str], off_s: float, on_s: float, how: str) -> list[bytes]:
    """Frames of a tenth of a second in which these leads come off and back on."""
    encoder = FrameEncoder(Wiring(chunk.leads, chunk.rate_hz, 200.0))
    samples = chunk.samples_mv.copy()
    rows, first, last = [chunk.leads.index(lead) for lead in leads], round(off_s * chunk.rate_hz), round(on_s * chunk.rate_hz)
    if how != "flagged":
        samples[rows, first:last] = np.nan if how == "invalid" else 0.25
    ends = range(0, samples.shape[1], 36)
    return [encoder.feed(samples[:, at : at + 36], tuple(leads) if how == "flagged" and first <= at < last else ()) for at in ends]


@pytest.mark.parametrize("how", ["flagged", "invalid", "flat"])
@pytest.mark.parametrize(
    ("leads", "off_s", "finding"), [(("V1",), 20.3, "lead_off"), (("II",), 20.3, "lead_off"), (("II", "V1"), 14.3, "no_signal")]
)
def test_what_comes_off_is_a_technical_alert_within_five_seconds_and_none_of_the_heart(
    leads: tuple[str, ...], off_s: float, finding: str, how: str, ward: Ward, excerpt: Chunk
) -> None:
    """Fibrillation is on when one lead comes off, and a window short of being raised when both do."""
    name = f"off-{'-'.join(leads)}-{how}"
    ward.client.send_all(name, loosened(between(excerpt, 0, 50), leads, off_s, 35, how))
    raised = ward.heard.wait(name, finding, "raised")
    assert off_s < raised.at_s <= off_s + 5 and raised.kind == "technical" and all(lead in str(raised.why) for lead in leads)
    cleared = ward.heard.wait(name, finding, "cleared")
    assert cleared.id == raised.id and 35 < cleared.at_s <= 45
    begun = [alert for alert in ward.heard.of(name) if alert.state == "raised" and off_s < alert.at_s <= 35]
    assert [alert.finding for alert in begun] == [finding]


def test_both_leads_off_are_never_told_as_a_lead_that_is_off(ward: Ward) -> None:
    """The lesser alert is silenced by the greater."""
    names = [f"off-II-V1-{how}" for how in ("flagged", "invalid", "flat")]
    assert all(ward.heard.of(name) and not ward.heard.of(name, "lead_off") for name in names)


def test_a_source_that_falls_silent_is_a_technical_alert_until_samples_come_again(ward: Ward, excerpt: Chunk) -> None:
    sent = frames(between(excerpt, 0, 5))
    ward.client.send_all("silent", sent[:30])
    raised = ward.heard.wait("silent", "stalled", "raised")
    assert (raised.kind, raised.priority) == ("technical", "medium") and "1 s" in str(raised.why)
    state = retained(ward.port, "silent/alert/stalled")
    assert (state["id"], state["state"]) == (raised.id, "raised") and "evidence" not in state
    ward.client.send_all("silent", sent[30:])
    cleared = ward.heard.wait("silent", "stalled", "cleared")
    assert (cleared.id, cleared.seq, cleared.onset_time) == (raised.id, 1, raised.onset_time)


def test_a_required_source_that_never_sends_is_an_alert_and_a_retained_state_says_so(ward: Ward) -> None:
    raised = ward.heard.wait("never", "stalled", "raised")
    assert raised.kind == "technical" and "nothing came" in str(raised.why)
    state = retained(ward.port, "never/alert/stalled")
    assert (state["id"], state["state"], state["seq"]) == (raised.id, "raised", 0)
    assert ward.client.status("never")["state"] == "offline"


def test_a_retained_command_is_an_old_one_and_nobody_obeys_or_answers_it(ward: Ward) -> None:
    """It was there before the daemon connected. The daemon answers another, so the first has been passed over."""
    assert ward.heard.alerts.silence("never", 0, "lead_off", by="the test").ok
    replies = [message.payload for message in ward.client.messages if message.topic == f"cardiogloss/{SITE}/never/reply"]
    assert replies and all(reply["command_id"] != "old" for reply in replies)
    assert not any(alert.silenced for alert in ward.heard.of("never"))


def test_acknowledged_and_silenced_alerts_are_told_anew_and_silence_ends_by_itself(ward: Ward, excerpt: Chunk) -> None:
    sent, heard = frames(between(excerpt, 0, 80)), ward.heard
    ward.client.send_all("acks", sent[:400])
    raised = heard.wait("acks", AF, "raised")
    assert heard.alerts.acknowledge(raised, by="nurse 7").ok
    assert heard.wait("acks", AF, "updated", 1).acknowledged_by == "nurse 7"
    assert heard.alerts.silence("acks", 5, AF, by="the night shift").ok
    assert heard.wait("acks", AF, "updated", 2).silenced
    ward.client.send_all("acks", sent[400:600])
    loud = heard.wait("acks", AF, "updated", 3)
    assert (loud.silenced, loud.why, loud.acknowledged_by) == (False, "no longer silenced", "nurse 7")
    assert heard.alerts.silence("acks", 600, by="the night shift").ok
    assert heard.wait("acks", AF, "updated", 4).silenced and heard.wait("acks", "leads_missing", "updated", 1).silenced
    assert heard.alerts.silence("acks", 0, by="the day shift").ok
    assert not heard.wait("acks", AF, "updated", 5).silenced and not heard.wait("acks", "leads_missing", "updated", 2).silenced
    assert {alert.id for alert in heard.of("acks", AF)} == {raised.id}
    state = retained(ward.port, f"acks/alert/{AF}")
    assert (state["seq"], state["silenced"], state["acknowledged_by"]) == (5, False, "nurse 7")


def test_commands_that_cannot_be_obeyed_are_refused_in_words_and_the_daemon_goes_on(ward: Ward, excerpt: Chunk) -> None:
    ward.client.send_all("refused", frames(between(excerpt, 0, 20)))
    alerts = ward.heard.alerts
    raised = ward.heard.wait("refused", AF, "raised")
    stranger = raised.model_copy(update={"id": "0123456789abcdef"})
    nobody = raised.model_copy(update={"source": "nobody"})
    for reply, words in (
        (alerts.acknowledge(stranger, by="x"), "no alert 0123456789abcdef is on at refused"),
        (alerts.acknowledge(nobody, by="x"), "no source nobody is watched"),
        (alerts.silence("refused", 5, "hiccups", by="x"), "hiccups is no finding that alerts"),
        (alerts.silence("refused", 5, "sinus_rhythm", by="x"), "sinus_rhythm is no finding that alerts"),
        (alerts.silence("nobody", 5, by="x"), "no source nobody is watched"),
    ):
        assert not reply.ok and words in str(reply.why)
    before = ward.client.count("refused/reply")
    junk = [b"", b"\xff\x00", b"[]", b"null", b'{"command": "reboot"}', b"[" * 5000, b'{"command": "silence", "for_s": 1e999}']
    for payload in junk:
        put(ward.port, "refused/command", payload)
    wait_for(lambda: ward.client.count("refused/reply") == before + len(junk), "the replies to junk", PATIENCE_S)
    replies = [message.payload for message in ward.client.messages if message.topic.endswith("/refused/reply")][-len(junk) :]
    assert all(not reply["ok"] and reply["why"] and reply["command_id"] is None for reply in replies)
    assert alerts.acknowledge(raised, by="x").ok
    assert ward.daemon.metric("faults_total") == 0 and ward.daemon.page("healthz")[0] == 200


def test_a_command_out_of_bounds_is_refused_in_words_to_whoever_sent_it(ward: Ward) -> None:
    """A silence of two days, as somebody might ask for; a program must not be told that nobody answers."""
    reply = ward.heard.alerts.silence("never", 48 * 3600, by="somebody in a hurry")
    assert not reply.ok and "86400" in str(reply.why)


def fetch(daemon: Daemon, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"{daemon.address}/{path}", timeout=60) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read()


def test_the_pages_of_an_alert_show_the_signal_that_was_sent(ward: Ward, excerpt: Chunk, tmp_path: Path) -> None:
    """The record is read by WFDB's own reader, and held against the samples that were sent, resampled by scipy."""
    ward.client.send_all("shown", frames(between(excerpt, 0, 40)))
    raised = ward.heard.wait("shown", AF, "raised")
    after = ward.heard.wait_for_evidence(raised)
    listed = json.loads(fetch(ward.daemon, "alerts")[2])
    assert [(one["finding"], one["state"]) for one in listed if one["source"] == "shown"] == [(AF, "raised"), ("leads_missing", "raised")]
    page = json.loads(fetch(ward.daemon, f"alerts/{raised.id}.json")[2])
    assert AlertState.model_validate(page["alert"]).id == raised.id
    assert page["raised"]["evidence"] == raised.evidence.model_dump() and page["evidence"]["strip"] == after.strip.model_dump()
    for ending in ("hea", "dat"):
        status, _, body = fetch(ward.daemon, f"alerts/{raised.id}.{ending}")
        assert status == 200
        (tmp_path / f"{raised.id}.{ending}").write_bytes(body)
    record = wfdb.rdrecord(str(tmp_path / raised.id))
    assert record.sig_name == ["II", "V1"] and record.fs == 100 and record.sig_len == 2000
    true_mv = resample_poly(excerpt.samples_mv.astype(float), 5, 18, axis=1)
    first = round((raised.at_s - 10) * 100)
    for shown_mv, lead_mv in zip(record.p_signal.T, true_mv, strict=True):
        assert np.corrcoef(shown_mv, lead_mv[first : first + 2000])[0, 1] > 0.98
    status, kind, picture = fetch(ward.daemon, f"alerts/{raised.id}.png")
    assert (status, kind) == (200, "image/png") and picture[:8] == b"\x89PNG\r\n\x1a\n" and picture[-8:-4] == b"IEND"


@pytest.mark.parametrize("ending", ["json", "png", "hea", "dat"])
def test_a_page_of_an_alert_that_there_is_not_says_so(ward: Ward, ending: str) -> None:
    status, _, body = fetch(ward.daemon, f"alerts/0123456789abcdef.{ending}")
    assert status == 404 and "0123456789abcdef" in json.loads(body)["why"]


def test_an_alert_without_samples_has_a_page_and_no_picture(ward: Ward) -> None:
    raised = ward.heard.wait("never", "stalled", "raised")
    assert json.loads(fetch(ward.daemon, f"alerts/{raised.id}.json")[2])["evidence"] is None
    status, _, body = fetch(ward.daemon, f"alerts/{raised.id}.png")
    assert status == 404 and "no samples" in json.loads(body)["why"]


# What ends, and goes on.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told-to-stop"])
def test_what_is_on_when_the_daemon_ends_is_cleared_by_the_next_under_the_same_id(
    number: signal.Signals, tmp_path: Path, mosquitto: Mosquitto, client: Client, heard: Heard, excerpt: Chunk
) -> None:
    """Fibrillation is on when it ends; the next daemon sees only sinus rhythm, from a device that counts anew."""
    with Daemon(tmp_path / "daemon", config(on_topic("bed", stall_s=NEVER_S), broker=mosquitto.port)) as daemon:
        client.wait_for_site("online")
        client.send_all("bed", frames(between(excerpt, 0, 60)))
        raised = heard.wait("bed", AF, "raised")
        daemon.wait_for_samples("bed", 60 * 360)
        daemon.signal(number)
        daemon.end()
        client.wait_for_site("offline")
        assert [alert.state for alert in heard.of("bed", AF)] == ["raised"]
        state = retained(mosquitto.port, f"bed/alert/{AF}")
        assert (state["id"], state["state"]) == (raised.id, "raised")
        daemon.start()
        client.wait_for_site("online")
        client.send_all("bed", frames(between(excerpt, 100, 140)))
        cleared = heard.wait("bed", AF, "cleared")
        client.wait_for_state("bed", "online")
        daemon.wait_for_samples("bed", 40 * 360)
        heard.wait("bed", "sinus_bradycardia", "raised")
    assert (cleared.id, cleared.seq, cleared.onset_time) == (raised.id, raised.seq + 1, raised.onset_time)
    assert [(alert.seq, alert.state) for alert in heard.of("bed", AF)] == [(0, "raised"), (1, "cleared")]
    assert [alert.state for alert in heard.of("bed", "leads_missing")] == ["raised"], "it goes on, and is not told again"
    assert cleared.stream != raised.stream


def test_a_source_that_leaves_the_config_takes_its_alerts_with_it(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, heard: Heard, excerpt: Chunk
) -> None:
    stays, goes = on_topic("stays", stall_s=NEVER_S), on_topic("goes", stall_s=NEVER_S)
    with Daemon(tmp_path / "daemon", config(stays, goes, broker=mosquitto.port)) as daemon:
        client.wait_for_site("online")
        for name in ("stays", "goes"):
            client.send_all(name, frames(between(excerpt, 0, 30)))
        raised = {finding: heard.wait("goes", finding, "raised") for finding in (AF, "leads_missing")}
        heard.wait("stays", AF, "raised")
        daemon.reload(config(stays, broker=mosquitto.port))
        for finding, before in raised.items():
            cleared = heard.wait("goes", finding, "cleared")
            assert (cleared.id, cleared.seq, cleared.why) == (before.id, 1, "no longer watched")
            wait_for(partial(_last_state_is, client, f"goes/alert/{finding}", "cleared"), "its last state")
        assert {alert.state for alert in heard.of("stays")} == {"raised"}


def _last_state_is(client: Client, topic: str, state: str) -> bool:
    """As it was told: the state of a source that is gone is not kept for ever."""
    told = [message.payload["state"] for message in client.messages if message.topic == f"cardiogloss/{SITE}/{topic}"]
    return told[-1:] == [state]


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """The shipped model, which watches for premature beats no more."""
    export = pytest.importorskip("kernels.export")
    path = tmp_path_factory.mktemp("bundle") / "other.onnx"
    kept = [finding for finding in bundle.card.findings if finding.name != "premature_ventricular_complexes"]
    path.write_bytes(export.bake(bundle, kept).onnx)
    return path


def test_what_is_on_stays_on_with_another_model_unless_that_does_not_know_it(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, heard: Heard, excerpt: Chunk, other_bundle: Path
) -> None:
    """Premature beats are on from 148 to 233 s of the excerpt, fibrillation from 190 to 229 s."""
    bed, sent = on_topic("bed", stall_s=NEVER_S), frames(between(excerpt, 120, 270))
    with Daemon(tmp_path / "daemon", config(bed, broker=mosquitto.port)) as daemon:
        client.wait_for_site("online")
        client.send_all("bed", sent[:800])
        beats, raised = heard.wait("bed", "premature_ventricular_complexes", "raised"), heard.wait("bed", AF, "raised")
        daemon.wait_for_samples("bed", 80 * 360)
        daemon.reload(config(bed, broker=mosquitto.port, more=f'[model]\nbundle = "{other_bundle}"'))
        gone = heard.wait("bed", "premature_ventricular_complexes", "cleared")
        assert (gone.id, gone.why) == (beats.id, "no longer watched for")
        assert retained(mosquitto.port, f"bed/alert/{AF}")["state"] == "raised"
        client.send_all("bed", sent[800:])
        cleared = heard.wait("bed", AF, "cleared")
    assert (cleared.id, cleared.onset_time, cleared.why) == (raised.id, raised.onset_time, None)
    assert cleared.bundle == Bundle.read(other_bundle).card.sha256[:16] != raised.bundle == Bundle.read(SHIPPED_BUNDLE).card.sha256[:16]
    assert [alert.state for alert in heard.of("bed", AF)] == ["raised", "cleared"]
    assert {alert.id for alert in heard.of("bed", "leads_missing")} == {heard.wait("bed", "leads_missing", "raised").id}


# Over each version of MQTT, open and guarded.


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's certificate, a broker's, and a file with a password for the user `edge`."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "localhost.ext").write_text("subjectAltName=DNS:localhost\n")
    (folder / "secret").write_text("secret\n")
    for command in (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout localhost.key -out localhost.csr",
        "openssl x509 -req -days 2 -in localhost.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile localhost.ext -out localhost.crt",
        f"{shutil.which('mosquitto_passwd') or 'mosquitto_passwd'} -b -c passwords edge secret",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


@dataclass(frozen=True, slots=True)
class Line:
    """A daemon that has told the alerts of half a minute, over one kind of connection, and who heard them."""

    version: str
    broker: Mqtt
    heard: Heard
    live: list[list[str]]
    """What the stock client printed: topic, retained, QoS, content type, user properties, payload."""
    late: list[list[str]]
    """The same for one that came afterwards."""


FORMAT = r"%t\t%r\t%q\t%C\t%P\t%p"
STOCK = shutil.which("mosquitto_sub")


@pytest.fixture(scope="module", params=["3.1.1-open", "3.1.1-guarded", "5-open", "5-guarded"])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keys: Path, excerpt: Chunk) -> Iterator[Line]:
    version, _, guard = request.param.partition("-")
    folder, guarded = tmp_path_factory.mktemp("line"), guard == "guarded"
    tls = f"cafile {keys}/ca.crt\ncertfile {keys}/localhost.crt\nkeyfile {keys}/localhost.key\npassword_file {keys}/passwords\n"
    with ExitStack() as scope:
        mosquitto = scope.enter_context(Mosquitto(folder, f"{tls}allow_anonymous false" if guarded else "allow_anonymous true"))
        how: dict[str, Any] = {"host": "localhost", "port": mosquitto.port, "version": version}
        how |= {"tls": True, "ca": str(keys / "ca.crt"), "user": "edge", "password_file": str(keys / "secret")} if guarded else {}
        broker = Mqtt.model_validate({**how, **{key: Path(how[key]) for key in ("ca", "password_file") if key in how}})
        heard = scope.enter_context(Heard(broker))
        live = Stock(broker, folder / "live", scope)
        port = scope.enter_context(Port(folder / "tty"))
        table = "\n".join(["[mqtt]", *(f"{key} = {json.dumps(value)}" for key, value in how.items())])
        with Daemon(folder / "daemon", config(source("bed1", "frame", serial=folder / "tty", stall_s=NEVER_S), more=table)) as daemon:
            daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
            port.feed(daemon, "bed1", frames(between(excerpt, 0, 40)))
            heard.wait_for_evidence(heard.wait("bed1", AF, "raised"))
            live.wait("/evidence", 2)
            # The daemon tells states at its next tick, which a short recording may well outrun.
            live.wait(f"{SITE}/status", 1, '"state":"online"').wait("bed1/status", 1, '"state":"online"')
            yield Line(version, broker, heard, live.lines, Stock(broker, folder / "late", scope).wait("/status", 2).all())


class Stock:
    """`mosquitto_sub` on all topics of the site; it hears nothing where it is not installed."""

    def __init__(self, broker: Mqtt, path: Path, scope: ExitStack) -> None:
        self._path = path
        path.touch()
        if STOCK is None:
            return
        guarded = ["--cafile", str(broker.ca), "-u", broker.user, "-P", str(broker.password())] if broker.tls else []
        where = ["-h", broker.host, "-p", str(broker.port), "-V", "mqttv5" if broker.version == "5" else "mqttv311", *guarded]
        with path.open("wb") as out:
            self._process = subprocess.Popen(
                [STOCK, *where, "-q", "1", "-t", f"cardiogloss/{SITE}/#", "-F", FORMAT], stdout=out, stderr=subprocess.PIPE
            )
        scope.callback(self._end)

    @property
    def lines(self) -> list[list[str]]:
        """So far; the last may be half written."""
        text = self._path.read_text()
        return [line.split("\t") for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait(self, ending: str, count: int, words: str = "") -> Stock:
        """Until so many with these words came on topics with this ending."""

        def _has_come() -> bool:
            return sum(line[0].endswith(ending) and words in line[-1] for line in self.lines) >= count

        wait_for(lambda: STOCK is None or _has_come(), f"{ending} {words} at mosquitto_sub", PATIENCE_S)
        return self

    def all(self) -> list[list[str]]:
        """Retained messages come at once, before all others."""
        wait_for(lambda: STOCK is None or any(line[1] == "0" for line in self.lines) or self._is_quiet(), "the retained messages")
        return self.lines

    def _is_quiet(self) -> bool:
        before = len(self.lines)
        time.sleep(0.3)
        return len(self.lines) == before

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


stock_client = pytest.mark.skipif(STOCK is None, reason="mosquitto_sub is not installed (apt-get install mosquitto-clients)")


def test_alerts_arrive_at_a_program_over_every_kind_of_connection(line: Line, excerpt: Chunk, engine: Engine) -> None:
    assert brief(line.heard.of("bed1")) == replayed(between(excerpt, 0, 40), engine)
    assert line.heard.alerts.bad == line.heard.alerts.missed == 0


def test_the_last_word_about_each_finding_awaits_a_program_that_comes_later(line: Line) -> None:
    with Heard(line.broker, also=["state"]) as late:

        def _states() -> dict[str, str]:
            return {one.finding: one.id for one in late.messages if isinstance(one, AlertState) and not isinstance(one, AlertMessage)}

        wait_for(lambda: len(_states()) == 2, "both states")
        assert _states() == {alert.finding: alert.id for alert in line.heard.of("bed1")}


@stock_client
def test_a_stock_client_hears_every_topic_of_the_table(line: Line) -> None:
    topics = {(topic.removeprefix(f"cardiogloss/{SITE}/"), qos) for topic, _, qos, *_ in line.live}
    assert topics - {("resend", "1"), ("resent", "1")} == {
        ("status", "1"), ("bed1/status", "1"), ("bed1/scores", "0"), ("bed1/vitals", "0"), ("bed1/alert", "1"), ("bed1/evidence", "1"),
        ("bed1/alert/leads_missing", "1"), (f"bed1/alert/{AF}", "1"),
    }  # fmt: skip
    told = [json.loads(payload) for topic, *_, payload in line.live if topic.endswith("/alert")]
    assert [AlertMessage.model_validate(message) for message in told] == line.heard.of("bed1")


@stock_client
def test_the_broker_keeps_what_the_table_says_and_nothing_else(line: Line) -> None:
    kept = {
        topic.removeprefix(f"cardiogloss/{SITE}/"): json.loads(payload) for topic, retained, *_, payload in line.late if retained == "1"
    }
    assert set(kept) == {"status", "bed1/status", "bed1/alert/leads_missing", f"bed1/alert/{AF}"}
    assert kept["status"]["state"] == kept["bed1/status"]["state"] == "online"
    (raised,) = line.heard.of("bed1", AF)
    assert AlertState.model_validate(kept[f"bed1/alert/{AF}"]) == AlertState.model_validate(raised.model_dump())
    assert "evidence" not in kept[f"bed1/alert/{AF}"]


@stock_client
def test_with_mqtt_5_a_message_says_what_it_is_and_before_that_nothing(line: Line) -> None:
    alerts = [(kind, user, json.loads(payload)) for topic, _, _, kind, user, payload in line.live if "/alert" in topic]
    assert len(alerts) == 4
    for kind, user, message in alerts:
        told = [f"{name}:{message[name]}" for name in ("schema", "id", "seq", "state", "priority")]
        assert (kind, user.split()) == (("application/json", told) if line.version == "5" else ("", []))


# What is away, killed or full.


@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed-meanwhile"])
def test_alerts_that_the_broker_missed_arrive_once_and_in_order_when_it_is_back(
    killed: bool, tmp_path: Path, mosquitto: Mosquitto, heard: Heard, excerpt: Chunk, engine: Engine, scope: ExitStack
) -> None:
    chunk, port = between(excerpt, 0, 130), scope.enter_context(Port(tmp_path / "tty"))
    messages = [message for message in scored([chunk], "bed", engine, ended=False) if message["type"] in ("alert", "evidence")]
    sent = frames(chunk)
    with Daemon(tmp_path / "daemon", config(source("bed", "frame", serial=tmp_path / "tty", stall_s=NEVER_S), broker=mosquitto.port)) as d:
        d.wait(lambda: d.metric("broker_connected") == 1, "the broker")
        port.feed(d, "bed", sent[:200])
        heard.wait("bed", AF, "raised")
        d.wait(lambda: count_of(d, "waiting") == 0, "the first alerts to be delivered")
        mosquitto.kill()
        port.feed(d, "bed", sent[200:])
        d.wait(lambda: count_of(d, "waiting") == len(messages) - 2, "the other alerts to wait")
        if killed:
            d.kill()
            d.start()
            assert count_of(d, "waiting") == len(messages) - 2
        mosquitto.start()
        wait_for(lambda: len(heard.messages) >= len(messages), "all that was told", PATIENCE_S)
        d.wait(lambda: count_of(d, "waiting") == 0, "the acknowledgements")
    assert brief(heard.of("bed")) == replayed(chunk, engine)
    assert len(heard.messages) == len(messages) and heard.alerts.missed == 0
    assert [message.number for message in heard.messages if isinstance(message, AlertMessage | EvidenceMessage)] == [
        *range(1, len(messages) + 1)
    ]


def test_a_file_that_is_read_again_after_a_kill_tells_the_same_and_once_it_was_read_something_new(
    tmp_path: Path, mosquitto: Mosquitto, scope: ExitStack, excerpt: Chunk, engine: Engine
) -> None:
    file = tmp_path / "bed.bin"
    whole = between(excerpt, 0, 180)
    file.write_bytes(b"".join(frames(whole)))
    tables = config(source("bed", "frame", file=file), broker=mosquitto.port)

    def _told(heard: Heard, count: int, begin: int = 0) -> list[AlertMessage]:
        wait_for(lambda: len(heard.of("bed")[begin:]) >= count, f"{count} alerts", PATIENCE_S)
        return heard.of("bed")[begin:]

    with Heard(Mqtt(host="127.0.0.1", port=mosquitto.port)) as heard, Daemon(tmp_path / "calm", tables) as daemon:
        assert daemon.end() == 0
        calm = _told(heard, len(replayed(whole, engine)) + 1)
        raised = sum(alert.state == "raised" for alert in calm)
        wait_for(lambda: sum(alert.state == "cleared" for alert in heard.of("bed")) == raised, "what is on at the end to be cleared")
        calm = heard.of("bed")
    heard = scope.enter_context(Heard(Mqtt(host="127.0.0.1", port=mosquitto.port)))
    with Daemon(tmp_path / "killed", tables) as daemon:
        heard.wait("bed", AF, "raised")
        daemon.kill()
        assert len(heard.of("bed")) < len(calm) and not daemon.told("stopped"), "it was killed in the middle of the file"
        assert daemon.spawn().end() == 0
        again = _told(heard, len(calm))
        assert daemon.spawn().end() == 0
        anew = _told(heard, len(calm), len(calm))
    assert [(alert.id, alert.seq, alert.state) for alert in again] == [(alert.id, alert.seq, alert.state) for alert in calm]
    assert [(alert.finding, alert.seq, alert.state) for alert in anew] == [(alert.finding, alert.seq, alert.state) for alert in calm]
    assert not {alert.id for alert in anew} & {alert.id for alert in calm}


def test_home_assistant_hears_of_a_source_when_it_appears_when_it_begins_anew_and_when_it_goes(
    tmp_path: Path, mosquitto: Mosquitto, excerpt: Chunk
) -> None:
    stays, more = on_topic("stays", stall_s=NEVER_S), "[homeassistant]\ndiscovery = true"
    with (
        Wire(mosquitto.port, "#") as wire,
        Daemon(tmp_path / "daemon", config(stays, ANYWHERE, broker=mosquitto.port, more=more)) as daemon,
    ):
        wait_for(lambda: wire.payloads("_stays_"), "the source of the config", PATIENCE_S)
        assert not wire.payloads("_found_")
        put(mosquitto.port, "found/ecg", b"".join(frames(between(excerpt, 0, 2))))
        wait_for(lambda: wire.payloads("_found_") and wire.payloads("/found/status"), "the source that appeared", PATIENCE_S)
        (first,) = wire.payloads("_found_")
        components = json.loads(first)["components"].values()
        assert f"cardiogloss/{SITE}/found/alert/{AF}" in {component["state_topic"] for component in components}
        known = len(wire.payloads("_stays_"))
        single("homeassistant/status", b"online", qos=1, hostname="127.0.0.1", port=mosquitto.port)
        wait_for(lambda: len(wire.payloads("_found_")) == 2 and len(wire.payloads("_stays_")) > known, "both once more", PATIENCE_S)
        assert wire.payloads("_found_") == [first, first]
        daemon.reload(config(stays, broker=mosquitto.port, more=more))
        wait_for(lambda: wire.payloads("_found_")[2:] == [b""] == wire.payloads("/found/status")[-1:], "it to be taken back", PATIENCE_S)
        with Wire(mosquitto.port, "#") as late:
            wait_for(lambda: late.payloads("_stays_"), "what is kept")
            assert late.payloads("_stays_") == wire.payloads("_stays_")[-1:]
            assert all(message.retain for message in late.messages) and not late.payloads("found")


def test_in_an_ordeal_of_kills_no_alert_is_lost_repeated_or_made_up() -> None:
    figures = ordeal(EXCERPT, kills=6, seed=3)
    assert figures.lost == figures.unexpected == figures.repeated == 0
    assert figures.told > 0 and figures.kills >= 6


def test_on_a_full_disk_alerts_arrive_all_the_same_and_are_written_when_there_is_room(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, heard: Heard, excerpt: Chunk
) -> None:
    """A limit on the size of files stands in for the disk's; it holds for the log of the daemon, too."""
    sent = frames(between(excerpt, 0, 120))
    with Daemon(tmp_path / "daemon", config(on_topic("bed", stall_s=NEVER_S), broker=mosquitto.port)) as daemon:
        client.wait_for_site("online")
        client.send_all("bed", sent[:140])
        heard.wait("bed", "leads_missing", "raised")
        unlimited = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        client.send_all("bed", sent[140:])
        bradycardia = heard.wait("bed", "sinus_bradycardia", "raised")
        heard.wait_for_evidence(bradycardia)
        daemon.wait(lambda: count_of(daemon, "unwritten") >= 4, "what is not written to be counted")
        assert count_of(daemon, "dropped") == 0 and daemon.page("healthz")[0] == 200
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, unlimited)
        daemon.wait(lambda: daemon.told("outbox written again"), "room")
        daemon.wait(lambda: count_of(daemon, "waiting") == 0, "the acknowledgements")
        daemon.kill()
    with sqlite3.connect(tmp_path / "daemon" / OUTBOX) as outbox:
        written = [json.loads(payload) for (payload,) in outbox.execute("SELECT payload FROM letter ORDER BY number")]
    numbered = [message for message in heard.messages if isinstance(message, AlertMessage | EvidenceMessage)]
    assert [(letter["type"], letter["id"], letter["number"]) for letter in written] == [(m.type, m.id, m.number) for m in numbered]
    assert [alert.state for alert in heard.of("bed", AF)] == ["raised", "cleared"]
