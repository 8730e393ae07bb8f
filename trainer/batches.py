"""`Recording`s in; augmented batches of windows, caption embeddings and concept targets out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import wfdb
from torch import Tensor

from kernels.signal import LEADS, derive_limb_leads, resample

from .records import Recording

_LIMB = {"III", "aVR", "aVL", "aVF"}
_LEAD_SETS = ("I", "II", "I II", "I II V2", "II V1", "II V5", "I II V1 V5", "I II V2 V5")


@dataclass(frozen=True, slots=True)
class Pairs:
    """A training set in memory; row i of each tensor belongs to one recording."""

    ecg: Tensor
    """[n, 12, samples] in mV."""
    captions: Tensor
    """[n, captions, text_dim]: embeddings of the frozen language model."""
    shown: Tensor
    """[n, concepts] of 0 and 1."""

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in random order, without the incomplete last batch; one caption of each recording at random."""
        order = torch.randperm(len(self.ecg), generator=generator)
        for rows in order[: len(order) // size * size].split(size):
            which = torch.randint(self.captions.shape[1], (size,), generator=generator)
            yield self.ecg[rows], self.captions[rows, which], self.shown[rows]


def windows(recordings: Sequence[Recording], rate_hz: float, window_s: float) -> Tensor:
    """[n, 12, samples] in mV through the stream's own filter; z-scores are given the usual size of their lead back."""
    usual = _usual_size([r for r in recordings if r.amplitude_known])
    samples = round(rate_hz * window_s)
    ecg = [resample(r.samples_mv, r.rate_hz, rate_hz)[:, :samples] for r in recordings]
    scaled = [x if r.amplitude_known else x * usual for x, r in zip(ecg, recordings, strict=True)]
    return torch.from_numpy(np.stack(scaled))


def _usual_size(recordings: Sequence[Recording]) -> np.ndarray:
    """The median standard deviation of each lead in mV, [12, 1]."""
    if not recordings:
        return np.full((len(LEADS), 1), 0.2, np.float32)
    deviation = np.stack([np.nanstd(r.samples_mv, axis=1) for r in recordings])
    return np.nanmedian(deviation, axis=0)[:, None].astype(np.float32)


def read_noise(root: Path, rate_hz: float) -> Tensor:
    """Real electrode noise (MIT-BIH NSTDB, Moody et al. 1984): muscle and wander, two leads each, [4, samples] in mV."""
    tracks = []
    for name in ("ma", "bw"):
        record = wfdb.rdrecord(str(root / name))
        tracks.append(resample(record.p_signal.T.astype(np.float32), record.fs, rate_hz))
    return torch.from_numpy(np.concatenate(tracks))


class Augment:
    """What an electrode, an amplifier and a missing cable do to a batch [n, 12, samples]; drawn from one generator."""

    def __init__(self, generator: torch.Generator, noise: Tensor | None = None, masked: float = 0.5) -> None:
        self._generator = generator
        self._noise = noise
        self._masked = masked
        self._sets = torch.stack([_mask(names.split()) for names in _LEAD_SETS])

    def __call__(self, ecg: Tensor) -> Tensor:
        ecg = self._roll(ecg) * self._gain(ecg.shape[0]) + self._white(ecg)
        if self._noise is not None:
            ecg = ecg + self._electrode(ecg)
        keep = self._leads(ecg.shape[0])[:, :, None] & ~self._loose(ecg)
        return torch.where(keep, ecg, torch.nan)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def _roll(self, ecg: Tensor) -> Tensor:
        """Half of the windows begin elsewhere and wrap around: where a beat stands in the window means nothing."""
        n, _, samples = ecg.shape
        shift = (self._uniform(n) * samples).long() * (self._uniform(n) < 0.5)
        index = (torch.arange(samples)[None] + shift[:, None]) % samples
        return ecg.gather(2, index[:, None].expand_as(ecg))

    def _gain(self, n: int) -> Tensor:
        """Electrode distance for the whole recording, contact for each lead."""
        return torch.exp(0.2 * self._normal(n, 1, 1) + 0.05 * self._normal(n, len(LEADS), 1))

    def _white(self, ecg: Tensor) -> Tensor:
        level = 0.02 * self._uniform(ecg.shape[0], len(LEADS), 1) ** 2
        return level * self._normal(*ecg.shape)

    def _electrode(self, ecg: Tensor) -> Tensor:
        """A stretch of recorded noise on a third of the windows, another stretch on each lead."""
        assert self._noise is not None
        n, leads, samples = ecg.shape
        start = (self._uniform(n, leads, 1) * (self._noise.shape[1] - samples)).long()
        track = (self._uniform(n, leads, 1) * len(self._noise)).long()
        level = self._uniform(n, leads, 1) ** 2 * (self._uniform(n, 1, 1) < 0.33)
        return level * self._noise[track, start + torch.arange(samples)]

    def _loose(self, ecg: Tensor) -> Tensor:
        """Where a lead loses contact, [n, 12, samples]: for up to a quarter of the window, on a tenth of the windows."""
        n, leads, samples = ecg.shape
        time = torch.arange(samples) / samples
        start, length = self._uniform(n, leads, 1), 0.25 * self._uniform(n, leads, 1)
        hit = (self._uniform(n, 1, 1) < 0.1) & (self._uniform(n, leads, 1) < 0.3)
        return hit & (time >= start) & (time < start + length)

    def _leads(self, n: int) -> Tensor:
        """Which leads stay, [n, 12]: all, a customary set, or each at the toss of a coin."""
        named = self._sets[(self._uniform(n) * len(self._sets)).long()]
        tossed = _with_derived(self._uniform(n, len(LEADS)) < 0.5)
        tossed[:, 1] |= ~tossed.any(dim=1)
        some = torch.where(self._uniform(n, 1) < 0.6, named, tossed)
        return torch.where(self._uniform(n, 1) < self._masked, some, torch.ones_like(some))


def _mask(names: Sequence[str]) -> Tensor:
    return _with_derived(torch.tensor([[lead in names for lead in LEADS]]))[0]


def _with_derived(mask: Tensor) -> Tensor:
    """Where I and II stay, the leads that follow from them stay too."""
    limb = torch.tensor([lead in _LIMB for lead in LEADS])
    return mask | (limb & (mask[:, 0] & mask[:, 1])[:, None])


def keep_leads(ecg: Tensor, leads: Sequence[str]) -> Tensor:
    """The windows as a device with only these leads would give them: the others NaN, limb leads derived where possible."""
    kept = torch.where(torch.tensor([lead in leads for lead in LEADS])[:, None], ecg, torch.nan)
    return torch.from_numpy(derive_limb_leads(kept.numpy(), measured=leads))
