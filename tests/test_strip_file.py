"""A strip as a file: WFDB's own reader gets the same millivolts back, and a ruler on the picture agrees with ECG paper."""

from __future__ import annotations

import builtins
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from edge.decode.chunk import Chunk
from edge.pipeline import Pipeline
from edge.strip import Strip
from edge.strip_file import lay_out, to_png, to_wfdb
from kernels.engine import Engine
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .conftest import heart

PIXELS_PER_MM = 110 / 25.4


@pytest.fixture(scope="session")
def real(engine: Engine, excerpt: Chunk) -> Strip:
    """The ten seconds before the first alert of the excerpt."""
    events = Pipeline("bed1", engine).feed(excerpt)
    return next(strip for event in events if (strip := getattr(getattr(event, "evidence", None), "strip", None)) is not None)


def read(files: dict[str, bytes], folder: Path) -> wfdb.Record:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return wfdb.rdrecord(str(folder / next(iter(files)).removesuffix(".hea")))


def samples_of() -> st.SearchStrategy[np.ndarray]:
    return stn.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 50)),
        elements=st.floats(-32.5, 32.5, width=32) | st.just(np.nan),
    )


@given(samples_mv=samples_of(), rate_hz=st.sampled_from([100.0, 99.5, 360.0]))
def test_wfdb_reads_back_what_was_written_to_half_a_microvolt(
    samples_mv: np.ndarray, rate_hz: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    strip = Strip(12.5, rate_hz, LEADS[: len(samples_mv)], samples_mv)
    record = read(to_wfdb(strip, "a1"), tmp_path_factory.mktemp("strip"))
    assert (record.fs, record.sig_name, record.units) == (rate_hz, list(strip.leads), ["mV"] * len(strip.leads))
    np.testing.assert_allclose(record.p_signal.T, samples_mv, atol=0.000501, equal_nan=True)
    assert record.checksum == record.adc(inplace=False).astype(np.int16).sum(axis=0, dtype=np.int16).tolist()


def test_a_real_strip_comes_back_with_its_time(real: Strip, tmp_path: Path) -> None:
    record = read(to_wfdb(real, "a1", datetime(2026, 3, 4, 5, 6, 7, 890_000)), tmp_path)
    assert record.sig_name == ["II", "V1"] and record.p_signal.shape == (1000, 2)
    np.testing.assert_allclose(record.p_signal.T, real.samples_mv, atol=0.000501)
    assert record.base_datetime == datetime(2026, 3, 4, 5, 6, 7, 890_000)


def test_what_no_16_bits_hold_is_cut_off_and_stays_a_sample(tmp_path: Path) -> None:
    strip = Strip(0.0, 100.0, ("I",), np.array([[-400, -32.768, 0, 33, 1e30]], np.float32))
    with np.errstate(over="ignore"):
        record = read(to_wfdb(strip, "a1"), tmp_path)
    np.testing.assert_allclose(record.p_signal[:4, 0], [-32.767, -32.767, 0, 32.767])


def image(png: bytes) -> np.ndarray:
    """[rows, columns], 0 black to 1 white."""
    return matplotlib.image.imread(io.BytesIO(png))[:, :, :3].mean(axis=2)


def test_a_millivolt_is_ten_millimetres_and_a_second_twenty_five() -> None:
    """Measured on the picture of a 1 mV pulse of 2 s."""
    pulse = np.zeros((1, 1000), np.float32)
    pulse[0, 400:600] = 1.0
    dark = image(to_png(Strip(0.0, 100.0, ("II",), pulse), "")) < 0.35
    share = dark[:, 200:-200].mean(axis=1)
    # The frame of the paper is dark all over.
    rows = np.flatnonzero((share > 0.15) & (share < 0.9))
    assert (rows.max() - rows.min()) / PIXELS_PER_MM == pytest.approx(10, abs=0.7)
    edges = 200 + np.flatnonzero(dark[rows.min() + 5 : rows.max() - 5, 200:-200].mean(axis=0) > 0.3)
    assert (edges.max() - edges.min()) / PIXELS_PER_MM == pytest.approx(50, abs=0.7)
    assert dark.shape[1] / PIXELS_PER_MM == pytest.approx(250 + 19, abs=1)


@given(st.integers(1, 12), st.floats(0.1, 20), st.integers(0, 2**32 - 1))
def test_no_lead_runs_into_another(leads: int, gain: float, seed: int) -> None:
    """Each keeps to a row of its own, from top to bottom, in order."""
    strip = Strip(3.0, 100.0, LEADS[:leads], (gain * heart(70, 10, 100, seed)[:leads]).astype(np.float32))
    sheet = lay_out(strip, range(leads))
    drawn = sheet.traces_mv + np.array(sheet.baselines_mv)[:, None]
    assert sheet.leads == strip.leads and drawn.max() < sheet.high_mv and drawn.min() > sheet.low_mv
    assert (drawn[:-1].min(axis=1) > drawn[1:].max(axis=1)).all()


@pytest.mark.parametrize(
    "strip",
    [
        Strip(0.0, 100.0, (), np.empty((0, 1000), np.float32)),
        Strip(0.0, 100.0, ("I",), np.empty((1, 0), np.float32)),
        Strip(1e6, 100.0, ("I", "V1"), np.full((2, 300), np.nan, np.float32)),
        Strip(0.5, 128.0, ("I",), np.array([[np.nan, 1e30, -5.0]], np.float32)),
    ],
    ids=["no lead", "no sample", "no signal", "absurd"],
)
def test_any_strip_can_be_drawn_and_written(strip: Strip) -> None:
    assert image(to_png(strip, "costs 5$ or $x^")).shape[0] > 100
    assert to_wfdb(strip, "a1")["a1.hea"].startswith(b"a1 ")


def test_without_matplotlib_the_message_says_what_to_install(real: Strip, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def _without(name: str, *more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return whole(name, *more)

    monkeypatch.setattr(builtins, "__import__", _without)
    with pytest.raises(ConfigError, match=r"pip install 'cardiogloss\[plot\]'"):
        to_png(real, "")
