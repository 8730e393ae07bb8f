from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from edge import daemon, exchange, scribe
from edge.fleet import pages, worker

DEPLOY = Path(__file__).parent.parent / "deploy"
UNIT = DEPLOY / "cardiogloss.service"
WORKER = DEPLOY / "cardiogloss-worker.service"
GPU = DEPLOY / "jetson" / "cardiogloss-gpu.conf"
RULES = DEPLOY / "99-cardiogloss.rules"
HWDB = Path("/usr/lib/udev/hwdb.d/20-usb-vendor-model.hwdb")
WORST = 25
"""Tenths of the exposure level that `systemd-analyze security` gives."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def _unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Values by section and key, in order: a key of systemd's may stand often."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(match[1], defaultdict(list))
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section[key].append(value)
    return sections


SERVICE, WORKERS = _unit(UNIT)["Service"], _unit(WORKER)["Service"]


def _run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "SYSTEMD_COLORS": "0", **environment}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=everything, timeout=60, check=False)


@needs_systemd
@pytest.mark.parametrize("unit_file", [UNIT, WORKER], ids=lambda path: path.stem)
def test_systemd_finds_nothing_to_complain_of_in_the_units(tmp_path: Path, unit_file: Path) -> None:
    command = tmp_path / "opt/cardiogloss/current/bin/cardiogloss"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / unit_file.name
    unit.write_text(unit_file.read_text().replace("ExecStart=", f"ExecStart={tmp_path}"))
    drop_in = tmp_path / f"{unit_file.name}.d" / "gpu.conf"
    drop_in.parent.mkdir()
    shutil.copy(GPU, drop_in)
    verified = _run("systemd-analyze", "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_verify_would_complain() -> None:
    """Of the command that is not installed here; else the test above could not fail."""
    assert "is not executable" in _run("systemd-analyze", "verify", UNIT).stderr


@needs_systemd
@pytest.mark.parametrize("with_gpu", [False, True])
@pytest.mark.parametrize("unit", [UNIT, WORKER], ids=lambda path: path.stem)
def test_the_exposure_is_at_most_two_and_a_half(tmp_path: Path, unit: Path, with_gpu: bool) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(unit, units)
    if with_gpu:
        (units / f"{unit.name}.d").mkdir()
        shutil.copy(GPU, units / f"{unit.name}.d" / "gpu.conf")
    security = ("systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--no-pager")
    assert _run(*security, f"--threshold={WORST}", unit.name).returncode == 0
    assert _run(*security, "--threshold=5", unit.name).returncode != 0


def test_a_worker_may_do_nothing_that_a_monitor_may_not_and_touches_no_device() -> None:
    hardening = re.compile(
        r"Protect|Private|Restrict|NoNew|Capab|Ambient|Lock|MemoryDeny|SystemCall|Keyring|RemoveIPC|DevicePolicy|UMask|User|Group"
    )
    assert {key: values for key, values in SERVICE.items() if hardening.match(key)} == {
        key: values for key, values in WORKERS.items() if hardening.match(key)
    }
    assert "DeviceAllow" not in WORKERS and "StateDirectory" not in WORKERS
    assert set(WORKERS["LoadCredential"]) < set(SERVICE["LoadCredential"])


def test_a_worker_has_time_to_answer_what_it_holds() -> None:
    assert worker._FAREWELL_S < int(WORKERS["TimeoutStopSec"][0]) <= 2 * worker._FAREWELL_S
    assert int(WORKERS["WatchdogSec"][0]) > pages._LATE_S


@pytest.mark.parametrize("service", [SERVICE, WORKERS], ids=["monitor", "worker"])
def test_a_secret_that_is_not_there_does_not_keep_the_unit_from_starting(service: dict[str, list[str]]) -> None:
    """systemd.exec(5): without a SetCredential= of the same name, a file that LoadCredential= cannot find is fatal."""
    loaded = [value.partition(":")[0] for value in service["LoadCredential"]]
    default = {name: value for name, _, value in (value.partition(":") for value in service["SetCredential"])}
    assert loaded
    assert default == dict.fromkeys(loaded, r"\n")


def test_there_is_time_for_the_longest_farewell_and_not_much_more() -> None:
    farewell_s = daemon._FAREWELL_S + scribe._FAREWELL_S + exchange._FAREWELL_S + exchange._DISK_S
    assert farewell_s < int(SERVICE["TimeoutStopSec"][0]) <= 2 * farewell_s


def test_the_watchdog_waits_for_longer_than_the_daemon_takes_to_call_itself_late() -> None:
    assert int(SERVICE["WatchdogSec"][0]) > daemon._LATE_S + daemon._TICK_S
    assert SERVICE["Type"] == ["notify"]


def test_what_the_daemon_writes_lies_in_folders_that_the_unit_makes() -> None:
    environment = dict(value.split("=", 1) for value in SERVICE["Environment"])
    assert environment["CARDIOGLOSS_CACHE"] == f"/var/cache/{SERVICE['CacheDirectory'][0]}"
    parser = configparser.ConfigParser(strict=False, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(GPU)
    assert parser["Service"]["Environment"].startswith("CUDA_CACHE_PATH=/var/cache/cardiogloss/")


_WITHOUT_WRITABLE_CODE = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("the kernel does not refuse it")
except PermissionError:
    pass
import numpy as np
import edge.daemon
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import open_engine
bundle = Bundle.read(SHIPPED_BUNDLE)
with open_engine(bundle, "onnx", 2) as engine:
    assert np.isfinite(engine.run(np.zeros((1, 12, bundle.card.samples), np.float32)).probability).all()
"""


def test_the_daemon_and_its_engine_need_no_memory_that_is_both_written_and_run() -> None:
    """The kernel's own refusal (prctl(2), Linux 6.3), which MemoryDenyWriteExecute= has had as a filter before."""
    assert SERVICE["MemoryDenyWriteExecute"] == ["yes"]
    ran = _run(sys.executable, "-c", _WITHOUT_WRITABLE_CODE, PYTHONPATH=str(DEPLOY.parent))
    if ran.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert ran.returncode == 0, ran.stderr


_SANDBOX = """
set -e
mkdir "$1/dev" && mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in null zero full random urandom tty; do touch "$1/dev/$node"; mount --bind /dev/$node "$1/dev/$node"; done
mkdir "$1/dev/pts" && mount --bind /dev/pts "$1/dev/pts" && ln -s pts/ptmx "$1/dev/ptmx"
mount --move "$1/dev" /dev
mount -t tmpfs tmpfs /run && mkdir -p /run/udev/rules.d && cp "$2" /run/udev/rules.d
exec umockdev-run --device "$3" -- udevadm test "$4"
"""
_DEVICE = """P: /devices/usb1/1-2
N: bus/usb/001/004
E: DEVNAME=/dev/bus/usb/001/004
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor={vendor}
A: idProduct={product}
{serial}A: busnum=1
A: devnum=4

P: /devices/usb1/1-2/1-2:1.0
E: DEVTYPE=usb_interface
E: SUBSYSTEM=usb
A: bInterfaceNumber=00
A: bInterfaceClass=ff
A: bInterfaceSubClass=ff
A: bInterfaceProtocol=ff

P: /devices/usb1/1-2/1-2:1.0/ttyUSB0
E: DRIVER=ftdi_sio
E: SUBSYSTEM=usb-serial
A: latency_timer=16
L: driver=../../../../../bus/usb-serial/drivers/ftdi_sio

P: /devices/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0
N: ttyUSB0
E: DEVNAME=/dev/ttyUSB0
E: SUBSYSTEM=tty
E: MAJOR=188
E: MINOR=0
"""
_PORT = "/sys/devices/usb1/1-2/1-2:1.0/ttyUSB0"


def _udev(folder: Path, device: str, path: str) -> str:
    """What the real udev makes of a device that is not there. Raises Skipped where it cannot be asked."""
    if os.geteuid() or shutil.which("umockdev-run") is None or shutil.which("udevadm") is None:
        pytest.skip("wants root, udevadm and umockdev-run (apt install udev umockdev)")
    described = folder / "device"
    described.write_text(device)
    told = _run("unshare", "--mount", "sh", "-c", _SANDBOX, "sh", folder, RULES, described, path)
    output = told.stdout + told.stderr
    if "Operation not permitted" in output or "permission denied" in output:
        pytest.skip("no mounts of its own here")
    assert told.returncode == 0, output
    return output


def _properties(output: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", output, re.M))


def test_an_openbci_dongle_has_a_name_that_stays(tmp_path: Path) -> None:
    output = _udev(tmp_path, _DEVICE.format(vendor="0403", product="6015", serial="A: serial=DM00Q0QN\n"), _PORT + "/tty/ttyUSB0")
    properties = _properties(output)
    assert "/dev/cardiogloss/ft231x-DM00Q0QN" in properties["DEVLINKS"].split()
    assert properties["ID_MM_DEVICE_IGNORE"] == properties["ID_MM_PORT_IGNORE"] == "1"
    assert ":systemd:" in properties["TAGS"]
    assert "MODE 0660" in output
    assert "Invalid" not in output


def test_two_adapters_with_the_number_that_their_maker_left_in_them_do_not_share_a_name(tmp_path: Path) -> None:
    """Else one bed would show the other's signal after a reconnect: the link is the later one's."""
    described = _DEVICE.replace("/devices/usb1", "/devices/pci0000:00/0000:00:14.0/usb1")
    described = "P: /devices/pci0000:00/0000:00:14.0\nE: SUBSYSTEM=pci\n\n" + described
    port = _PORT.replace("/devices/usb1", "/devices/pci0000:00/0000:00:14.0/usb1") + "/tty/ttyUSB0"
    properties = _properties(_udev(tmp_path, described.format(vendor="10c4", product="ea60", serial="A: serial=0001\n"), port))
    ours = [link for link in properties["DEVLINKS"].split() if link.startswith("/dev/cardiogloss/")]
    assert ours == [f"/dev/cardiogloss/cp210x-{properties['ID_PATH']}"]


def test_an_unknown_adapter_is_left_alone(tmp_path: Path) -> None:
    output = _udev(tmp_path, _DEVICE.format(vendor="1199", product="68c0", serial="A: serial=MODEM\n"), _PORT + "/tty/ttyUSB0")
    assert "/dev/cardiogloss" not in output
    assert "ID_MM_DEVICE_IGNORE" not in _properties(output)


def test_an_ftdi_adapter_passes_its_bytes_on_after_a_millisecond(tmp_path: Path) -> None:
    output = _udev(tmp_path, _DEVICE.format(vendor="0403", product="6015", serial=""), _PORT)
    assert re.search(r"99-cardiogloss\.rules:\d+ ATTR '.*/latency_timer' writing '1'", output)


@pytest.mark.skipif(not HWDB.is_file(), reason="udev's list of USB devices is not installed")
def test_the_usb_ids_of_the_rules_are_those_that_udevs_list_has() -> None:
    """A few are newer than the list; of those it knows the maker at least or nothing."""
    listed = HWDB.read_text(errors="replace").upper()
    rules = re.findall(r'idVendor}=="(\w+)", ATTRS\{idProduct}=="([\w|]+)"', RULES.read_text())
    known = {(vendor, product) for vendor, products in rules for product in products.split("|") if f"V{vendor}P{product}".upper() in listed}
    assert len(rules) == 8
    assert {("0403", "6015"), ("0403", "6001"), ("2341", "0043"), ("10c4", "ea60"), ("1a86", "7523")} <= known
