"""A piece of work in; its result out, or None where a fault of ours ended it: told, counted, and nothing else is silenced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()


class Supervisor:
    """The one place that catches everything: what must run for weeks must not end by what nobody thought of."""

    def __init__(self) -> None:
        self.faults = 0
        """How often work ended so."""
        self._of: Counter[str] = Counter()

    def guard(self, what: str, work: Callable[[], T]) -> T | None:
        """Do it; `what` names it in the log, the first time, the tenth, the hundredth."""
        try:
            return work()
        except Exception:
            self.faults += 1
            self._of[what] += 1
            if str(self._of[what]).strip("0") == "1":
                log.exception("a fault of cardiogloss, please report it", at=what, times=self._of[what])
            return None
