"""The words of `cardiogloss replay PATHS... --out DIR` in; the archive scored, its tables, overview and exit code out."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kernels.bundle import Bundle
from kernels.findings import ConfigError
from kernels.terminal import bare_table, console, errors

from ..decode.csv import Columns
from ..pipeline import Options
from .crew import Crew, run_tasks
from .find import Found, find
from .local import local_crew
from .manifest import Manifest, Settings, Shard, Task, cut
from .overview import Overview
from .page import STRIPS, write_pages
from .part import sync_folder
from .pictures import pictures
from .score import FULL, Done, Work
from .tables import arrow, check_columns, write_tables

ENGINES = ("local", "ray")

_SHOWN = 10
"""Unreadable files that the terminal names."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    paths: Sequence[str]
    out: Path
    model: Bundle
    options: Options
    columns: Columns
    partial: bool
    jobs: int
    shard: Shard
    engine: str
    address: str | None
    as_json: bool

    def settings(self, root: Path) -> Settings:
        """Of a run whose recordings lie in this folder."""
        told = self.columns
        columns = f"{','.join(told.leads)} {told.rate_hz} {told.mv_per_unit}"
        return Settings(str(root), self.model.card.sha256, self.options.hop_s, columns, self.partial)


def replay_archive(asked: Asked) -> int:
    """The exit code: 1 where a recording could not be read. Raises ConfigError, BundleError and OSError."""
    arrow()
    if asked.engine not in ENGINES:
        raise ConfigError(f"--engine {asked.engine!r} is unknown; allowed are {' and '.join(ENGINES)}")
    check_columns([finding.name for finding in asked.model.card.findings])
    found = find(asked.paths, asked.columns, asked.out)
    manifest = Manifest(asked.out)
    with manifest.open(asked.settings(found.root), asked.shard):
        mine = [entry for entry in found.entries if asked.shard.has(entry)]
        done = {block.entry for block in manifest.blocks(mine) if not block.failed}
        tally = Tally(len(mine), len(done), failed=len(found.unreadable))
        with _kept(asked.out, tally):
            _score(asked, manifest, cut([entry for entry in mine if entry not in done]), tally)
            overview = _write(asked, manifest, found)
    return _end(asked, overview, tally)


@dataclass(slots=True)
class Tally:
    """How far a run has come."""

    recordings: int
    before: int
    """Done by earlier runs."""
    failed: int = 0
    now: int = 0
    ecg_s: float = 0.0
    scoring_s: float = 0.0

    def add(self, done: Done) -> None:
        """A task."""
        self.now += done.recordings
        self.failed += len(done.failed)
        self.ecg_s += done.seconds

    @property
    def rate(self) -> float:
        """Recordings a second."""
        return self.now / self.scoring_s if self.scoring_s else 0.0


def _score(asked: Asked, manifest: Manifest, tasks: list[Task], tally: Tally) -> None:
    work = Work(asked.model, asked.options, asked.columns, asked.partial, manifest.parts.absolute())
    with _crew(asked, work) as crew, _progress(tasks, tally, quiet=asked.as_json) as advance:
        begun_s = time.monotonic()
        for done in run_tasks(tasks, crew, work.parts):
            tally.add(done)
            tally.scoring_s = time.monotonic() - begun_s
            advance(done)


def _crew(asked: Asked, work: Work) -> AbstractContextManager[Crew]:
    if asked.engine == "local":
        return local_crew(work, asked.jobs)
    from .cluster import ray_crew

    return ray_crew(work, asked.jobs, asked.address)


def _write(asked: Asked, manifest: Manifest, found: Found) -> Overview | None:
    """The tables and the pages; None while other shards are under way, of which the last one writes them."""
    with manifest.alone():
        blocks = manifest.blocks(found.entries)
        if len(blocks) < len(found.entries):
            return None
        card, entries = asked.model.card, {entry.name: entry for entry in found.entries}
        overview = Overview.of(card)
        with _published(asked.out) as draft:
            for line in write_tables(blocks, found.unreadable, draft, [finding.name for finding in card.findings]):
                overview.add(line)
            shown = list(pictures(overview.striking(), entries, card, asked.columns, asked.partial))
            write_pages(draft, overview, found, card, shown)
        return overview


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder for files that take the place of the old ones all at once, as far as a disk can, when this ends well."""
    draft = out / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / STRIPS).mkdir(parents=True)
    try:
        yield draft
        for old in (out / STRIPS).glob("*"):
            old.unlink()
        (out / STRIPS).mkdir(exist_ok=True)
        for file in (file for file in sorted(draft.rglob("*"), key=_last) if file.is_file()):
            file.replace(out / file.relative_to(draft))
        sync_folder(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _last(file: Path) -> tuple[bool, Path]:
    """The page comes after what it tells of."""
    return file.name.startswith("overview."), file


def _end(asked: Asked, overview: Overview | None, tally: Tally) -> int:
    """What the user sees last."""
    if asked.as_json:
        told = asdict(tally) | {"recordings_per_s": tally.rate, "finished": overview is not None, "out": str(asked.out)}
        sys.stdout.write(json.dumps(told) + "\n")
    elif overview:
        _show(overview, asked.out)
    else:
        console.print("This part is done; the part that ends last writes the tables.", highlight=False)
    if tally.now and not asked.as_json:
        speed = f"{tally.rate:.0f} recordings a second, {tally.ecg_s / tally.scoring_s:,.0f} times real time"
        errors.print(f"scored {tally.now:,} in {tally.scoring_s:.1f} s: {speed}", highlight=False)
    return 1 if tally.failed else 0


def _show(overview: Overview, out: Path) -> None:
    findings = bare_table(("finding", "recordings", "above threshold", "share", "with an alert"), "Findings")
    for row in overview.finding_rows():
        findings.add_row(*row)
    console.print(overview.summary(), findings, highlight=False)
    for name, why in overview.unreadable_rows()[:_SHOWN]:
        errors.print(f"{name}: {why}", style="red", highlight=False, markup=False, soft_wrap=True)
    if len(overview.unreadable) > _SHOWN:
        more = f"and {len(overview.unreadable) - _SHOWN:,} more: see {out / 'overview.md'}"
        errors.print(more, style="red", highlight=False, markup=False)
    console.print(f"Tables and overview are in {out}.", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _kept(out: Path, tally: Tally) -> Iterator[None]:
    """However a run ends, what it has done is there; say so."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"interrupted; {tally.before + tally.now:,} recordings are done. The same command goes on from here.", highlight=False)
        sys.exit(130)
    except OSError as error:
        if error.errno in FULL:
            kept = f"{tally.before + tally.now:,} recordings are done; make room, and the same command goes on from here"
            raise OSError(error.errno, f"the disk of {out} is full; {kept}") from error
        raise


@contextmanager
def _progress(tasks: Sequence[Task], tally: Tally, quiet: bool) -> Iterator[Callable[[Done], None]]:
    """A bar on standard error, where somebody looks at it."""
    words = (TextColumn("{task.fields[done]}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*words, TimeRemainingColumn(), console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        total = sum(task.bytes for task in tasks)
        shown = bar.add_task("", total=total, done=f"{tally.before:,} of {tally.recordings:,}", rate="")

        def advance(done: Done) -> None:
            count = f"{tally.before + tally.now:,} of {tally.recordings:,} recordings"
            bar.update(shown, advance=done.bytes, done=count, rate=f"{tally.rate:.0f}/s")

        yield advance
