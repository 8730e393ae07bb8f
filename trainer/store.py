"""Dataset folders in; their windows and what is said of them on disk, read a batch at a time, out."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
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

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Store:
    """Windows [n, 12, samples] in mV in one file, and a line of JSON each in another: neither is ever held in memory whole."""

    folder: Path
    samples: int

    @property
    def ecg(self) -> Samples:
        """[n, 12, samples], mapped from disk."""
        return np.memmap(self.folder / "ecg.f32", np.float32, mode="r").reshape(-1, len(LEADS), self.samples)

    def said(self) -> Iterator[tuple[int, Said]]:
        """The number of the source, and what is said of each window."""
        with (self.folder / "said.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                source, fields = json.loads(line)
                yield source, Said(**{key: tuple(value) for key, value in fields.items()})


def open_store(sources: Sequence[Source], rate_hz: float, window_s: float, cache: Path) -> Store:
    """All windows of these sources, read once into a folder of `cache` and found there again. Raises ConfigError where there are none."""
    cache.mkdir(parents=True, exist_ok=True)
    key = [FORMAT, rate_hz, window_s, _words(), [[s.name, str(s.root), s.folds, _state(s.root)] for s in sources]]
    folder = cache / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    store = Store(folder, round(rate_hz * window_s))
    if not folder.is_dir():
        partial = Path(tempfile.mkdtemp(dir=cache, prefix="partial-"))
        _write(sources, rate_hz, store.samples, partial)
        _settle(partial, folder)
    return store


def _settle(partial: Path, folder: Path) -> None:
    """In one step; another process may have been faster."""
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)


def _words() -> str:
    """Of all that decides how a recording is spoken of."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.toml")), here / "text.py", here / "report.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _state(root: Path) -> list[object]:
    """When a dataset folder and the tables in it last changed."""
    return [[path.name, path.stat().st_mtime_ns] for path in [root, *sorted(root.glob("*.csv"))]]


def _write(sources: Sequence[Source], rate_hz: float, samples: int, folder: Path) -> None:
    with (folder / "ecg.f32").open("wb") as ecg, (folder / "said.jsonl").open("w", encoding="utf-8") as said:
        for number, source in enumerate(sources):
            for recording, told in _read(source):
                line = json.dumps([number, asdict(told)])
                for window in cut_windows(recording, rate_hz, samples, hop=samples):
                    ecg.write(window.tobytes())
                    said.write(line + "\n")
    if not (folder / "ecg.f32").stat().st_size:
        raise ConfigError(f"there is no recording in {', '.join(f'folds {s.told_folds} of {s.root}' for s in sources)}; give other folders")


def _read(source: Source) -> Iterator[tuple[Recording, Said]]:
    concepts, prompts, machine = source.concepts, source.prompts, read_machine_texts(source.root)
    for recording in source.read():
        yield recording, what_is_said(recording, concepts, prompts, machine)
