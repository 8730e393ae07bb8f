"""The state of the daemon in; /metrics for Prometheus, /healthz and /readyz over HTTP out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .live import State

Told = tuple[bool, dict[str, Any]]
"""Whether all is well, and what there is to say."""

STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """One source at one moment."""

    name: str
    state: State
    required: bool
    """Whether it is named in the config, and not merely discovered."""
    why: str | None
    accounts: dict[str, int]
    """The sums of `Tally`."""
    dropped_bytes: int
    opened: int
    waiting_bytes: int
    rate_hz: float | None
    drift_ppm: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """The daemon at one moment."""

    bundle: str
    alive: bool
    """Whether whatever waits is being scored."""
    broker: bool | None
    """None where there is none to reach."""
    sources: tuple[SourceHealth, ...]
    windows: int
    rounds: int
    crashes: int
    reloads: int
    messages: dict[str, int]
    """What the connection to the broker counted."""
    outbox: dict[str, int] = field(default_factory=dict)
    """What became of alerts on their way to the broker."""
    unscored: str | None = None
    """Why the engine scores nothing, in words."""
    fleet: dict[str, int] = field(default_factory=dict)
    """What became of the windows that score-workers were asked for."""

    @property
    def missing(self) -> list[str]:
        """What keeps it from being ready, in words."""
        quiet = [f"{s.name} is {s.state}" + (f": {s.why}" if s.why else "") for s in self.sources if s.required and s.state != "online"]
        broker = ["the broker cannot be reached"] if self.broker is False else []
        return broker + ([self.unscored] if self.unscored else []) + quiet + ([] if self.sources else ["no source has sent anything yet"])


class HealthCollector(Collector):
    """The figures of one moment as Prometheus wants them; a source is the only label, so their number stays bounded."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        """Called at each scrape."""
        health = self._health()
        for name, value in (
            ("windows_scored", health.windows),
            ("rounds", health.rounds),
            ("faults", health.crashes),
            ("reloads", health.reloads),
        ):
            yield CounterMetricFamily(f"cardiogloss_{name}", _HELP[name], value=value)
        if health.broker is not None:
            yield GaugeMetricFamily("cardiogloss_broker_connected", "1 while the broker can be reached", value=health.broker)
        for name, value in health.messages.items():
            yield CounterMetricFamily(f"cardiogloss_mqtt_{name}", f"MQTT messages {name}", value=value)
        for name, value in health.outbox.items():
            family = GaugeMetricFamily if name == "waiting" else CounterMetricFamily
            yield family(f"cardiogloss_outbox_{name}", _OUTBOX[name], value=value)
        for name, value in health.fleet.items():
            yield CounterMetricFamily(f"cardiogloss_fleet_{name}", _FLEET[name], value=value)
        yield from _of_sources(health.sources)


_OUTBOX = {
    "waiting": "Alerts and evidence that the broker has not acknowledged",
    "dropped": "Those that size, age or a disk that hangs took before they were acknowledged",
    "unwritten": "Those that were told although the disk took nothing at once",
    "resent": "Those that a subscriber asked for again",
    "refused": "Those that the broker refused",
}
_FLEET = {
    "asked": "Windows that score-workers were asked for",
    "scored": "Those that were scored",
    "again": "Windows that were asked for once more, as nothing came",
    "repeated": "Scores dropped, as there were some of the same window",
    "late": "Scores dropped, as they came after the window was done with",
    "refused": "Answers of score-workers that say why there is no score",
    "unsound": "Messages that are no answer",
    "unanswered": "Windows given up at the end",
}
_HELP = {
    "windows_scored": "Windows that the engine scored",
    "rounds": "Batches, of all sources that had something",
    "faults": "Times that a source was skipped for a fault of the program",
    "reloads": "Times that the config was read again",
}


def _of_sources(sources: Iterable[SourceHealth]) -> Iterable[Metric]:
    state = GaugeMetricFamily("cardiogloss_source_state", "1 for the state that the source is in", labels=["source", "state"])
    counts = {name: CounterMetricFamily(f"cardiogloss_source_{name}", text, labels=["source"]) for name, text in _COUNTS.items()}
    gauges = {name: GaugeMetricFamily(f"cardiogloss_source_{name}", text, labels=["source"]) for name, text in _GAUGES.items()}
    for source in sources:
        for one in STATES:
            state.add_metric([source.name, one], one == source.state)
        values = {**asdict(source), **source.accounts}
        for name, family in (counts | gauges).items():
            if values.get(name) is not None:
                family.add_metric([source.name], values[name])
    yield from (state, *counts.values(), *gauges.values())


_COUNTS = {
    "samples": "Samples of each lead",
    "lost": "Samples that were sent and never came",
    "broken": "Frames refused by a checksum or a range",
    "garbage": "Bytes outside of any frame",
    "repeated": "Frames that came twice or too late",
    "restarts": "Times that the device began to count anew",
    "clock_steps": "Times that the device's clock was set",
    "dropped_bytes": "Bytes thrown away because the program was late",
    "unrecorded": "Samples that are on no disk, though they were to be recorded",
    "opened": "Times that the line was opened",
}
_GAUGES = {
    "waiting_bytes": "Bytes that wait to be scored",
    "rate_hz": "Samples a second, measured",
    "drift_ppm": "How much faster the source runs than it says",
}


def app(health: Callable[[], Health], more: Sequence[Route] = ()) -> Starlette:
    """The three pages, and more."""

    def alive() -> Told:
        now = health()
        return now.alive, {"alive": now.alive, "bundle": now.bundle}

    def ready() -> Told:
        now = health()
        states = {source.name: source.state for source in now.sources}
        return not now.missing, {"ready": not now.missing, "missing": now.missing, "sources": states}

    return status_pages(HealthCollector(health), alive, ready, more)


def status_pages(figures: Collector, alive: Callable[[], Told], ready: Callable[[], Told], more: Sequence[Route] = ()) -> Starlette:
    """/metrics of these figures, /healthz and /readyz by what is told, and more."""
    registry = CollectorRegistry()
    registry.register(figures)
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        return _answer(*alive())

    async def readyz(request: Request) -> Response:
        return _answer(*ready())

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz), *more])


def _answer(well: bool, told: dict[str, Any]) -> Response:
    return JSONResponse(told, 200 if well else 503)
