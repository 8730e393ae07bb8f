"""A recording and a number of sources in; how a real Chromium kept up with the dashboard of a daemon of its own out."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kernels.findings import ConfigError
from kernels.signal import LEADS

from ..config import Mqtt
from ..decode.devices import device
from ..live_command import Json, Recorded, tell_figures
from ..load import Excerpt, cpu_s, excerpt, free_port, mosquitto_command, process, scrape
from ..simulate import Stream, pieces, play
from ..transport.file import open_recording
from ..transport.mqtt import Broker
from .tab import Tab, chromium

_SITE = "bench"
_PATIENCE_S = 60.0
_SETTLE_S = 3.0
_LOOKS = 50
_BETWEEN_LOOKS_S = 0.1
_QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """What a viewer at 1920 x 1080 saw, with the browser's and the daemon's part in it."""

    sources: int
    strips: int
    seconds: float
    ready_ms: float
    """From the beginning of the navigation to the first strip drawn."""
    requests: int
    loaded_kb: float
    """All answers until every strip was drawn, heads and bodies; without the WebSocket."""
    frames_per_s: float
    """That reached the screen."""
    frames_per_s_p1: float
    """By the interval that one in a hundred was longer than."""
    longest_frame_ms: float
    drawn_per_s: float
    """Times that strips were drawn, by the page's own count."""
    age_p50_ms: float
    """Of the last sample that a strip shows, since it was taken; the device sends by the tenth of a second, the page holds some back."""
    age_p99_ms: float
    heap_begin_mb: float
    heap_end_mb: float
    reconnect_ms: float
    """From the moment a daemon that was started anew watches to the first sample drawn of it, without a reload."""
    cores_alone: float
    """Of the daemon, without a viewer;"""
    cores_viewed: float
    """with one."""
    cores_browser: float
    """Of all its processes."""
    complaints: int
    """Errors of the console before the restart."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How the memory of a tab went, collected before each look; recordings played faster than they were taken."""

    sources: int
    strips: int
    minutes_simulated: float
    minutes: float
    """That it took."""
    heap_mb: list[float]
    """At the beginning and after each quarter, with what typed arrays hold; every view is opened before each look."""
    nodes: list[int]
    listeners: list[int]
    growth_mb: float
    """From the first quarter to the last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the ward is to be."""

    excerpt: Excerpt
    leads: tuple[str, ...]
    sources: int
    speed: float = 1.0

    @classmethod
    def of(cls, recording: Path, sources: int, leads: int, rate_hz: float, speed: float = 1.0) -> Plan:
        """Raises ConfigError where the recording has fewer leads."""
        whole = excerpt(open_recording(recording), rate_hz)
        known = tuple(lead for lead in whole.whole.leads if lead in LEADS)
        if len(known) < leads:
            raise ConfigError(f"{recording} has {len(known)} leads; give a recording with {leads}, or --leads {len(known)}")
        return cls(whole, known[:leads], sources, speed)

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return [f"bed{i:02}" for i in range(1, self.sources + 1)]

    def strips(self, wall: bool) -> int:
        """That the screen is to show at least."""
        return self.sources * (1 if wall else len(self.leads))


class _Ward:
    """A broker, a daemon that can be started anew, and devices that send until the end."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.begin_time: dict[str, float] = {}
        """When the first sample of each source was taken, in seconds since 1970."""
        self._plan = plan
        self._mqtt, self._pages, web = free_port(), free_port(), free_port()
        self.address = f"http://127.0.0.1:{web}/"
        self.broker = mosquitto_command(folder, self._mqtt)
        self._config = folder / "edge.toml"
        self._config.write_text(_config(folder, self._mqtt, self._pages, web, plan.leads))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._running = ExitStack()
        self._over = threading.Event()

    def start(self) -> None:
        """Raises ConfigError where it does not come to watch."""
        self._daemon = self._running.enter_context(process([sys.executable, "-m", "edge", "run", str(self._config)]))
        self.wait_for("cardiogloss_broker_connected", 1)

    def stop(self) -> None:
        """As systemd does."""
        self._running.close()

    def wait_for(self, metric: str, least: float) -> None:
        """Raises ConfigError where the daemon does not come to it."""
        until_s = time.monotonic() + _PATIENCE_S
        while scrape(self._pages).get(metric, 0.0) < least:
            if self._daemon is None or self._daemon.poll() is not None or time.monotonic() > until_s:
                raise ConfigError(f"the daemon did not come to {metric} {least:g}; see what it said above")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """Processor time of the daemon so far."""
        return cpu_s(self._daemon.pid) if self._daemon else 0.0

    def send(self) -> None:
        """Until `end`."""
        broker = Broker(Mqtt(port=self._mqtt), "bench")
        broker.start()
        try:
            play(list(self._streams(broker)), self._plan.speed)
        finally:
            broker.stop()

    def end(self) -> None:
        """The devices are switched off."""
        self._over.set()

    def _streams(self, broker: Broker) -> Iterator[Stream]:
        """Begun a little apart, as no two devices are switched on at once."""
        frame, plan, begin_s = device("frame"), self._plan, time.monotonic() + 1.0
        wiring = frame.wire(plan.leads, plan.excerpt.whole.rate_hz)
        for i, name in enumerate(plan.names):
            at_s = begin_s + i / plan.sources
            self.begin_time[name] = time.time() - time.monotonic() + at_s
            going = itertools.takewhile(lambda _: not self._over.is_set(), pieces(plan.excerpt, frame, wiring, repeat=True))
            yield Stream(going, partial(broker.publish, f"cardiogloss/{_SITE}/{name}/ecg"), at_s)


@contextmanager
def _ward(plan: Plan) -> Iterator[_Ward]:
    """Running, with every source scored."""
    with ExitStack() as stack:
        ward = _Ward(plan, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(process(ward.broker, subprocess.DEVNULL))
        stack.callback(ward.stop)
        ward.start()
        sending = threading.Thread(target=ward.send, daemon=True)
        stack.callback(sending.join, _PATIENCE_S)
        stack.callback(ward.end)
        sending.start()
        ward.wait_for("cardiogloss_windows_scored_total", plan.sources)
        yield ward


def _config(folder: Path, mqtt: int, pages: int, web: int, leads: Sequence[str]) -> str:
    tables = [f'site = "{_SITE}"', "[log]", 'level = "error"', "[mqtt]", f"port = {mqtt}", "[http]", f"port = {pages}"]
    tables += ["[outbox]", f'file = "{folder / "outbox.db"}"', "[web]", f"port = {web}", f"leads = {json.dumps(leads)}"]
    tables += [f'history = "{folder / "history.db"}"', "[[source]]", f'mqtt = "cardiogloss/{_SITE}/+/ecg"']
    return "\n".join(tables) + "\n"


def watch(plan: Plan, least: int, seconds: float) -> Figures:
    """On Linux. Raises ConfigError where there is no mosquitto, Chromium or Playwright, or the daemon does not start."""
    with _ward(plan) as ward, chromium() as browser:
        (cores_alone,) = _rates([ward.cpu_s], lambda: time.sleep(max(seconds / 2, 5.0)))
        tab = Tab(browser, least)
        ready_ms = tab.open(ward.address)
        requests, loaded_kb = len(tab.requests), tab.loaded_kb
        tab.wait(_SETTLE_S)
        heap_begin_mb, shown_s = tab.heap_mb(), list[float]()
        cores_viewed, cores_browser, drawn_per_s = _rates([ward.cpu_s, tab.cpu_s, tab.drawn], lambda: shown_s.extend(tab.shown_s(seconds)))
        ages_ms = list(_ages_ms(ward, tab))
        heap_end_mb, complaints = tab.heap_mb(), len(tab.complaints)
        interval_ms = np.diff(shown_s) * 1000
        return Figures(
            sources=plan.sources,
            strips=tab.strips(),
            seconds=seconds,
            ready_ms=round(ready_ms),
            requests=requests,
            loaded_kb=round(loaded_kb, 1),
            frames_per_s=round(1000 / float(np.mean(interval_ms)), 1),
            frames_per_s_p1=round(1000 / float(np.percentile(interval_ms, 99)), 1),
            longest_frame_ms=round(float(np.max(interval_ms)), 1),
            drawn_per_s=round(drawn_per_s, 1),
            age_p50_ms=round(float(np.percentile(ages_ms, 50))),
            age_p99_ms=round(float(np.percentile(ages_ms, 99))),
            heap_begin_mb=round(heap_begin_mb, 2),
            heap_end_mb=round(heap_end_mb, 2),
            reconnect_ms=round(_restart(ward, tab)),
            cores_alone=round(cores_alone, 3),
            cores_viewed=round(cores_viewed, 3),
            cores_browser=round(cores_browser, 2),
            complaints=complaints,
        )


def grow(plan: Plan, least: int, minutes: float) -> Growth:
    """So many simulated ones. Raises ConfigError as `watch` does."""
    with _ward(plan) as ward, chromium() as browser:
        tab = Tab(browser, least)
        tab.open(ward.address)
        begun_s = time.monotonic()
        looks = [_look(tab, plan.names[0])]
        for quarter in range(1, _QUARTERS + 1):
            due_s = begun_s + quarter * minutes * 60 / plan.speed / _QUARTERS
            tab.wait(max(due_s - time.monotonic(), 0.0))
            looks.append(_look(tab, plan.names[0]))
        heap_mb, nodes, listeners = (list(column) for column in zip(*looks, strict=True))
        took = round((time.monotonic() - begun_s) / 60, 2)
        return Growth(plan.sources, tab.strips(), minutes, took, heap_mb, nodes, listeners, round(heap_mb[-1] - heap_mb[1], 2))


def _look(tab: Tab, source: str) -> tuple[float, int, int]:
    """Heap in MB, nodes and listeners."""
    tab.look_around(source)
    return round(tab.heap_mb(), 2), *tab.counts()


def _rates(counters: Sequence[Callable[[], float]], meanwhile: Callable[[], object]) -> list[float]:
    """How much each counter grew a second."""
    begun_s, before = time.monotonic(), [count() for count in counters]
    meanwhile()
    took_s, after = time.monotonic() - begun_s, [count() for count in counters]
    return [(end - begin) / took_s for begin, end in zip(before, after, strict=True)]


def _ages_ms(ward: _Ward, tab: Tab) -> Iterator[float]:
    for _ in range(_LOOKS):
        yield from tab.ages_ms(ward.begin_time)
        tab.wait(_BETWEEN_LOOKS_S)


def _restart(ward: _Ward, tab: Tab) -> float:
    """ms until the tab shows it."""
    session = tab.session()
    ward.stop()
    ward.start()
    begun_s = time.monotonic()
    tab.wait_for_another(session)
    return (time.monotonic() - begun_s) * 1000


def bench_dashboard_command(
    recording: Recorded,
    sources: Annotated[int, typer.Option(min=1, max=64, help="So many devices over MQTT.")] = 4,
    leads: Annotated[int, typer.Option(min=1, max=12, help="Of each device.")] = 3,
    wall: Annotated[bool, typer.Option("--wall", help="The wall shows one strip of each source, as it does of many.")] = False,
    seconds: Annotated[float, typer.Option(min=5, help="How long frames are counted.")] = 30.0,
    minutes_simulated: Annotated[float, typer.Option(min=0, help="Watch how the memory of the tab grows for so long instead.")] = 0.0,
    speed: Annotated[float, typer.Option(min=1, max=100, help="With --minutes-simulated: 1 is real time.")] = 15.0,
    rate: Annotated[float, typer.Option(help="Samples a second that each device sends.")] = 250.0,
    as_json: Json = False,
) -> None:
    """Measure the dashboard in a real Chromium on a daemon of its own over a real broker: frames a second, readiness, memory."""
    plan = Plan.of(recording, sources, leads, rate, speed if minutes_simulated else 1.0)
    least = plan.strips(wall)
    figures = grow(plan, least, minutes_simulated) if minutes_simulated else watch(plan, least, seconds)
    tell_figures(asdict(figures) if as_json else dict(_flat(asdict(figures))), as_json)


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A figure a line."""
    for name, value in figures.items():
        many = value if isinstance(value, list) else [value]
        yield from ((f"{name} {i}" if len(many) > 1 else name, one) for i, one in enumerate(many))
