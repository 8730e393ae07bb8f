"""A score-worker in; the pages /metrics for Prometheus, /healthz and /readyz out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette

from ..health import Told, status_pages
from .answer import Panel
from .worker import ScoreWorker

_LATE_S = 10.0
"""A batch that takes longer hangs."""

_COUNTS = {
    "scored": "Windows that were scored and answered",
    "refused": "Windows for another bundle, or of another length",
    "unsound": "Messages that were no windows",
    "unsent": "Answers that the broker would not have",
}


class _WorkerCollector(Collector):
    """The figures of one moment."""

    def __init__(self, worker: ScoreWorker, panel: Panel) -> None:
        self._worker, self._panel = worker, panel

    def collect(self) -> Iterable[Metric]:
        """Called at each scrape."""
        for name, value in asdict(self._worker.counts).items():
            yield CounterMetricFamily(f"cardiogloss_worker_windows_{name}", _COUNTS[name], value=value)
        yield CounterMetricFamily("cardiogloss_worker_batches", "Calls of an engine", value=self._panel.batches)
        yield CounterMetricFamily(
            "cardiogloss_mqtt_reconnects", "Times that the connection to the broker came back", value=self._worker.reconnects
        )
        yield GaugeMetricFamily("cardiogloss_worker_held", "Windows that are not acknowledged", value=self._worker.holds)
        connected = self._worker.is_connected
        yield GaugeMetricFamily("cardiogloss_broker_connected", "1 while the broker can be reached", value=connected)


def app(worker: ScoreWorker, panel: Panel) -> Starlette:
    """The three pages."""

    def alive() -> Told:
        moves = time.monotonic() - worker.progress_s < _LATE_S
        return moves, {"alive": moves}

    def ready() -> Told:
        missing = [] if worker.is_connected else ["the broker cannot be reached"]
        return not missing, {"ready": not missing, "missing": missing}

    return status_pages(_WorkerCollector(worker, panel), alive, ready)
