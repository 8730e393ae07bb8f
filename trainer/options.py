"""What stands behind an option on the command line in; checked values out."""

from __future__ import annotations

import re

import torch

from kernels.findings import ConfigError
from kernels.signal import LEADS


def parse_folds(text: str) -> list[int]:
    """`9`, `1,2` or `1-8`. Raises ConfigError for anything else."""
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in text.split(",")]
    folds = [fold for part in parts if part for fold in range(int(part[1]), int(part[2] or part[1]) + 1)]
    if not folds or None in parts:
        raise ConfigError(f"--folds {text!r} must read like 9, 1,2 or 1-8")
    return folds


def parse_leads(text: str) -> list[str]:
    """`I,II,V2`. Raises ConfigError for a name outside the twelve."""
    leads = [lead.strip() for lead in text.split(",")] if text else []
    for lead in leads:
        if lead not in LEADS:
            raise ConfigError(f"--leads: unknown lead {lead!r}; allowed are {' '.join(LEADS)}")
    return leads


def use_threads(threads: int | None) -> None:
    """Raises ConfigError unless positive; None leaves all cores."""
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads} must be positive")
    if threads:
        torch.set_num_threads(threads)
