"""A TOML file in; what the daemon is to watch, and how, out."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationInfo

from kernels.bundle import SHIPPED_BUNDLE, shipped_names
from kernels.findings import ConfigError, read_toml

from . import wildcard
from .decode import devices
from .decode.device import Device, Wiring
from .decode.wfdb import FASTEST_HZ
from .mistakes import NAME_PATTERN, Tables, fit
from .rules import rules
from .shard import Shard

SCHEMA_ID = "urn:cardiogloss:edge.toml"

TransportName = Literal["serial", "tcp", "stdin", "file", "mqtt"]
_TRANSPORTS: tuple[TransportName, ...] = ("serial", "tcp", "stdin", "file", "mqtt")


def _beside(path: Path, info: ValidationInfo) -> Path:
    """A relative path starts at the folder of the file that names it."""
    if "\0" in str(path):
        raise ValueError("must be a path; it holds a NUL")
    return Path((info.context or {}).get("folder", "")) / path


def _model(path: Path, info: ValidationInfo) -> Path:
    """A bare name is that of a shipped bundle, where there is no such file."""
    beside = _beside(path, info)
    return path if str(path) in shipped_names() and not beside.is_file() else beside


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not text.isprintable() or any(sign in text for sign in "/@:[] ") or not text:
            raise ValueError("must be the bare name or address of a host, without mqtt://, user, password or port") from None
    try:
        text.encode("idna")
    except UnicodeError:
        raise ValueError("is no name that a host can have; a part of it is empty or longer than 63 letters") from None
    return text


def in_address(host: str) -> str:
    """As it stands before a port: IPv6 has colons of its own."""
    return f"[{host}]" if ":" in host else host


def is_local(host: str) -> bool:
    """Whether this name or address can only be that of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _prefix(text: str) -> str:
    if not all(text.split("/")) or any(sign in text for sign in "+#\0") or text.startswith("$"):
        raise ValueError("must be one or more topic levels, as in clinic/ecg, without + # or a / at either end")
    return text


def _tcp(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536 or not host:
        raise ValueError("must read host:port, as in 192.168.1.20:4001")
    _host(host[1:-1] if host[0] + host[-1] == "[]" else host)
    return text


def _shard(text: str) -> str:
    Shard.parse(text)
    return text


_File = Annotated[Path, Strict(False), AfterValidator(_beside)]
_Host = Annotated[str, AfterValidator(_host)]


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Model(_Table):
    """`[model]`: what scores the windows."""

    bundle: Annotated[Path, Strict(False), AfterValidator(_model)] = Field(default_factory=lambda: SHIPPED_BUNDLE)
    """The bundle, a file or the name of one that came with cardiogloss; `cardiogloss` where it is left out."""
    engine: Literal["onnx", "openvino", "tensorrt", "remote"] = "onnx"
    """What runs it; `remote` asks the score-workers at the broker. Where another is not to be had, `onnx` does, and the log says why."""
    threads: int = Field(default=1, ge=1)
    """Processor threads of one call of the engine."""
    hop_s: float = Field(default=1.0, gt=0)
    """Seconds from one window to the next, at most the window of the bundle."""


class Mqtt(_Table):
    """`[mqtt]`: the broker, for what comes in and what goes out. It never holds the password, only where that stands."""

    host: _Host = "localhost"
    """Name or address of the broker."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """1883, or 8883 with TLS."""
    version: Literal["auto", "5", "3.1.1"] = "auto"
    """Version of the MQTT protocol; `auto` is 5, and 3.1.1 where the broker knows no 5."""
    client_id: str = ""
    """`cardiogloss-<site>` where it is empty."""
    prefix: Annotated[str, AfterValidator(_prefix)] = "cardiogloss"
    """The first levels of every topic that goes out."""
    user: str = ""
    """Empty for a broker that asks for no user."""
    password_env: str = ""
    """The environment variable that holds the password."""
    password_file: _File | None = None
    """The file that holds the password, and nothing else; a systemd credential is such a file."""
    tls: bool = False
    """Whether the connection is encrypted."""
    ca: _File | None = None
    """The certificate authority (PEM); the system's own where it is left out."""
    certificate: _File | None = None
    """The client's certificate (PEM), for a broker that asks for one."""
    key: _File | None = None
    """The private key (PEM) of the certificate."""
    keepalive_s: int = Field(default=30, ge=5, le=65535)
    """The broker takes a client for lost that is silent for one and a half times as long."""
    largest_kb: int = Field(default=1024, ge=1)
    """A larger message is refused and counted."""

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"{in_address(self.host)}:{self.port or (8883 if self.tls else 1883)}"

    @property
    def has_password(self) -> bool:
        """Whether one is needed; it is not read."""
        return bool(self.password_env or self.password_file)

    def password(self) -> str | None:
        """Read anew at each call; None where none is set. Raises ConfigError for an unset variable or an unreadable file."""
        return _secret("mqtt.password", self.password_env, self.password_file)


def _secret(key: str, variable: str, file: Path | None) -> str | None:
    """What stands in an environment variable, or in a file and nothing else beside it."""
    if variable:
        return _from_environment(f"{key}_env", variable)
    return _from_file(f"{key}_file", file) if file else None


def _from_environment(key: str, variable: str) -> str:
    secret = os.environ.get(variable)
    if not secret:
        raise ConfigError(f"{key}: the environment variable {variable} is not set, or empty; set it to the {_noun(key)}")
    return secret


def _from_file(key: str, path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        # Not chained: its text would quote the secret's bytes.
        raise ConfigError(f"{key}: {path} is not UTF-8 text; write the {_noun(key)} into it, and nothing else") from None
    if not secret:
        raise ConfigError(f"{key}: {path} is empty; write the {_noun(key)} into it")
    return secret


def _noun(key: str) -> str:
    return re.split(r"[._]", key)[1]


class Outbox(_Table):
    """`[outbox]`: where alerts are kept until the broker has them, and for a while after. Only with `[mqtt]`."""

    file: _File | None = None
    """A SQLite database; `<site>.db` in $STATE_DIRECTORY, else in cardiogloss under $XDG_STATE_HOME or ~/.local/state."""
    limit_mb: float = Field(default=64.0, ge=1)
    """The oldest alerts go first."""
    limit_days: float = Field(default=7.0, gt=0)
    """Older alerts that were delivered go."""

    def file_of(self, name: str) -> Path:
        """The given one, else that of this monitor. Raises ConfigError where there is no home to put it."""
        return self.file or _state_folder() / f"{name}.db"


def _state_folder() -> Path:
    # systemd gives a list where a unit names several.
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cardiogloss"
    except RuntimeError as error:
        raise ConfigError("outbox.file: missing, and this user has no home; give a file") from error


class HomeAssistant(_Table):
    """`[homeassistant]`: whether Home Assistant finds the sources by itself. Only with `[mqtt]`."""

    discovery: bool = False
    """Whether they are announced."""
    prefix: Annotated[str, AfterValidator(_prefix)] = "homeassistant"
    """The first levels of the topics that Home Assistant listens to."""


class Http(_Table):
    """`[http]`: /metrics, /healthz, /readyz and /alerts."""

    host: _Host = "127.0.0.1"
    """The address to listen on; 0.0.0.0 lets other machines in."""
    port: int = Field(default=9464, ge=0, le=65535)
    """0 takes any that is free."""


class Web(_Table):
    """`[web]`: the dashboard; wants `pip install cardiogloss[web]`."""

    host: _Host = "127.0.0.1"
    """The address to listen on; any but this machine's own asks for a token, and for TLS."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes any that is free."""
    token_env: str = ""
    """The environment variable that holds the token which browsers are asked for."""
    token_file: _File | None = None
    """The file that holds the token, and nothing else; a systemd credential is such a file."""
    certificate: _File | None = None
    """The server's certificate (PEM), with those between it and its authority."""
    key: _File | None = None
    """The private key (PEM) of the certificate."""
    behind_proxy: bool = False
    """Whether a proxy before it does TLS, so that other machines may be served without."""
    leads: Annotated[tuple[str, ...], Strict(False)] = ("II", "V1", "I")
    """The leads that are shown first, where a source has them."""
    history: _File | None = None
    """A SQLite database of what was seen; `<site>-history.db` beside the outbox where it is left out."""
    history_days: float = Field(default=1.0, gt=0, le=31)
    """So long it is kept."""

    @property
    def address(self) -> str:
        """As a browser wants it."""
        return f"{'https' if self.certificate else 'http'}://{in_address(self.host)}:{self.port}"

    @property
    def has_token(self) -> bool:
        """Whether browsers are asked for one; it is not read."""
        return bool(self.token_env or self.token_file)

    @property
    def is_local(self) -> bool:
        """Whether only this machine is served."""
        return is_local(self.host)

    def token(self) -> str | None:
        """Read anew at each call; None where none is set. Raises ConfigError for an unset variable or an unreadable file."""
        return _secret("web.token", self.token_env, self.token_file)

    def history_of(self, name: str) -> Path:
        """The given file, else that of this monitor. Raises ConfigError where there is no home to put it."""
        return self.history or _state_folder() / f"{name}-history.db"


class Log(_Table):
    """`[log]`: what goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Nothing below it is written."""
    json_lines: bool = True
    """One JSON object a line; text for people where it is false."""


class Record(_Table):
    """`[record]`: where the samples of sources with `record = true` are kept."""

    folder: _File
    """A folder for WFDB records, with one inside for each source."""
    rotate_s: float = Field(default=3600.0, ge=10)
    """Length of one record."""
    limit_mb: float = Field(default=1000.0, gt=0)
    """For each source; the oldest records go first."""


class Source(_Table):
    """`[[source]]`: one device, or with an MQTT wildcard one for each topic that appears."""

    name: str = Field(default="", pattern=NAME_PATTERN, max_length=64)
    """Empty with a wildcard: the source is named by what the wildcards match."""
    device: str = ""
    """A kind of device that cardiogloss knows; `auto` where it is left out over MQTT."""
    serial: str | None = Field(default=None, min_length=1)
    """A serial port, best by its name under /dev/serial/by-id."""
    tcp: Annotated[str, AfterValidator(_tcp)] | None = None
    """`host:port` of a server that sends the device's bytes."""
    stdin: bool = False
    """Whether the device's bytes come on standard input."""
    file: _File | None = None
    """A file or FIFO that holds the device's bytes."""
    mqtt: Annotated[str, AfterValidator(wildcard.check_filter)] | None = None
    """A topic filter; + and # as MQTT has them."""
    baud: int | None = Field(default=None, gt=0, le=4_000_000)
    """Of the serial port; the device's own where it is left out."""
    leads: Annotated[tuple[str, ...], Strict(False)] = ()
    """The lead of each signal in the device's order, - for one to leave out; the device's own where it is left out."""
    rate_hz: float | None = Field(default=None, gt=0, le=FASTEST_HZ)
    """Samples a second; the device's own where it is left out."""
    units_per_mv: float | None = None
    """The device's units in a millivolt; negative turns the lead over; the device's own where it is left out."""
    zero: float | None = None
    """The unit that means 0 mV; the device's own where it is left out."""
    stall_s: float = Field(default=5.0, ge=0.5)
    """Silent for longer, it is stalled, and opened anew."""
    record: bool = False
    """Whether its samples are kept, where `[record]` says."""

    @property
    def transports(self) -> tuple[TransportName, ...]:
        """Every one that is given; a config that was read has one."""
        return tuple(name for name in _TRANSPORTS if getattr(self, name) not in (None, False))

    @property
    def transport(self) -> TransportName:
        """How the bytes come."""
        return self.transports[0]

    @property
    def kind(self) -> Device:
        """What `device` names. Raises ConfigError for a name that is unknown."""
        return devices.device(self.device or ("auto" if self.mqtt else ""))

    @property
    def has_wildcards(self) -> bool:
        """Whether it stands for one source a topic, each named by `name_of`."""
        return self.mqtt is not None and wildcard.has_wildcards(self.mqtt)

    @property
    def tcp_address(self) -> tuple[str, int]:
        """Host and port of `tcp`."""
        assert self.tcp is not None
        host, _, port = self.tcp.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @property
    def line_baud(self) -> int | None:
        """The given one, else the device's."""
        return self.baud or self.kind.baud

    @property
    def place(self) -> str:
        """Transport and address, for people: `tcp 192.168.1.20:4001`."""
        return "stdin" if self.stdin else f"{self.transport} {getattr(self, self.transport)}"

    def wiring(self) -> Wiring:
        """The device's own with what is given here. Raises ConfigError for what the device cannot be."""
        return self.kind.wire(self.leads, self.rate_hz, self.units_per_mv, self.zero)

    def name_of(self, topic: str) -> str | None:
        """The source that a message of this topic belongs to; None where the filter does not take it."""
        levels = None if self.mqtt is None else wildcard.matched(self.mqtt, topic)
        return None if levels is None else self.name or wildcard.name_source(levels)


class Config(_Table):
    """A whole `edge.toml`. Two are equal where they say the same, table by table."""

    site: str = Field(default="home", pattern=NAME_PATTERN, min_length=1, max_length=64)
    """Where the daemon stands; a level of every topic that goes out."""
    shard: Annotated[str, AfterValidator(_shard)] = "1/1"
    """Which of the sources over MQTT this daemon watches, where several share a site: the i-th of n, as in `2/3`."""
    model: Model = Field(default_factory=Model)
    """What scores the windows."""
    mqtt: Mqtt | None = None
    """The broker; without it messages go to standard output, a line each."""
    outbox: Outbox = Field(default_factory=Outbox)
    """What becomes of alerts while the broker is away."""
    homeassistant: HomeAssistant = Field(default_factory=HomeAssistant)
    """How Home Assistant hears of the sources."""
    http: Http | None = Field(default_factory=Http)
    """Where to ask how the daemon is."""
    web: Web | None = None
    """Where the dashboard is."""
    log: Log = Field(default_factory=Log)
    """What goes to standard error."""
    record: Record | None = None
    """Where samples are kept."""
    source: Annotated[tuple[Source, ...], Strict(False)] = Field(min_length=1)
    """The devices to watch, each in a [[source]] of its own."""

    @property
    def share(self) -> Shard:
        """Of the sources over MQTT."""
        return Shard.parse(self.shard)

    @property
    def mine(self) -> tuple[Source, ...]:
        """Those of `source` that this monitor may have to watch; what a wildcard finds is asked of `share` one by one."""
        return tuple(source for source in self.source if source.has_wildcards or self.share.has(source.name))

    @property
    def name(self) -> str:
        """Of this monitor, for what each needs of its own: the site, with the shard where several share it."""
        return "-".join(filter(None, (self.site, self.share.label)))


def read_config(path: Path) -> Config:
    """Raises ConfigError with every mistake, one a line: the file, the key, what is wrong and what is allowed."""
    return parse_config(read_toml(path), path)


def parse_config(tables: Tables, path: Path) -> Config:
    """The tables that stood in the file at `path`, which is not read. Raises ConfigError as `read_config` does."""
    return fit(Config, tables, path, rules)


def schema() -> str:
    """The JSON Schema (2020-12) of an `edge.toml`, for editors."""
    body: dict[str, Any] = Config.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return json.dumps(head | body | {"title": "cardiogloss edge.toml"}, indent=2, sort_keys=True) + "\n"
