"""Dataset folders in; their windows and what is said of them on disk, read a batch at a time, out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from .datasets.ptb_xl import read_machine_texts
from .records import Recording, cut_windows
from .source import Source
from .text import Said, what_is_said

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Store:
    """Windows [n, 12, samples] in mV in one file, and a line of JSON each in another: neither is ever held in memory whole."""

    folder: Path
    samples: int

    @property
    def ecg(self) -> Samples:
        """[n, 12, samples], mapped from disk."""
        return np.memmap(self.folder / "ecg.f32", np.float32, mode="r").reshape(-1, len(LEADS), self.samples)

    def said(self) -> Iterator[tuple[str, Said]]:
        """The name of the dataset, and what is said of each window."""
        with (self.folder / "said.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                name, fields = json.loads(line)
                yield name, Said(**{key: tuple(value) for key, value in fields.items()})


def open_store(sources: Sequence[Source], rate_hz: float, window_s: float, cache: Path) -> Store:
    """All windows of these sources, read once into a folder of `cache` and found there again. Raises ConfigError where there are none."""
    key = [FORMAT, rate_hz, window_s, [[s.name, str(s.root), s.folds, s.root.stat().st_mtime_ns] for s in sources]]
    folder = cache / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    store = Store(folder, round(rate_hz * window_s))
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(sources, rate_hz, store.samples, partial)
        partial.rename(folder)
    return store


def _write(sources: Sequence[Source], rate_hz: float, samples: int, folder: Path) -> None:
    with (folder / "ecg.f32").open("wb") as ecg, (folder / "said.jsonl").open("w", encoding="utf-8") as said:
        for source in sources:
            for recording, told in _read(source):
                line = json.dumps([source.name, asdict(told)])
                for window in cut_windows(recording, rate_hz, samples, hop=samples):
                    ecg.write(window.tobytes())
                    said.write(line + "\n")
    if not (folder / "ecg.f32").stat().st_size:
        raise ConfigError(f"there is no recording in {', '.join(f'folds {s.told_folds} of {s.root}' for s in sources)}; give other folders")


def _read(source: Source) -> Iterator[tuple[Recording, Said]]:
    concepts, prompts, machine = source.concepts, source.prompts, read_machine_texts(source.root)
    for recording in source.read():
        yield recording, what_is_said(recording, concepts, prompts, machine)
