"""The noun that every decoder emits, and the spelling of its lead names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

_SPELLINGS = {lead.upper(): lead for lead in LEADS} | {"ML1": "I", "MLI": "I", "ML2": "II", "MLII": "II", "ML3": "III", "MLIII": "III"}
_SPELLINGS |= {"D1": "I", "D2": "II", "D3": "III", "DI": "I", "DII": "II", "DIII": "III", "L1": "I", "L2": "II", "L3": "III"}
_SPELLINGS |= {f"MV{n}": f"V{n}" for n in range(1, 7)} | {f"C{n}": f"V{n}" for n in range(1, 7)} | {"1": "I", "2": "II", "3": "III"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of samples without a gap."""

    start: int
    """Index of the first sample since the source began; lost samples are counted too."""
    rate_hz: float
    leads: tuple[str, ...]
    samples_mv: Samples
    """[leads, n]; NaN where a sample is invalid."""
    lead_off: tuple[str, ...] = ()
    """Leads whose electrode was reported off during this chunk."""

    @property
    def end(self) -> int:
        """Index of the sample after the last."""
        return self.start + self.samples_mv.shape[1]

    def without_loose(self) -> Samples:
        """The samples, NaN where a lead is off."""
        if not self.lead_off:
            return self.samples_mv
        off = np.array([lead in self.lead_off for lead in self.leads])
        return np.where(off[:, None], np.float32(np.nan), self.samples_mv)


def standard_lead(name: str) -> str | None:
    """`ECG Lead aVR`, `avr`, `MLII`, `DII` -> the name in `LEADS`; None where it names no lead of the twelve."""
    bare = re.sub(r"(?i)\b(ecg|ekg|lead)\b", "", name.replace("_", " ").replace("-", " "))
    return _SPELLINGS.get(re.sub(r"\s+", "", bare).upper())


def name_leads(found: Sequence[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """The lead of each signal: what the operator gave, else what the names say; other signals keep their name.

    Raises ConfigError where no signal is a known lead, or `given` does not fit.
    """
    if given:
        return _given_leads(found, given)
    names = tuple(standard_lead(name) or name for name in found)
    known = [name for name in names if name in LEADS]
    if not known:
        raise ConfigError(f"no known lead among the signals {', '.join(found)}; name them in order, for example --leads I")
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise ConfigError(f"lead {twice[0]} stands twice among the signals {', '.join(found)}; name them in order with --leads")
    return names


def _given_leads(found: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    if len(given) != len(found):
        raise ConfigError(f"--leads names {len(given)} leads, but there are {len(found)} signals: {', '.join(found)}")
    for name in given:
        if name != "-" and standard_lead(name) is None:
            raise ConfigError(f"--leads: unknown lead {name!r}; allowed are {' '.join(LEADS)}, and - for a signal to leave out")
    return tuple(standard_lead(name) or name for name in given)
