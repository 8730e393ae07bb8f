"""The words `csn=FOLDER` in; a dataset at its place, with what its recordings and their codes mean, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.findings import ConfigError

from .datasets import Task, dataset
from .records import Recording
from .text import read_prompts


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset by its name, where it lies, and the folds to read. Raises ConfigError for an unknown name."""

    name: str
    root: Path
    folds: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, folds: Sequence[int]) -> Source:
        """`csn=FOLDER`, or a folder alone, which is PTB-XL. Raises ConfigError for an unknown name or no folder."""
        name, folder = text.split("=", 1) if "=" in text else ("ptb-xl", text)
        dataset(name)
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder} is not a folder; give the data set's folder, as in {name}=FOLDER")
        return cls(name, Path(folder).resolve(), tuple(folds))

    @property
    def told_folds(self) -> str:
        """`9`, `1-8`, or `9,10`"""
        first, last = min(self.folds), max(self.folds)
        whole = last - first > 1 and sorted(self.folds) == list(range(first, last + 1))
        return f"{first}-{last}" if whole else ",".join(map(str, self.folds))

    @property
    def concepts(self) -> Mapping[str, str]:
        """The concept that each code of the data set shows."""
        return dataset(self.name).concepts(self.root)

    @property
    def tasks(self) -> list[Task]:
        """The data set's labels, as they are asked together."""
        return dataset(self.name).tasks(self.root)

    @property
    def prompts(self) -> dict[str, tuple[str, ...]]:
        """How to say each concept: those of PTB-XL, and those that the data set's own labels add."""
        concepts = self.concepts
        labels = [label for task in self.tasks for label in task.labels if len(label.ways) == 1]
        own = {concepts[code]: label.ways[0] for label in labels for code in label.codes if code in concepts}
        return own | read_prompts()

    def read(self) -> Iterator[Recording]:
        """One at a time."""
        return dataset(self.name).read(self.root, self.folds)
