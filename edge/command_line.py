"""The words of a command line in; a command to a monitor, and what became of it, out (`cardiogloss acknowledge`, `silence`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from kernels.findings import ConfigError
from kernels.terminal import errors

from .subscribe import subscribe
from .watch import Host, Port, Settings, address_of, plain

Site = Annotated[str, typer.Option(help="The site.", show_default="the config's, else home")]
By = Annotated[str, typer.Option(help="Who asks, for the record.", show_default="the user")]


def acknowledge_command(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="Of the alert, as `cardiogloss watch` shows it.")],
    source: Annotated[str, typer.Option(help="The source that it is on at.")],
    by: By = "",
    host: Host = "localhost",
    port: Port = None,
    site: Site = "",
    config: Settings = None,
) -> None:
    """Tell the monitor that somebody has seen an alert."""
    _command(host, port, site, config, source, {"command": "acknowledge", "id": alert_id, "by": by or _user()})
    errors.print("acknowledged", highlight=False)


def silence_command(
    source: Annotated[str, typer.Argument(help="The source.")],
    seconds: Annotated[float, typer.Option("--for", min=0, help="How many seconds; 0 ends it.")] = 600.0,
    finding: Annotated[str, typer.Option(help="Of this finding only.", show_default="all")] = "",
    by: By = "",
    host: Host = "localhost",
    port: Port = None,
    site: Site = "",
    config: Settings = None,
) -> None:
    """Ask a monitor for quiet: alerts go on to be told, marked as silenced."""
    command = {"command": "silence", "for_s": seconds, "finding": finding or None, "by": by or _user()}
    _command(host, port, site, config, source, command)
    errors.print(f"silenced for {seconds:g} s" if seconds else "no longer silenced", highlight=False)


def _command(host: str, port: int | None, site: str, config: Path | None, source: str, command: dict[str, object]) -> None:
    address, own_site = address_of(host, config)
    place = site or own_site or "home"
    with subscribe(address, port, site=place) as alerts:
        reply = alerts.command(place, source, command)
    if not reply.ok:
        raise ConfigError(plain(reply.why or "the monitor refused it without a reason"))


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("USERNAME") or "somebody"
