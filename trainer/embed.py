"""Recordings, read one at a time, and encoders in; their embeddings under each set of leads, without the samples, out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kernels.engine import StreamEngine
from kernels.signal import LEADS, Samples

from .batches import keep_leads
from .metrics import Floats
from .records import Recording, cut_windows

HOP_SHARE = 0.5
"""Recordings longer than a window are scored in windows that overlap by this share, and their scores averaged."""

Encode = Callable[[Samples], Samples]
"""Windows [n, 12, samples] in mV, NaN where there is no signal -> embeddings [n, d]."""


def encode_in_torch(encoder: torch.nn.Module) -> Encode:
    """A tower that was not exported, as it is."""

    def encode(ecg: Samples) -> Samples:
        with torch.inference_mode():
            embedding: Samples = encoder(torch.from_numpy(ecg)).numpy()
        return embedding

    return encode


class Past:
    """A stream engine that remembers the recording before, where the next goes on from it.

    Each recording, ten seconds of MIT-BIH, was resampled by itself, so that the joins are not quite those of the stream.
    """

    def __init__(self, engine: StreamEngine) -> None:
        self._engine = engine
        self._begin()

    def _begin(self) -> None:
        self._last: str | None = None
        self._state = self._engine.begin()[None]
        self._left: Samples = np.empty((1, len(LEADS), 0), np.float32)

    def encode(self, recording: Recording, ecg: Samples) -> Samples:
        """Of one window [1, 12, samples], the embedding [1, d] of what ends with it; several overlap, and are seen by themselves."""
        if len(ecg) > 1:
            return self._engine.run(ecg).embedding
        if recording.after is None or recording.after != self._last:
            self._begin()
        joined = np.concatenate([self._left, ecg], axis=2)
        whole = joined.shape[2] // self._engine.stride * self._engine.stride
        result, self._state = self._engine.step(np.ascontiguousarray(joined[:, :, :whole]), self._state)
        self._left, self._last = joined[:, :, whole:], recording.id
        return result.embedding


@dataclass(frozen=True, slots=True)
class View:
    """An encoder, and the leads that it is shown; without any, all that a recording has."""

    encode: Encode
    leads: tuple[str, ...] = ()
    past: Past | None = None
    """In place of the encoder, for recordings that are parts of one stream."""

    def look(self, ecg: Samples) -> Samples:
        """The windows [n, 12, samples] as a device with these leads would give them."""
        return keep_leads(torch.from_numpy(ecg), self.leads).numpy() if self.leads else ecg


@dataclass(frozen=True, slots=True)
class Seen:
    """What stays of a recording once its samples are gone."""

    id: str
    patient: str
    fold: int
    codes: tuple[str, ...]
    present: frozenset[str]
    """The leads that it showed."""
    embedding: Samples
    """[windows, d]"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The recordings of a dataset as one view shows them."""

    leads: str
    """`all`, or the names joined by commas."""
    recordings: tuple[Seen, ...]

    @property
    def patients(self) -> list[str]:
        """Of each recording."""
        return [r.patient for r in self.recordings]

    def of_folds(self, folds: Collection[int]) -> Embedded:
        """Only the recordings of these folds."""
        return replace(self, recordings=tuple(r for r in self.recordings if r.fold in folds))

    def windows(self) -> Samples:
        """The embeddings of all windows, [windows, d]."""
        return np.concatenate([r.embedding for r in self.recordings])

    def by_recording(self, values: Floats | Samples) -> Floats:
        """The mean over the windows of each recording, [windows, k] -> [recordings, k]."""
        counts = np.array([len(r.embedding) for r in self.recordings])
        starts = np.cumsum(counts) - counts
        sums: Floats = np.add.reduceat(values.astype(np.float64), starts, axis=0)
        return sums / counts[:, None]


def embed(recordings: Iterable[Recording], views: Sequence[View], rate_hz: float, samples: int) -> list[Embedded]:
    """Show every recording to every view and keep the embeddings, an `Embedded` a view.

    Recordings of unknown amplitude are left out, and of each view those that show none of its leads.
    """
    seen: list[list[Seen]] = [[] for _ in views]
    for recording in recordings:
        if recording.amplitude_known:
            ecg = cut_windows(recording, rate_hz, samples, round(samples * HOP_SHARE))
            for view, kept in zip(views, seen, strict=True):
                kept.extend(_see(recording, view.look(ecg), view))
    return [Embedded(",".join(view.leads) or "all", tuple(kept)) for view, kept in zip(views, seen, strict=True)]


def _see(recording: Recording, ecg: Samples, view: View) -> list[Seen]:
    present = frozenset(lead for lead, samples in zip(LEADS, ecg.swapaxes(0, 1), strict=True) if not np.isnan(samples).all())
    if not present:
        return []
    embedding = view.past.encode(recording, ecg) if view.past else view.encode(ecg)
    return [Seen(recording.id, recording.patient, recording.fold, recording.codes, present, embedding)]
