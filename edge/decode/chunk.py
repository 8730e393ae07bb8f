"""The noun that every decoder emits, and the names of its leads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, standard_lead

LEFT_OUT = "-"
"""The name of a signal that is no lead."""


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

    def follows(self, last: Chunk | None) -> bool:
        """Whether it goes on where `last` ended, with the same leads at the same rate."""
        return last is not None and (self.start, self.rate_hz, self.leads) == (last.end, last.rate_hz, last.leads)

    def without_loose(self) -> Samples:
        """The samples, NaN where a lead is off."""
        if not self.lead_off:
            return self.samples_mv
        off = np.array([lead in self.lead_off for lead in self.leads])
        return np.where(off[:, None], np.float32(np.nan), self.samples_mv)


def finite(samples_mv: npt.NDArray[np.float64]) -> Samples:
    """As float32, NaN for whatever is not finite there."""
    with np.errstate(over="ignore"):
        samples = samples_mv.astype(np.float32)
    return np.where(np.isfinite(samples), samples, np.float32(np.nan))


class UnknownLeads(ConfigError):
    """None of the signals bears the name of a lead."""


def name_leads(found: Sequence[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """The lead of each signal: what the operator gave, else what the names say; other signals keep their name.

    Raises UnknownLeads where no signal is a known lead, ConfigError where a lead stands twice or `given` does not fit.
    """
    names = tuple(_given_leads(found, given) if given else (standard_lead(name) or name for name in found))
    known = [name for name in names if name in LEADS]
    if not known:
        raise UnknownLeads(f"no known lead among the signals {_list(given or found)}; name them in order, for example --leads I")
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise ConfigError(f"lead {twice[0]} stands twice among the signals {_list(given or found)}; name each once, in order, by --leads")
    return names


def _given_leads(found: Sequence[str], given: Sequence[str]) -> Iterator[str]:
    if len(given) != len(found):
        raise ConfigError(f"--leads names {len(given)} leads, but there are {len(found)} signals: {_list(found)}")
    for name in given:
        if name != LEFT_OUT and standard_lead(name) is None:
            raise ConfigError(f"--leads: unknown lead {name!r}; allowed are {' '.join(LEADS)}, and - for a signal to leave out")
        yield standard_lead(name) or LEFT_OUT


def _list(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) < 80 else text[:77] + "..."
