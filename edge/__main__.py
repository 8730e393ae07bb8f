"""Command-line words in; scores, alerts, tables and pictures out (`cardiogloss`)."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer.core import TyperGroup

from kernels.bundle import SHIPPED_BUNDLE, Card
from kernels.engine import open_engine
from kernels.findings import ConfigError
from kernels.terminal import bare_table, console, errors, run
from kernels.writable import check_writable

from .alarm import Alert
from .asked import check_drawing, model_of, options_of
from .decode.chunk import Chunk
from .decode.csv import Columns
from .formats.recording import readable
from .live_command import register
from .message import to_message
from .pipeline import Event
from .replay import Summary, replay
from .table import clock, episode_rows, finding_rows, overview, unobservable
from .transport.file import RecordingFile, columns_of, open_capture, open_recording

if TYPE_CHECKING:
    from .capacity import Plan
    from .draw import Album
    from .holter import Holter
    from .report import Report

_LATER = {
    "evaluate": "edge.evaluate.command:evaluate_command",
    "evaluate-report": "edge.evaluate.holter:evaluate_report_command",
    "bench-archive": "edge.archive.bench:bench_archive_command",
    "ordeal-archive": "edge.archive.ordeal:ordeal_archive_command",
    "ask": "edge.ask:ask_command",
    "watch": "edge.watch:watch_command",
    "acknowledge": "edge.command_line:acknowledge_command",
    "silence": "edge.command_line:silence_command",
    "score-worker": "edge.fleet.command:score_worker_command",
    "ordeal-fleet": "edge.fleet.command:ordeal_fleet_command",
    "sizing": "edge.sizing:sizing_command",
    "bench-dashboard": "edge.web.bench:bench_dashboard_command",
}
"""Commands whose modules are read only when they are asked for: a replay must not wait for them."""


class _Commands(TyperGroup):
    """Those of this file, and those to be read later."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, _, function = _LATER[cmd_name].partition(":")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name=cmd_name)(getattr(importlib.import_module(module), function))
        return typer.main.get_command(alone)


app = typer.Typer(cls=_Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

PAGES = (".html", ".htm")
PICTURES = (".png", ".svg", ".pdf")


@app.callback()
def cardiogloss() -> None:
    """Says in words what an ECG shows. A research tool, not a medical device."""


@app.command(name="replay")
def replay_command(
    paths: Annotated[list[str], typer.Argument(help="A recording; with --out also folders, patterns, and @FILE with one path a line.")],
    out: Annotated[Path | None, typer.Option(help="Score all recordings in PATHS into tables and an overview in this folder.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="With --out: processes; 0 stands for all cores.")] = 0,
    shard: Annotated[str, typer.Option(help="With --out: do only the i-th of n shares, as in 2/8, for job arrays.")] = "1/1",
    engine: Annotated[str, typer.Option(help="With --out: local, or ray for the cluster at --address.")] = "local",
    address: Annotated[str | None, typer.Option(help="With --engine ray: of the cluster; left out, this machine is one.")] = None,
    bundle: Annotated[Path, typer.Option(help="The model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    findings: Annotated[Path | None, typer.Option(help="Watch for these findings instead (TOML); new texts need the text extra.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    speed: Annotated[float | None, typer.Option(help="1 is real time; left out, as fast as possible.")] = None,
    leads: Annotated[str, typer.Option(help="Leads of the signals, in order (I,II; - leaves one out) or by name (ECG=I,EKG2=V5).")] = "",
    rate: Annotated[float | None, typer.Option(help="Samples a second, for a CSV file without a time column.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of a CSV file: mV, uV or V; a number means mV for each unit.")] = "mV",
    kind: Annotated[
        str, typer.Option("--device", help="The file holds the raw bytes of this device; `cardiogloss devices` names them.")
    ] = "",
    partial: Annotated[bool, typer.Option(help="Replay what is left of a truncated recording (WFDB, EDF, ISHNE, .npy).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (.png, .svg or .pdf).")] = None,
) -> None:
    """Score a recording, or with --out any number of them, as the live monitor would, and show what was seen when."""
    columns, model = columns_of(leads, rate, unit), model_of(bundle, findings)
    options = options_of(hop, model.card)
    _check_speed(speed)
    if out is not None:
        _not_with_out(speed=speed, device=kind, report=report, plot=plot)
        from .archive.command import Asked, replay_archive
        from .archive.manifest import Shard

        asked = Asked(paths, out, model, options, columns, partial, jobs, Shard.parse(shard), engine, address, as_json)
        raise typer.Exit(replay_archive(asked))
    source = _open(_only(paths), kind, columns, partial)
    outputs = Outputs(model.card, Path(paths[0]), readable(source.name), as_json, report, plot)
    with open_engine(model) as opened, _progress(source, quiet=as_json or speed is not None) as advance:
        for chunk, events in replay(source, opened, options, speed):
            outputs.add(chunk, events, live=speed is not None)
            advance(chunk)
    outputs.finish()


@app.command(name="bench")
def bench_command(
    recording: Annotated[Path, typer.Argument(help="A WFDB record; half an hour of two leads is customary, with --sources one of twelve.")],
    sources: Annotated[str, typer.Option(help="Play it live as so many sources instead; max finds how many one core keeps up with.")] = "",
    seconds: Annotated[float, typer.Option(min=1.0, help="With --sources: how long to measure, after a warm-up.")] = 60.0,
    rate: Annotated[float, typer.Option(help="With --sources: samples a second that each sends.")] = 250.0,
    bundle: Annotated[Path, typer.Option(help="With --sources: the model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure on one core, in a process of its own: a replay (start to first score, speed, peak memory), or --sources at once."""
    if sources:
        from .capacity import Plan

        figures = _measure_sources(Plan(recording, bundle, rate, seconds), sources)
    else:
        from .bench import bench

        figures = asdict(bench(recording))
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        console.print("\n".join(f"{name:20} {value:.2f}" for name, value in figures.items()), highlight=False)


def _measure_sources(plan: Plan, sources: str) -> dict[str, Any]:
    from .capacity import Capacity, capacity, most

    def tell(trial: Capacity) -> None:
        errors.print(f"{trial.sources} sources: p99 {trial.p99_ms:g} ms, {trial.core:.0%} of the core", highlight=False)

    if sources == "max":
        return asdict(most(plan, tell))
    if not (sources.isdecimal() and int(sources)):
        raise ConfigError(f"--sources {sources} must be a whole number from 1 on, or max")
    return asdict(capacity(plan, int(sources)))


class Outputs:
    """Where the events of a replay go: JSON lines or tables on standard output, and the page and picture asked for."""

    _page: Report | None = None
    _holter: Holter | None = None
    _album: Album | None = None

    def __init__(self, card: Card, recording: Path, name: str, as_json: bool, report: Path | None, plot: Path | None) -> None:
        self._card, self._name, self._as_json, self._report, self._plot = card, name, as_json, report, plot
        self._path = readable(str(recording))
        self._summary = Summary()
        _check_outputs(report, plot)
        # What only some ask for is not read before: the first score of the others would wait for it.
        if report:
            from .report import Report

            self._page = Report(card)
        if as_json:
            from .holter import Holter

            self._holter = self._page.holter if self._page else Holter(card)
        if plot:
            from .draw import Album

            self._album = Album([f.name for f in card.findings])

    def add(self, chunk: Chunk | None, events: list[Event], live: bool) -> None:
        """One step of `replay`; alerts are told at once where the replay is paced."""
        self._summary.add(chunk, events)
        if self._album:
            self._album.add(events)
        if self._page:
            self._page.add(chunk, events)
        elif self._holter:
            self._holter.add(chunk, events)
        for event in events:
            if self._as_json:
                sys.stdout.write(json.dumps(to_message(event)) + "\n")
            elif live and isinstance(event, Alert):
                console.print(f"{clock(event.at_s)}  {event.finding} {event.state} ({event.score:.2f})", highlight=False)
        if live:
            sys.stdout.flush()

    def finish(self) -> None:
        """Print the tables, or the summary as the last line; write the files."""
        if not self._as_json:
            self._show()
        elif self._holter:
            from .holter import to_message as to_summary

            sys.stdout.write(json.dumps(to_summary(self._holter.figures(), self._name)) + "\n")
        if self._album and self._plot:
            from .draw import draw, save_picture

            save_picture(draw(self._album, self._summary, self._name), self._plot)
        if self._page and self._report:
            self._report.write_text(self._page.page(self._name, self._path), encoding="utf-8")
        for path in filter(None, (self._plot, self._report)):
            errors.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        console.print(f"[bold]{escape(self._name)}[/]: {overview(self._summary)}", highlight=False)
        alerts = bare_table(("finding", "priority", "raised", "cleared", "peak"), "Alerts")
        for row in episode_rows(self._summary):
            alerts.add_row(*row)
        findings = bare_table(("finding", "median", "highest", "above threshold"), "Findings")
        for cells in finding_rows(self._summary, self._card):
            findings.add_row(*cells)
        console.print(alerts if alerts.row_count else "No alert was raised.", findings, unobservable(self._summary))


def _only(paths: Sequence[str]) -> Path:
    if len(paths) > 1 or paths[0].startswith("@"):
        raise ConfigError("several recordings need --out DIR, a folder for their tables and overview")
    return Path(paths[0])


def _not_with_out(**options: object) -> None:
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name} is for a single recording; leave it or --out out")


def _open(path: Path, kind: str, columns: Columns, partial: bool) -> RecordingFile:
    if not kind:
        return open_recording(path, columns, partial)
    from .decode.devices import device

    return open_capture(path, device(kind), columns)


def _check_speed(speed: float | None) -> None:
    if speed is not None and not 0.01 <= speed < math.inf:
        raise ConfigError(f"--speed {speed:g} must be at least 0.01; leave it out to go as fast as possible")


def _check_outputs(report: Path | None, plot: Path | None) -> None:
    """Before the work, not after it."""
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise ConfigError(f"cannot draw {plot}: its name must end in one of {', '.join(PICTURES)}")
    if report is not None and report.suffix.lower() not in PAGES:
        raise ConfigError(f"cannot write the page {report}: its name must end in {' or '.join(PAGES)}")
    if plot is not None:
        check_drawing()
    check_writable(report, plot)


@contextmanager
def _progress(source: RecordingFile, quiet: bool) -> Iterator[Callable[[Chunk | None], None]]:
    """A bar on standard error, where somebody looks at it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(escape(readable(source.name)), total=source.duration_s, at="")

        def advance(chunk: Chunk | None) -> None:
            if chunk is not None:
                at_s = chunk.end / chunk.rate_hz
                bar.update(task, completed=at_s, at=clock(at_s))

        yield advance


register(app)


def main() -> None:
    """The `cardiogloss` command."""
    run(app, "cardiogloss")


if __name__ == "__main__":
    main()
