"""The terminal of a ward: it shows what is on and nothing else, writes what was seen, and ends when told to."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import wfdb
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.contract import AlertMessage, AlertState, EvidenceMessage, SiteMessage, StatusMessage, VitalsMessage
from edge.watch import Board, Collection, plain
from kernels.findings import ConfigError

from .broker import Mosquitto, free_port, wait_for
from .test_schema import BEGUN_TIME, replayed
from .test_subscribe import HEAD, SITE, Monitor, RealMonitor, alert, site_status

ROOT = Path(__file__).parent.parent
Json = dict[str, Any]
PROGRAM = """
import typer
from edge.command_line import acknowledge_command, silence_command
from edge.watch import watch_command
from kernels.terminal import run
app = typer.Typer(pretty_exceptions_enable=False)
app.command(name="watch")(watch_command)
app.command(name="acknowledge")(acknowledge_command)
app.command(name="silence")(silence_command)
run(app, "cardiogloss")
"""


def shown(board: Board, width: int = 200) -> str:
    """What stands in a wide terminal."""
    console = Console(file=io.StringIO(), width=width)
    console.print(board.render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def told(**more: Any) -> AlertMessage:
    return AlertMessage.model_validate(alert(1, **more))


def status(state: str, source: str = "bed1", **more: Any) -> StatusMessage:
    body = {**HEAD, "source": source, "type": "status", "state": state, "why": None, "samples": 1, "lost": 0, **more}
    return StatusMessage.model_validate(body)


changes = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30)


@given(changes, st.randoms(use_true_random=False))
def test_what_is_on_is_what_the_last_word_about_each_finding_says(episodes: list[tuple[str, int]], random: Any) -> None:
    """Whatever the order in which the messages of an episode come, retained states among them."""
    board, on = Board(), dict[str, str]()
    for number, (finding, last) in enumerate(episodes):
        words = ["raised", *["updated"] * last, *(["cleared"] if last % 2 else [])]
        messages = [told(finding=finding, id=f"{number}", seq=seq, state=word, time=1000.0 + number) for seq, word in enumerate(words)]
        messages += [AlertState.model_validate(message.model_dump(by_alias=True)) for message in messages]
        random.shuffle(messages)
        for message in messages:
            board.feed(message)
        on[finding] = f"{number}" if words[-1] != "cleared" else ""
    assert {one.finding: one.id for one in board.on} == {finding: number for finding, number in on.items() if number}


def test_the_most_urgent_stands_first_in_its_colour_with_all_that_is_known_of_it() -> None:
    board = Board()
    board.feed(told(finding="lead_off", priority="low", id="1"))
    board.feed(told(finding="ventricular_tachycardia", priority="high", id="2", score=0.97))
    board.feed(told(finding="atrial_fibrillation", priority="medium", id="3", acknowledged_by="nurse 7"))
    board.feed(VitalsMessage.model_validate({**HEAD, "type": "vitals", "at_s": 1, "heart_rate_bpm": 131.6, "beats_s": [], "quality": {}}))
    board.feed(status("online"))
    first, second, third = [line for line in shown(board).split("\n") if line.startswith("ward/bed1")]
    for words in ("ventricular tachycardia", "high", "0.97", "132/min", "online"):
        assert words in first
    assert "atrial fibrillation" in second and "acknowledged" in second and "lead off" in third
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    console.print(board.render())
    colours = console.file.getvalue()  # type: ignore[attr-defined]
    for code, priority in (("41", "high"), ("43", "medium"), ("46", "low")):
        assert f"{code}m {priority} " in colours


def test_a_source_without_alerts_and_a_monitor_that_is_gone_are_shown() -> None:
    board = Board()
    assert board.feed(status("online")) and not board.feed(status("online"))
    assert "nothing is on" in shown(board)
    line = board.feed(status("stalled", why="nothing came for 5 s"))
    assert line and "ward/bed1 is stalled: nothing came for 5 s" in line.plain
    gone = SiteMessage.model_validate({"schema": 2, "type": "site", "site": "ward", "state": "offline"})
    assert board.feed(gone) and not board.feed(gone)
    assert "monitor offline" in shown(board) and "the monitor of ward is offline" in shown(board)


def test_what_comes_over_the_network_moves_no_cursor() -> None:
    board = Board()
    line = board.feed(told(source="\x1b[2Jbed\n1", why="\x1b]0;title\x07[red]", finding="a\rb", time=1e300, onset_time=-1e300))
    assert line and line.plain.isprintable()
    assert "\x1b" not in shown(board) and "[red]" in shown(board)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=30).filter(str.strip))
@example("[/x]")
@example("a[red]b[/]")
@example("[link=file:///]")
@example(":bomb:")
def test_a_name_from_the_network_is_shown_as_it_is_and_never_read_as_markup(name: str) -> None:
    board = Board()
    board.feed(status("online", source=name, why=name))
    board.feed(status("offline", source=f"{name}2"))
    board.feed(told(source=name, finding=name, why=name, id=name))
    board.feed(SiteMessage.model_validate({"schema": 2, "type": "site", "site": name, "state": "offline"}))
    table = Table.grid()
    table.add_row(Text(f"ward/{plain(name)}"))
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    drawn = shown(board, width=400)
    # By rich itself, of the name alone: what it does with letters of double width is its own affair.
    assert drawn.count(console.file.getvalue().strip()) >= 4  # type: ignore[attr-defined]


def test_strips_are_written_when_raised_and_again_with_what_followed(tmp_path: Path) -> None:
    """The record of the excerpt that WFDB reads is what the messages hold."""
    collection = Collection(tmp_path)
    messages = [message for topic, message in replayed().messages if topic.endswith(("/alert", "/evidence"))]
    raised = next(message for message in messages if message.get("kind") == "physiological")
    followed = next(message for message in messages if message["type"] == "evidence" and message["id"] == raised["id"])
    collection.feed(AlertMessage.model_validate(raised))
    (header,) = tmp_path.glob("*.hea")
    begun = datetime.fromtimestamp(BEGUN_TIME + raised["evidence"]["strip"]["start_s"], timezone.utc)
    assert header.stem == f"{begun:%Y%m%dT%H%M%S}_bed1_{raised['finding']}_{raised['id']}"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png", ".hea", ".dat"}
    before = np.array(raised["evidence"]["strip"]["uv"]).T / 1000
    np.testing.assert_allclose(wfdb.rdrecord(str(header.with_suffix(""))).p_signal, before, atol=1e-9)
    collection.feed(EvidenceMessage.model_validate(followed))
    after = np.array(followed["strip"]["uv"]).T / 1000
    np.testing.assert_allclose(wfdb.rdrecord(str(header.with_suffix(""))).p_signal, np.concatenate([before, after]), atol=1e-9)
    assert json.loads(header.with_suffix(".json").read_text())["evidence"] == followed
    assert len(list(tmp_path.iterdir())) == 4


def test_no_name_from_the_network_leaves_the_folder(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "strips")
    strip = {"start_s": 0.0, "rate_hz": 100.0, "leads": ["I"], "uv": [[1, 2, 3]]}
    collection.feed(told(id="../../x" * 100, source="../a b\0", finding="/etc", time=-1e300, evidence={"decided": [], "strip": strip}))
    assert {path.name for path in tmp_path.iterdir()} == {"strips"}
    assert len(list((tmp_path / "strips").iterdir())) == 4


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("pip install it"),
        OSError(28, "No space left on device"),
        ValueError("no such thing"),
        OverflowError("too large to convert"),
        MemoryError("Unable to allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_drawn_or_written_is_told_once_and_the_rest_goes_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _fail(*given: Any) -> bytes:
        raise error

    monkeypatch.setattr("edge.watch.to_png", _fail)
    collection = Collection(tmp_path)
    strip = {"start_s": 0.0, "rate_hz": 100.0, "leads": ["I"], "uv": [[1, 2, 3]]}
    for number in range(3):
        collection.feed(told(id=f"{number}", evidence={"decided": [], "strip": strip}))
    assert len(list(tmp_path.glob("*.hea"))) == collection.failed == 3
    assert capsys.readouterr().err.count(str(error)) == 1


def test_a_folder_that_is_gone_is_told_once_though_every_file_has_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = Collection(tmp_path / "strips")
    (tmp_path / "strips").rmdir()
    for number in range(3):
        collection.feed(told(id=f"{number}", evidence={"decided": [], "strip": STRIP}))
    assert collection.failed == 3 and capsys.readouterr().err.count("\n") == 1


STRIP = {"start_s": 0.0, "rate_hz": 100.0, "leads": ["I"], "uv": [[1, 2, 3]]}


@pytest.mark.parametrize(
    ("raised", "followed"),
    [
        ({}, {"start_s": -1.0}),
        ({}, {"start_s": -1e10}),
        ({"start_s": 1e10}, {"start_s": -1e10}),
        ({"rate_hz": 10_000.0}, {"start_s": 9.0}),
        ({}, {"rate_hz": 99.0, "start_s": 0.03}),
        ({"leads": ["I", "I"], "uv": [[1], [2]]}, {}),
        ({"leads": ["$x^$\n#"]}, {"leads": ["$\\frac$" * 5]}),
        ({"uv": [[2**63 - 1, None, -(2**63)]]}, {"uv": [[]]}),
        ({"leads": [], "uv": []}, {}),
        ({"leads": [f"a{i}" for i in range(16)], "uv": [[1]] * 16}, {"leads": [f"b{i}" for i in range(16)], "uv": [[1]] * 16}),
    ],
)
def test_whatever_strips_a_stranger_sends_are_saved_and_can_be_read(raised: Json, followed: Json, tmp_path: Path) -> None:
    collection = Collection(tmp_path)
    far: Json = {"time": 1.7e308, "at_s": -1.7e308, "id": "i" * 500, "source": "s" * 5000, "finding": "f" * 5000}
    first = alert(1, **far, evidence={"decided": [], "strip": STRIP | raised})
    collection.feed(AlertMessage.model_validate(first))
    after = {**HEAD, "type": "evidence", "id": first["id"], "finding": "f", "at_s": 1.0, "strip": STRIP | followed}
    collection.feed(EvidenceMessage.model_validate(after))
    assert collection.failed == 0
    (header,) = tmp_path.glob("*.hea")
    if (STRIP | raised)["leads"]:
        record = wfdb.rdrecord(str(header.with_suffix("")))
        assert record.sig_len <= 60 * record.fs and record.n_sig <= 16


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mosquitto(tmp_path: Path, scope: ExitStack) -> Mosquitto:
    return scope.enter_context(Mosquitto(tmp_path))


@pytest.fixture
def monitor(mosquitto: Mosquitto, scope: ExitStack) -> Monitor:
    monitor = Monitor(mosquitto.port)
    scope.callback(monitor.close)
    return monitor


@contextmanager
def running(*words: object, out: int | None = None, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], str]]]:
    """A command in a process of its own, and what it has written to `out` or `err`."""
    files = {name: folder / f"{name}.txt" for name in ("out", "err")}
    with files["out"].open("wb") as said, files["err"].open("wb") as told:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "xterm"}
        command = [sys.executable, "-c", PROGRAM, *map(str, words)]
        process = subprocess.Popen(command, stdout=out or said, stderr=out or told, cwd=ROOT, env=environment)
    try:
        yield process, lambda name: files[name].read_text()
    finally:
        process.kill()
        process.wait()


def interrupt(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(15)


def test_json_gives_each_message_as_it_came_and_ctrl_c_is_no_failure(tmp_path: Path, mosquitto: Mosquitto, monitor: Monitor) -> None:
    monitor.tell(alert(1))
    words = ("watch", "--host", "127.0.0.1", "--port", mosquitto.port, "--json", "--since", "beginning")
    with running(*words, folder=tmp_path) as (process, said):
        wait_for(lambda: "aa-1" in said("out"), said("err"))
        monitor.publish("bed1/status", status("online").model_dump(by_alias=True), retain=True)
        wait_for(lambda: '"status"' in said("out"))
        assert interrupt(process) == 0
    messages = [json.loads(line) for line in said("out").splitlines()]
    assert alert(1) in messages and {message["type"] for message in messages} == {"alert", "site", "status"}


def test_json_holds_nothing_but_messages_though_the_broker_refuses_what_is_asked(tmp_path: Path, scope: ExitStack) -> None:
    (tmp_path / "acl").write_text("topic read cardiogloss/#\nuser monitor\ntopic readwrite cardiogloss/#\n")
    broker = scope.enter_context(Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {tmp_path}/acl"))
    with running("watch", "--host", "127.0.0.1", "--port", broker.port, "--json", folder=tmp_path) as (process, said):
        monitor = paho.Client(CallbackAPIVersion.VERSION2)
        monitor.username_pw_set("monitor", "")
        monitor.connect("127.0.0.1", broker.port)
        monitor.publish(f"cardiogloss/{SITE}/status", json.dumps(site_status(3)), retain=True)
        monitor.loop_start()
        scope.callback(monitor.loop_stop)
        wait_for(lambda: "refused" in said("err") and "site" in said("out"))
        assert interrupt(process) == 0
    assert {json.loads(line)["type"] for line in said("out").splitlines()} == {"site"}


def test_lines_tell_of_a_broker_that_is_away_and_of_alerts_when_it_is_back(tmp_path: Path, scope: ExitStack) -> None:
    broker = Mosquitto(tmp_path)
    scope.callback(broker.kill)
    (tmp_path / "edge.toml").write_text(
        f'site = "{SITE}"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n[[source]]\nmqtt = "cardiogloss/{SITE}/+/ecg"\n'
    )
    words = ("watch", "--config", tmp_path / "edge.toml", "--save", tmp_path / "strips", "--since", "beginning")
    with running(*words, folder=tmp_path) as (process, said):
        wait_for(lambda: "cannot connect" in said("err"))
        broker.start()
        monitor = Monitor(broker.port)
        scope.callback(monitor.close)
        strip = {"start_s": 0.0, "rate_hz": 100.0, "leads": ["I"], "uv": [[0, 900, 0] * 40]}
        monitor.tell(alert(1, evidence={"decided": [], "strip": strip}))
        wait_for(lambda: "atrial fibrillation" in said("out"))
        wait_for(lambda: len(list((tmp_path / "strips").glob("*.png"))) == 1)
        assert interrupt(process) == 0
    assert "ward/bed1  atrial fibrillation  medium  raised (peak 0.90, id aa-1)" in said("out")


def test_a_terminal_shows_what_was_on_before_it_began(tmp_path: Path, mosquitto: Mosquitto, monitor: Monitor) -> None:
    state = {key: value for key, value in alert(1).items() if key != "evidence"}
    monitor.publish("bed1/alert/atrial_fibrillation", state, retain=True)
    master, slave = pty.openpty()
    seen = bytearray()

    def _sees(words: bytes) -> bool:
        seen.extend(os.read(master, 65536))
        return words in seen

    with running("watch", "--host", "127.0.0.1", "--port", mosquitto.port, out=slave, folder=tmp_path) as (process, _):
        wait_for(lambda: _sees(b"atrial fibrillation"))
        monitor.tell(alert(1, seq=1, state="cleared", time=1001.0))
        wait_for(lambda: _sees(b"cleared"))
        assert interrupt(process) == 0
    os.close(slave)
    os.close(master)


def test_acknowledge_and_silence_reach_the_monitor(tmp_path: Path, mosquitto: Mosquitto, monitor: Monitor) -> None:
    to = ("--host", "127.0.0.1", "--port", mosquitto.port, "--site", SITE, "--by", "nurse 7")
    for words in (("acknowledge", "aa-1", "--source", "bed1", *to), ("silence", "bed2", "--for", "30", *to)):
        with running(*words, folder=tmp_path) as (process, said):
            assert process.wait(15) == 0, said("err")
    acknowledged, silenced = [{key: value for key, value in one.items() if key != "command_id"} for one in monitor.commands]
    assert acknowledged == {"command": "acknowledge", "id": "aa-1", "by": "nurse 7"}
    assert silenced == {"command": "silence", "for_s": 30.0, "finding": None, "by": "nurse 7"}


@pytest.fixture
def daemon(tmp_path: Path, mosquitto: Mosquitto, scope: ExitStack) -> RealMonitor:
    monitor = RealMonitor(tmp_path, mosquitto.port)
    scope.callback(monitor.close)
    wait_for(lambda: monitor.exchange.broker and monitor.exchange.broker.connected)
    return monitor


def test_a_command_that_the_monitor_refuses_ends_with_its_reason(tmp_path: Path, mosquitto: Mosquitto, daemon: RealMonitor) -> None:
    """A day is the longest that it is quiet."""
    with running(
        "silence", "bed1", "--for", "100000", *("--host", "127.0.0.1", "--port", mosquitto.port, "--site", SITE), folder=tmp_path
    ) as (
        process,
        said,
    ):
        assert process.wait(15) == 2
    assert said("err") == "cardiogloss: for_s: Input should be less than or equal to 86400\n"


@pytest.mark.parametrize(
    ("words", "code", "mended_by"),
    [
        (["watch", "--since", "ever"], 2, "now, beginning"),
        (["watch", "--host", "mqtt://x"], 2, "bare name or address"),
        (["watch", "--config", "none.toml"], 2, "none.toml"),
        (["silence", "a+b"], 2, "source 'a+b' must be one name"),
        (["acknowledge", "1", "--source", "bed1", "--site", "+"], 2, "site '+' must be one name"),
        (["watch", "--config", "NOMQTT"], 2, "no [mqtt] table"),
        (["silence", "bed1", "--host", "127.0.0.1", "--port", str(free_port())], 1, "cannot be reached"),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(words: list[str], code: int, mended_by: str, tmp_path: Path) -> None:
    (tmp_path / "nomqtt.toml").write_text('[[source]]\nname = "bed1"\ndevice = "cyton"\nserial = "/dev/none"\n')
    given_words = [str(tmp_path / "nomqtt.toml") if word == "NOMQTT" else word for word in words]
    with running(*given_words, folder=tmp_path) as (process, said):
        assert process.wait(20) == code
    assert mended_by in said("err") and said("err").count("\n") == 1 and said("out") == ""
