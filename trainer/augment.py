"""A batch of windows in mV in; the same as electrodes, amplifiers and missing cables would have made them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import wfdb
from torch import Tensor

from kernels.findings import ConfigError
from kernels.signal import LEADS, resample

_LIMB = {"III", "aVR", "aVL", "aVF"}
_LEAD_SETS = (
    "I", "I", "I", "II", "II", "II", "V5",
    "I II", "I II", "II V1", "II V5", "I II V2", "I II V2",
    "I II V1 V5", "I II V2 V5",
)  # fmt: skip
"""What devices have: a wrist or a patch, two and three leads of a Holter, six limb leads from two; the likelier the oftener."""

_ARMS_REVERSED = {"I": ("I", -1.0), "II": ("III", 1.0), "III": ("II", 1.0), "aVR": ("aVL", 1.0), "aVL": ("aVR", 1.0)}
"""Right and left arm exchanged: which lead is shown in place of each, and its sign (Einthoven)."""

_HUM_MV = 0.02
"""What the resampler leaves of 50 Hz, at the edge of its band, and of 60 Hz, folded to 40."""


def read_noise(root: Path, rate_hz: float) -> Tensor:
    """Real electrode noise (MIT-BIH NSTDB, Moody et al. 1984): muscle and wander, two leads each, [4, samples] in mV.

    Raises ConfigError for a folder of another kind.
    """
    if not (root / "ma.hea").is_file():
        raise ConfigError(f"--noise: {root} holds no ma.hea; give the folder of the MIT-BIH Noise Stress Test Database")
    tracks = []
    for name in ("ma", "bw"):
        record = wfdb.rdrecord(str(root / name))
        tracks.append(resample(record.p_signal.T.astype(np.float32), record.fs, rate_hz))
    return torch.from_numpy(np.concatenate(tracks))


class Augment:
    """[n, 12, samples] in, as much out; everything is drawn from one generator, on the processor."""

    def __init__(self, generator: torch.Generator, noise: Tensor | None = None, lead_subsets: float = 0.5, electrode: bool = True) -> None:
        self._generator = generator
        self._noise = noise
        self._lead_subsets = lead_subsets
        self._with_electrode = electrode
        self._sets = torch.stack([_mask(names.split()) for names in _LEAD_SETS])
        self._arms = torch.tensor([LEADS.index(_ARMS_REVERSED.get(lead, (lead, 1.0))[0]) for lead in LEADS])
        self._arms_sign = torch.tensor([_ARMS_REVERSED.get(lead, (lead, 1.0))[1] for lead in LEADS])[:, None]

    def __call__(self, ecg: Tensor) -> Tensor:
        device, ecg = ecg.device, ecg.cpu()
        keep = self._leads(ecg.shape[0])[:, :, None].expand_as(ecg)
        if self._with_electrode:
            ecg = self._amplifier(self._reversed(self._roll(ecg)))
            keep = keep & ~self._loose(ecg)
        blank = (~keep | ecg.isnan()).flatten(1).all(dim=1)  # of a recording with few leads, none of which was drawn
        return torch.where(keep | blank[:, None, None], ecg, torch.nan).to(device)

    def cut(self, ecg: Tensor, samples: int) -> Tensor:
        """The same stretch of every window, somewhere in it."""
        start = int(torch.randint(ecg.shape[-1] - samples + 1, (1,), generator=self._generator))
        return ecg[..., start : start + samples]

    def _amplifier(self, ecg: Tensor) -> Tensor:
        ecg = ecg * self._gain(ecg.shape[0]) + self._white(ecg) + self._hum(ecg)
        return ecg if self._noise is None else ecg + self._recorded(ecg, self._noise)

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

    def _reversed(self, ecg: Tensor) -> Tensor:
        """The arm cables exchanged, on one window in fifty of those with all limb leads."""
        whole = ~ecg[:, : len(_ARMS_REVERSED)].isnan().flatten(1).any(dim=1)
        hit = (self._uniform(ecg.shape[0], 1, 1) < 0.02) & whole[:, None, None]
        return torch.where(hit, ecg[:, self._arms] * self._arms_sign, ecg)

    def _gain(self, n: int) -> Tensor:
        """Electrode distance for the whole recording, contact for each lead."""
        return torch.exp(0.2 * self._normal(n, 1, 1) + 0.05 * self._normal(n, len(LEADS), 1))

    def _white(self, ecg: Tensor) -> Tensor:
        level = 0.02 * self._uniform(ecg.shape[0], len(LEADS), 1) ** 2
        return level * self._normal(*ecg.shape)

    def _hum(self, ecg: Tensor) -> Tensor:
        """What is left of the mains, on a tenth of the windows, the same phase on all leads."""
        n = ecg.shape[0]
        cycles = torch.where(self._uniform(n, 1, 1) < 0.5, 0.4, 0.497)
        level = _HUM_MV * self._uniform(n, len(LEADS), 1) * (self._uniform(n, 1, 1) < 0.1)
        return level * torch.sin(2 * torch.pi * (cycles * torch.arange(ecg.shape[-1]) + self._uniform(n, 1, 1)))

    def _recorded(self, ecg: Tensor, noise: Tensor) -> Tensor:
        """A stretch of recorded noise on a third of the windows, another stretch on each lead."""
        n, leads, samples = ecg.shape
        start = (self._uniform(n, leads, 1) * (noise.shape[1] - samples)).long()
        track = (self._uniform(n, leads, 1) * len(noise)).long()
        level = self._uniform(n, leads, 1) ** 2 * (self._uniform(n, 1, 1) < 0.33)
        return level * noise[track, start + torch.arange(samples)]

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
        some = torch.where(self._uniform(n, 1) < 0.7, named, tossed)
        return torch.where(self._uniform(n, 1) < self._lead_subsets, some, torch.ones_like(some))


def _mask(names: Sequence[str]) -> Tensor:
    return _with_derived(torch.tensor([[lead in names for lead in LEADS]]))[0]


def _with_derived(mask: Tensor) -> Tensor:
    """Where I and II stay, the leads that follow from them stay too."""
    limb = torch.tensor([lead in _LIMB for lead in LEADS])
    return mask | (limb & (mask[:, 0] & mask[:, 1])[:, None])
