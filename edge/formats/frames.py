"""This project's own binary frames one after another, as a topic or a port was captured, in; the recording that they are out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from kernels.signal import LEADS

from ..decode.chunk import Chunk, name_leads
from ..decode.csv import Columns
from ..decode.frame import DEVICE, FrameDecoder
from .recording import RecordingFile
from .text import DecodedFile

_EMPTY = "holds no whole frame; the capture was cut, or altered on its way, as by a change of line ends; capture it again as plain bytes"


class _Renamed(FrameDecoder):
    """The decoder of live streams, but for the names of the leads."""

    def __init__(self, leads: tuple[str, ...]) -> None:
        super().__init__(DEVICE.wiring)
        self._given = leads

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Raises ConfigError where the names do not fit."""
        yield from map(self._rename, super().feed(data))

    def flush(self) -> Iterator[Chunk]:
        """The same for what was held back."""
        yield from map(self._rename, super().flush())

    def _rename(self, chunk: Chunk) -> Chunk:
        names = dict(zip(chunk.leads, name_leads(chunk.leads, self._given), strict=True))
        kept = [lead for lead in chunk.leads if names[lead] in LEADS]
        samples = chunk.samples_mv[[chunk.leads.index(lead) for lead in kept]]
        off = tuple(names[lead] for lead in chunk.lead_off if lead in kept)
        return replace(chunk, leads=tuple(names[lead] for lead in kept), samples_mv=samples, lead_off=off)


def open_frames(path: Path, columns: Columns) -> RecordingFile:
    """Frames that say rate, scale and leads themselves; what is damaged or missing among them is a gap.

    Its chunks raise ConfigError where no frame is whole, or where `columns.leads` are not as many as its leads.
    """
    return DecodedFile(path, partial(_Renamed, columns.leads), _EMPTY)
