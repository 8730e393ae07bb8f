"""How long score-workers kept silent in a round in; how long a silence is to be borne before what is not answered is asked again, out."""

from __future__ import annotations

FIRST_S = 1.0
LEAST_S = 0.25
MOST_S = 4.0

_GAIN, _DEVIATION_GAIN = 1 / 8, 1 / 4
_DEVIATIONS = 4


class Patience:
    """The retransmission timer of RFC 6298, whose clock is set anew by each answer. No clock of its own.

    What is smoothed is the longest silence of a round, by the window, as a worker may answer all of them at once. A round in which
    something was asked twice says nothing, as nobody knows which copy was answered (Karn's rule); the longer patience then holds on.
    """

    def __init__(self) -> None:
        self._smoothed_s: float | None = None
        self._deviation_s = 0.0
        self._factor = 1.0

    def limit_s(self, windows: int) -> float:
        """In a round of so many windows a longer silence means that something is lost."""
        if self._smoothed_s is None:
            return min(FIRST_S * self._factor, MOST_S)
        expected_s = windows * (self._smoothed_s + _DEVIATIONS * self._deviation_s)
        return min(max(expected_s, LEAST_S) * self._factor, MOST_S)

    def bear(self, silence_s: float, windows: int) -> None:
        """A round in which nothing had to be asked twice, and its longest silence."""
        each_s, self._factor = silence_s / windows, 1.0
        if self._smoothed_s is None:
            self._smoothed_s, self._deviation_s = each_s, each_s / 2
        else:
            self._deviation_s += _DEVIATION_GAIN * (abs(each_s - self._smoothed_s) - self._deviation_s)
            self._smoothed_s += _GAIN * (each_s - self._smoothed_s)

    def lose(self) -> None:
        """The silence was longer: the next may last twice as long."""
        self._factor = min(2 * self._factor, MOST_S / LEAST_S)
