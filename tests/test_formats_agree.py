"""The same recording in eleven formats gives the same samples, and so the same scores: all of them keep 5 microvolts a digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import wfdb

from edge.decode.csv import Columns
from edge.replay import replay
from edge.score import Scores
from edge.transport.file import format_of, open_recording
from kernels.engine import Engine
from kernels.findings import ConfigError

from . import test_formats_dicom as dicom
from . import test_formats_ishne as ishne
from . import test_formats_xml as xml
from .conftest import EXCERPT

RATE_HZ, UV = 500, 5
LEADS = ("II", "V1")

Digits = np.ndarray[Any, np.dtype[np.int16]]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """[samples, leads], as the recorder wrote them; told to be faster than it was, for the format that knows one rate only."""
    return wfdb.rdrecord(str(EXCERPT), sampto=15 * RATE_HZ, physical=False).d_signal.astype(np.int16) - 1024


def _units(digits: Digits) -> dict[str, list[int]]:
    return dict(zip(LEADS, digits.T.tolist(), strict=True))


def _wfdb(path: Path, digits: Digits) -> Path:
    wfdb.wrsamp("same", RATE_HZ, ["mV"] * 2, ["MLII", "V1"], d_signal=digits.astype(np.int64), fmt=["16"] * 2, adc_gain=[200.0] * 2,
                baseline=[0] * 2, write_dir=str(path.parent))  # fmt: skip
    return path.with_suffix(".hea")


def _edf(path: Path, digits: Digits) -> Path:
    whole: dict[str, Any] = {"digital_range": (-32768, 32767), "physical_range": (-32768 * UV / 1000, 32767 * UV / 1000)}
    signals = [
        edfio.EdfSignal.from_digital(np.ascontiguousarray(row), RATE_HZ, label=f"ECG {lead}", physical_dimension="mV", **whole)
        for lead, row in zip(LEADS, digits.T, strict=True)
    ]
    edfio.Edf(signals).write(path)
    return path


def _dicom(path: Path, digits: Digits) -> Path:
    sources = [dicom.coded("2:2"), dicom.coded("2:3")]
    return dicom.written(path, [dicom.group([dicom.channel(source) for source in sources], digits)])


def _ishne(path: Path, digits: Digits) -> Path:
    return ishne.written(path, digits, codes=(6, 11), nv=1000 * UV, rate=RATE_HZ)


def _csv(path: Path, digits: Digits) -> Path:
    path.write_text("II,V1\n" + "\n".join(f"{a * UV / 1000:.3f},{b * UV / 1000:.3f}" for a, b in digits.tolist()))
    return path


def _numpy(path: Path, digits: Digits) -> Path:
    with path.open("wb") as file:
        np.save(file, digits * (UV / 1000))
    return path


def _parquet(path: Path, digits: Digits) -> Path:
    table = pyarrow.table({lead: row * (UV / 1000) for lead, row in zip(LEADS, digits.T, strict=True)})
    pyarrow.parquet.write_table(table, path)
    return path


def _text(write: Callable[[dict[str, list[int]]], str], encoding: str = "utf-8") -> Callable[[Path, Digits], Path]:
    def written(path: Path, digits: Digits) -> Path:
        path.write_text(write(_units(digits)), encoding=encoding)
        return path

    return written


def _frames(path: Path, digits: Digits) -> Path:
    path.write_bytes(xml.frames(_units(digits)))
    return path


FORMATS: dict[str, Callable[[Path, Digits], Path]] = {
    "WFDB": _wfdb,
    "EDF": _edf,
    "DICOM": _dicom,
    "ISHNE": _ishne,
    "CSV": _csv,
    "NumPy": _numpy,
    "Parquet": _parquet,
    "HL7 aECG": _text(lambda units: xml.aecg(xml.aecg_series(xml.aecg_set(units)))),
    "Philips Sierra XML": _text(xml.sierra, "utf-16"),
    "GE MUSE XML": _text(lambda units: xml.muse(units).replace(">4.88<", ">5<")),
    "binary frames": _frames,
}

SAYS_NO_RATE = {"CSV", "NumPy", "Parquet"}


def _open(name: str, path: Path) -> Any:
    columns = Columns(LEADS if name == "NumPy" else (), RATE_HZ) if name in SAYS_NO_RATE else Columns()
    return open_recording(path, columns)


def _scores(recording: Any, engine: Engine) -> list[dict[str, float]]:
    return [event.probability for _, events in replay(recording, engine) for event in events if isinstance(event, Scores)]


@pytest.fixture(scope="module")
def expected(digits: Digits, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    return _scores(_open("WFDB", _wfdb(tmp_path_factory.mktemp("wfdb") / "same", digits)), engine)


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_scores_the_same_in_every_format(
    name: str, digits: Digits, expected: list[dict[str, float]], engine: Engine, tmp_path: Path
) -> None:
    """Under a name that tells nothing."""
    path = FORMATS[name](tmp_path / "same", digits)
    recording = _open(name, path)
    samples = np.concatenate([chunk.samples_mv[[chunk.leads.index(lead) for lead in LEADS]] for chunk in recording.chunks()], axis=1)
    scores = _scores(recording, engine)
    assert format_of(path) == name
    np.testing.assert_allclose(samples, digits.T * (UV / 1000), atol=1e-6)
    assert len(scores) == len(expected) == 6
    for told, wanted in zip(scores, expected, strict=True):
        assert told == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize(
    "names", [("F7", "C3", "C4", "Cz"), ("C3", "C4", "M1", "M2", "E1", "E2", "Chin", "ECG"), ("A1", "A2", "C1", "C2", "B1", "B2")]
)
def test_no_format_takes_electrodes_on_the_head_for_chest_leads(tmp_path: Path, names: tuple[str, ...]) -> None:
    samples = np.random.default_rng(0).normal(size=(len(names), 1000)).clip(-4, 4)
    wfdb.wrsamp("a", 250, ["mV"] * len(names), list(names), samples.T, fmt=["16"] * len(names), write_dir=str(tmp_path))
    np.savez(tmp_path / "a.npz", samples_mv=samples, rate_hz=250, leads=np.array(names))
    np.savetxt(tmp_path / "a.csv", samples.T, delimiter=",", header=",".join(names), comments="")
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, samples, strict=True))), tmp_path / "a.parquet")
    for name, columns in (("a.hea", Columns()), ("a.npz", Columns()), ("a.csv", Columns(rate_hz=250)), ("a.parquet", Columns(rate_hz=250))):
        with pytest.raises(ConfigError, match=r"no known lead among the signals|no lead is named"):
            list(open_recording(tmp_path / name, columns).chunks())
