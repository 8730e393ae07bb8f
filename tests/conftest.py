"""Real excerpts, the shipped bundle and a tiny data set in the official layout, shared by the tests."""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import settings

from edge.decode.chunk import Chunk
from edge.transport.file import open_recording
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import Engine, open_engine
from kernels.signal import LEADS

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")

DATA = Path(__file__).parent / "data"
EXCERPT = DATA / "mitdb201af"
"""MIT-BIH 201 from 5:00 to 9:30: atrial fibrillation, sinus rhythm, atrial fibrillation, sinus rhythm."""

ARCHIVE = Path(os.environ.get("CARDIOGLOSS_DATA", Path.home() / ".cache/cardiogloss/data"))
"""Where the large data sets lie, if they do: tests that need one are skipped without it."""


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return Bundle.read(SHIPPED_BUNDLE)


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> Engine:
    return open_engine(bundle)


@pytest.fixture(scope="session")
def excerpt() -> Chunk:
    """The whole excerpt as one chunk, as our decoder reads it."""
    chunks = list(open_recording(EXCERPT).chunks())
    samples = np.concatenate([chunk.samples_mv for chunk in chunks], axis=1)
    return Chunk(0, chunks[0].rate_hz, chunks[0].leads, samples)


def cut(chunk: Chunk, at: list[int]) -> list[Chunk]:
    """The same samples in pieces that end at these indices."""
    edges = [0, *sorted({min(max(i, 0), chunk.samples_mv.shape[1]) for i in at}), chunk.samples_mv.shape[1]]
    return [
        Chunk(chunk.start + a, chunk.rate_hz, chunk.leads, chunk.samples_mv[:, a:b], chunk.lead_off)
        for a, b in itertools.pairwise(edges)
        if b > a
    ]


def heart(bpm: float, seconds: float, rate_hz: float, seed: int = 0) -> np.ndarray:
    """A plain ECG of 12 leads [12, n] in mV: P, QRS and T as bells, a little noise."""
    rng = np.random.default_rng(seed)
    phase = (np.arange(round(seconds * rate_hz)) / rate_hz * bpm / 60) % 1
    bells = ((0.12, 0.3, 0.02), (1.0, 0.5, 0.008), (-0.25, 0.53, 0.008), (0.3, 0.75, 0.04))
    beat = sum(size * np.exp(-(((phase - at) / width) ** 2) / 2) for size, at, width in bells)
    gain = np.array([0.6, 1, 0.4, -0.8, 0.1, 0.7, -0.5, 0.4, 0.9, 1.4, 1.2, 0.9])[:, None]
    return (gain * beat + 0.01 * rng.standard_normal((12, len(phase)))).astype(np.float32)


@pytest.fixture(scope="session")
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings in PTB-XL's own layout: slow hearts say SBRAD, fast ones STACH, low ones LVOLT."""
    root = tmp_path_factory.mktemp("ptb-xl")
    (root / "records100" / "00000").mkdir(parents=True)
    rows = [_write_record(root, number) for number in range(1, 41)]
    _write_csv(root / "ptbxl_database.csv", rows)
    _write_csv(root / "12sl_statements.csv", [{"ecg_id": r["ecg_id"], "statements": "['NSR', 'NML']"} for r in rows])
    _write_csv(
        root / "12sl_statement_texts.csv", [{"acronym": "NSR", "text": "Normal sinus rhythm"}, {"acronym": "NML", "text": "Normal ECG"}]
    )
    _write_csv(root / "scp_statements.csv", [_statement(*line) for line in _STATEMENTS])
    return root


_STATEMENTS = [("NORM", "normal ECG", "diagnostic", "NORM"), ("LVOLT", "low voltage", "form", ""), ("SR", "sinus rhythm", "rhythm", "")]
_STATEMENTS += [("SBRAD", "sinus bradycardia", "rhythm", ""), ("STACH", "sinus tachycardia", "rhythm", "")]


def _statement(code: str, text: str, kind: str, superclass: str) -> dict[str, str]:
    kinds = {name: "1.0" if name == kind else "" for name in ("diagnostic", "form", "rhythm")}
    return {"": code, "description": text, **kinds, "diagnostic_class": superclass}


def _write_record(root: Path, number: int) -> dict[str, object]:
    bpm = (45, 75, 130)[number % 3]
    low = number % 4 == 0
    samples = heart(bpm, 10, 100, seed=number) * (0.3 if low else 1.0)
    name = f"{number:05}_lr"
    wfdb.wrsamp(
        name, 100, ["mV"] * 12, [lead.upper() for lead in LEADS], samples.T.astype(float), fmt=["16"] * 12,
        write_dir=str(root / "records100" / "00000"),
    )  # fmt: skip
    codes = {"NORM": 100.0, ("SBRAD", "SR", "STACH")[number % 3]: 0.0} | ({"LVOLT": 0.0} if low else {})
    return {
        "ecg_id": number, "patient_id": 1000 + number, "report": "sinusrhythmus", "scp_codes": str(codes),
        "strat_fold": number % 10 + 1, "filename_lr": f"records100/00000/{name}",
    }  # fmt: skip


def _write_csv(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)  # type: ignore[arg-type]
