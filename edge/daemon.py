"""A config file in; a daemon that watches its sources until it is told to stop, its exit code out."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kernels.bundle import BundleError
from kernels.engine import Engine
from kernels.findings import ConfigError

from .command import Command
from .config import Config, read_config
from .exchange import Exchange
from .fleet.remote import RemoteEngine
from .gallery import Gallery, pages
from .health import Health, app
from .log import configure_log
from .model import name_model, open_model
from .roster import Roster
from .scribe import Scribe
from .serving import serve as serve_pages
from .supervisor import Supervisor
from .systemd import notify
from .watched import Watched
from .worker import Worker

if TYPE_CHECKING:
    from .web.dashboard import Dashboard
    from .web.lookout import Model

_FIXED = ("site", "shard", "mqtt", "outbox", "homeassistant", "http", "web", "log")
"""What a reload leaves as it is."""
_TICK_S = 0.25
_STATUS_S = 60.0
"""The accounts of every source are told anew so often."""
_FAREWELL_S = 20.0
"""An engine that hangs must not keep the process from ending."""
_LATE_S = 10.0
"""Whatever waits longer than this waits for a worker that hangs."""

log = structlog.get_logger()


class Daemon:
    """Owns everything that runs: a thread for each line, one of the broker's, one that scores, and this loop over all."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = config
        self._supervisor = Supervisor()
        self._dashboard = self._open_dashboard()
        self._waited_s = -math.inf
        """When score-workers were last waited for."""
        engine = open_model(config, path, self._meanwhile)
        self._exchange = Exchange(config, name_model(engine, config), self._supervisor, self._hear, self._obey)
        self._publisher = self._exchange.publisher
        self._gallery = self._dashboard.history if self._dashboard else Gallery()
        self._publisher.show = self._dashboard.show if self._dashboard else self._gallery.add
        self._wake = threading.Event()
        self._worker = Worker(self._publisher.tell, self._supervisor)
        self._scribe = Scribe(self._supervisor)
        self._roster = Roster(engine, self._supervisor, self._wake.set, self._publisher.owns, self._scribe)
        self._roster.tap = self._dashboard.tap if self._dashboard else None
        self._roster.journal = self._exchange.journal()
        self._roster.stream_of, self._roster.end_stream = self._exchange.stream_of, self._exchange.end_stream
        self._scoring = threading.Thread(target=self._score, name="score", daemon=True)
        self._draining = threading.Event()
        self._over = asyncio.Event()
        self._has_failed = False
        self._new_engines: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        self._reloads = 0
        self._reloading: asyncio.Task[None] | None = None
        self._told_s = 0.0
        self._samples = -1

    async def run(self) -> int:
        """Until SIGTERM, SIGINT, the end of every source, or a failure. The exit code."""
        async with AsyncExitStack() as pages_open:
            if self._config.http:
                http = self._config.http
                served = await serve_pages("http", http.host, http.port, app(self.health, pages(self._gallery)))
                log.info("pages", address=served.address)
                pages_open.callback(served.leave)
            if self._dashboard:
                pages_open.push_async_callback(self._dashboard.stop)
                await self._dashboard.start()
            return await self._run()

    async def _run(self) -> int:
        self._listen_to_signals()
        self._start()
        notify("READY=1")
        log.info(
            "watching",
            site=self._config.site,
            sources=[s.name or s.mqtt for s in self._config.mine],
            bundle=str(self._config.model.bundle),
        )
        while not self._over.is_set():
            self._supervisor.guard("tick", self._tick)
            await asyncio.sleep(_TICK_S)
        gone = self._exchange.output.is_closed
        notify("STOPPING=1")
        await asyncio.to_thread(self._stop)
        log.info("stopped", windows=self._worker.windows)
        if gone:
            raise BrokenPipeError("whoever read standard output has gone")
        return 1 if self._has_failed else 0

    def health(self) -> Health:
        """The state of everything, now."""
        return Health(
            bundle=self._config.model.bundle.name,
            alive=self._is_alive(time.monotonic()),
            broker=None if self._exchange.broker is None else self._exchange.broker.connected,
            sources=tuple(watched.health() for watched in self._roster.watched()),
            windows=self._worker.windows,
            rounds=self._worker.rounds,
            crashes=self._supervisor.faults,
            reloads=self._reloads,
            messages={**self._exchange.counts(), "ignored": self._roster.ignored},
            outbox=self._exchange.delivery.counts if self._exchange.delivery else {},
            unscored=self._remote.problem if self._remote else None,
            fleet=asdict(self._remote.counts) if self._remote else {},
        )

    def _open_dashboard(self) -> Dashboard | None:
        """Read only where it is wanted: its packages are an extra."""
        if self._config.web is None:
            return None
        from .web.dashboard import Dashboard

        return Dashboard(self._config, self._config.web, self._supervisor, self.health, self._model, self._obey)

    def _model(self) -> Model:
        from .web.lookout import Model

        return Model(self._roster.engine.bundle.card, self._config.model.hop_s, self._config.model.bundle.name)

    @property
    def _remote(self) -> RemoteEngine | None:
        engine = self._roster.engine
        return engine if isinstance(engine, RemoteEngine) else None

    def _start(self) -> None:
        if self._dashboard:
            states = [state for states in self._roster.journal.values() for state in states]
            outbox = self._exchange.outbox
            self._dashboard.go_on(states, self._exchange.delivery, outbox.last if outbox else 0)
        self._roster.apply(self._config)
        self._exchange.start(self._config)
        self._scoring.start()

    def _stop(self) -> None:
        """Nothing that came is lost: what waits is scored, what is held back is flushed, then the broker hears the end."""
        read = self._roster.leave_all()
        self._draining.set()
        self._wake.set()
        if self._remote:
            self._remote.leave()
        self._scoring.join(_FAREWELL_S)
        self._scribe.close()
        self._supervisor.guard("farewell", self._tell_changes)
        self._roster.engine.close()
        while not self._new_engines.empty():
            self._new_engines.get().close()
        self._exchange.stop(read)

    def _score(self) -> None:
        """The scoring thread. It ends when it is told to and nothing waits, or by a failure of the engine, which ends the daemon."""
        self._has_failed = not self._supervisor.guard("scoring", self._score_until_left)

    def _score_until_left(self) -> bool:
        try:
            return self._score_all()
        except TimeoutError as error:
            if not self._draining.is_set():
                raise
            log.warning("what waits is not scored", why=str(error))
            return True

    def _meanwhile(self) -> None:
        """Called by the scoring thread while it waits for score-workers: it is well, and obeys."""
        self._waited_s = time.monotonic()
        self._worker.obey_meanwhile()

    def _score_all(self) -> bool:
        while not self._draining.is_set() or self._worker.round(self._roster.posts()):
            self._wake.wait(0.5)
            self._wake.clear()
            replaced = list(self._change_engine())
            self._roster.engine.warm()
            self._worker.round(self._roster.posts())
            for engine in replaced:
                engine.close()
        return True

    def _change_engine(self) -> Iterator[Engine]:
        """Between two rounds; those that were replaced, which sources that leave still use in the next."""
        while not self._new_engines.empty():
            yield self._roster.engine
            for source, event in self._roster.rescore(self._new_engines.get()):
                self._publisher.tell(source, event)

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._tell_changes()
        for state in self._roster.unclaimed(now_s):
            self._publisher.clear(state, "the source did not come back", time.time())
        if self._exchange.greet():
            self._told_s = 0.0
        if now_s - self._told_s > _STATUS_S:
            self._told_s = now_s
            self._exchange.forget_all_but(watched.name for watched in self._roster.watched())
            for watched in self._roster.watched():
                self._tell_status(watched)
        self._exchange.introduce((watched.name for watched in self._roster.watched()), self._roster.engine.bundle.card.findings)
        self._feed_watchdog(now_s)
        if self._roster.ended or self._exchange.output.is_closed or not self._scoring.is_alive():
            self._over.set()

    def _tell_changes(self) -> None:
        for watched in self._roster.tick(time.monotonic()):
            level = logging.INFO if watched.state == "online" and not watched.why else logging.WARNING
            log.log(level, "source " + watched.state, source=watched.name, why=watched.why, **watched.post.live.accounts())
            if watched.required or self._roster.has(watched.name):
                self._tell_status(watched)
            elif not self._exchange.is_away:
                self._publisher.forget_status(watched.name)

    def _tell_status(self, watched: Watched) -> None:
        """Not kept for a broker that is away: it hears all of them when it is back."""
        if self._exchange.is_away:
            return
        self._publisher.tell_status(watched.name, watched.state, watched.why, time.time(), watched.post.live.accounts())

    def _feed_watchdog(self, now_s: float) -> None:
        """Only when samples went through since the last time, or none are to be had and the worker would take them."""
        samples = sum(watched.post.live.accounts()["samples"] for watched in self._roster.watched())
        if samples != self._samples or self._waits(now_s) or (self._is_alive(now_s) and self._oldest_s() is None):
            notify("WATCHDOG=1")
        self._samples = samples

    def _waits(self, now_s: float) -> bool:
        """Whether the scoring thread waits for score-workers, and is well."""
        return now_s - self._waited_s < _LATE_S

    def _is_alive(self, now_s: float) -> bool:
        oldest_s = self._oldest_s()
        return self._waits(now_s) or now_s - min(self._worker.progress_s, oldest_s if oldest_s is not None else now_s) < _LATE_S

    def _oldest_s(self) -> float | None:
        waiting = [oldest_s for watched in self._roster.watched() if (oldest_s := watched.post.inbox.oldest_s) is not None]
        return min(waiting, default=None)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Read the config again, one time after the other; an engine may take minutes to be made, and the loop goes on meanwhile."""
        self._reloading = asyncio.get_running_loop().create_task(self._reload_after(self._reloading))

    async def _reload_after(self, last: asyncio.Task[None] | None) -> None:
        """A mistake in the config changes nothing."""
        if last:
            await last
        if self._over.is_set():
            return
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._as_begun(read_config(self._path))
            changed = config.model != self._config.model
            engine = await asyncio.to_thread(open_model, config, self._path, self._meanwhile) if changed else None
            if not self._over.is_set():
                self._apply(config, engine)
        except (ConfigError, BundleError) as error:
            log.error("config not reloaded", why=str(error))
        finally:
            notify("READY=1")

    def _as_begun(self, config: Config) -> Config:
        """With the tables of the start where they cannot change under way."""
        changed = [table for table in _FIXED if getattr(config, table) != getattr(self._config, table)]
        for table in changed:
            log.warning("takes a restart", table=table)
        return config.model_copy(update={table: getattr(self._config, table) for table in changed})

    def _apply(self, config: Config, engine: Engine | None) -> None:
        if engine:
            self._exchange.model = name_model(engine, config)
        self._roster.apply(config)
        self._config = config
        if engine:
            if self._remote:
                self._remote.hand_over(engine)
            self._new_engines.put(engine)
        self._exchange.listen(config)
        self._reloads += 1
        log.info("config reloaded", sources=[watched.name for watched in self._roster.watched()])

    def _hear(self, topic: str, payload: bytes, retained: bool) -> None:
        self._roster.hear(topic, payload, retained)

    def _obey(self, source: str, command: Command) -> bool:
        return self._roster.command(source, command)


def serve(path: Path) -> int:
    """Watch what this config names until told to stop. Raises ConfigError or BundleError before the first sample."""
    config = read_config(path)
    configure_log(config.log)
    return asyncio.run(_run(path, config))


async def _run(path: Path, config: Config) -> int:
    return await Daemon(path, config).run()
