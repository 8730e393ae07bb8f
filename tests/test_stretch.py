"""The latest samples: whatever was handed out stays as it was, and all that was promised is still there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.stretch import Stretch
from kernels.signal import LEADS


@given(kept=st.integers(1, 60), sizes=st.lists(st.tuples(st.integers(1, 90), st.sampled_from([0, 0, 0, 5])), min_size=1, max_size=40))
def test_what_is_kept_is_what_came_and_never_changes(kept: int, sizes: list[tuple[int, int]]) -> None:
    """Oracle: a list of all columns since the last gap."""
    stretch, came, begin, end = Stretch(kept), np.empty((12, 0), np.float32), 0, 0
    handed = []
    rng = np.random.default_rng(0)
    for size, lost in sizes:
        samples = rng.standard_normal((12, size)).astype(np.float32)
        if lost:
            came, begin, end = np.empty((12, 0), np.float32), end + lost, end + lost
        stretch.feed(Chunk(end, 100.0, LEADS, samples))
        before = came.shape[1]
        came, end = np.concatenate([came, samples], axis=1), end + size
        assert (stretch.begin, stretch.end) == (begin, end)
        assert stretch.first <= begin + max(before - kept, 0)
        part = stretch.between(stretch.first, end)
        np.testing.assert_array_equal(part, came[:, stretch.first - begin :])
        handed.append((part, part.copy()))
    assert all(np.array_equal(part, copy) for part, copy in handed)


def test_it_holds_little_more_than_is_asked_however_long_it_goes_on() -> None:
    stretch = Stretch(1000)
    for i in range(2000):
        stretch.feed(Chunk(25 * i, 100.0, LEADS, np.zeros((12, 25), np.float32)))
        assert stretch.end - stretch.first <= 1000 + 250 + 25
        base = stretch.between(stretch.first, stretch.end).base
        assert base is None or base.nbytes <= 12 * 4 * 1300
