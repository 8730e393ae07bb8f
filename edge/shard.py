"""`i/n` and the name of a source in; whether the i-th of n monitors watches it out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache


def share(text: str, most: int) -> tuple[int, int]:
    """`i/n` as numbers, with an n of `most` at most. Raises ValueError that says what is allowed."""
    number, _, of = text.partition("/")
    digits = len(str(most)) + 1
    if not (text.isascii() and number.isdigit() and of.isdigit() and 1 <= int(number[:digits]) <= int(of[:digits]) <= most):
        raise ValueError(f"must read i/n, from 1/n to n/n, as in 2/3; n is {most} at most")
    return int(number), int(of)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several monitors that share the sources of a site."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/3` is the second of three. Raises ValueError."""
        return cls(*share(text, 1000))

    @property
    def label(self) -> str:
        """For names of what each monitor of a site needs of its own, as in `2of3`; empty where there is but one."""
        return f"{self.number}of{self.of}" if self.of > 1 else ""

    def has(self, source: str) -> bool:
        """Whoever asks, the same: one monitor has it, and no other."""
        return self.of == 1 or _owner(source, self.of) == self.number


@lru_cache(maxsize=4096)
def _owner(source: str, of: int) -> int:
    """By highest random weight (Thaler and Ravishankar 1998): one monitor more takes its share from all, and nothing else moves."""
    return max(range(1, of + 1), key=lambda number: hashlib.sha256(f"{number} {source}".encode()).digest())
