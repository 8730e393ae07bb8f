"""The strips that go with alerts: the samples before a moment as they came, of one stretch, whatever the cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.strip import Recent
from kernels.signal import LEADS

from .conftest import cut


def _numbered(samples: int) -> Chunk:
    """Sample n of every lead is n."""
    return Chunk(0, 100.0, LEADS, np.tile(np.arange(samples, dtype=np.float32), (12, 1)))


@given(st.lists(st.integers(0, 3000), max_size=20), st.integers(0, 3000))
def test_any_cut_gives_the_ten_seconds_before_a_moment(cuts: list[int], moment: int) -> None:
    recent = Recent(100.0)
    for chunk in cut(_numbered(3000), cuts):
        recent.feed(chunk)
        if chunk.start <= moment <= chunk.end:
            strip = recent.before(moment).strip()
            first = max(moment - 1000, 0)
            assert strip.start_s == first / 100
            np.testing.assert_array_equal(strip.samples_mv[0] if moment else np.empty(0), np.arange(first, moment))


def test_a_strip_never_joins_what_a_gap_parts() -> None:
    recent = Recent(100.0)
    before, after = _numbered(900), _numbered(2000)
    recent.feed(before)
    recent.feed(Chunk(1500, 100.0, LEADS, after.samples_mv[:, 1500:1700]))
    strip = recent.before(1700).strip()
    assert (strip.start_s, strip.end_s, strip.samples_mv[0, 0]) == (15.0, 17.0, 1500.0)


def test_it_holds_the_leads_that_are_there_as_a_copy() -> None:
    samples = np.full((12, 500), np.nan, np.float32)
    samples[1], samples[6, 100:] = 1.0, 2.0
    recent = Recent(100.0)
    recent.feed(Chunk(0, 100.0, LEADS, samples))
    strip = recent.before(500).strip()
    samples[1] = 9.0
    assert strip.leads == ("II", "V1")
    assert strip.samples_mv[0].tolist() == [1.0] * 500
    assert np.isnan(strip.samples_mv[1, :100]).all() and (strip.samples_mv[1, 100:] == 2).all()
