"""The paths of annotated records and what to count in; what became of each record out.

Each record is replayed by itself, in one of several processes where these are asked for; the order and the
figures do not depend on how many.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.findings import ConfigError

from ..decode.csv import Columns
from ..pipeline import Options
from ..transport.file import open_recording
from .beats import LEARNING_S, BeatCounts, count_beats
from .episodes import EpisodeCounts, Terms, count_episodes
from .noise import NoisyFile, Stress, check_addable
from .observe import Alarmed, Observed, observe
from .quality import is_quality_folder
from .tally import gross
from .truth import RHYTHMS, Truth, check_annotations, read_truth


@dataclass(frozen=True, slots=True)
class Plan:
    """How records are replayed and judged."""

    bundle: Bundle
    options: Options = field(default_factory=Options)
    columns: Columns = field(default_factory=Columns)
    terms: Terms = field(default_factory=Terms)
    learning_s: float = LEARNING_S
    annotator: str = "atr"
    stress: Stress | None = None
    """Noise to be added, or none."""
    keep: bool = False
    """Whether what the alarm was fed is kept, for tuning."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One record, replayed and judged."""

    record: str
    observed: Observed
    truth: Truth
    beats: BeatCounts
    findings: dict[str, EpisodeCounts]
    """The findings that its annotations can judge."""
    hours: float
    load: dict[tuple[str, str, str], int]
    """Kind, priority and finding -> alerts raised."""


@dataclass(frozen=True, slots=True)
class Group:
    """Records that are reported together; at least one."""

    outcomes: tuple[Outcome, ...]

    @property
    def hours(self) -> float:
        return sum(outcome.hours for outcome in self.outcomes)

    @property
    def beats(self) -> BeatCounts:
        """Of all records together."""
        return gross([outcome.beats for outcome in self.outcomes])

    @property
    def judged(self) -> tuple[str, ...]:
        """Findings that at least one record can judge and of which there was an episode or an alert."""
        names = dict.fromkeys(name for outcome in self.outcomes for name in outcome.findings)
        return tuple(name for name in names if any(counts.episodes or counts.alerts for counts in self.of(name)))

    def of(self, finding: str) -> list[EpisodeCounts]:
        """The counts of each record that can judge the finding."""
        return [outcome.findings[finding] for outcome in self.outcomes if finding in outcome.findings]

    def total(self, finding: str) -> EpisodeCounts:
        """Of all records together that can judge it."""
        return gross(self.of(finding))

    @property
    def load(self) -> dict[tuple[str, str, str], int]:
        """Kind, priority and finding -> alerts raised."""
        return dict(sum((Counter(outcome.load) for outcome in self.outcomes), Counter[tuple[str, str, str]]()))

    @property
    def unwatched(self) -> dict[str, int]:
        """Rhythm code -> episodes, where no judged finding stands for it."""
        known = {"N", *(RHYTHMS.get(name) for outcome in self.outcomes for name in outcome.findings)}
        notes = (code for outcome in self.outcomes for code, _ in outcome.truth.rhythms if code not in known)
        return dict(Counter(notes).most_common())


def find_records(paths: Sequence[Path], annotator: str) -> tuple[list[Path], list[Path]]:
    """Annotated WFDB records, without ending, and folders of the 2011 challenge, each once, however often and however it is spelt.

    Raises ConfigError for a path that is neither, and for two recordings of one name.
    """
    records: list[Path] = []
    folders: list[Path] = []
    for path in paths:
        if path.is_dir() and is_quality_folder(path):
            folders.append(path)
        else:
            records += _records_in(path, annotator) if path.is_dir() else [_bare(path, annotator)]
    records = _once(records)
    _check_names(records)
    return records, _once(folders)


def _once(paths: Sequence[Path]) -> list[Path]:
    """As it was spelt first."""
    spelt: dict[Path, Path] = {}
    for path in paths:
        spelt.setdefault(path.resolve(), path)
    return list(spelt.values())


def _check_names(records: Sequence[Path]) -> None:
    named: dict[str, Path] = {}
    for path in records:
        other = named.setdefault(path.name, path)
        if other != path:
            raise ConfigError(f"{other} and {path} have the same name, which is all that the tables tell; judge them one after the other")


def _records_in(folder: Path, annotator: str) -> list[Path]:
    found = [path.with_suffix("") for path in sorted(folder.glob("*.hea")) if path.with_suffix(f".{annotator}").is_file()]
    if not found:
        raise ConfigError(f"{folder}: holds no WFDB record with annotations (.hea with .{annotator}); name a folder or records that do")
    return found


def _bare(path: Path, annotator: str) -> Path:
    """The record without its ending. Found out before the work that it cannot be judged."""
    bare = path.with_suffix("") if path.suffix in (".hea", ".dat", f".{annotator}") else path
    if not bare.with_name(f"{bare.name}.hea").is_file():
        raise ConfigError(f"{path}: no such WFDB record; name one by its .hea file or without ending, or a folder")
    check_annotations(bare, annotator)
    return bare


def study(jobs: Sequence[tuple[Path, Plan]], processes: int = 1, tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Replay and judge each record by its plan; `tick` is called after each."""
    outcomes = []
    for outcome in _outcomes(jobs, processes):
        outcomes.append(outcome)
        tick()
    return outcomes


def _outcomes(jobs: Sequence[tuple[Path, Plan]], processes: int) -> Iterator[Outcome]:
    if processes == 1 or len(jobs) < 2:
        yield from (judge_record(*job) for job in jobs)
        return
    # A forked child would inherit the threads of the engine in an unknown state.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
            yield from pool.map(judge_record, *zip(*jobs, strict=True))
    except BrokenProcessPool as error:
        raise ConfigError("a process was ended from outside, most often for want of memory; ask for fewer --jobs") from error


def check_disturbed(path: Path, plan: Plan) -> None:
    """Before the work. Raises ConfigError for a record that noise cannot be added to, or that cannot be read."""
    recording = open_recording(path, plan.columns)
    check_addable(recording, read_truth(path, recording.duration_s or 0.0, plan.annotator).beats_s)


def judge_record(path: Path, plan: Plan) -> Outcome:
    """Replay one record as a live source would be watched. Raises ConfigError where it, or its annotations, cannot be read."""
    recording = open_recording(path, plan.columns)
    truth = read_truth(path, recording.duration_s or 0.0, plan.annotator)
    source = NoisyFile(recording, truth.beats_s, plan.stress) if plan.stress else recording
    with open_engine(plan.bundle) as engine:
        observed = observe(source, engine, plan.options, plan.keep)
    return judge_observed(path.name, truth, observed, plan)


def judge_observed(record: str, truth: Truth, observed: Observed, plan: Plan) -> Outcome:
    """Hold what was told against the truth."""
    count = partial(count_episodes, truth=truth, alerts=observed.alerts, record=record, terms=plan.terms)
    watched = [finding.name for finding in plan.bundle.card.findings if finding.priority != "none"]
    findings = {name: count(name) for name in watched if truth.judges(name)}
    hours = max(observed.duration_s - plan.terms.from_s, 0.0) / 3600
    raised = [alert for alert in observed.alerts if alert.raised_s >= plan.terms.from_s]
    beats = count_beats(truth, observed, plan.learning_s)
    return Outcome(record, observed, truth, beats, findings, hours, dict(Counter(map(_entry, raised))))


def _entry(alert: Alarmed) -> tuple[str, str, str]:
    return alert.kind, alert.priority, alert.finding
