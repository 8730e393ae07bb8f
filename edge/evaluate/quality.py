"""A folder of the PhysioNet/CinC Challenge 2011 in; how well the quality gate tells its unacceptable recordings out.

Source: Silva, Moody and Celi 2011: twelve leads for ten seconds from a phone, 500 Hz, units of 5 uV, each called
acceptable or unacceptable.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from ..decode.csv import Columns
from ..quality import Judge
from ..transport.file import open_recording

REFERENCE = "REFERENCE.csv"
COLUMNS = Columns(rate_hz=500.0, mv_per_unit=0.005)

_RESAMPLES = 2000
_SEED = 2011
_UNACCEPTABLE = {"unacceptable": True, "-1": True, "acceptable": False, "1": False}

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """The area under the ROC curve, with the middle 95 % of a bootstrap over recordings."""

    recordings: int
    unacceptable: int
    auroc: float
    low: float
    high: float


def is_quality_folder(folder: Path) -> bool:
    """Whether it holds CSV recordings and their labels."""
    return (folder / REFERENCE).is_file() and any(path.name != REFERENCE for path in folder.glob("*.csv"))


def judge_quality(folder: Path, tick: Callable[[], None] = lambda: None) -> QualityFigures:
    """The score of a recording is the share of its leads' seconds that are not good. Raises ConfigError as `labels_of` does."""
    labels = labels_of(folder)
    shares = np.array([_bad_share(folder / f"{name}.csv", tick) for name in labels])
    bad = np.array(list(labels.values()), np.bool_)
    low, high = bootstrap(shares[bad], shares[~bad])
    return QualityFigures(len(bad), int(bad.sum()), auroc(shares[bad], shares[~bad]), low, high)


def labels_of(folder: Path) -> dict[str, bool]:
    """As `read_labels`. Raises ConfigError, too, where a recording is missing, or all have the same label."""
    labels = read_labels(folder / REFERENCE)
    missing = [name for name in labels if not (folder / f"{name}.csv").is_file()]
    if missing:
        raise ConfigError(f"{folder / REFERENCE} names {missing[0]}, and there is no {missing[0]}.csv; copy it again, or take out its line")
    if len(set(labels.values())) < 2:
        raise ConfigError(f"{folder / REFERENCE}: its recordings do not have both labels, acceptable and unacceptable; both are needed")
    return labels


def read_labels(path: Path) -> dict[str, bool]:
    """Recording -> whether it is unacceptable. Raises ConfigError with the number of a line without a label; the first may be a heading."""
    labels = {}
    for number, name, word in _lines(path):
        if word in _UNACCEPTABLE:
            labels[name] = _UNACCEPTABLE[word]
        elif number > 1:
            raise ConfigError(f"{path}: line {number} must name a recording and say acceptable (1) or unacceptable (-1)")
    return labels


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """The number of each line that is not empty, its first cell, and its second in small letters."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(file)
        for row in rows:
            name, word, *_ = (*(cell.strip() for cell in row), "", "")
            if name or word:
                yield rows.line_num, name, word.lower()


def auroc(positive: Shares, negative: Shares) -> float:
    """How often a positive scores above a negative; a tie counts half (Mann and Whitney 1947)."""
    ordered = np.sort(negative)
    below, up_to = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + up_to).mean() / 2 / len(negative))


def bootstrap(positive: Shares, negative: Shares) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile over resamples of each class by itself; the same every time."""
    rng = np.random.default_rng(_SEED)
    areas = [auroc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(areas, (2.5, 97.5)).tolist()
    return low, high


def _bad_share(path: Path, tick: Callable[[], None]) -> float:
    judge = Judge()
    seconds = [one for chunk in open_recording(path, COLUMNS).chunks() for one in judge.feed(chunk)]
    if not seconds:
        raise ConfigError(f"{path}: it is shorter than a second; copy it again")
    tick()
    return float(np.mean([state != "good" for one in seconds for state in one.states]))
