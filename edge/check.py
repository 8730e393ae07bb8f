"""An `edge.toml` and the bundle that it names in; what would be watched, and what looks doubtful, out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.bundle import Bundle, Card
from kernels.findings import ConfigError, in_words

from .config import Config, Mqtt, Source, Web, is_local, read_config
from .decode import frame
from .decode.device import Device
from .play import SLOWEST_SHARE

_CREDENTIALS = Path("/run/credentials")
_PRIORITIES = {"high": "high", "medium": "medium", "low": "low", "none": "scored, never an alert"}


@dataclass(frozen=True, slots=True)
class Watched:
    """One source, as it would be opened."""

    name: str
    """Or the MQTT filter, where that names the sources."""
    device: str
    """Maker and model."""
    place: str
    """Transport and address."""
    leads: tuple[str, ...]
    """Empty where the bytes say it."""
    rate_hz: float | None
    """None where the bytes say it."""
    units_per_mv: float | None
    """None where the bytes say it."""
    recorded_in: str | None

    def line(self) -> str:
        """For people."""
        leads = f"leads {' '.join(self.leads)}" if self.leads else "leads as it says itself"
        rate = f"{self.rate_hz:g} Hz" if self.rate_hz else "rate as it says itself"
        scale = f"{self.units_per_mv:.6g} units per mV" if self.units_per_mv else "scale as it says itself"
        kept = f"recorded in {self.recorded_in}" if self.recorded_in else "not recorded"
        return f'source "{self.name}": {self.device} on {self.place}; {leads}; {rate}; {scale}; {kept}'


@dataclass(frozen=True, slots=True)
class Checked:
    """A config that would start."""

    site: str
    model: str
    sources: tuple[Watched, ...]
    broker: str | None
    http: str | None
    web: str | None
    findings: dict[str, tuple[str, ...]]
    """By priority, the highest first."""
    warnings: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it but the warnings, for people."""
        findings = (f"{_PRIORITIES[priority]}: {', '.join(map(in_words, names))}" for priority, names in self.findings.items())
        broker = f"broker {self.broker}" if self.broker else "no broker: messages go to standard output"
        http = f"metrics on http://{self.http}/metrics" if self.http else "no metrics"
        web = f"dashboard on {self.web}" if self.web else "no dashboard"
        return (f"site {self.site}", f"model {self.model}", *(source.line() for source in self.sources), broker, http, web, *findings)


def check(path: Path) -> Checked:
    """Opens no port and no connection.

    Raises ConfigError with every mistake, one a line, and BundleError for a model that cannot be used.
    """
    config = read_config(path)
    card = Bundle.read(config.model.bundle).card
    must_fit(config, card, path)
    return Checked(
        config.site,
        f"{config.model.bundle}: windows of {card.window_s:g} s at {card.rate_hz:g} Hz, one every {config.model.hop_s:g} s",
        tuple(_watched(source, config) for source in config.source),
        _broker(config.mqtt) if config.mqtt else None,
        f"{config.http.host}:{config.http.port}" if config.http else None,
        _dashboard(config.web) if config.web else None,
        {p: names for p in _PRIORITIES if (names := tuple(f.name for f in card.findings if f.priority == p))},
        tuple(warnings(config)),
    )


def must_fit(config: Config, card: Card, path: Path) -> None:
    """Raises ConfigError with every mistake, one a line."""
    mistakes = list(misfits(config, card))
    if mistakes:
        raise ConfigError("\n".join(f"{path}: {mistake}" for mistake in mistakes))


def misfits(config: Config, card: Card) -> Iterator[str]:
    """What the config and this bundle, or this machine's ports and files, get wrong together."""
    shortest_s = 1 / card.rate_hz
    if not shortest_s <= config.model.hop_s <= card.window_s:
        yield f"model.hop_s: {config.model.hop_s:g} must lie between {shortest_s:g} and the window's {card.window_s:g} s"
    slowest_hz = SLOWEST_SHARE * card.rate_hz
    for source in config.source:
        rate_hz = _rate_hz(source)
        if rate_hz and rate_hz < slowest_hz:
            yield f"{_label(source)}: rate_hz: {rate_hz:g} Hz is too slow for this model, which needs {slowest_hz:g} Hz or more"
    yield from _same_ports(config)
    for key in ("mqtt.password_file", "mqtt.ca", "mqtt.certificate", "mqtt.key", "web.token_file", "web.certificate", "web.key"):
        table, _, name = key.partition(".")
        file = getattr(getattr(config, table), name, None)
        if file is not None and _is_absent(file):
            yield f"{key}: there is no file {file}"
    if config.web and config.http and config.web.port == config.http.port != 0:
        yield f"web.port: {config.web.port} is that of [http]; give each its own"


def warnings(config: Config) -> Iterator[str]:
    """What would start, but looks doubtful on this machine now."""
    for source in config.source:
        for words in _doubts(source):
            yield f"{_label(source)}: {words}"
    if config.record and not any(source.record for source in config.source):
        yield "record: no source has record = true, so nothing is recorded"
    if config.mqtt:
        yield from _broker_doubts(config.mqtt)
    if config.web:
        yield from _secret_doubts("web", "token_env", config.web)


def _watched(source: Source, config: Config) -> Watched:
    kind, wiring = source.kind, source.wiring()
    baud = f" at {source.line_baud} baud" if source.serial else ""
    folder = str(config.record.folder) if source.record and config.record else None
    scale = source.units_per_mv or (None if _says_itself(kind) else wiring.units_per_mv)
    return Watched(source.name or str(source.mqtt), kind.title, source.place + baud, wiring.kept, _rate_hz(source), scale, folder)


def _rate_hz(source: Source) -> float | None:
    """None where the bytes say it."""
    return source.rate_hz or (None if _says_itself(source.kind) else source.kind.wiring.rate_hz)


def _says_itself(kind: Device) -> bool:
    """Whether rate and scale come with the samples; what its wiring has is for its encoder alone."""
    return kind.by_message or kind.name == frame.DEVICE.name


def _broker(mqtt: Mqtt) -> str:
    """Where and how, never with what password."""
    user = f", user {mqtt.user}{' with a password' if mqtt.has_password else ''}" if mqtt.user else ""
    version = "5 or 3.1.1" if mqtt.version == "auto" else mqtt.version
    return f"{mqtt.address}, MQTT {version}{', TLS' if mqtt.tls else ''}{user}"


def _dashboard(web: Web) -> str:
    """Where and how, never with what token."""
    return f"{web.address}, {'with' if web.has_token else 'without'} a token"


def _label(source: Source) -> str:
    return f'source "{source.name or source.mqtt}"'


def _same_ports(config: Config) -> Iterator[str]:
    """Two names may lead to one port: a link under /dev/serial/by-id and the port itself."""
    owners: dict[str, Source] = {}
    for source in config.source:
        port = _real(source.serial) if source.serial else None
        if port and owners.setdefault(port, source) is not source:
            yield f"{_label(source)}: serial: {source.serial} is the port of {_label(owners[port])}; one port serves one source"


def _doubts(source: Source) -> Iterator[str]:
    if source.serial and source.serial.startswith("/") and not _exists(Path(source.serial)):
        yield f"serial: there is no port {source.serial} now; it is opened as soon as there is"
    if source.serial and re.fullmatch(r"/dev/tty(USB|ACM)\d+", source.serial):
        yield f"serial: {source.serial} may change after a reboot: use its name under /dev/serial/by-id/"
    if source.file and not _exists(source.file):
        yield f"file: there is no file {source.file} now; it is opened as soon as there is"


def _broker_doubts(mqtt: Mqtt) -> Iterator[str]:
    if mqtt.has_password and not mqtt.tls and not is_local(mqtt.host):
        yield f"mqtt.tls: the password would go to {mqtt.host} unencrypted; set tls = true, if the broker has it"
    yield from _secret_doubts("mqtt", "password_env", mqtt)


def _secret_doubts(name: str, variable: str, table: Mqtt | Web) -> Iterator[str]:
    if (told := getattr(table, variable)) and not os.environ.get(told):
        yield f"{name}.{variable}: the environment variable {told} is not set here; the daemon will need it"
    for key in (variable.replace("_env", "_file"), "key"):
        file = getattr(table, key)
        if file and _exists(file) and file.stat().st_mode & stat.S_IROTH:
            yield f"{name}.{key}: everybody on this machine can read {file}; make it private: chmod o-r {file}"


def _is_absent(path: Path) -> bool:
    """Known not to be there. A systemd credential is there only while its service runs, and others may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return not path.is_relative_to(_CREDENTIALS)
    except OSError:
        return False
    return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _real(port: str) -> str:
    try:
        return str(Path(port).resolve())
    except (OSError, ValueError, RuntimeError):
        return port
