"""Windows of any gateways and bundles in; the engines' word on each, or why there is none, out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kernels.engine import Engine
from kernels.signal import Samples

from .window import Answer, Asked, Ticket

_SHOWN = 12
"""Letters of a hash, for people."""


class Panel:
    """One engine for each bundle. No I/O, clock or thread."""

    def __init__(self, engines: Iterable[Engine], worker: str) -> None:
        """`worker` is who answers."""
        self.windows = 0
        """Scored."""
        self.batches = 0
        """Calls of an engine."""
        self._worker = worker
        self._engines = {engine.bundle.card.sha256: engine for engine in engines}

    def answer(self, windows: Sequence[Asked]) -> list[Answer]:
        """In their order; those of one bundle share a call, and what was asked twice is scored once."""
        rows: dict[Ticket, Samples] = {}
        for bundle, engine in self._engines.items():
            mine = {asked.ticket: asked.ecg for asked in windows if asked.bundle == bundle and _fits(engine, asked)}
            if mine:
                rows.update(zip(mine, engine.run(np.stack([*mine.values()])).probability, strict=True))
                self.batches += 1
        self.windows += len(rows)
        return [self._word(asked, rows.get(asked.ticket)) for asked in windows]

    def close(self) -> None:
        """All engines."""
        for engine in self._engines.values():
            engine.close()

    def _word(self, asked: Asked, probability: Samples | None) -> Answer:
        own = asked.bundle if asked.bundle in self._engines else next(iter(self._engines))
        return Answer(asked.ticket, own, self._worker, probability, None if probability is not None else self._objection(asked))

    def _objection(self, asked: Asked) -> str:
        engine = self._engines.get(asked.bundle)
        if engine:
            return f"windows of this bundle have {engine.bundle.card.samples} samples, not {asked.ecg.shape[1]}"
        has = ", ".join(bundle[:_SHOWN] for bundle in self._engines)
        return f"it has the bundle {has}, and not {asked.bundle[:_SHOWN]}, which the gateway has; give both the same"


def _fits(engine: Engine, asked: Asked) -> bool:
    return asked.ecg.shape[1] == engine.bundle.card.samples
