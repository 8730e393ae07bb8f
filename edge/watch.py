"""Messages of monitors in; a table of what is on now in the terminal, or lines, or JSON out (`cardiogloss watch`)."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kernels.findings import ConfigError, in_words
from kernels.terminal import console, errors

from .alarm import Priority
from .config import Log, Mqtt, read_config
from .contract import AlertMessage, AlertState, EvidenceMessage, SiteMessage, StatusMessage, VitalsMessage
from .gallery import Gallery, Shown
from .ledger import Since
from .log import configure_log
from .message import Message
from .strip_file import to_png, to_wfdb
from .subscribe import Kind, Told, subscribe

MOST_LINES = 12

_STYLES: dict[Priority, str] = {"high": "bold white on red", "medium": "black on yellow", "low": "black on cyan"}
"""The colours of IEC 60601-1-8."""
_ORDER: tuple[Priority, ...] = get_args(Priority)
_ALSO: tuple[Kind, ...] = ("evidence", "state", "status", "site", "vitals")
_REFRESH_S = 0.5


class Board:
    """What is on at each source, and what changed last."""

    def __init__(self) -> None:
        self._alerts: dict[tuple[str, str, str], AlertState] = {}
        self._sources: dict[tuple[str, str], StatusMessage] = {}
        self._monitors: dict[tuple[str, str], SiteMessage] = {}
        self._rates: dict[tuple[str, str], float | None] = {}
        self._lines: deque[Text] = deque(maxlen=MOST_LINES)
        self.connection = "connecting"
        """What is wrong with it; empty while nothing is."""

    def feed(self, message: Told) -> Text | None:
        """Take note of it; a line where it is news."""
        line = self._note(message)
        if line:
            self._lines.append(line)
        return line

    @property
    def on(self) -> list[AlertState]:
        """The most urgent first, then the newest."""
        return sorted((a for a in self._alerts.values() if a.state != "cleared"), key=lambda a: (_ORDER.index(a.priority), -a.onset_time))

    def render(self) -> RenderableType:
        """The table, the last changes below it, and what is wrong."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("source", "finding", "priority", "since", "peak", "heart rate", "", "state"):
            table.add_column(name)
        for alert in self.on:
            table.add_row(*self._row(alert))
        quiet = sorted(self._sources.keys() - {(alert.site, alert.source) for alert in self.on})
        for place in quiet:
            table.add_row(Text(_name(*place)), Text("nothing is on", "dim"), "", "", "", self._rate(place), "", self._state(place))
        nothing = [] if self.on or quiet else [Text("No source has said anything yet.", "dim")]
        return Group(table, *nothing, Text(), *self._lines, *(Text(words, "yellow") for words in self._wrong()))

    def _note(self, message: Told) -> Text | None:
        match message:
            case AlertState():
                return self._alert(message)
            case StatusMessage():
                return self._source(message)
            case SiteMessage():
                return self._site(message)
            case VitalsMessage():
                self._rates[message.site, message.source] = message.heart_rate_bpm
        return None

    def _alert(self, alert: AlertState) -> Text | None:
        place = alert.site, alert.source, alert.finding
        before = self._alerts.get(place)
        if before is None or _is_later(alert, before):
            self._alerts[place] = alert
        # The retained state only repeats what the message told.
        return _tell(alert) if isinstance(alert, AlertMessage) else None

    def _source(self, status: StatusMessage) -> Text | None:
        place = status.site, status.source
        before, self._sources[place] = self._sources.get(place), status
        if before and (before.state, before.why) == (status.state, status.why):
            return None
        words = f"{_clock(status.time)}  {plain(_name(*place))} is {status.state}" + (f": {plain(status.why)}" if status.why else "")
        return Text(words, "" if status.state == "online" else "yellow")

    def _site(self, site: SiteMessage) -> Text | None:
        place = site.site, site.shard
        before, self._monitors[place] = self._monitors.get(place), site
        if before and before.state == site.state:
            return None
        return Text(f"{_monitor(site)} is {site.state}", "" if site.state == "online" else "yellow")

    def _row(self, alert: AlertState) -> list[Text]:
        """Never a bare str, in which rich would look for markup."""
        place = alert.site, alert.source
        hushed = "acknowledged" if alert.acknowledged_by else "silenced" if alert.silenced else ""
        return [
            Text(_name(*place)),
            Text(plain(in_words(alert.finding))),
            Text(f" {alert.priority} ", _STYLES[alert.priority]),
            Text(_clock(alert.onset_time)),
            Text(f"{alert.score:.2f}"),
            self._rate(place),
            Text(hushed),
            self._state(place),
        ]

    def _rate(self, place: tuple[str, str]) -> Text:
        rate_bpm = self._rates.get(place)
        return Text("" if rate_bpm is None else f"{rate_bpm:.0f}/min")

    def _state(self, place: tuple[str, str]) -> Text:
        status = self._sources.get(place)
        site = self._monitors.get((place[0], status.shard if status else ""))
        state = "monitor offline" if site and site.state == "offline" else status.state if status else ""
        return Text(state, "dim" if state == "online" else "yellow")

    def _wrong(self) -> list[str]:
        offline = [site for site in self._monitors.values() if site.state == "offline" and not self._is_replaced(site)]
        return [*(f"{_monitor(site)} is offline" for site in offline), *filter(None, [self.connection])]

    def _is_replaced(self, site: SiteMessage) -> bool:
        """Whether its site is shared by more monitors now, or by fewer: the broker keeps the last word of each for ever."""
        others = (other for other in self._monitors.values() if other.site == site.site and other.state == "online")
        return any(_shares(other) != _shares(site) for other in others)


def _shares(site: SiteMessage) -> str:
    """How many share the site, in the words of a label."""
    return site.shard.partition("of")[2]


def _monitor(site: SiteMessage) -> str:
    return f"the monitor {plain(site.shard)} of {plain(site.site)}" if site.shard else f"the monitor of {plain(site.site)}"


def _is_later(alert: AlertState, before: AlertState) -> bool:
    return alert.seq >= before.seq if alert.id == before.id else alert.time >= before.time


def _tell(alert: AlertState) -> Text:
    why = f": {plain(alert.why)}" if alert.why else ""
    line = Text(f"{_clock(alert.time)}  {plain(_name(alert.site, alert.source))}  {plain(in_words(alert.finding))} ")
    line.append(f" {alert.priority} ", _STYLES[alert.priority] if alert.state != "cleared" else "dim")
    return line.append(f" {alert.state} (peak {alert.score:.2f}, id {plain(alert.id)}){why}")


def _name(site: str, source: str) -> str:
    return plain(f"{site}/{source}")


def plain(text: str) -> str:
    """What comes over the network may hold what moves a terminal's cursor."""
    return "".join(sign for sign in text if sign.isprintable())


def _clock(time_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time_s):%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


class Collection:
    """A folder with the strips of alerts: JSON, PNG and WFDB, of the seconds before at once, and after ten more seconds of these, too."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._gallery = Gallery(most=50)
        self._told: set[tuple[type[Exception], int | None]] = set()
        self.failed = 0
        """Strips that were not wholly written: a file or the picture is missing."""

    def feed(self, message: Told) -> None:
        """What cannot be written is counted, told once and left out."""
        if not isinstance(message, AlertMessage | EvidenceMessage):
            return
        self._gallery.add(message.model_dump(mode="json", by_alias=True))
        with contextlib.suppress(KeyError):
            page = self._gallery.page(message.id)
            if isinstance(message, EvidenceMessage) or message.seq == 0:
                self._save(page)

    def _save(self, page: Message) -> None:
        try:
            shown = Shown.of(page)
            if shown:
                record = to_wfdb(shown.strip, shown.name, shown.begun)
                self._write({f"{shown.name}.json": json.dumps(page).encode(), **record})
                self._write({f"{shown.name}.png": to_png(shown.strip, shown.title)})
        # What a stranger's message holds can be wrong in many ways, for those who draw and write it.
        except (OSError, ConfigError, ValueError, ArithmeticError, MemoryError) as error:
            self._tell(error)

    def _write(self, files: dict[str, bytes]) -> None:
        """Each whole or not at all."""
        for name, content in files.items():
            new = self._folder / f"{name}.new"
            new.write_bytes(content)
            new.replace(self._folder / name)

    def _tell(self, error: Exception) -> None:
        """Once of a kind: the words name another file each time."""
        self.failed += 1
        kind = type(error), getattr(error, "errno", None)
        if kind not in self._told:
            self._told.add(kind)
            _warn(f"a strip is not saved whole: {str(error) or type(error).__name__}")


def _warn(words: str) -> None:
    errors.print(plain(words), style="yellow", highlight=False, markup=False, soft_wrap=True)


class Lines:
    """What changes, a line each, for a file or a pipe."""

    def __init__(self) -> None:
        self._board = Board()
        self._said = ""

    def note(self, connected: bool, why: str) -> None:
        """Whether the broker can be reached. Called in another thread."""
        if why != self._said:
            self._said = why
            _warn(why)

    def feed(self, message: Told | None) -> None:
        """A message, or None where none came for a while."""
        line = self._board.feed(message) if message else None
        if line:
            console.print(line, highlight=False, soft_wrap=True)
            console.file.flush()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


class JsonLines(Lines):
    """The messages themselves, a line each, but for vitals and what only repeats an alert."""

    def feed(self, message: Told | None) -> None:
        """As they came, with keys of a later version left out."""
        if isinstance(message, AlertMessage | EvidenceMessage | StatusMessage | SiteMessage):
            sys.stdout.write(message.model_dump_json(by_alias=True) + "\n")
            sys.stdout.flush()


class Terminal(Lines):
    """The table, drawn anew when something changes."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live(console=console, auto_refresh=False)
        self._drawn_s = -math.inf

    def note(self, connected: bool, why: str) -> None:
        """Stands below the table until it is mended."""
        self._board.connection = "" if connected else why

    def feed(self, message: Told | None) -> None:
        """However much comes, it is drawn twice a second at most."""
        if message:
            self._board.feed(message)
        if time.monotonic() - self._drawn_s >= _REFRESH_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._board.render(), refresh=True)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.update(self._board.render(), refresh=True)
        self._live.stop()


Host = Annotated[str, typer.Option(help="The broker.")]
Port = Annotated[int | None, typer.Option(help="Its port; 1883, or 8883 with TLS, where it is left out.", show_default=False)]
Settings = Annotated[Path | None, typer.Option("--config", metavar="EDGE.TOML", help="Take broker, user, TLS and site from this config.")]


def watch_command(
    host: Host = "localhost",
    port: Port = None,
    site: Annotated[str, typer.Option(help="The site to watch.", show_default="the config's, else all")] = "",
    source: Annotated[str, typer.Option(help="The source to watch.", show_default="all")] = "+",
    config: Settings = None,
    since: Annotated[str, typer.Option(help="now, or beginning for all alerts that the monitors still keep.")] = "now",
    save: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the strip of each alert there: JSON, PNG and WFDB.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One message a line on standard output: alerts, evidence, states.")] = False,
) -> None:
    """Show what the monitors of a broker say, until told to stop."""
    configure_log(Log(level="warning", json_lines=False))
    address, own_site = address_of(host, config)
    collection = Collection(save) if save else None
    screen = JsonLines() if as_json else Terminal() if console.is_terminal else Lines()
    alerts = subscribe(address, port, site=site or own_site or "+", source=source, since=_since(since), also=_ALSO, on_state=screen.note)
    with contextlib.suppress(KeyboardInterrupt), alerts, screen:
        while True:
            message = alerts.receive(_REFRESH_S)
            screen.feed(message)
            if message and collection:
                collection.feed(message)
    if collection and collection.failed:
        _warn(f"{collection.failed} strips were not saved whole")


def address_of(host: str, config: Path | None) -> tuple[str | Mqtt, str]:
    """Where the broker is, and the site of the config. Raises ConfigError where it has no broker."""
    if config is None:
        return host, ""
    settings = read_config(config)
    if settings.mqtt is None:
        raise ConfigError(f"{config} has no [mqtt] table: its monitor speaks to no broker")
    return settings.mqtt, settings.site


def _since(text: str) -> Since:
    for since in get_args(Since):
        if text == since:
            return cast(Since, since)
    raise ConfigError(f"--since {text!r} must be one of {', '.join(get_args(Since))}")
