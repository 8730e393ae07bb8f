"""The laws of the clock: what a decoder keeps apart stays apart, what only time tells is counted, and nothing else is a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Arrival, Clock
from edge.decode.chunk import Chunk

RATE_HZ = 250.0


def _chunk(start: int, samples: int, rate_hz: float = RATE_HZ) -> Chunk:
    return Chunk(start, rate_hz, ("I",), np.zeros((1, samples), np.float32))


def _feed(clock: Clock, chunk: Chunk, at_s: float, turn: int | None = None, **arrival: float) -> Chunk:
    clock.hear(Arrival(b"", at_s, 1.7e9 + at_s, **arrival))  # type: ignore[arg-type]
    return clock.feed(chunk, turn)


def _stream(clock: Clock, seconds: float, rate_hz: float = RATE_HZ, said_hz: float = RATE_HZ, turn: int | None = None) -> int:
    """A tenth of a second at a time, from time 0; the samples that came."""
    size = round(said_hz / 10)
    for i in range(round(seconds * rate_hz / size)):
        _feed(clock, _chunk(i * size, size, said_hz), (i + 1) * size / rate_hz, turn)
    return round(seconds * rate_hz / size) * size


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 20)), min_size=1, max_size=30), st.sampled_from([None, 16, 256]))
def test_without_silence_nothing_is_a_gap_however_late_the_bytes_come(steps: list[tuple[int, float]], turn: int | None) -> None:
    """A host that is busy, or stopped for ten seconds, has lost nothing yet."""
    clock, start, at_s = Clock(), 0, 0.0
    for samples, late_s in steps:
        at_s += samples / RATE_HZ + late_s
        assert _feed(clock, _chunk(start, samples), at_s, turn).start == start
        start += samples
    assert clock.lost == 0


@given(away_s=st.floats(0, 3600), before=st.integers(1, 1000), after=st.integers(1, 100))
def test_a_line_that_was_closed_leaves_a_gap_as_long_as_it_was_away(away_s: float, before: int, after: int) -> None:
    """The decoder begins to count anew; the stream does not."""
    clock = Clock()
    _feed(clock, _chunk(0, before), 10.0)
    placed = _feed(clock, _chunk(0, after), 10.0 + away_s, opened=True)
    assert placed.start - before == pytest.approx(max(away_s * RATE_HZ - after, 1), abs=1)
    assert clock.lost == placed.start - before


@given(lost=st.integers(1, 20_000).filter(lambda n: n % 256), jitter_s=st.floats(0, 0.2))
def test_a_counter_of_eight_bits_and_the_time_of_arrival_give_the_loss_exactly(lost: int, jitter_s: float) -> None:
    clock = Clock()
    sent = _stream(clock, 10, turn=256)
    placed = _feed(clock, _chunk(sent + lost % 256, 25), (sent + lost + 25) / RATE_HZ + jitter_s, 256)
    assert placed.start - sent == lost


def test_the_loss_is_exact_even_where_old_bytes_came_late_before_it() -> None:
    """Ten seconds stopped: the port kept the oldest bytes, and lost those that found no room."""
    clock = Clock()
    sent = _stream(clock, 10, turn=256)
    kept = _feed(clock, _chunk(sent, 125), 20.0, 256)
    after = _feed(clock, _chunk(sent + 125 + 2375 % 256, 25), 20.1, 256)
    assert kept.start == sent
    assert after.start - kept.end == 2375


@pytest.mark.parametrize("silent_s", [1.0, 3.0, 60.0])
def test_a_silent_device_that_does_not_count_has_lost_what_it_did_not_send(silent_s: float) -> None:
    clock = Clock()
    sent = _stream(clock, 10)
    placed = _feed(clock, _chunk(sent, 25), 10 + silent_s + 0.1, silent_s=silent_s)
    assert placed.start - sent == pytest.approx(silent_s * RATE_HZ, abs=2)


def test_a_silent_device_that_counts_further_than_the_silence_has_lost_nothing() -> None:
    clock = Clock()
    sent = _stream(clock, 10, turn=2**32)
    assert _feed(clock, _chunk(sent, 25), 20.1, 2**32, silent_s=10.0).start == sent


def test_a_device_that_sends_seldom_and_much_is_not_silent() -> None:
    clock = Clock()
    starts = [_feed(clock, _chunk(i * 1250, 1250), 5.0 * (i + 1), silent_s=5.0).start for i in range(10)]
    assert starts == [i * 1250 for i in range(10)]


@pytest.mark.parametrize("faster", [0.9, 0.999, 1.0, 1.001, 1.1])
def test_a_rate_that_is_off_is_measured_and_is_no_gap(faster: float) -> None:
    clock = Clock()
    _stream(clock, 120, rate_hz=RATE_HZ * faster)
    assert clock.lost == 0
    assert clock.rate_hz == pytest.approx(RATE_HZ * faster, rel=1e-3)
    assert clock.drift_ppm == pytest.approx((faster - 1) * 1e6, abs=500)


def test_before_half_a_minute_the_rate_is_not_told() -> None:
    clock = Clock()
    _stream(clock, 20)
    assert clock.rate_hz is None
    assert clock.drift_ppm is None


def test_the_time_of_day_follows_the_arrivals_whatever_the_device_counts_and_the_host_sets() -> None:
    clock = Clock()
    _stream(clock, 600, rate_hz=RATE_HZ * 1.1)
    assert clock.time_of(600 * 1.1) == pytest.approx(1.7e9 + 600, abs=0.01)
    clock.hear(Arrival(b"", 600.1, 1.8e9))
    placed = clock.feed(_chunk(round(600 * 1.1 * RATE_HZ), 25), None)
    assert clock.time_of(placed.end / RATE_HZ) == 1.8e9
    assert clock.lost == 0


def test_another_rate_goes_on_in_stream_time() -> None:
    clock = Clock()
    sent = _stream(clock, 10)
    placed = _feed(clock, _chunk(0, 50, 500.0), 10.1)
    assert placed.start / 500.0 == pytest.approx(sent / RATE_HZ)


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.floats(0, 5), st.floats(0, 5), st.booleans(), st.integers(0, 300)), min_size=1, max_size=20
    ),
    st.sampled_from([None, 16, 256, 2**32]),
)
def test_whatever_happens_samples_never_overlap_and_a_gap_never_closes(
    steps: list[tuple[int, float, float, bool, int]], turn: int | None
) -> None:
    clock, at_s, start, last = Clock(), 0.0, 0, None
    for samples, late_s, silent_s, opened, jump in steps:
        at_s += late_s + silent_s
        start = 0 if opened else start + jump
        placed = _feed(clock, _chunk(start, samples), at_s, turn, silent_s=silent_s, opened=opened)
        if last is not None:
            assert placed.start >= last.end
            assert not (placed.follows(last) and (jump or opened))
        start, last = start + samples, placed
