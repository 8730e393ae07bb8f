"""Command-line words in; a table, a picture and a JSON file of what each engine does with the same windows out (`bench`)."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .bundle import SHIPPED_BUNDLE, Bundle, golden_windows
from .findings import ConfigError
from .labelled import read_windows
from .signal import Samples
from .terminal import console, errors
from .writable import check_picture, check_writable

if TYPE_CHECKING:
    from .bench import Report
    from .rounds import Row

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "tensorrt", "tensorrt-rtx", "numpy")
_SHIFT = 37
"""Samples from one copy of a window to the next."""
_QUIET = 0.95
"""The least share of a core that figures can be trusted with."""
_LINE = 0.05
"""The height of a label in the picture, as a share of its axis."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column of the table."""

    head: str
    of: Callable[[Row], float | None]
    form: str
    best: Callable[[Sequence[float]], float]


_FIGURES = (
    _Figure("ms", lambda row: row.median_ms, ".4g", min),
    _Figure("p99 ms", lambda row: row.p99_ms, ".4g", min),
    _Figure("windows/s", lambda row: row.windows_per_s, ".0f", max),
    _Figure("x torch", lambda row: row.times_torch, ".2f", max),
    _Figure("of peak", lambda row: row.share_of_peak, ".0%", max),
    _Figure("J/window", lambda row: row.joules_per_window, ".5f", min),
    _Figure("sources", lambda row: row.sources_per_core, ".0f", max),
)


def bench_command(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Bundles (.onnx).", show_default="all that are shipped")] = None,
    batch: Annotated[list[str] | None, typer.Option(help="Windows a call; several as in 1,8.", show_default="1,8,64,256")] = None,
    threads: Annotated[int, typer.Option(help="That each engine may use; one stays on one core.")] = 1,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may stand several times.", show_default="all")] = None,
    seconds: Annotated[float | None, typer.Option(help="Time for each row.", show_default="three minutes for all together")] = None,
    windows: Annotated[
        Path | None,
        typer.Option(help="Windows in mV, n x 12 x samples, in .npy, or as `ecg` in .npz.", show_default="golden windows, shifted"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (.png): windows a second against the batch.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Measure every engine that this machine has, side by side on the same windows; Ctrl-C tells what was measured so far."""
    from .bench import ENGINES, Selection, bench

    selection = Selection(tuple(engine or ENGINES), _batches(batch or ["1,8,64,256"]), threads, seconds)
    check_picture(plot)
    check_writable(as_json)
    models = read_bundles(bundles or sorted(SHIPPED_BUNDLE.parent.glob("*.onnx")))
    told, ecg = windows_of(windows, models)
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with _progress() as advance:
        report = bench(models, repeat(ecg, max(selection.batches)), selection, advance)
    facts = machine(report, threads) | {"load_before": load_before}
    _show(report, facts, told)
    if as_json:
        as_json.write_text(json.dumps(to_json(report, facts, told, models), indent=1) + "\n")
    if plot and report.rows:
        doubt = "; not quiet: trust no ratio" if most_disturbed(report.rows) else ""
        draw(report.rows, f"{facts['processor']}, {threads} thread{'s' * (threads > 1)}; {told['from']}{doubt}", plot)
    if not report.is_whole:
        raise typer.Exit(1)


def _batches(words: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(int(number) for word in words for number in word.split(","))
    except ValueError:
        raise ConfigError(f"batch {','.join(words)!r}: allowed are whole numbers from 1, such as 1,8,64,256") from None


def read_bundles(paths: Sequence[Path]) -> dict[str, Bundle]:
    """By the names of the files. Raises BundleError as `Bundle.read`, ConfigError for those that cannot be compared."""
    models = {path.stem: Bundle.read(path) for path in paths}
    if len(models) < len(paths):
        raise ConfigError("two bundles have the same file name; rename one, as rows are told apart by it")
    if len({(model.card.samples, model.card.rate_hz) for model in models.values()}) > 1:
        raise ConfigError("the bundles take windows of different lengths or rates; measure them one after the other")
    return models


def windows_of(path: Path | None, models: dict[str, Bundle]) -> tuple[dict[str, Any], Samples]:
    """What to say of them, and windows [n, 12, samples]; without a file the golden ones that hold a signal. Raises ConfigError."""
    card = next(iter(models.values())).card
    ecg = read_windows(path, card).ecg if path else golden_windows(card.samples)[:2]
    return {"from": path.name if path else "golden windows, shifted", "count": len(ecg)}, ecg


def repeat(ecg: Samples, count: int) -> Samples:
    """[count, 12, samples]: the windows, and where there are too few, the same again, each time shifted on."""
    return np.stack([np.roll(ecg[i % len(ecg)], _SHIFT * (i // len(ecg)), axis=1) for i in range(count)])


def machine(report: Report, threads: int) -> dict[str, Any]:
    """What the figures depend on besides the bundles and the windows."""
    from .engine import cores

    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": threads,
        "pinned": threads == 1 and hasattr(os, "sched_setaffinity"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "peak": asdict(report.peak),
        "energy": report.energy,
    }


def _processor() -> str:
    """Linux tells its name only there; on ARM only that of the board."""
    names = (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", ""))
    for path, key in names:
        lines = Path(path).read_text(errors="ignore").splitlines() if Path(path).is_file() else []
        found = [line.partition(":")[2] if key else line for line in lines if line.startswith(key)]
        if found:
            return found[0].strip(" \0")
    return platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def to_json(report: Report, facts: dict[str, Any], told: dict[str, Any], models: dict[str, Bundle]) -> dict[str, Any]:
    """The whole run, for programs."""
    cards = {name: model.card for name, model in models.items()}
    return {
        "rows": [row.as_json() for row in report.rows],
        "machine": facts,
        "windows": told,
        "bundles": [
            {"name": name, "sha256": card.sha256, "precision": card.precision, "stride": card.stride, "derived_from": card.derived_from}
            for name, card in cards.items()
        ],
        "absent": report.absent,
        "seconds_per_row": report.seconds,
        "whole": report.is_whole,
    }


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """Drawn only between rounds: a thread that draws all the time would be measured too."""
    columns = TextColumn("measuring"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True, auto_refresh=False, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=1.0)
        yield lambda share: progress.update(bar, completed=share, refresh=True)


def _show(report: Report, facts: dict[str, Any], told: dict[str, Any]) -> None:
    several = _are_told_apart_by_bundle(report.rows)
    for batch, rows in groupby(report.rows, key=lambda row: row.batch):
        console.print(_table(batch, list(rows), several))
    for line in _notes(report, facts, told):
        console.print(escape(line), style="dim", highlight=False, soft_wrap=True)


def _are_told_apart_by_bundle(rows: Sequence[Row]) -> bool:
    return len({(row.engine, row.precision, row.batch) for row in rows}) < len(rows)


def _table(batch: int, rows: Sequence[Row], several: bool) -> Table:
    """Of one batch; the best of each column in bold."""
    shown = [figure for figure in _FIGURES if any(figure.of(row) is not None for row in rows)]
    names = ["engine", "precision", *(["bundle"] if several else [])]
    heads = [Column(figure.head, justify="right") for figure in shown]
    table = Table(*names, *heads, title=f"batch {batch}", title_justify="left", title_style="bold", box=None, header_style="dim")
    for row in rows:
        table.add_row(
            row.engine, row.precision, *([escape(row.bundle)] if several else []), *(_cell(figure, row, rows) for figure in shown)
        )
    return table


def _cell(figure: _Figure, row: Row, rows: Sequence[Row]) -> str:
    value = figure.of(row)
    if value is None:
        return "-"
    known = [v for v in map(figure.of, rows) if v is not None]
    text = format(value, figure.form)
    return f"[bold]{text}[/]" if value == figure.best(known) and len(known) > 1 else text


def _notes(report: Report, facts: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    peak = report.peak
    pinned = ", on one core" if facts["pinned"] else ""
    load = "" if facts["load_before"] is None else f", load {facts['load_before']:.1f} before"
    yield f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} used{pinned}{load}; Python {facts['python']}"
    yield ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    yield f"measured peak: float32 {peak.fp32_gflops:.0f} GFLOP/s, int8 {peak.int8_gops:.0f} Gop/s"
    yield f"energy: {report.energy}, all that ran on the machine" if report.energy else "energy: not told by this platform"
    yield f"windows: {told['from']} ({told['count']}); {report.seconds:.1f} s a row in bursts by turns"
    yield "ms: median of a call; sources: on one core at a hop of 1 s, for the engine alone"
    if any(row.hop_s for row in report.rows):
        yield "stream: a batch is one step of so many streams, each 1 s on; a window is what one step scores"
    if disturbed := most_disturbed(report.rows):
        share, row = disturbed
        yield f"NOT QUIET: {row.engine} {row.precision}, batch {row.batch}, had its core {share:.0%} of the time"
        yield "  other programs ran there, which slows long calls more than short ones: trust no ratio, measure again on a quiet machine"
    yield from report.absent
    if not report.is_whole:
        yield "interrupted: these are the figures so far"


def most_disturbed(rows: Sequence[Row]) -> tuple[float, Row] | None:
    """The row of one thread that had the least share of its core, if others had a part of it that matters."""
    shares = [(row.share_of_core, row) for row in rows if row.share_of_core is not None and row.threads == 1]
    least = min(shares, key=lambda share: share[0], default=None)
    return least if least and least[0] < _QUIET else None


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Windows a second against the batch (PNG), one line an engine, its name at its end."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    several = _are_told_apart_by_bundle(rows)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(f"{row.engine} {row.precision}{f' ({row.bundle})' * several}", []).append(row)
    colours = matplotlib.colormaps["tab10" if len(lines) <= 10 else "tab20"]
    all_heights = [row.windows_per_s for row in rows]
    heights = _spread({name: line[-1].windows_per_s for name, line in lines.items()}, (max(all_heights) / min(all_heights)) ** _LINE)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", title=title, xlabel="batch: windows a call, or streams a step", ylabel="windows a second")
        axes.title.set_fontsize(9)
        for number, (name, line) in enumerate(lines.items()):
            style = "--" if line[0].hop_s else "-"
            x, y = [row.batch for row in line], [row.windows_per_s for row in line]
            axes.plot(x, y, style, color=colours(number), marker="o", markersize=3.5, linewidth=1.4)
            axes.annotate(
                name, (x[-1], y[-1]), (1.02, heights[name]), textcoords=("axes fraction", "data"), color=colours(number), va="center"
            )
        batches = sorted({row.batch for row in rows})
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.grid(which="major", linewidth=0.3)
        figure.savefig(path, dpi=150)


def _spread(ends: dict[str, float], least_ratio: float) -> dict[str, float]:
    """Heights for labels near the ends of their lines, on a log axis, none over another."""
    heights: dict[str, float] = {}
    lowest = 0.0
    for name in sorted(ends, key=lambda name: ends[name]):
        heights[name] = max(ends[name], lowest)
        lowest = heights[name] * least_ratio
    return heights
