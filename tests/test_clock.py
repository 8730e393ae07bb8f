"""The laws of the clock: what a decoder keeps apart stays apart, what only time tells is counted, and nothing else is a gap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Arrival, Clock
from edge.decode.chunk import Chunk

RATE_HZ = 250.0


def _chunk(start: int, samples: int, rate_hz: float = RATE_HZ) -> Chunk:
    return Chunk(start, rate_hz, ("I",), np.zeros((1, samples), np.float32))


class Device:
    """Sends samples, a tenth of a second at a time, to a clock; knows what it took and what it lost."""

    def __init__(self, turn: int | None = None, said_hz: float = RATE_HZ, faster: float = 1.0) -> None:
        self.clock = Clock()
        self.turn, self.said_hz, self.faster = turn, said_hz, faster
        self.at_s, self.count, self.came = 0.0, 0, 0
        self.placed: list[Chunk] = []

    def send(self, samples: int, late_s: float = 0.0, counted: int = 0, **told: float) -> None:
        """Samples that were just taken, after so many that its own count shows to be lost."""
        self.at_s += samples / self.said_hz / self.faster
        self.count += counted
        self.hear([_chunk(self.count, samples, self.said_hz)], late_s, **told)
        self.count += samples

    def hear(self, chunks: list[Chunk], late_s: float = 0.0, **told: float) -> None:
        at_s = self.at_s + late_s
        self.came += sum(chunk.samples_mv.shape[1] for chunk in chunks)
        self.placed += self.clock.feed(chunks, Arrival(b"", at_s, 1.7e9 + at_s, **told), self.turn)  # type: ignore[arg-type]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.send(round(self.said_hz / 10))

    def reset(self) -> None:
        """Count from 0 again, as a new decoder does."""
        self.count = 0

    def end(self) -> list[Chunk]:
        self.placed += self.clock.flush()
        return self.placed

    @property
    def gaps(self) -> list[int]:
        """Their lengths, in order."""
        return [b.start - a.end for a, b in itertools.pairwise(self.end()) if b.start != a.end]


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 20)), min_size=1, max_size=30), st.sampled_from([None, 16, 256]))
def test_without_silence_nothing_is_a_gap_however_late_the_bytes_come(steps: list[tuple[int, float]], turn: int | None) -> None:
    """A host that is busy, or stopped for ten seconds, has lost nothing yet."""
    device = Device(turn)
    for samples, late_s in steps:
        device.at_s += late_s
        device.send(samples)
        assert device.placed[-1].end == device.count
    assert device.gaps == []


@given(away_s=st.floats(0, 3600), backlog=st.integers(0, 20))
def test_a_line_that_was_closed_leaves_a_gap_as_long_as_it_was_away(away_s: float, backlog: int) -> None:
    """The decoder begins to count anew, the stream does not; what the device kept meanwhile comes in a burst, and is not missing."""
    device = Device()
    device.run(10)
    device.reset()
    device.at_s += away_s
    device.hear([_chunk(0, 25)], opened=True)
    device.count = 25
    for _ in range(backlog):
        device.hear([_chunk(device.count, 25)], 0.01)
        device.count += 25
    device.run(1)
    (gap,) = device.gaps
    assert gap == pytest.approx(max(away_s * RATE_HZ - 25 * (backlog + 1), 1), abs=62.5)


@given(lost=st.integers(1, 20_000).filter(lambda n: n % 256), jitter_s=st.floats(0, 0.2))
def test_a_counter_of_eight_bits_and_the_time_of_arrival_give_the_loss_exactly(lost: int, jitter_s: float) -> None:
    device = Device(256)
    device.run(10)
    device.at_s += lost / RATE_HZ
    device.send(25, jitter_s, counted=lost % 256)
    device.run(1)
    assert device.gaps == [lost]


def test_the_loss_is_exact_even_where_old_bytes_came_late_before_it() -> None:
    """Ten seconds stopped: the port kept the oldest bytes, and lost those that found no room."""
    device = Device(256)
    device.run(10)
    device.at_s += 10
    device.hear([_chunk(2500, 125)])
    device.hear([_chunk(2625 + 2375 % 256, 25)], 0.1)
    device.count = 2650 + 2375 % 256
    device.run(1)
    assert device.gaps == [pytest.approx(2375, abs=0)]


@pytest.mark.parametrize("turn", [16, 256])
def test_two_losses_in_one_late_burst_are_two_losses(turn: int) -> None:
    """All that the burst holds is weighed before any of it is believed to be missing."""
    device = Device(turn)
    device.run(10)
    device.at_s += 0.8
    device.hear([_chunk(2500, 60), _chunk(2561, 70), _chunk(2632, 68)])
    device.count = 2700
    device.run(2)
    assert device.gaps == [1, 1]


@pytest.mark.parametrize("turn", [None, 256, 2**32])
def test_a_transport_that_stalls_and_then_delivers_all_has_lost_nothing(turn: int | None) -> None:
    """As TCP does: ten seconds of nothing, then the backlog in blocks."""
    device = Device(turn)
    device.run(10)
    device.at_s += 10
    for i in range(5):
        device.hear([_chunk(2500 + 500 * i, 500)], 0.01 * i, silent_s=10.0 if i == 0 else 0.0)
    device.count = 5000
    device.run(2)
    assert device.gaps == []


@pytest.mark.parametrize("silent_s", [1.2, 3.0, 60.0])
@pytest.mark.parametrize("turn", [None, 16, 256])
def test_a_device_that_was_silent_has_a_gap_where_it_was(silent_s: float, turn: int | None) -> None:
    device = Device(turn)
    device.run(10)
    device.at_s += silent_s
    device.send(25, silent_s=silent_s + 0.1)
    device.run(1)
    believed = turn is not None and silent_s * RATE_HZ < turn
    assert device.gaps == ([] if believed else [pytest.approx(silent_s * RATE_HZ, abs=2)])


def test_two_silences_soon_after_each_other_are_two_gaps() -> None:
    device = Device()
    device.run(10)
    for silent_s in (3.0, 2.0):
        device.at_s += silent_s
        device.send(25, silent_s=silent_s + 0.1)
    device.run(1)
    assert device.gaps == [pytest.approx(750, abs=2), pytest.approx(500, abs=2)]


def test_a_silent_device_that_counts_further_than_the_silence_has_lost_nothing() -> None:
    device = Device(2**32)
    device.run(10)
    device.at_s += 10
    device.send(25, silent_s=10.0)
    device.run(1)
    assert device.gaps == []


@given(seconds=st.sampled_from([1.0, 2.0, 5.0, 30.0]), jitter=st.lists(st.floats(0, 0.6), min_size=10, max_size=30))
def test_a_device_that_sends_seldom_and_much_is_not_silent(seconds: float, jitter: list[float]) -> None:
    device = Device()
    for before_s, late_s in itertools.pairwise([0.0, *jitter]):
        device.send(round(seconds * RATE_HZ), late_s, silent_s=max(seconds + late_s - before_s, 0.0))
    assert device.gaps == []


@pytest.mark.parametrize("faster", [0.9, 0.999, 1.0, 1.001, 1.1])
def test_a_rate_that_is_off_is_measured_and_is_no_gap(faster: float) -> None:
    device = Device(faster=faster)
    device.run(120)
    assert device.gaps == []
    assert device.clock.rate_hz == pytest.approx(RATE_HZ * faster, rel=1e-3)
    assert device.clock.drift_ppm == pytest.approx((faster - 1) * 1e6, abs=500)


def test_before_half_a_minute_the_rate_is_not_told() -> None:
    device = Device()
    device.run(20)
    assert device.clock.rate_hz is None
    assert device.clock.drift_ppm is None


def test_the_time_of_day_follows_the_arrivals_whatever_the_device_counts_and_the_host_sets() -> None:
    device = Device(faster=1.1)
    device.run(660)
    assert device.clock.time_of(660) == pytest.approx(1.7e9 + 600, abs=0.01)
    (placed,) = device.clock.feed([_chunk(device.count, 25)], Arrival(b"", device.at_s + 0.1, 1.8e9))
    assert device.clock.time_of(placed.end / RATE_HZ) == 1.8e9
    assert device.clock.lost == 0


def test_the_older_of_two_chunks_that_came_together_is_older() -> None:
    clock = Clock()
    clock.feed([_chunk(0, 250), _chunk(300, 250)], Arrival(b"", 10.0, 1.7e9))
    assert clock.time_of(550 / RATE_HZ) == 1.7e9
    assert clock.time_of(250 / RATE_HZ) == 1.7e9 - 300 / RATE_HZ


def test_another_rate_goes_on_in_stream_time() -> None:
    device = Device()
    device.run(10)
    device.hear([_chunk(0, 50, 500.0)], 0.1)
    assert device.placed[-1].start / 500.0 == pytest.approx(10.0)


Step = tuple[int, float, float, bool, int]


@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 5), st.floats(0, 5), st.booleans(), st.integers(0, 300)), min_size=1, max_size=20),
    st.sampled_from([None, 16, 256, 2**32]),
)
def test_whatever_happens_every_sample_comes_once_in_order_and_a_gap_never_closes(steps: list[Step], turn: int | None) -> None:
    device, apart = Device(turn), 0
    for samples, late_s, silent_s, opened, jump in steps:
        if opened:
            device.reset()
        device.at_s += late_s + silent_s
        apart += bool(device.came) and (opened or jump > 0)
        device.send(samples, counted=0 if opened else jump, silent_s=silent_s, opened=opened)
    placed = device.end()
    assert sum(chunk.samples_mv.shape[1] for chunk in placed) == device.came
    assert all(b.start >= a.end for a, b in itertools.pairwise(placed))
    assert len(device.gaps) >= apart
