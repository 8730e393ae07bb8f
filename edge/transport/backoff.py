"""Failures in a row in; how long to wait before the next try out."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double up to `longest_s`, each a random part between half and the whole, so that many sources do not come back at once.

    The same for the same seed. No clock and no sleep: the caller waits.
    """

    def __init__(self, seed: str, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._random = random.Random(seed)
        self._first_s = first_s
        self._longest_s = longest_s
        self._upper_s = first_s

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        upper_s = min(self._upper_s, self._longest_s)
        self._upper_s = upper_s * 2
        return self._random.uniform(upper_s / 2, upper_s)

    def reset(self) -> None:
        """After a success: the next failure is a first one."""
        self._upper_s = self._first_s
