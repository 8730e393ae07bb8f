"""Transports over real ports, sockets, pipes and files: what was sent comes, and a loss is an OSError that a new open mends."""

from __future__ import annotations

import errno
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.transport.backoff import Backoff
from edge.transport.serial import SerialPort, present_ports
from edge.transport.stream import EndOfStream, FileStream, Stdin, Tcp, Transport
from kernels.findings import ConfigError

from .broker import free_port, wait_for
from .conftest import ARCHIVE

ROOT = Path(__file__).parent.parent
CAPTURE = ARCHIVE / "devices" / "olimex" / "nsr.bin"


def gather(transport: Transport, length: int, patience_s: float = 10.0) -> bytes:
    """What it reads until there are so many bytes."""
    data, end = b"", time.monotonic() + patience_s
    while len(data) < length and time.monotonic() < end:
        data += transport.read(0.2)
    return data


class Device:
    """A pseudo terminal: the master plays the device, the slave is the port."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(self.master)
        self.port = os.ttyname(slave)
        os.close(slave)

    def heard(self, length: int) -> bytes:
        """What the port's owner has sent."""
        data = b""
        while len(data) < length and select.select([self.master], [], [], 5.0)[0]:
            data += os.read(self.master, 64)
        return data

    def unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
        self.master = -1


@pytest.fixture
def device() -> Iterator[Device]:
    plugged = Device()
    yield plugged
    plugged.unplug()


def test_a_port_hands_on_the_bytes_of_a_real_capture_unchanged(device: Device) -> None:
    sent = CAPTURE.read_bytes()[:20_000] if CAPTURE.exists() else bytes(range(256)) * 60
    port = SerialPort(device.port, 57600)
    port.open()
    writer = threading.Thread(target=_write_all, args=(device.master, sent))
    writer.start()
    assert gather(port, len(sent)) == sent
    writer.join()
    port.close()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data[:1000]) :]


def test_bytes_that_a_terminal_would_swallow_or_change_come_through_a_port(device: Device) -> None:
    special = bytes(range(256))
    port = SerialPort(device.port, 115200)
    port.open()
    os.write(device.master, special)
    assert gather(port, 256) == special
    port.close()


def test_one_read_takes_all_that_waits_at_a_port(device: Device) -> None:
    port = SerialPort(device.port, 115200)
    port.open()
    os.write(device.master, bytes(500))
    wait_for(lambda: port._port.in_waiting == 500)
    assert len(port.read(1.0)) == 500
    port.close()


def test_a_silent_port_gives_no_bytes_after_its_timeout(device: Device) -> None:
    port = SerialPort(device.port, 115200)
    port.open()
    begun = time.monotonic()
    assert port.read(0.15) == b""
    assert 0.1 < time.monotonic() - begun < 2.0
    port.close()


def test_a_device_is_woken_after_stale_bytes_are_discarded_and_put_to_sleep_at_the_end(device: Device) -> None:
    keeper = os.open(device.port, os.O_RDWR | os.O_NOCTTY)
    os.write(device.master, b"stale")
    port = SerialPort(device.port, 115200, wake=b"b", sleep=b"s")
    port.open()
    assert device.heard(1) == b"b"
    os.write(device.master, b"fresh")
    assert gather(port, 5) == b"fresh"
    port.close()
    assert device.heard(1) == b"s"
    os.close(keeper)


def test_an_unplugged_device_is_an_os_error_in_words_and_closing_it_is_silent(device: Device) -> None:
    port = SerialPort(device.port, 115200, sleep=b"s")
    port.open()
    device.unplug()
    with pytest.raises(OSError, match="unplugged"):
        gather(port, 1)
    port.close()
    port.close()


def test_a_replugged_device_is_found_by_its_lasting_name(tmp_path: Path, device: Device) -> None:
    link = tmp_path / "usb-maker_device-if00"
    link.symlink_to(device.port)
    port = SerialPort(str(link), 115200)
    port.open()
    keeper = os.open(device.port, os.O_RDWR | os.O_NOCTTY)  # so that the next device cannot get the same number
    device.unplug()
    with pytest.raises(OSError):
        gather(port, 1)
    link.unlink()
    with pytest.raises(FileNotFoundError):
        port.open()
    again = Device()
    assert again.port != device.port
    link.symlink_to(again.port)
    port.open()
    os.write(again.master, b"back")
    assert gather(port, 4) == b"back"
    port.close()
    os.close(keeper)
    again.unplug()


def test_a_missing_port_is_told_with_the_ports_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.transport.serial.present_ports", lambda: ["/dev/serial/by-id/usb-one", "/dev/ttyS7"])
    with pytest.raises(FileNotFoundError, match=r"/dev/ttyUSB99.*/dev/serial/by-id/usb-one, /dev/ttyS7"):
        SerialPort("/dev/ttyUSB99", 115200).open()


def test_ports_are_listed_once_and_by_their_lasting_names_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "ttyUSB0"
    node.touch()
    links = tmp_path / "by-id"
    links.mkdir()
    (links / "usb-maker").symlink_to(node)
    ports = [type("Port", (), {"device": path}) for path in ("/dev/ttyS0", str(node))]
    monkeypatch.setattr("edge.transport.serial._BY_ID", links)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: ports)
    assert present_ports() == [str(links / "usb-maker"), "/dev/ttyS0"]


def test_a_port_that_another_process_holds_is_refused_until_it_lets_go(device: Device) -> None:
    code = "import serial, sys; s = serial.Serial(sys.argv[1], exclusive=True); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, device.port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin and other.stdout
    assert other.stdout.readline() == b"held\n"
    port = SerialPort(device.port, 115200)
    with pytest.raises(OSError, match="another program holds"):
        port.open()
    other.communicate()
    port.open()
    with pytest.raises(OSError, match="another program holds"):
        SerialPort(device.port, 115200).open()
    port.close()


def test_a_forbidden_port_is_told_with_the_group_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, to whom nothing is forbidden, so the system's answer is put in its mouth."""

    def forbid(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("serial.serialposix.os.open", forbid)
    with pytest.raises(PermissionError, match="group dialout"):
        SerialPort("/dev/ttyUSB0", 115200).open()


@pytest.mark.parametrize("path", [os.devnull, "/proc/version", "/"])
def test_what_is_no_serial_port_is_an_os_error_that_names_it(path: str) -> None:
    with pytest.raises(OSError, match=path):
        SerialPort(path, 115200).open()


def test_errors_of_the_terminal_layer_are_os_errors_too(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """termios.error is no OSError, and pyserial lets it out."""

    def fail(*_: object) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    monkeypatch.setattr("serial.serialposix.termios.tcflush", fail)
    port = SerialPort(device.port, 115200)
    with pytest.raises(OSError, match="Input/output error"):
        port.open()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def test_tcp_hands_on_the_bytes_and_is_opened_anew_after_the_peer_hangs_up(server: socket.socket) -> None:
    tcp = Tcp("127.0.0.1", server.getsockname()[1])
    for sent in (b"first", b"second"):
        tcp.open()
        peer, _ = server.accept()
        peer.sendall(sent)
        assert gather(tcp, len(sent)) == sent
        assert tcp.read(0.01) == b""
        peer.close()
        with pytest.raises(ConnectionError, match="closed the connection"):
            gather(tcp, 1)
    tcp.close()


def test_tcp_asks_a_silent_peer_whether_it_still_lives(server: socket.socket) -> None:
    tcp = Tcp("127.0.0.1", server.getsockname()[1])
    tcp.open()
    assert tcp._fd is not None
    with socket.socket(fileno=os.dup(tcp._fd)) as same:
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    tcp.close()


def test_tcp_tells_where_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}"):
        Tcp("127.0.0.1", port).open()


@pytest.mark.parametrize(("host", "port"), [("", 1), ("a..b", 1), ("x" * 70, 1), ("localhost", 0), ("localhost", 65536)])
def test_an_impossible_address_is_the_operators_mistake(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        Tcp(host, port)


def test_a_file_is_read_to_its_end_and_then_ends_for_good(tmp_path: Path) -> None:
    path = tmp_path / "capture.bin"
    path.write_bytes(bytes(range(256)) * 300)
    file = FileStream(path)
    file.open()
    assert gather(file, path.stat().st_size) == path.read_bytes()
    for _ in range(2):
        with pytest.raises(EndOfStream):
            file.read(1.0)
    file.open()
    assert file.read(1.0)[:3] == b"\x00\x01\x02"
    file.close()


def test_a_missing_file_and_a_folder_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileStream(tmp_path / "none").open()
    with pytest.raises(IsADirectoryError):
        FileStream(tmp_path).open()


def test_a_fifo_outlives_its_writers(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fifo = FileStream(path)
    fifo.open()
    assert fifo.read(0.05) == b""
    for sent in (b"one", b"two", b"three"):
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, sent)
        assert gather(fifo, len(sent)) == sent
        os.close(writer)
        begun = time.monotonic()
        while time.monotonic() - begun < 0.1:
            assert fifo.read(0.05) == b""
    fifo.close()


def test_a_fifo_without_a_writer_does_not_turn_idle_time_into_work(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fifo = FileStream(path)
    fifo.open()
    os.close(os.open(path, os.O_WRONLY))
    fifo.read(0.05)
    begun = time.monotonic()
    assert fifo.read(0.15) == b""
    assert time.monotonic() - begun > 0.1
    fifo.close()


def test_standard_input_is_read_to_its_end_and_stays_open_for_the_process() -> None:
    code = """
import os, sys
from edge.transport.stream import EndOfStream, Stdin
stdin = Stdin()
stdin.open()
data = b""
try:
    while True:
        data += stdin.read(0.2)
except EndOfStream:
    stdin.close()
    os.fstat(0)
    sys.stdout.buffer.write(data[::-1])
"""
    child = subprocess.run([sys.executable, "-c", code], input=b"\x00abc\xff", capture_output=True, cwd=ROOT, timeout=30, check=True)
    assert child.stdout == b"\xffcba\x00"


def _open_each(tmp_path: Path, device: Device, server: socket.socket) -> dict[str, Transport]:
    os.mkfifo(tmp_path / "fifo")
    return {
        "serial": SerialPort(device.port, 9600),
        "tcp": Tcp("127.0.0.1", server.getsockname()[1]),
        "fifo": FileStream(tmp_path / "fifo"),
    }


@pytest.mark.parametrize("kind", ["serial", "tcp", "fifo"])
def test_closing_from_another_thread_ends_a_blocked_read_within_its_timeout(
    kind: str, tmp_path: Path, device: Device, server: socket.socket
) -> None:
    transport = _open_each(tmp_path, device, server)[kind]
    transport.open()
    ended: list[OSError] = []

    def drain() -> None:
        try:
            while True:
                transport.read(0.2)
        except OSError as error:
            ended.append(error)

    reader = threading.Thread(target=drain)
    reader.start()
    time.sleep(0.05)
    begun = time.monotonic()
    transport.close()
    reader.join(5.0)
    assert not reader.is_alive() and "not open" in str(ended[0])
    assert time.monotonic() - begun < 2.0


def _descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_no_descriptor_is_left_behind_however_often_a_transport_fails_and_is_opened(
    tmp_path: Path, device: Device, server: socket.socket
) -> None:
    transports = [*_open_each(tmp_path, device, server).values(), FileStream(tmp_path), SerialPort(os.devnull, 9600), Stdin()]
    before = _descriptors()
    for _ in range(20):
        for transport in transports:
            try:
                transport.open()
                transport.open()
            except OSError:
                pass
            transport.close()
    for transport in transports[3:5]:
        with pytest.raises(OSError):
            transport.open()
    assert _descriptors() <= before


def test_a_fifo_holds_one_descriptor_however_many_writers_came_and_went(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = FileStream(tmp_path / "fifo")
    fifo.open()
    before = _descriptors()
    for _ in range(10):
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        assert fifo.read(0.05) == b""
    assert _descriptors() == before
    fifo.close()


@given(st.text(), st.floats(0.01, 5), st.floats(5, 100), st.integers(1, 40))
def test_waits_double_up_to_the_longest_and_never_all_the_same(seed: str, first_s: float, longest_s: float, failures: int) -> None:
    backoff, same = Backoff(seed, first_s, longest_s), Backoff(seed, first_s, longest_s)
    waits = [backoff.next_s() for _ in range(failures)]
    assert waits == [same.next_s() for _ in range(failures)]
    for number, wait in enumerate(waits):
        upper = min(first_s * 2**number, longest_s)
        assert upper / 2 <= wait <= upper
    backoff.reset()
    assert backoff.next_s() <= first_s


def test_two_sources_do_not_come_back_at_the_same_time() -> None:
    assert len({Backoff(f"source-{number}").next_s() for number in range(50)}) == 50


def test_a_source_that_stays_away_for_months_is_still_tried_every_half_minute() -> None:
    backoff = Backoff("away")
    assert 15 <= [backoff.next_s() for _ in range(200_000)][-1] <= 30
