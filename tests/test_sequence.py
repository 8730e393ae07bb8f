"""Frames by counters and clocks: order, repeats, losses, restarts, drift, steps, and stream time."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.decode.device import Tally
from edge.decode.sequence import HOLD, SEQ_RANGE, Frame, Sequencer

N, RATE_HZ, T0_S = 50, 250.0, 1.7e9


def _frames(count: int, first: int = 0, t_s: float | None = T0_S, counted: bool = True, n: int = N, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [
        Frame(
            (first + i) % SEQ_RANGE if counted else None,
            None if t_s is None else t_s + i * n / RATE_HZ,
            RATE_HZ,
            ("I",),
            rng.normal(size=(1, n)).astype(np.float32),
        )
        for i in range(count)
    ]


def _run(frames: list[Frame]) -> tuple[Tally, list[Chunk]]:
    tally = Tally()
    sequencer = Sequencer(tally)
    return tally, [c for frame in frames for c in sequencer.feed(frame)] + list(sequencer.flush())


def _same(a: list[Chunk], b: list[Chunk]) -> bool:
    return len(a) == len(b) and all(x.start == y.start and np.array_equal(x.samples_mv, y.samples_mv) for x, y in zip(a, b, strict=True))


def _check(tally: Tally, chunks: list[Chunk], made_up: int = 0) -> None:
    """What the tally says is what the chunks show."""
    assert all(a.end <= b.start for a, b in itertools.pairwise(chunks))
    assert tally.samples == sum(c.samples_mv.shape[1] for c in chunks)
    assert chunks[-1].end == tally.samples + tally.lost + made_up


clocks = st.sampled_from([None, T0_S])
firsts = st.sampled_from([0, 5, 2**31 - 3, SEQ_RANGE - 7])


@given(seed=st.integers(0, 10**6), t_s=clocks, first=firsts, repeats=st.integers(0, 8))
def test_disorder_within_the_hold_and_repeats_change_nothing(seed: int, t_s: float | None, first: int, repeats: int) -> None:
    frames, rng = _frames(30, first, t_s), random.Random(seed)
    shuffled = [frames[0]]
    waiting = frames[1:]
    while waiting:
        shuffled.append(waiting.pop(rng.randrange(min(HOLD + 1, len(waiting))) if _may_wait(shuffled, waiting) else 0))
    for _ in range(repeats):
        at = rng.randrange(len(shuffled))
        shuffled.insert(rng.randrange(at + 1, len(shuffled) + 1), shuffled[at])
    tally, chunks = _run(shuffled)
    assert _same(chunks, _run(frames)[1])
    assert replace(tally, repeated=0) == _run(frames)[0]
    assert tally.repeated == repeats


def _may_wait(sent: list[Frame], waiting: list[Frame]) -> bool:
    """Whether the oldest that waits may wait for one more, so that no more than HOLD are ahead of it."""
    oldest = waiting[0].seq
    assert oldest is not None
    return sum((f.seq or 0) != oldest and ((f.seq or 0) - oldest) % SEQ_RANGE < SEQ_RANGE // 2 for f in sent) < HOLD


@given(gone=st.sets(st.integers(1, 38)), t_s=clocks, first=firsts)
def test_every_lost_frame_is_counted_and_no_chunk_spans_it(gone: set[int], t_s: float | None, first: int) -> None:
    frames = _frames(40, first, t_s)
    tally, chunks = _run([f for i, f in enumerate(frames) if i not in gone])
    assert [c.start for c in chunks] == [i * N for i in range(40) if i not in gone]
    assert tally == Tally(samples=N * (40 - len(gone)), lost=N * len(gone))


@given(gone=st.sets(st.integers(1, 38)), jitter=st.integers(0, 10**6))
def test_without_a_counter_a_jittering_clock_counts_them_to_within_its_jitter(gone: set[int], jitter: int) -> None:
    rng = random.Random(jitter)
    frames = [replace(f, t_s=(f.t_s or 0) + rng.uniform(-5e-3, 5e-3)) for f in _frames(40, counted=False)]
    tally, chunks = _run([f for i, f in enumerate(frames) if i not in gone])
    gaps = sum(i not in gone and i - 1 in gone for i in range(1, 40))
    assert tally.samples == N * (40 - len(gone))
    assert abs(tally.lost - N * len(gone)) <= 3 * gaps
    assert sum(a.end < b.start for a, b in itertools.pairwise(chunks)) == gaps
    _check(tally, chunks)


@given(gone=st.sets(st.integers(1, 38)))
def test_the_clock_counts_lost_frames_of_another_length(gone: set[int]) -> None:
    sizes = [20 + 7 * (i % 5) for i in range(40)]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    frames = [
        Frame(i, T0_S + start / RATE_HZ, RATE_HZ, ("I",), np.full((1, n), i, np.float32))
        for i, (start, n) in enumerate(zip(starts, sizes, strict=True))
    ]
    tally, chunks = _run([f for i, f in enumerate(frames) if i not in gone])
    got = {int(c.samples_mv[0, 0]): c.start for c in chunks}
    assert all(abs(got[i] - starts[i]) <= 5 * (len(gone) + 1) for i in got)
    assert tally.lost == pytest.approx(sum(sizes[i] for i in gone), abs=5 * (len(gone) + 1))


def test_a_long_loss_is_counted_once_a_second_frame_confirms_it() -> None:
    frames = _frames(5000)
    tally, chunks = _run([*frames[:10], *frames[4000:]])
    assert [c.start for c in chunks[9:12]] == [9 * N, 4000 * N, 4001 * N]
    assert tally == Tally(samples=1010 * N, lost=3990 * N)


def test_a_frame_too_late_is_counted_as_lost_and_repeated() -> None:
    frames = _frames(12)
    order = [0, 1, 3, 4, 5, 6, 7, 2, 8, 9, 10, 11]
    tally, chunks = _run([frames[i] for i in order])
    assert [c.start for c in chunks] == [i * N for i in range(12) if i != 2]
    assert (tally.lost, tally.repeated) == (N, 1)


@pytest.mark.parametrize("run", [5, 40, 300])
def test_a_restart_with_a_clock_is_a_gap_as_long_as_the_clock_says(run: int) -> None:
    before, after = _frames(run), _frames(50, t_s=T0_S + run * N / RATE_HZ + 3.0, seed=1)
    tally, chunks = _run(before + after)
    assert [c.start for c in chunks[run - 1 : run + 2]] == [(run - 1) * N, run * N + 750, (run + 1) * N + 750]
    assert tally == Tally(samples=N * (run + 50), lost=750, restarts=1)


def test_a_restart_with_a_clock_needs_no_second_frame() -> None:
    after = _frames(20, t_s=T0_S + 100 * N / RATE_HZ + 3.0, seed=1)
    tally, chunks = _run(_frames(100) + after[:1] + after[2:])
    assert tally == Tally(samples=119 * N, lost=750 + N, restarts=1)
    _check(tally, chunks)


def test_a_stray_frame_from_before_a_restart_takes_no_ones_place() -> None:
    old, new = _frames(500), _frames(500, t_s=T0_S + 500 * N / RATE_HZ + 3.0, seed=1)
    tally, chunks = _run(old + new[:50] + [old[480]] + new[50:])
    assert tally == Tally(samples=1000 * N, lost=750, restarts=1, repeated=1)
    assert all(np.array_equal(c.samples_mv, f.samples_mv) for c, f in zip(chunks, old + new, strict=True))


@pytest.mark.parametrize("run", [5, 40, 300])
def test_a_restart_without_a_clock_is_a_gap_of_unknown_length_and_no_window_spans_it(run: int) -> None:
    sequencer = Sequencer(tally := Tally())
    before = [c for f in _frames(run, t_s=None) for c in sequencer.feed(f)]
    assert sequencer.turn == SEQ_RANGE
    turns = [(sequencer.turn, c) for f in _frames(50, t_s=None, seed=1) for c in sequencer.feed(f)]
    assert len(before) == run
    assert turns[0][1].start == before[-1].end + 1
    assert [turn for turn, _ in turns[:2]] == [None, SEQ_RANGE]
    assert tally == Tally(samples=N * (run + 50), restarts=1)


def test_a_restart_whose_clock_was_lost_too_is_a_restart() -> None:
    tally, chunks = _run(_frames(500) + _frames(20, t_s=10.0, seed=1))
    assert tally == Tally(samples=520 * N, restarts=1)
    _check(tally, chunks, made_up=1)


@given(age=st.integers(1, 480), many=st.integers(1, 20), at=st.integers(481, 499))
def test_what_a_broker_delivers_again_is_never_a_restart(age: int, many: int, at: int) -> None:
    frames = _frames(500)
    again = frames[max(at - age, 0) : max(at - age, 0) + many][:age]
    tally, chunks = _run(frames[:at] + again + frames[at:])
    assert tally == Tally(samples=500 * N, repeated=len(again))
    assert [c.start for c in chunks] == [i * N for i in range(500)]


@given(age=st.integers(65, 480))
def test_a_single_old_frame_without_a_clock_is_no_restart(age: int) -> None:
    frames = _frames(500, t_s=None)
    tally, _ = _run([*frames[:490], frames[490 - age], *frames[490:]])
    assert tally == Tally(samples=500 * N, repeated=1)


def test_a_counter_that_wraps_is_no_restart() -> None:
    tally, chunks = _run(_frames(20, first=SEQ_RANGE - 10))
    assert tally == Tally(samples=20 * N)
    assert [c.start for c in chunks] == [i * N for i in range(20)]


def test_a_restart_at_a_random_number_is_a_restart() -> None:
    tally, chunks = _run(_frames(200, first=1000) + _frames(50, first=2_000_000_000, t_s=T0_S + 200 * N / RATE_HZ + 2.0, seed=1))
    assert tally == Tally(samples=250 * N, lost=500, restarts=1)
    _check(tally, chunks)
    tally, chunks = _run(_frames(200, first=1000, t_s=None) + _frames(50, first=2_000_000_000, t_s=None, seed=1))
    assert tally == Tally(samples=250 * N, restarts=1)


@pytest.mark.parametrize("step_s", [-3600.0, -1.0, 0.5, 3600.0, 1.7e9])
def test_a_clock_that_is_set_is_no_gap_where_a_counter_goes_on(step_s: float) -> None:
    frames = _frames(40)
    stepped = frames[:20] + [replace(f, t_s=(f.t_s or 0) + step_s) for f in frames[20:]]
    tally, chunks = _run(stepped)
    assert tally == Tally(samples=40 * N, clock_steps=1)
    assert [c.start for c in chunks] == [i * N for i in range(40)]


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("drift", [-5e-4, 2e-4, 1e-3])
def test_drift_is_no_gap(counted: bool, drift: float) -> None:
    frames = [replace(f, t_s=T0_S + i * N / RATE_HZ * (1 + drift)) for i, f in enumerate(_frames(2000, counted=counted))]
    tally, _ = _run(frames)
    assert tally == Tally(samples=2000 * N)


def test_without_a_counter_a_repeat_is_dropped_and_a_wrong_time_costs_one_frame() -> None:
    frames = _frames(40, counted=False)
    tally, _ = _run([*frames[:20], frames[19], frames[3], *frames[20:]])
    assert tally == Tally(samples=40 * N, repeated=2)
    for wrong_s in (-1e6, 1e6):
        bad = replace(frames[20], t_s=T0_S + wrong_s)
        tally, chunks = _run([*frames[:20], bad, *frames[21:]])
        assert tally == Tally(samples=39 * N, lost=N, repeated=1)
        assert chunks[-1].end == 40 * N


def test_without_a_counter_a_long_pause_is_lost_and_a_clock_set_back_is_a_restart() -> None:
    pause = [replace(f, t_s=(f.t_s or 0) + 600.0) for f in _frames(20, counted=False, seed=1)]
    tally, chunks = _run(_frames(20, counted=False) + pause)
    assert tally == Tally(samples=40 * N, lost=600 * 250 - 20 * N)
    back = [replace(f, t_s=(f.t_s or 0) - 3600.0) for f in _frames(20, counted=False, seed=1)]
    tally, chunks = _run(_frames(20, counted=False) + back)
    assert tally == Tally(samples=40 * N, restarts=1)
    _check(tally, chunks, made_up=1)


def test_without_counter_and_clock_frames_are_taken_as_they_come() -> None:
    sequencer = Sequencer(tally := Tally())
    chunks = [c for f in _frames(10, t_s=None, counted=False) for c in sequencer.feed(f)]
    assert [c.start for c in chunks] == [i * N for i in range(10)]
    assert tally == Tally(samples=10 * N)
    assert sequencer.turn is None


@given(rates=st.lists(st.sampled_from([125.0, 250.0, 360.0, 500.0]), min_size=2, max_size=20))
def test_stream_time_goes_on_across_a_change_of_rate(rates: list[float]) -> None:
    elapsed_s, wanted_s, frames = 0.0, [], []
    for seq, rate_hz in enumerate(rates):
        frames.append(Frame(seq, T0_S + elapsed_s, rate_hz, ("I",), np.zeros((1, N), np.float32)))
        wanted_s.append(elapsed_s)
        elapsed_s += N / rate_hz
    tally, chunks = _run(frames)
    assert tally == Tally(samples=N * len(rates))
    for chunk, at_s in zip(chunks, wanted_s, strict=True):
        assert abs(chunk.start / chunk.rate_hz - at_s) <= len(rates) * 0.5 / 125


def test_other_leads_begin_a_new_stretch_without_a_gap() -> None:
    frames = _frames(4)
    _, chunks = _run([*frames[:2], *(replace(f, leads=("II",)) for f in frames[2:])])
    assert [c.start for c in chunks] == [0, N, 2 * N, 3 * N]
    assert [b.follows(a) for a, b in itertools.pairwise(chunks)] == [True, False, True]


numbers = st.one_of(st.none(), st.integers(0, 200), st.integers(0, SEQ_RANGE - 1))
times = st.one_of(st.none(), st.floats(0, 1e11), st.floats(T0_S, T0_S + 60))


@given(st.lists(st.tuples(numbers, times, st.sampled_from([1.0, 250.0, 100_000.0]), st.integers(1, 4)), max_size=60))
def test_no_frames_are_an_exception_and_memory_is_bounded(told: list[tuple[int | None, float | None, float, int]]) -> None:
    sequencer = Sequencer(tally := Tally())
    chunks: list[Chunk] = []
    for seq, t_s, rate_hz, n in told:
        chunks += sequencer.feed(Frame(seq, t_s, rate_hz, ("I",), np.zeros((1, n), np.float32)))
        assert len(sequencer._held) <= HOLD
        assert len(sequencer._seen) <= 64
    chunks += sequencer.flush()
    assert tally.samples == sum(c.samples_mv.shape[1] for c in chunks)
    assert len(chunks) + tally.repeated == len(told)
    for a, b in itertools.pairwise(chunks):
        assert b.start / b.rate_hz >= a.end / a.rate_hz - 0.5 / b.rate_hz - 1e-6
