"""Samples in mV at any rate in; the same samples in the standard lead order at the bundle's rate out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

CUTOFF_HZ = 42.0
"""Half-amplitude frequency: the ST segment and the QRS pass, 50 and 60 Hz mains do not."""

HALF_LENGTH_S = 0.1
"""Half the length of the impulse response, and so the lag of the resampler."""

BASELINE_SAMPLES = 201
"""Two seconds at 100 Hz: an encoder takes the moving average over so many off as baseline."""

GAIN_PER_MV = 4.0
"""Of an encoder's input."""

LIMIT = 20.0
"""Of an encoder's input: an artefact counts as 5 mV at most, so that one spike cannot drown the window."""

STRIDE = 32
"""Samples that one position of an encoder's last stage stands for."""

_KAISER_BETA = 4.0
_MAX_PHASES = 4096
_FINEST = 1_000_000
_SPELLINGS = {lead.upper(): lead for lead in LEADS}
_SPELLINGS |= {f"{before}{n}": lead for before in ("ML", "D", "L") for n, lead in (("1", "I"), ("2", "II"), ("3", "III"))}
_SPELLINGS |= {f"{before}{lead}": lead for before in ("ML", "D") for lead in ("I", "II", "III")}
_SPELLINGS |= {f"{before}{n}": f"V{n}" for before in ("MV", "C") for n in range(1, 7)}
_STEMS = ("V", "MV", "C", "D", "L", "ML", "AV")
"""What may stand apart from the one character behind it."""
_ASIDES: dict[str, tuple[str, ...]] = dict.fromkeys(("ECG", "EKG", "LEAD", "MDC", "ELEC", "POTL"), LEADS)
_ASIDES |= {"EINTHOVEN": LEADS[:3], "GOLDBERGER": LEADS[3:6], "AUGMENTED": LEADS[3:6], "VOLTAGE": LEADS[3:6], "WILSON": LEADS[6:]}
_ASIDES |= {"RIGHT": ("aVR",), "LEFT": ("aVL",), "FOOT": ("aVF",)}
"""Words that may stand beside a lead's name, and beside whose."""
_DASHES = "\\-\u2010-\u2015"
_NAME = re.compile(rf"\s*[^\W_](?:[\w\s(),:\[\]]|(?<![\s_(,:\[])[{_DASHES}]|[{_DASHES}](?=\s))*")
_TURNED = re.compile(rf"[{_DASHES}][\W_]*\Z")
"""A dash in front of a name, or at its end, turns the lead over; behind a word it joins."""
_LIMBS = {("LA", "RA"): "I", ("LL", "RA"): "II", ("LL", "LA"): "III"}
"""What lies between two electrodes, the positive one first."""
_PAIR = re.compile(rf"(?<![^\W_])(RA|LA|LL)\s*[{_DASHES}]\s*(RA|LA|LL)(?![^\W_])")
_WORD = re.compile(r"ECG|EKG|LEAD|[^\W_]+")
_LONGEST_NAME = 80

_LIMB_FROM_I_AND_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def to_standard_leads(samples_mv: Samples, leads: Sequence[str]) -> Samples:
    """Put [len(leads), n] into the rows of `LEADS` [12, n]: NaN where a lead is absent, III to aVF derived from I and II.

    A name outside `LEADS` is left out.
    """
    standard = np.full((len(LEADS), samples_mv.shape[-1]), np.nan, np.float32)
    for name, lead in zip(leads, samples_mv, strict=True):
        if name in LEADS:
            standard[LEADS.index(name)] = lead
    return derive_limb_leads(standard, measured=leads)


def derive_limb_leads(standard_mv: Samples, measured: Sequence[str] = ()) -> Samples:
    """Fill the limb leads of [..., 12, n] that were not measured from I and II (Einthoven, Goldberger)."""
    lead_i, lead_ii = standard_mv[..., 0, :], standard_mv[..., 1, :]
    for name, (of_i, of_ii) in _LIMB_FROM_I_AND_II.items():
        if name not in measured:
            standard_mv[..., LEADS.index(name), :] = of_i * lead_i + of_ii * lead_ii
    return standard_mv


def standard_lead(name: str) -> str | None:
    """`ECG Lead aVR`, `MLII`, `DII`, `V 1`, `MDC_ECG_LEAD_I`, `Lead I (Einthoven)`, `ECG LA-RA` -> the name in `LEADS`.

    None where it names no lead of the twelve, or not one alone, or one turned over, as `-aVR` and `aVR-`.
    """
    plain = unicodedata.normalize("NFKC", name[:_LONGEST_NAME]).upper()
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(plain) or _TURNED.search(plain):
        return None
    words = _WORD.findall(_PAIR.sub(_limb, plain))
    asides, rest = [word for word in words if word in _ASIDES], [word for word in words if word not in _ASIDES]
    if "LEAD" in asides and rest and rest[0].isdecimal():
        rest = ["L", *rest]
    apart = len(rest) == 2 and rest[0] in _STEMS and len(rest[1]) == 1
    lead = _SPELLINGS.get("".join(rest)) if apart or len(rest) == 1 else None
    return lead if lead and all(lead in _ASIDES[word] for word in asides) else None


def _limb(pair: re.Match[str]) -> str:
    """What two electrodes measure; they themselves the wrong way round."""
    return _LIMBS.get((pair[1], pair[2]), pair[0])


def ratio(rate_hz: float, to_hz: float) -> Fraction:
    """Input samples per output sample, as a fraction whose error stays under 0.01 ms an hour."""
    return (Fraction(rate_hz) / Fraction(to_hz)).limit_denominator(_FINEST)


@lru_cache(maxsize=32)
def phase_taps(rate_hz: float, to_hz: float) -> npt.NDArray[np.float64]:
    """One row of taps for each phase, [phases, taps]: a Kaiser-windowed sinc, each row summing to one.

    Row p weighs the inputs from `half` before to `half` after an output that lies p / phases behind an
    input sample. An odd ratio of rates has more phases than are kept: the nearest before serves.
    """
    phases = min(ratio(rate_hz, to_hz).denominator, _MAX_PHASES)
    half = int(np.ceil(HALF_LENGTH_S * rate_hz))
    cutoff_hz = min(CUTOFF_HZ, 0.42 * rate_hz, 0.42 * to_hz)
    offset = np.arange(-half, half + 1) - np.arange(phases)[:, None] / phases
    inside = np.clip(1 - (offset / (HALF_LENGTH_S * rate_hz)) ** 2, 0, None)
    taps = np.sinc(2 * cutoff_hz / rate_hz * offset) * np.i0(_KAISER_BETA * np.sqrt(inside)) * (inside > 0)
    return taps / taps.sum(axis=1, keepdims=True)


class PolyphaseFir:
    """A polyphase FIR filter that keeps its state: the cut of the input never changes a bit of the output.

    `taps` is [phases, odd number of taps], centred; `step` is input samples per output sample. The first
    and the last sample stand for the unseen neighbours beyond the two ends, so that n samples in give
    ceil(n / step) out.
    """

    def __init__(self, taps: npt.NDArray[np.float64], step: Fraction = Fraction(1)) -> None:
        self._taps = taps
        self._up, self._down = step.denominator, step.numerator
        self._half = taps.shape[1] // 2
        self._held: npt.NDArray[np.float64] | None = None
        self._held_from = -self._half
        self._made = 0

    def feed(self, samples_mv: Samples) -> Samples:
        """Samples [leads, n] in, the outputs [leads, m] that they complete out."""
        if samples_mv.shape[1] == 0:
            return np.empty((samples_mv.shape[0], 0), np.float32)
        if self._held is None:
            self._held = np.repeat(samples_mv[:, :1].astype(np.float64), self._half, axis=1)
        self._held = np.concatenate([self._held, samples_mv], axis=1)
        return self._emit(self._held_from + self._held.shape[1] - self._half)

    def flush(self) -> Samples:
        """The last outputs, for which the last sample is repeated."""
        if self._held is None:
            return np.empty((0, 0), np.float32)
        end = self._held_from + self._held.shape[1]
        self._held = np.concatenate([self._held, np.repeat(self._held[:, -1:], self._half, axis=1)], axis=1)
        return self._emit(end)

    def _emit(self, end: int) -> Samples:
        """Every output that lies before input sample `end`."""
        assert self._held is not None
        stop = max(-(-end * self._up // self._down), self._made)
        position = np.arange(self._made, stop) * self._down
        first = position // self._up - self._half - self._held_from
        window = self._held[:, first[:, None] + np.arange(self._taps.shape[1])]
        phase = position % self._up * len(self._taps) // self._up
        out = (window * self._taps[phase]).sum(axis=-1)
        self._made = stop
        self._drop(stop * self._down // self._up - self._half)
        return out.astype(np.float32)

    def _drop(self, before: int) -> None:
        assert self._held is not None
        self._held = self._held[:, before - self._held_from :]
        self._held_from = before


class Resampler(PolyphaseFir):
    """From one rate to another, without what lies above `CUTOFF_HZ`."""

    def __init__(self, rate_hz: float, to_hz: float) -> None:
        super().__init__(phase_taps(rate_hz, to_hz), ratio(rate_hz, to_hz))


def resample(samples_mv: Samples, rate_hz: float, to_hz: float) -> Samples:
    """A whole recording [leads, n] at another rate, with the same taps and so the same bits as the stream."""
    resampler = Resampler(rate_hz, to_hz)
    head = resampler.feed(samples_mv)
    return np.concatenate([head, resampler.flush()], axis=1) if head.size or samples_mv.size else head
