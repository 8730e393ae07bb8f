"""The words of a command line in; a score-worker, or the ordeal of a fleet, and its exit code out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kernels.bundle import Bundle

from ..config import Log
from ..live_command import Json, Recorded, tell_figures
from ..log import configure_log
from ..model import open_local
from ..serving import serve
from ..systemd import notify
from .answer import Panel
from .pages import app
from .settings import Settings, read_settings
from .window import check_windows
from .worker import ScoreWorker

log = structlog.get_logger()


def score_worker_command(
    config: Annotated[Path, typer.Argument(metavar="EDGE.TOML", help="Its tables model, mqtt, http and log are used.")],
    bundle: Annotated[list[Path] | None, typer.Option(help="Score for this bundle instead of the config's; again for more.")] = None,
) -> None:
    """Score the windows of gateways whose engine is remote, with others who do so at the same broker, until told to stop."""
    settings = read_settings(config)
    configure_log(settings.log)
    name = _name(settings)
    with contextlib.closing(_open(settings, bundle or [settings.model.bundle], name)) as panel:
        worker = ScoreWorker(panel, settings.mqtt, name, settings.site)
        asyncio.run(_run(worker, name, settings, panel))
    log.info("stopped", **asdict(worker.counts))


async def _run(worker: ScoreWorker, name: str, settings: Settings, panel: Panel) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigError where the port of the pages is taken."""
    over, http = threading.Event(), settings.http
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with contextlib.AsyncExitStack() as pages_open:
        if http:
            served = await serve("http", http.host, http.port, app(worker, panel))
            log.info("pages", address=served.address)
            pages_open.push_async_callback(served.stop)
        notify("READY=1")
        log.info("scoring", worker=name, site=settings.site or "all", broker=settings.mqtt.address)
        await asyncio.to_thread(worker.run, over.is_set, lambda: notify("WATCHDOG=1"))
        notify("STOPPING=1")


def ordeal_fleet_command(
    recording: Recorded,
    kills: Annotated[int, typer.Option(min=0, help="So many, of workers and their connections; 0 measures a fleet in peace.")] = 100,
    gateways: Annotated[int, typer.Option(min=1, help="Daemons without an engine.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Who score for them.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
    as_json: Json = False,
) -> None:
    """Kill score-workers at random while gateways watch a recording, over a real broker (mosquitto), and count windows and alerts."""
    from .ordeal import ordeal_fleet

    configure_log(Log(level="info", json_lines=False))
    tell_figures(asdict(ordeal_fleet(recording, kills, gateways, workers, seed)), as_json)


def _open(settings: Settings, paths: Sequence[Path], name: str) -> Panel:
    """Raises BundleError, or ConfigError for a bundle that takes streams."""
    bundles = [Bundle.read(path) for path in paths]
    for bundle in bundles:
        check_windows(bundle)
    different = {bundle.card.sha256: bundle for bundle in bundles}
    return Panel([open_local(bundle, settings.model.engine, settings.model.threads) for bundle in different.values()], name)


def _name(settings: Settings) -> str:
    """Different from that of any other worker, as a broker keeps one client of a name. In containers all may have the same process id."""
    return f"{settings.mqtt.client_id or 'cardiogloss'}-worker-{socket.gethostname()}-{secrets.token_hex(3)}"
