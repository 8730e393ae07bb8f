"""A file of text, or of the bytes that a device sent, in; the recording that its decoder finds in it, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from kernels.findings import ConfigError

from ..decode.chunk import Chunk
from ..decode.csv import Columns, CsvDecoder
from ..decode.device import Decoder
from .recording import BLOCK, RecordingFile


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """Decoded as it is read."""

    path: Path
    decoder: Callable[[], CsvDecoder | Decoder]
    empty: str = ""
    """What to say where it holds no sample, if the decoder does not."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def duration_s(self) -> float | None:
        return None

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """Raises ConfigError, with the path, where there is no sample, or leads or rate stay unknown."""
        try:
            yield from self._decode(block)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from error

    def _decode(self, block: int) -> Iterator[Chunk]:
        decoder, chunks = self.decoder(), 0
        with self.path.open("rb") as file:
            found = chain.from_iterable(map(decoder.feed, iter(partial(file.read, block), b"")))
            for chunk in chain(found, decoder.flush()):
                chunks += 1
                yield chunk
        if not chunks and self.empty:
            raise ConfigError(self.empty)


def open_text(path: Path, columns: Columns) -> RecordingFile:
    """Columns of numbers."""
    return DecodedFile(path, lambda: CsvDecoder(columns))
