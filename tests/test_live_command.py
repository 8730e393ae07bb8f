"""The commands of the live monitor, as a user types them: each says what it does, and what to mend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge.config import read_config
from edge.decode.devices import DEVICES, device

from .broker import Mosquitto, wait_for
from .conftest import EXCERPT
from .daemon import PATIENCE_S, ROOT, SITE, Client

COMMAND = [sys.executable, "-m", "edge"]


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "100"}
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=PATIENCE_S)


@contextmanager
def _running(folder: Path, *words: object) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The process, and the file that holds what it printed."""
    printed = folder / f"{words[0]}.out"
    with printed.open("wb") as out, subprocess.Popen([*COMMAND, *map(str, words)], stdout=out, cwd=ROOT) as process:
        try:
            yield process, printed
        finally:
            process.kill()


def _square_wave(folder: Path, height_mv: float) -> Path:
    """Three pulses a second, ten seconds long, at 250 Hz."""
    seconds = np.arange(2500) / 250
    path = folder / "pulse.csv"
    path.write_text("I\n" + "".join(f"{value:.4f}\n" for value in np.where(seconds * 3 % 1 < 0.5, height_mv, 0.0)))
    return path


def test_a_simulated_device_that_is_ended_takes_its_link_along_and_one_that_was_killed_leaves_none_in_the_way(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    for number, left in ((signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)):
        with _running(tmp_path, "simulate", EXCERPT, "--device", "frame", "--link", link) as (device, said):
            wait_for(lambda said=said: "serial" in said.read_text(), "the words of the simulated device")
            assert link.exists()
            device.send_signal(number)
            device.wait(PATIENCE_S)
        assert link.is_symlink() is left
    link.write_text("mine")
    with _running(tmp_path, "simulate", EXCERPT, "--device", "frame", "--link", link) as (device, said):
        assert device.wait(PATIENCE_S) == 1
    assert link.read_text() == "mine"


def test_a_simulated_device_says_the_config_with_which_it_is_watched(tmp_path: Path) -> None:
    """As the README has it: two terminals, and what the first prints goes into the config of the second."""
    with _running(tmp_path, "simulate", EXCERPT, "--device", "cyton", "--link", tmp_path / "tty", "--speed", 10) as (_, said):
        wait_for(lambda: "leads" in said.read_text(), "the words of the simulated device")
        (tmp_path / "edge.toml").write_text(f"[http]\nport = 0\n{said.read_text()}")
        with _running(tmp_path, "run", tmp_path / "edge.toml") as (daemon, printed):
            wait_for(lambda: printed.read_text().count('"type":"scores"') >= 5, "scores", PATIENCE_S)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0
    messages = [json.loads(line) for line in printed.read_text().splitlines()]
    assert {message["type"] for message in messages} >= {"scores", "vitals", "alert", "status", "site"}
    first = next(message for message in messages if message["type"] == "scores")
    assert first["source"] == "simulated" and first["probability"]["atrial_fibrillation"] > 0.9
    assert messages[-1] == {"schema": 2, "site": "home", "shard": "", "type": "site", "state": "offline"}


@pytest.mark.parametrize("name", sorted(name for name, kind in DEVICES.items() if not kind.by_message))
def test_the_config_that_a_simulated_device_says_is_sound(name: str, tmp_path: Path) -> None:
    with _running(tmp_path, "simulate", EXCERPT, "--device", name, "--link", tmp_path / "tty") as (_, said):
        wait_for(lambda: said.read_text().rstrip().endswith(("]", '"')) or "rate_hz" in said.read_text(), "its words")
    (tmp_path / "edge.toml").write_text(said.read_text())
    (source,) = read_config(tmp_path / "edge.toml").source
    assert source.kind is device(name)
    assert source.wiring().rate_hz > 0
    assert device(name).says_itself or source.leads[0] == "II"


def test_copies_of_a_recording_go_to_the_broker_of_a_config(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Client(mosquitto.port) as client:
        (tmp_path / "edge.toml").write_text(
            f'site = "{SITE}"\n[mqtt]\nport = {mosquitto.port}\n[http]\nport = 0\n[[source]]\nmqtt = "cardiogloss/{SITE}/+/ecg"\n'
        )
        with _running(tmp_path, "run", tmp_path / "edge.toml") as (_, _):
            words = ["simulate", EXCERPT, "--config", tmp_path / "edge.toml", "--source", "bed", "--copies", 2, "--speed", 10]
            with _running(tmp_path, *words) as (_, said):
                for name in ("bed-001", "bed-002"):
                    wait_for(lambda name=name: client.count(f"{name}/scores") > 3, "scores", PATIENCE_S)
                assert f'mqtt = "cardiogloss/{SITE}/+/ecg"' in said.read_text()


@pytest.mark.parametrize("device_name", ["cyton", "frame"])
def test_calibrate_says_what_makes_the_scale_right(tmp_path: Path, device_name: str) -> None:
    """The device shows 1 mV as 0.8 mV."""
    pulse = _square_wave(tmp_path, 0.8)
    with _running(tmp_path, "simulate", pulse, "--device", device_name, "--rate", 250, "--link", tmp_path / "tty", "--repeat") as (_, said):
        wait_for(lambda: "serial" in said.read_text() and said.read_text().endswith("\n"), "its words")
        (tmp_path / "edge.toml").write_text(said.read_text())
        told = _run("calibrate", tmp_path / "edge.toml", "simulated", "--seconds", 4)
    assert told.returncode == 0, told.stderr
    right = "units_per_mv = 35790" if device_name == "cyton" else "make every sample 1.25 times as large"
    assert right in told.stdout
    assert told.stdout.count("lead I:") == 1


def test_calibrate_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(f'[[source]]\nname = "bed1"\ndevice = "cyton"\nserial = "{tmp_path}/tty"\n')
    absent = _run("calibrate", tmp_path / "edge.toml", "bed1", "--seconds", 2)
    assert (absent.returncode, "tty" in absent.stderr) == (2, True)
    unknown = _run("calibrate", tmp_path / "edge.toml", "bed2")
    assert (unknown.returncode, "named are bed1" in unknown.stderr) == (2, True)
    with _running(tmp_path, "simulate", EXCERPT, "--device", "cyton", "--link", tmp_path / "tty", "--repeat"):
        heart = _run("calibrate", tmp_path / "edge.toml", "bed1", "--seconds", 4)
    assert (heart.returncode, "square" in heart.stderr) == (2, True)


def test_check_is_for_people_and_for_programs() -> None:
    people, programs = _run("check", "deploy/edge.toml"), _run("check", "deploy/edge.toml", "--json")
    assert people.returncode == programs.returncode == 0
    assert "OpenBCI Cyton" in people.stdout and "there is no port" in people.stderr
    assert [source["name"] for source in json.loads(programs.stdout)["sources"]][:2] == ["bed1", "bed2"]
    assert _run("check", "--schema").stdout == (ROOT / "deploy/schema/edge.json").read_text()


@pytest.mark.parametrize(("words", "mended_by"), [
    (["check"], "name the config"),
    (["check", "none.toml"], "none.toml"),
    (["run", "none.toml"], "none.toml"),
    (["simulate", EXCERPT, "--device", "cytn"], "did you mean 'cyton'"),
    (["simulate", EXCERPT, "--device", "json"], "only over --mqtt"),
    (["simulate", EXCERPT, "--device", "cyton", "--leads", "II"], "8 signals"),
    (["simulate", EXCERPT, "--mqtt", "host:port"], "host:port"),
    (["simulate", "none"], "no such recording"),
    (["replay", EXCERPT.with_suffix(".dat"), "--device", "json"], "whole messages"),
    (["replay", EXCERPT.with_suffix(".dat"), "--device", "cyton"], "nothing in it comes from OpenBCI Cyton"),
    (["replay", "none.bin", "--device", "cyton"], "no such file"),
])  # fmt: skip
def test_a_mistake_is_one_line_that_says_how_to_mend_it(words: list[object], mended_by: str) -> None:
    told = _run(*words)
    assert (told.returncode, told.stdout) == (2, "")
    assert mended_by in told.stderr and told.stderr.count("\n") == 1


def test_a_small_load_is_borne_without_a_loss(tmp_path: Path) -> None:
    """The bench itself, for half a minute of two sources and two ports."""
    begun_s = time.monotonic()
    done = _run("bench-live", EXCERPT, "--sources", 2, "--serial", 2, "--minutes", 0.5, "--json")
    figures = json.loads(done.stdout)
    assert figures["windows_scored"] == figures["windows_expected"] == 4 * 20
    assert (figures["dropped_bytes"], figures["lost_samples"]) == (0, 0)
    assert 0 < figures["latency_p50_ms"] < figures["latency_p99_ms"] < 1e3 * (time.monotonic() - begun_s)


def test_a_soak_of_minutes_loses_nothing_and_counts_every_window() -> None:
    figures = json.loads(_run("soak", EXCERPT, "--hours", 0.1, "--sources", 1, "--json").stdout)
    assert figures["windows"] == 360 - 10 and figures["lost_samples"] == 0
