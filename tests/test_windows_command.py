"""Labelled windows: the same windows and labels as the evaluation's, fewer leads, and a file that the other commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.export import head_of
from kernels.findings import ConfigError
from kernels.labelled import read_windows
from kernels.signal import LEADS
from trainer.embed import View, embed
from trainer.source import Source
from trainer.windows_command import labelled_windows, windows_command
from trainer.zero_shot import answer_findings

FOLDS = (7, 8, 9)


def _source(ptbxl: Path) -> Source:
    return Source("ptb-xl", ptbxl, FOLDS)


def test_labels_and_findings_without_any_are_those_of_the_evaluation(bundle: Bundle, ptbxl: Path) -> None:
    source = _source(ptbxl)
    told = labelled_windows(bundle, source)
    (seen,) = embed(source.read(), [View(lambda ecg: np.ones((len(ecg), 256), np.float32))], 100, 1000)
    answers = answer_findings(bundle, head_of(bundle), seen, source.concepts)
    names = list(told["names"])
    for name, column in zip(answers.classes, answers.labels.T, strict=True):
        assert np.array_equal(told["labels"][:, names.index(name)], column.astype(np.int8))
    untold = {name for name, column in zip(names, told["labels"].T, strict=True) if (column == -1).all()}
    assert untold == set(answers.unlabelled) | set(answers.unobservable)
    assert list(told["patient"]) == list(answers.patients)


def test_windows_are_the_recordings_in_mv(bundle: Bundle, ptbxl: Path) -> None:
    told = labelled_windows(bundle, _source(ptbxl))
    read = {r.patient: r.samples_mv for r in _source(ptbxl).read()}
    assert set(read) == set(told["patient"])
    middle = slice(100, 900)
    for patient, ecg in zip(told["patient"], told["ecg"], strict=True):
        assert np.corrcoef(ecg[1, middle], read[patient][1, middle])[0, 1] > 0.9


def test_copies_with_few_leads_have_no_label_for_what_they_cannot_show(bundle: Bundle, ptbxl: Path) -> None:
    told = labelled_windows(bundle, _source(ptbxl), ((), ("I",)))
    half = len(told["ecg"]) // 2
    shown = ~np.isnan(told["ecg"][half:]).all(axis=(0, 2))
    assert [lead for lead, s in zip(LEADS, shown, strict=True) if s] == ["I"]
    assert np.array_equal(told["ecg"][half:, 0], told["ecg"][:half, 0])
    for f, few, all_leads in zip(bundle.card.findings, told["labels"][half:].T, told["labels"][:half].T, strict=True):
        assert np.array_equal(few, all_leads if f.observable(frozenset({"I"})) else np.full(half, -1))


@pytest.mark.parametrize("most", [1, 3, 5, 1000])
def test_a_part_is_taken_evenly(bundle: Bundle, ptbxl: Path, most: int) -> None:
    every, some = labelled_windows(bundle, _source(ptbxl)), labelled_windows(bundle, _source(ptbxl), most=most)
    chosen = [list(every["patient"]).index(patient) for patient in some["patient"]]
    assert len(chosen) == min(most, len(every["ecg"]))
    assert chosen == sorted(set(chosen))
    assert np.array_equal(some["ecg"], every["ecg"][chosen])


def test_the_file_is_what_the_other_commands_read(bundle: Bundle, ptbxl: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.npz"
    windows_command(root=ptbxl, out=out, bundle=SHIPPED_BUNDLE, folds="7-9", leads=["II"])
    assert set(np.load(out)) == {"ecg", "labels", "names", "patient"}
    read = read_windows(out, bundle.card)
    expected = labelled_windows(bundle, _source(ptbxl), ((), ("II",)))
    assert np.array_equal(read.ecg, expected["ecg"], equal_nan=True)
    assert read.labels is not None
    assert np.array_equal(read.labels, expected["labels"])
    assert read.patients == set(expected["patient"])


def test_mistakes_are_told_before_the_work(ptbxl: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a file that ends in \.npz"):
        windows_command(root=ptbxl, out=tmp_path / "w.npy")
    with pytest.raises(ConfigError, match="there is no folder"):
        windows_command(root=ptbxl, out=tmp_path / "no" / "w.npz")
    with pytest.raises(ConfigError, match="--most 0 must be positive"):
        windows_command(root=ptbxl, out=tmp_path / "w.npz", most=0)
    with pytest.raises(ConfigError, match="holds no recording in mV of fold 11"):
        windows_command(root=ptbxl, out=tmp_path / "w.npz", folds="11")
