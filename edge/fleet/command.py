"""The words of a command line in; a score-worker, or the ordeal of a fleet, and its exit code out."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kernels.bundle import Bundle
from kernels.engine import Engine

from ..config import Log
from ..live_command import tell_figures
from ..log import configure_log
from ..model import open_local
from ..systemd import notify
from .answer import Panel
from .pages import app, served
from .settings import Settings, read_settings
from .window import check_windows
from .worker import ScoreWorker

log = structlog.get_logger()


def score_worker_command(
    config: Annotated[Path, typer.Argument(metavar="EDGE.TOML", help="Its [model], [mqtt], [http] and [log] are used.")],
    bundle: Annotated[list[Path] | None, typer.Option(help="Score for this bundle instead of the config's; again for more.")] = None,
) -> None:
    """Score the windows of gateways whose engine is remote, with others who do so at the same broker, until told to stop."""
    settings = read_settings(config)
    configure_log(settings.log)
    with _told_to_stop() as is_over, contextlib.closing(_open(settings, bundle or [settings.model.bundle])) as panel:
        name = _name(settings)
        worker = ScoreWorker(panel, settings.mqtt, name, settings.site)
        with served(settings.http, app(worker, panel)):
            notify("READY=1")
            log.info("scoring", worker=name, site=settings.site or "all", broker=settings.mqtt.address)
            worker.run(is_over, lambda: notify("WATCHDOG=1"))
            notify("STOPPING=1")
    log.info("stopped", **asdict(worker.counts))


def ordeal_fleet_command(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="A WFDB record (name or .hea) or a .csv file.")],
    kills: Annotated[int, typer.Option(min=0, help="So many, of workers and their connections; 0 measures a fleet in peace.")] = 100,
    gateways: Annotated[int, typer.Option(min=1, help="Daemons without an engine.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Who score for them.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Kill score-workers at random while gateways watch a recording, over a real broker (mosquitto), and count windows and alerts."""
    from .ordeal import ordeal_fleet

    configure_log(Log(level="info", json_lines=False))
    tell_figures(asdict(ordeal_fleet(recording, kills, gateways, workers, seed)), as_json)


def _open(settings: Settings, paths: Sequence[Path]) -> Panel:
    """Raises BundleError, or ConfigError for a bundle that takes streams."""
    bundles = [Bundle.read(path) for path in paths]
    for bundle in bundles:
        check_windows(bundle)
    return Panel([_engine(bundle, settings) for bundle in bundles], _name(settings))


def _engine(bundle: Bundle, settings: Settings) -> Engine:
    return open_local(bundle, settings.model.engine, settings.model.threads)


def _name(settings: Settings) -> str:
    """Different from that of any other worker, as a broker keeps one client of a name."""
    return f"{settings.mqtt.client_id or 'cardiogloss'}-worker-{socket.gethostname()}-{os.getpid()}"


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came, which do nothing else in the block."""
    signals: list[int] = []
    before = {number: signal.signal(number, lambda got, frame: signals.append(got)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
