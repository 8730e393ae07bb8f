"""The windows of one call of the engine, and what is heard of them, in; which are still to be asked, and when again, out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .patience import Patience

_AT_ONCE = 3
"""A window that a worker refuses may find another that takes it; one that so many refuse waits."""


@dataclass(slots=True)
class _Open:
    """A window that is not answered yet."""

    message: bytes
    mid: int | None = None
    """Of the copy that the broker has not taken yet; no other is added to it."""
    refusals: int = 0


class Round:
    """No I/O and no clock. While nobody answers, the oldest window alone is asked again and again: it costs little, and shows who comes."""

    def __init__(self, patience: Patience, now_s: float) -> None:
        self.again = 0
        """Windows asked once more."""
        self._patience = patience
        self._open: dict[int, _Open] = {}
        self._numbers: dict[int, int] = {}
        self._heard_s = self._moved_s = now_s
        self._longest_s = 0.0
        self._windows = 0
        self._losses = 0
        self._is_clean = True

    @property
    def is_over(self) -> bool:
        """Whether everything is answered."""
        return not self._open

    @property
    def open(self) -> int:
        """Windows that are not answered."""
        return len(self._open)

    def silence_s(self, now_s: float) -> float:
        """Since a worker scored something, or since the beginning."""
        return now_s - self._heard_s

    def left_s(self, now_s: float) -> float:
        """Until something is to be asked again."""
        return max(self._moved_s + self._patience.limit_s(self._windows) - now_s, 0.0)

    def add(self, number: int, message: bytes) -> None:
        """A window to be asked."""
        self._open[number] = _Open(message)
        self._windows += 1

    def sent(self, number: int, mid: int | None) -> None:
        """A copy is on its way to the broker; None where it was dropped."""
        if mid is not None:
            self._open[number].mid = mid
            self._numbers[mid] = number

    def taken(self, mid: int) -> None:
        """The broker has that copy, or will not have it."""
        window = self._open.get(self._numbers.pop(mid, -1))
        if window and window.mid == mid:
            window.mid = None

    def scored(self, number: int, now_s: float) -> bool:
        """A worker has scored it; whether it was not answered before."""
        if self._open.pop(number, None) is None:
            return False
        self._longest_s = max(self._longest_s, now_s - self._heard_s)
        self._heard_s = self._moved_s = now_s
        if self.is_over and self._is_clean:
            self._patience.bear(self._longest_s, self._windows)
        return True

    def refused(self, number: int) -> list[tuple[int, bytes]]:
        """A worker cannot score it; the copy that another is to be asked with at once."""
        window = self._open.get(number)
        if window is None or window.mid is not None or window.refusals >= _AT_ONCE:
            return []
        window.refusals += 1
        self._is_clean = False
        return self._ask_again([number])

    def due(self, now_s: float) -> list[tuple[int, bytes]]:
        """The copies that are to be asked with now, as the silence is too long."""
        if self.left_s(now_s):
            return []
        self._moved_s, self._is_clean = now_s, False
        self._losses += 1
        self._patience.lose()
        waiting = [number for number, window in self._open.items() if window.mid is None]
        return self._ask_again(waiting if self._losses == 1 else waiting[:1])

    def revived(self) -> list[tuple[int, bytes]]:
        """Once somebody answers again, the copies of all that was lost with the one who did before."""
        if self._losses < 2:
            return []
        self._losses = 0
        return self._ask_again(number for number, window in self._open.items() if window.mid is None)

    def give_up(self) -> list[int]:
        """What is not answered will not be waited for: the numbers, oldest first."""
        numbers = list(self._open)
        self._open.clear()
        return numbers

    def _ask_again(self, numbers: Iterable[int]) -> list[tuple[int, bytes]]:
        asked = [(number, self._open[number].message) for number in numbers]
        self.again += len(asked)
        return asked
