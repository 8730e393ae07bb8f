"""The samples that a library reads from a recording on disk in; `Chunk`s in bounded memory, the same for all formats, out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from kernels.findings import ConfigError
from kernels.signal import Samples

from ..decode.chunk import Chunk

BLOCK = 1 << 14

_MOST_SAID = 160


@dataclass(frozen=True, slots=True)
class Annotation:
    """What somebody has written at one place of a recording."""

    at_s: float
    text: str
    end_s: float | None = None
    """None for a moment."""


class RecordingFile(Protocol):
    """A recording on disk that is read from its beginning, in bounded memory."""

    @property
    def name(self) -> str:
        """What the source is called in scores and alerts."""
        ...

    @property
    def duration_s(self) -> float | None:
        """None where the file does not tell before it is read."""
        ...

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """The samples, about `block` bytes at a time. Raises OSError where the disk fails, ConfigError where the file is damaged."""
        ...


def readable(name: str) -> str:
    """As text that any program reads and any terminal shows: a file's name may be bytes that are none, or hold commands to it."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


@runtime_checkable
class Annotated(Protocol):
    """A recording that may come with annotations."""

    def annotations(self) -> Sequence[Annotation]:
        """In the order of their time; empty where there are none, or where they cannot be read."""
        ...


def annotations_of(recording: RecordingFile) -> Sequence[Annotation]:
    """None of a format that has none."""
    return recording.annotations() if isinstance(recording, Annotated) else ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples without a gap, all of one rate, that can be read from anywhere."""

    start: int
    """Index of the first since the recording began; what is missing is counted too."""
    samples: int
    read: Callable[[int, int], Samples]
    """`read(begin, end)` [leads, end - begin] in mV, NaN where there is none; counted from the stretch's own begin."""


@dataclass(frozen=True, slots=True)
class Slices:
    """A recording whose stretches a library reads in slices."""

    name: str
    rate_hz: float
    leads: tuple[str, ...]
    stretches: Sequence[Stretch]
    notes: Callable[[], Sequence[Annotation]] = tuple

    @property
    def duration_s(self) -> float | None:
        """Gaps included."""
        return max(stretch.start + stretch.samples for stretch in self.stretches) / self.rate_hz

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """About `block` bytes of 16-bit samples at a time."""
        step = max(block // (2 * len(self.leads)), 1)
        for stretch in self.stretches:
            for begin in range(0, stretch.samples, step):
                samples = stretch.read(begin, min(begin + step, stretch.samples))
                yield Chunk(stretch.start + begin, self.rate_hz, self.leads, samples)

    def annotations(self) -> Sequence[Annotation]:
        return self.notes()


def library(name: str) -> Any:
    """The package. Raises ConfigError that says how to install it."""
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        extra = "archive" if package == "pyarrow" else "formats"
        raise ConfigError(f"reading it needs the package {package}: pip install 'cardiogloss[{extra}]'") from None


def said(error: BaseException) -> str:
    """What a package says of a file, in few words."""
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    return first if len(first) <= _MOST_SAID else f"{first[: _MOST_SAID - 3]}..."


@contextmanager
def damaged(package: str) -> Iterator[None]:
    """What a package raises over a damaged file, as one line."""
    try:
        yield
    except ConfigError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(f"{package} cannot read it ({said(error)}); mend the file or copy it again") from error
