"""The noun that every decoder emits, and the names of its leads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, standard_lead

from .electrodes import leads_among

LEFT_OUT = "-"
"""The name of a signal that is no lead."""
PAIR = "="
"""Between the name of a signal and its lead."""
_HEART = re.compile("ECG|EKG|(?<![A-Z])EK", re.IGNORECASE)

LONGEST_GAP_S = 31 * 86400.0
"""A recording that claims to pause for longer has a wrong time."""


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


def too_long(gap_s: float) -> ConfigError:
    """What to say of a gap above `LONGEST_GAP_S`."""
    return ConfigError(f"claims a gap of {gap_s / 86400:.0f} days; mend its time")


class UnknownLeads(ConfigError):
    """None of the signals bears the name of a lead."""


def name_leads(found: Sequence[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """The lead of each signal: what the operator gave, else what the names say; other signals keep their name.

    `given` is a lead for each signal in order, or pairs `NAME=LEAD` of the signals that are leads. Raises UnknownLeads
    where no signal is a known lead, ConfigError where a lead stands twice or `given` does not fit.
    """
    paired = [name for name in given if PAIR in name]
    if paired and len(paired) < len(given):
        raise ConfigError(f"--leads has {paired[0]!r} beside {_bare(given)!r}; give a lead for each signal, or all as NAME=LEAD")
    names = tuple(_paired_leads(found, given) if paired else _given_leads(found, given) if given else leads_among(found))
    known = [name for name in names if name in LEADS]
    if not known:
        raise UnknownLeads(_unknown(found))
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise ConfigError(f"lead {twice[0]} stands twice among the signals {_list(given or found)}; name each once, in order, by --leads")
    return names


def _bare(given: Sequence[str]) -> str:
    return next(name for name in given if PAIR not in name)


def _given_leads(found: Sequence[str], given: Sequence[str]) -> Iterator[str]:
    if len(given) != len(found):
        raise ConfigError(
            f"--leads names {len(given)} leads, but there are {len(found)} signals: {_list(found)}; name each, {_by_pairs(found)}"
        )
    return map(_given_lead, given)


def _given_lead(name: str) -> str:
    if name != LEFT_OUT and standard_lead(name) is None:
        raise ConfigError(f"--leads: unknown lead {name!r}; allowed are {' '.join(LEADS)}, and - for a signal to leave out")
    return standard_lead(name) or LEFT_OUT


def _paired_leads(found: Sequence[str], given: Sequence[str]) -> Iterator[str]:
    pairs = {name: lead.strip() for pair in given for name, lead in [split_pair(pair)]}
    plain = [name.strip().casefold() for name in found]
    for pair in given:
        many = plain.count(split_pair(pair)[0])
        if many != 1:
            called = "several signals are" if many else "no signal is"
            raise ConfigError(f"--leads names {pair}, but {called} called so: {_list(_likeliest_first(found))}")
    return (_given_lead(pairs.get(name, LEFT_OUT)) for name in plain)


def split_pair(pair: str) -> tuple[str, str]:
    """`EKG2=V5` -> the signal's name as it is compared, and the lead; an empty name where it is no pair."""
    name, _, lead = pair.rpartition(PAIR)
    return name.strip().casefold(), lead


def _unknown(found: Sequence[str]) -> str:
    many = "1 signal" if len(found) == 1 else f"{len(found)} signals"
    shown = _list(_likeliest_first(found))
    return f"no known lead among the signals {shown}; name them in order, for example --leads I ({many}), {_by_pairs(found)}"


def _by_pairs(found: Sequence[str]) -> str:
    """Another way to name them, with a signal that may be a lead for an example."""
    name = next(filter(_HEART.search, found), "NAME")
    return f'or those alone that are leads, for example --leads "{name}{PAIR}II"'


def _likeliest_first(found: Sequence[str]) -> list[str]:
    """Those that have ECG or the like in their name."""
    return sorted(found, key=lambda name: _HEART.search(name) is None)


def _list(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) < 80 else text[:77] + "..."
