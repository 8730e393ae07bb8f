"""The words of a command line in; the commands of the live monitor (run, check, simulate, calibrate, devices, benches) out.

What each needs is imported when it is called, so that a replay does not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kernels.findings import ConfigError
from kernels.terminal import console, errors

if TYPE_CHECKING:
    from .decode.device import Device

ConfigPath = Annotated[Path, typer.Argument(metavar="EDGE.TOML", help="What to watch, and how.")]
Recorded = Annotated[Path, typer.Argument(metavar="RECORDING", help="A WFDB record (name or .hea) or a .csv file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def run_command(config: ConfigPath) -> None:
    """Watch the sources of a config until told to stop; SIGHUP reads it again."""
    from .daemon import serve

    code = serve(config)
    if code:
        sys.exit(code)


def check_command(
    config: Annotated[Path | None, typer.Argument(metavar="EDGE.TOML", help="What to watch, and how.", show_default=False)] = None,
    as_json: Json = False,
    print_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a config instead.")] = False,
    schemas: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the JSON Schemas of all messages there instead.")] = None,
) -> None:
    """Say what a config would watch; opens no port and no connection."""
    from .check import check
    from .config import schema

    if print_schema:
        sys.stdout.write(schema())
        return
    if schemas:
        from .schema import write_schemas

        for path in write_schemas(schemas):
            _say(str(path))
        return
    if config is None:
        raise ConfigError("name the config to check, as in: cardiogloss check edge.toml")
    checked = check(config)
    if as_json:
        sys.stdout.write(json.dumps(asdict(checked)) + "\n")
        return
    for line in checked.lines:
        _say(line)
    for line in checked.warnings:
        errors.print(f"warning: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def devices_command() -> None:
    """Name every device and format that can be watched or simulated."""
    from .decode.devices import DEVICES

    for name, one in sorted(DEVICES.items()):
        line = f"{one.baud} baud" if one.baud else "over MQTT"
        _say(f"{name:15} {one.title}; {_rate_of(one)}, {line}")


def _rate_of(device: Device) -> str:
    if device.wiring.leads and device.wiring.rate_hz:
        return f"{device.wiring.rate_hz:g} Hz"
    return "says rate and leads itself" if device.says_itself else "rate_hz must be given"


def simulate_command(
    recording: Recorded,
    kind: Annotated[str, typer.Option("--device", help="The device to be; `cardiogloss devices` names them.")] = "frame",
    leads: Annotated[
        str, typer.Option(help="The lead on each signal of the device, as in II,V1,-; left out, those of the recording.")
    ] = "",
    link: Annotated[Path | None, typer.Option(help="A name for the pseudo-terminal, such as a by-id name is.")] = None,
    mqtt: Annotated[str, typer.Option(help="Send to this broker (host or host:port) instead of a pseudo-terminal.")] = "",
    config: Annotated[Path | None, typer.Option(help="Send to the broker of this config, with its user and TLS, under its site.")] = None,
    site: Annotated[str, typer.Option(help="With --mqtt: the site in the topic.")] = "home",
    source: Annotated[str, typer.Option(help="Over MQTT: the source in the topic; the recording's name where left out.")] = "",
    rate: Annotated[float | None, typer.Option(help="Samples a second, for a CSV file without a time column.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of a CSV file: mV, uV or V; a number means mV for each unit.")] = "mV",
    copies: Annotated[int, typer.Option(min=1, max=1000, help="Over MQTT: so many sources, numbered.")] = 1,
    speed: Annotated[float, typer.Option(min=0.01, max=1000, help="1 is real time.")] = 1.0,
    repeat: Annotated[bool, typer.Option("--repeat", help="Begin again at the end.")] = False,
) -> None:
    """Send a recording as a device would, over a pseudo-terminal or MQTT, to try a set-up without the device."""
    from .config import read_config
    from .sender import Sender, broker_at
    from .transport.file import columns_of, lead_names, open_recording

    recorded = open_recording(recording, columns_of("", rate, unit))
    sender = Sender(recorded, kind, lead_names(leads), speed, repeat)
    name = source or recorded.name
    names = [name] if copies == 1 else [f"{name}-{i + 1:03}" for i in range(copies)]
    settings = read_config(config) if config else None
    if settings and (mqtt or not settings.mqtt):
        raise ConfigError("--config must have an [mqtt] table, and goes without --mqtt")
    broker = settings.mqtt if settings else broker_at(mqtt) if mqtt else None
    # Whoever ends it finds the port pulled out, and the link gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        if broker:
            sender.to_broker(broker, settings.site if settings else site, names)
        else:
            sender.to_terminal(link)


def calibrate_command(
    config: ConfigPath,
    source: Annotated[str, typer.Argument(help="The source to listen to.")],
    seconds: Annotated[float, typer.Option(min=2, max=600, help="How long to listen.")] = 10.0,
    pulse: Annotated[float, typer.Option(min=0.001, help="Height of the square pulse in mV, from its low to its high level.")] = 1.0,
) -> None:
    """Measure a square pulse of known height, and say which units_per_mv makes it right."""
    from .calibrate import advise, measure
    from .config import read_config
    from .listen import find, joined, listen

    settings = read_config(config)
    _log_to_errors()
    errors.print(f"listening to {source} for {seconds:g} s: feed it a square pulse of {pulse:g} mV", highlight=False, markup=False)
    chunks = listen(settings, source, seconds)
    listened = find(settings, source)
    for lead, samples in zip(chunks[-1].leads, joined(chunks), strict=True):
        measured = measure(samples, chunks[-1].rate_hz, pulse)
        _say(advise(measured, lead, None if listened.kind.says_itself else listened.wiring().units_per_mv))


def bench_live_command(
    recording: Recorded,
    sources: Annotated[int, typer.Option(min=0, help="So many sources of twelve leads over MQTT.")] = 64,
    serial: Annotated[int, typer.Option(min=0, help="So many serial devices over pseudo-terminals.")] = 8,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Samples a second of the MQTT sources.")] = 500.0,
    as_json: Json = False,
) -> None:
    """Load a daemon with simulated sources over a real broker (mosquitto) and real pseudo-terminals: drops, latency, memory."""
    from .load import load

    tell_figures(asdict(load(recording, sources, serial, minutes, rate)), as_json)


def ordeal_command(
    recording: Recorded,
    kills: Annotated[int, typer.Option(min=1, help="So many, of daemon, broker and connection, and full disks.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
    as_json: Json = False,
) -> None:
    """Kill daemons, brokers (mosquitto) and connections at random while a recording is watched, and count the alerts that are lost."""
    from .ordeal import ordeal

    _log_to_errors("info")
    tell_figures(asdict(ordeal(recording, kills, seed)), as_json)


def soak_command(
    recording: Recorded,
    hours: Annotated[float, typer.Option(min=0.1, help="Of virtual time.")] = 24.0,
    sources: Annotated[int, typer.Option(min=1, help="How many.")] = 2,
    as_json: Json = False,
) -> None:
    """Watch sources for days of virtual time, as fast as it goes, and measure how memory grows."""
    from .soak import soak

    _log_to_errors()
    tell_figures(asdict(soak(recording, hours, sources)), as_json)


def tell_figures(figures: dict[str, Any], as_json: bool) -> None:
    """A line each, or one JSON object."""
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        _say(f"{name:20} {'-' if value is None else format(value, 'g')}")


def _log_to_errors(level: Literal["info", "error"] = "error") -> None:
    """Standard output is for what was asked."""
    from .config import Log
    from .log import configure_log

    configure_log(Log(level=level, json_lines=False))


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(name="run")(run_command)
    app.command(name="check")(check_command)
    app.command(name="devices")(devices_command)
    app.command(name="simulate")(simulate_command)
    app.command(name="calibrate")(calibrate_command)
    app.command(name="bench-live")(bench_live_command)
    app.command(name="soak")(soak_command)
    app.command(name="ordeal")(ordeal_command)
