"""Every dataset in its official layout, written small: what is read, who is in which fold, and what each label is called."""

from __future__ import annotations

import csv
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from kernels.findings import ConfigError
from kernels.signal import LEADS
from tests.conftest import ARCHIVE, EXCERPT, heart
from trainer.datasets import DATASETS, Task, dataset
from trainer.datasets.mitdb import fold_of_record
from trainer.datasets.ptb_xl import read_ptb_xl
from trainer.datasets.vocabulary import normalise, read_parts, read_words, snomed
from trainer.records import Recording, fold_of
from trainer.text import read_prompts

EVERY = range(1, 11)
SMALL = 50
"""Samples of a record of which only the labels matter."""


def read(name: str, root: Path, folds: object = EVERY) -> list[Recording]:
    return list(dataset(name).read(root, folds))  # type: ignore[arg-type]


def by_id(recordings: list[Recording]) -> dict[str, Recording]:
    return {recording.id: recording for recording in recordings}


def said(name: str, recording: Recording) -> set[str]:
    """The names of the labels that a recording carries."""
    labels = (label for task in dataset(name).tasks(Path()) for label in task.labels)
    return {label.name for label in labels if not label.codes.isdisjoint(recording.codes)}


def names_of_fold(fold: int, prefix: str = "A") -> Iterator[str]:
    return (name for number in range(10_000) if fold_of(name := f"{prefix}{number:04}") == fold)


def write_challenge(folder: Path, name: str, dx: str, samples: int = SMALL, comment: str = "#Dx: ") -> Path:
    """A record as the Challenges hold it: big matrix of 16-bit samples behind 24 bytes of MATLAB header."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = (heart(70, samples / 500, 500, seed=len(name)) * 1000).astype("<i2")
    (folder / f"{name}.mat").write_bytes(b"\0" * 24 + digits.T.tobytes())
    lines = [f"{name} 12 500 {samples}", *(f"{name}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    (folder / f"{name}.hea").write_text("\n".join([*lines, "#Age: 74", "#Sex: Male", f"{comment}{dx}", "#Rx: Unknown"]) + "\n")
    return folder / name


def write_ludb(folder: Path, name: str, *statements: str) -> Path:
    samples = heart(60, SMALL / 500, 500).T.astype(float)
    leads = [lead.lower() for lead in LEADS]
    comments = ["<age>: 64", "<sex>: F", "<diagnoses>:", *statements]
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(name, 500, ["mV"] * 12, leads, samples, fmt=["16"] * 12, write_dir=str(folder), comments=comments)
    return folder / name


MIMIC_LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:]]
"""In the release's own order."""


def write_mimic(root: Path, studies: list[tuple[str, str, list[str]]], samples: int = SMALL) -> Path:
    """`record_list.csv`, `machine_measurements.csv` and the records of (subject, study, statements)."""
    listed, measured = [], []
    for subject, study, statements in studies:
        path = f"files/p{subject[:4]}/p{subject}/s{study}/{study}"
        (root / path).parent.mkdir(parents=True)
        ecg = heart(60, samples / 500, 500)[[LEADS.index(lead) for lead in MIMIC_LEADS]].T.astype(float)
        wfdb.wrsamp(study, 500, ["mV"] * 12, MIMIC_LEADS, ecg, fmt=["16"] * 12, write_dir=str((root / path).parent))
        listed.append({"subject_id": subject, "study_id": study, "file_name": study, "ecg_time": "2180-07-23", "path": path})
        reports = {f"report_{at}": statements[at] if at < len(statements) else "" for at in range(18)}
        measured.append({"subject_id": subject, "study_id": study, "cart_id": "1", "ecg_time": "2180-07-23", **reports, "bandwidth": "0.5"})
    write_csv(root / "record_list.csv", listed)
    write_csv(root / "machine_measurements.csv", measured)
    return root


def write_csv(path: Path, table: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def write_cinc2017(root: Path, names: dict[str, str]) -> Path:
    for name in names:
        digits = (heart(70, 0.2, 300)[0] * 1000).astype("<i2")
        (root / f"{name}.mat").write_bytes(b"\0" * 24 + digits.tobytes())
        (root / f"{name}.hea").write_text(f"{name} 1 300 {len(digits)}\n{name}.mat 16+24 1000/mV 16 0 0 0 0 ECG\n")
    (root / "REFERENCE.csv").write_text("".join(f"{name},{code}\n" for name, code in names.items()))
    return root


def write_mitdb(root: Path, name: str) -> Path:
    """A minute of 360 Hz with normal beats, one ventricular and one atrial premature beat, and the rhythms that enclose them."""
    root.mkdir(parents=True, exist_ok=True)
    samples = heart(60, 60, 360)[[1, 6]].T.astype(float)
    wfdb.wrsamp(name, 360, ["mV", "mV"], ["MLII", "V1"], samples, fmt=["212", "212"], write_dir=str(root))
    at = np.array([10, 360, 720, 3700, 7300, 7400])
    symbols, notes = ["+", "N", "V", "A", "+", "N"], ["(N", "", "", "", "(AFIB", ""]
    wfdb.wrann(name, "atr", at, symbols, aux_note=notes, write_dir=str(root))
    return root / name


@pytest.fixture
def statements_table(tmp_path: Path) -> Path:
    """Four statements of PTB-XL's table, of two superclasses and three subclasses."""
    lines = [("NORM", "diagnostic", "NORM", "NORM"), ("IMI", "diagnostic", "MI", "IMI"), ("ILMI", "diagnostic", "MI", "IMI")]
    lines += [("AMI", "diagnostic", "MI", "AMI"), ("LVOLT", "form", "", ""), ("SR", "rhythm", "", "")]
    lines += [("NDT", "diagnostic", "STTC", "STTC"), ("LAFB", "diagnostic", "CD", "LAFB/LPFB"), ("LVH", "diagnostic", "HYP", "LVH")]
    kinds = ("diagnostic", "form", "rhythm")
    table = [
        {"": code, **{k: "1.0" if k == kind else "" for k in kinds}, "diagnostic_class": sup, "diagnostic_subclass": sub}
        for code, kind, sup, sub in lines
    ]
    write_csv(tmp_path / "scp_statements.csv", table)
    return tmp_path


# What is read


def test_ptb_xl_is_read_in_the_order_of_its_table(ptbxl: Path) -> None:
    recordings = list(read_ptb_xl(ptbxl, [9]))
    assert [r.fold for r in recordings] == [9] * 4
    assert recordings[0].samples_mv.shape == (12, 1000)
    assert recordings[0].machine == ("NSR", "NML")
    assert "NORM" in recordings[0].codes


def test_what_is_read_is_what_wfdb_gives(tmp_path: Path) -> None:
    """Of a Challenge record, a LUDB record and a MIMIC record, whose file has aVF before aVL."""
    challenge = write_challenge(tmp_path / "g1", "JS0001", "426783006")
    ludb = write_ludb(tmp_path / "data", "1", "Rhythm: Sinus rhythm.")
    write_mimic(tmp_path / "mimic", [("10000032", "40689238", ["Sinus rhythm"])])
    mimic = tmp_path / "mimic/files/p1000/p10000032/s40689238/40689238"
    for name, root, path in (
        ("csn", tmp_path / "g1", challenge),
        ("ludb", tmp_path / "data", ludb),
        ("mimic-iv-ecg", tmp_path / "mimic", mimic),
    ):
        (recording,) = read(name, root)
        record = wfdb.rdrecord(str(path))
        order = [[lead.upper() for lead in record.sig_name].index(lead.upper()) for lead in LEADS]
        assert np.array_equal(recording.samples_mv, record.p_signal.T[order].astype(np.float32))
        assert recording.rate_hz == record.fs == 500


@pytest.mark.parametrize("layout", ["g1", "WFDBRecords/01/010", "."])
def test_challenge_records_are_found_in_any_layout(layout: str, tmp_path: Path) -> None:
    write_challenge(tmp_path / layout, "JS00001", "164889003,59118001, 164889003", comment="# Dx: ")
    (recording,) = read("csn", tmp_path)
    assert (recording.id, recording.patient, recording.codes) == ("JS00001", "JS00001", ("164889003", "59118001"))


def test_the_order_is_that_of_the_names_level_by_level(tmp_path: Path) -> None:
    for folder, name in (("b", "A3"), (".", "A9"), ("a/z", "A1"), ("a", "A2"), (".", "A0")):
        write_challenge(tmp_path / folder, name, "426783006")
    assert [r.id for r in read("cpsc2018", tmp_path)] == ["A0", "A9", "A2", "A1", "A3"]


def test_missing_samples_of_mimic_stay_missing(tmp_path: Path) -> None:
    root = write_mimic(tmp_path, [("10000032", "40689238", ["Sinus rhythm"])])
    (path,) = root.rglob("40689238.dat")
    digits = np.frombuffer(path.read_bytes(), "<i2").reshape(-1, 12).copy()
    digits[10:20, 1] = -32768
    path.write_bytes(digits.tobytes())
    (recording,) = read("mimic-iv-ecg", root)
    assert np.isnan(recording.samples_mv).sum(axis=1).tolist() == [0, 10, *[0] * 10]


def test_mitdb_windows_carry_the_rhythm_that_fills_them(tmp_path: Path) -> None:
    for path in EXCERPT.parent.glob("mitdb201af.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    windows = read("mitdb", tmp_path)
    rhythms = [r.codes[0] for r in windows]
    assert len(windows) == 27
    assert rhythms[:7] == ["AFIB"] * 7
    assert rhythms[9:17] == ["N"] * 8
    assert rhythms[18:21] == ["AFIB"] * 3
    assert {r.patient for r in windows} == {"mitdb201af"}


def test_a_window_carries_the_class_of_every_beat_in_it_and_no_other(tmp_path: Path) -> None:
    """Against the annotations of the excerpt, counted one by one."""
    for path in EXCERPT.parent.glob("mitdb201af.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    notes = wfdb.rdann(str(EXCERPT), "atr")
    aami = dict.fromkeys("NLRej", "N") | dict.fromkeys("aAJS", "S") | dict.fromkeys("VE", "V") | {"F": "F"} | dict.fromkeys("/fQ", "Q")
    beats = [(int(at), aami[symbol]) for at, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in aami]
    assert {name for _, name in beats} >= {"N", "S", "V"}
    for window in read("mitdb", tmp_path):
        start = int(window.id.partition("+")[2])
        inside = {f"beat:{name}" for at, name in beats if start <= at < start + 3600}
        assert set(window.codes[1:]) == inside


def test_a_beat_on_the_border_is_in_the_window_that_it_begins(tmp_path: Path) -> None:
    write_mitdb(tmp_path, "100")
    codes = [r.codes for r in read("mitdb", tmp_path)]
    assert codes == [("N", "beat:N", "beat:V"), ("N", "beat:S"), ("AFIB", "beat:N"), ("AFIB",), ("AFIB",), ("AFIB",)]
    wfdb.wrann("100", "atr", np.array([3600, 7199]), ["V", "F"], write_dir=str(tmp_path))
    assert [r.codes for r in read("mitdb", tmp_path)][:3] == [(), ("beat:V", "beat:F"), ()]


def test_cinc2017_strips_are_lead_i(tmp_path: Path) -> None:
    write_cinc2017(tmp_path, {"A00001": "N", "A00002": "A", "A00003": "O", "A00004": "~"})
    recordings = read("cinc2017", tmp_path)
    assert [r.codes[0] for r in recordings] == ["N", "A", "O", "~"]
    assert not np.isnan(recordings[0].samples_mv[0]).any()
    assert np.isnan(recordings[0].samples_mv[1:]).all()
    assert [said("cinc2017", r) for r in recordings] == [set(), {"A"}, set(), set()]


# Labels are exact


def test_snomed_codes_are_matched_whole(tmp_path: Path) -> None:
    """Fibrillation is not flutter, and a code that holds another one, or is held by one, is not that one."""
    held = {"JS1": "164889003", "JS2": "164890007", "JS3": "11157007", "JS4": "111570071", "JS5": "1157007", "JS6": "1648890031,64889003"}
    for name, dx in held.items():
        write_challenge(tmp_path, name, dx)
    found = {r.id: said("csn", r) for r in read("csn", tmp_path)}
    assert found == {"JS1": {"AF"}, "JS2": {"AFL"}, "JS3": {"VBig"}, "JS4": set(), "JS5": set(), "JS6": set()}
    assert said("cpsc2018", by_id(read("csn", tmp_path))["JS2"]) == set()


@pytest.mark.parametrize(
    ("codes", "csn", "cpsc"),
    [("733534002", "LBBB", "LBBB"), ("713427006", "RBBB", "RBBB"), ("63593006", "PAC", "PAC"), ("17338001", "PVC", "PVC"),
     ("164884008", "PVC", "PVC"), ("426783006", "NSR", "NORM"), ("164931005", "STE", "STE"), ("429622005", "STD", "STD")],
)  # fmt: skip
def test_codes_that_the_challenge_scores_as_one_are_one_label(codes: str, csn: str, cpsc: str, tmp_path: Path) -> None:
    write_challenge(tmp_path, "JS1", codes)
    (recording,) = read("csn", tmp_path)
    assert (said("csn", recording), said("cpsc2018", recording)) == ({csn}, {cpsc})


def test_a_snomed_code_has_one_meaning() -> None:
    codes = [code for word in snomed().values() for code in word.codes]
    assert len(codes) == len(set(codes))
    assert all(code.isdigit() for code in codes)


def test_ludb_statements_are_matched_whole(tmp_path: Path) -> None:
    """Incomplete block is not complete block, and the diagnoses begin below their heading."""
    said_of = ("Rhythm: Sinus bradycardia.", "Electric axis of the heart: left axis deviation.", "Incomplete right bundle branch block.")
    write_ludb(tmp_path / "data", "1", *said_of, "STEMI: anterior wall.")
    (recording,) = read("ludb", tmp_path)
    assert recording.codes[0] == "rhythm: sinus bradycardia"
    assert recording.report.startswith("Rhythm: Sinus bradycardia. Electric axis")
    assert said("ludb", recording) == {"SBRAD", "left", "IRBBB", "STEMI"}


def test_a_compound_machine_statement_counts_as_each_of_its_parts(tmp_path: Path) -> None:
    write_mimic(
        tmp_path,
        [("10000032", "1", ["Sinus rhythm with 1st degree A-V block", "RBBB with left anterior fascicular block."]),
         ("10000032", "2", ["Atrial fibrillation", "Possible left ventricular hypertrophy", "", "Abnormal ECG."]),
         ("10000048", "3", ["Sinus rhythm with borderline 1st degree A-V block", "Normal ECG."])],
    )  # fmt: skip
    first, second, third = read("mimic-iv-ecg", tmp_path)
    assert said("mimic-iv-ecg", first) == {"SR", "1AVB", "CRBBB", "LAFB"}
    assert said("mimic-iv-ecg", second) == {"AFIB"}
    assert said("mimic-iv-ecg", third) == {"SR", "NORM"}
    assert second.codes == ("atrial fibrillation", "possible left ventricular hypertrophy", "abnormal ecg")
    assert second.report == "Atrial fibrillation. Possible left ventricular hypertrophy. Abnormal ECG"


@pytest.mark.parametrize(("file", "prefix"), [("ludb.toml", "ludb"), ("mimic.toml", "mimic")])
def test_statements_stand_in_the_spelling_that_they_are_looked_up_by(file: str, prefix: str) -> None:
    codes = [code for labels in read_words(file, prefix).values() for word in labels.values() for code in word.codes]
    assert codes == [normalise(code) for code in codes]
    assert len(codes) == len(set(codes))


def test_the_parts_of_a_compound_statement_have_a_label() -> None:
    known = {code for labels in read_words("mimic.toml", "mimic").values() for word in labels.values() for code in word.codes}
    for statement, parts in read_parts("mimic.toml").items():
        assert statement == normalise(statement)
        assert statement not in known
        assert set(parts) <= known


def test_subclasses_are_any_of_their_statements(statements_table: Path, ptbxl: Path) -> None:
    tasks = {task.name: {label.name: label for label in task.labels} for task in dataset("ptb-xl").tasks(statements_table)}
    prompts = read_prompts()
    assert tasks["subclass"]["IMI"].codes == {"IMI", "ILMI"}
    assert tasks["subclass"]["IMI"].ways == (prompts["IMI"], prompts["ILMI"])
    assert tasks["superclass"]["MI"].codes == {"IMI", "ILMI", "AMI"}
    assert list(tasks) == ["superclass", "subclass", "diagnostic", "form", "rhythm"]
    assert "subclass" not in {task.name for task in dataset("ptb-xl").tasks(ptbxl)}


# Words


def all_tasks(statements_table: Path) -> list[tuple[str, Task]]:
    return [(name, task) for name in DATASETS for task in dataset(name).tasks(statements_table)]


def test_every_label_can_be_asked_for(statements_table: Path) -> None:
    """It has codes and at least one way to say it, and no prompt is empty; names within a task differ."""
    for name, task in all_tasks(statements_table):
        assert len({label.name for label in task.labels}) == len(task.labels) > 0
        for label in task.labels:
            assert label.codes, (name, label.name)
            assert label.ways, (name, label.name)
            assert all(way and all(text.strip() for text in way) for way in label.ways), (name, label.name)


def test_every_code_of_a_label_shows_a_concept_that_ptb_xl_or_a_prefix_names(statements_table: Path) -> None:
    prompts = read_prompts()
    for name in DATASETS:
        concepts = dataset(name).concepts(statements_table)
        assert all(concept in prompts or concept.split(":")[0] in {"snomed", "mitdb", "ludb", "mimic"} for concept in concepts.values())
        codes = {code for task in dataset(name).tasks(statements_table) for label in task.labels for code in label.codes}
        assert codes <= set(concepts), name


@pytest.mark.parametrize(
    ("name", "code", "concept"),
    [("csn", "164889003", "AFIB"), ("cpsc2018", "426783006", "NORM"), ("csn", "39732003", "snomed:39732003"), ("mitdb", "AFIB", "AFIB"),
     ("cinc2017", "A", "AFIB"), ("ludb", "electric axis of the heart: left axis deviation", "snomed:39732003"),
     ("mimic-iv-ecg", "left axis deviation", "snomed:39732003"), ("csn", "63593006", "PAC"), ("mitdb", "beat:F", "snomed:13640000"),
     ("csn", "164930006", "snomed:164930006"), ("ludb", "stemi: septal", "ludb:repolarisation.STEMI")],
)  # fmt: skip
def test_the_same_finding_is_the_same_concept_in_every_dataset(name: str, code: str, concept: str) -> None:
    assert dataset(name).concepts(Path())[code] == concept


# Folds


@given(st.text(max_size=12))
def test_a_fold_follows_from_the_name_alone(patient: str) -> None:
    assert 1 <= fold_of(patient) <= 10
    assert fold_of(patient) == fold_of("".join(patient))


def test_folds_are_the_same_on_every_machine_and_about_even() -> None:
    assert [fold_of(name) for name in ("A0001", "JS00001", "10000032")] == [1, 5, 1]
    counts = np.bincount([fold_of(f"JS{number:05}") for number in range(10_000)], minlength=11)[1:]
    assert counts.min() > 800


def test_no_patient_is_in_two_folds(tmp_path: Path) -> None:
    """Of MIMIC, whose patients come back; a fold's recordings are those of its patients and of no other."""
    studies = [(f"1000{i // 3:04}", f"4{i:07}", ["Sinus rhythm"]) for i in range(30)]
    root = write_mimic(tmp_path, studies)
    folds: dict[str, set[int]] = {}
    for fold in EVERY:
        for recording in read("mimic-iv-ecg", root, [fold]):
            assert recording.fold == fold
            folds.setdefault(recording.patient, set()).add(fold)
    assert len(folds) == 10
    assert all(len(of_patient) == 1 for of_patient in folds.values())


def test_mitdb_is_split_as_de_chazal_did(tmp_path: Path) -> None:
    """DS2 and the paced records are fold 10, DS1 the others; 201 and 202 are one patient on both sides."""
    ds1 = map(str, (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230))
    ds2 = map(str, (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234))
    assert all(fold_of_record(name) in range(1, 10) for name in ds1)
    assert {fold_of_record(name) for name in [*ds2, "102", "104", "107", "217"]} == {10}
    for name in ("201", "202", "100"):
        write_mitdb(tmp_path, name)
    assert {r.id.partition("+")[0]: r.patient for r in read("mitdb", tmp_path)} == {"100": "100", "201": "201", "202": "201"}
    assert {r.id.partition("+")[0] for r in read("mitdb", tmp_path, [10])} == {"100", "202"}


def write_pair(name: str, root: Path, folds: tuple[int, int]) -> tuple[str, Path]:
    """A record of each of two folds: the name of the first, and the path of the second's samples."""
    write: dict[str, Callable[[str], Path]] = {
        "cpsc2018": lambda record: write_challenge(root, record, "426783006").with_suffix(".mat"),
        "csn": lambda record: write_challenge(root, record, "426783006").with_suffix(".mat"),
        "ludb": lambda record: write_ludb(root, record, "Rhythm: Sinus rhythm.").with_suffix(".dat"),
        "mitdb": lambda record: write_mitdb(root, record).with_suffix(".dat"),
    }
    prefix = "JS" if name == "csn" else "A"
    names = ("100", "101") if name == "mitdb" else tuple(next(names_of_fold(fold, prefix)) for fold in folds)
    first, second = (write[name](record) for record in names)
    assert first.is_file()
    return names[0], second


def test_records_of_other_sets_in_the_challenges_folder_are_left_alone(tmp_path: Path) -> None:
    """PTB-XL lies there too: taken for csn, its test patients would be trained on."""
    for folder, record in (("ptb-xl", "HR00001"), ("cpsc_2018", "A0001"), ("ningbo", "JS0001"), ("georgia", "E00001")):
        write_challenge(tmp_path / folder, record, "426783006")
    assert [r.id for r in read("csn", tmp_path)] == ["JS0001"]
    assert [r.id for r in read("cpsc2018", tmp_path)] == ["A0001"]


@pytest.mark.parametrize("name", ["cpsc2018", "csn", "ludb", "mitdb"])
def test_a_recording_of_another_fold_is_not_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its samples may be gone; where it is asked for, it is skipped with a word about it."""
    kept, unwanted = write_pair(name, tmp_path, (10, 2))
    unwanted.unlink()
    with caplog.at_level(logging.WARNING):
        assert {r.id.partition("+")[0] for r in read(name, tmp_path, [10])} == {kept}
        assert not caplog.records
        assert {r.id.partition("+")[0] for r in read(name, tmp_path)} == {kept}
    assert unwanted.stem in caplog.text


def test_a_recording_of_another_fold_is_not_read_of_datasets_with_a_table(ptbxl: Path, tmp_path: Path) -> None:
    first, second = next(names_of_fold(1)), next(names_of_fold(2))
    write_cinc2017(tmp_path, {first: "A", second: "N"})
    (tmp_path / f"{second}.mat").unlink()
    assert [r.id for r in read("cinc2017", tmp_path, [1])] == [first]
    subjects = {fold_of(subject): subject for subject in map(str, range(10_000_000, 10_000_100))}
    root = write_mimic(tmp_path / "mimic", [(subjects[4], "1", ["Sinus rhythm"]), (subjects[7], "2", ["Sinus rhythm"])])
    next(root.rglob("2.dat")).unlink()
    assert [r.patient for r in read("mimic-iv-ecg", root, [4])] == [subjects[4]]


@pytest.mark.parametrize("name", ["csn", "mimic-iv-ecg"])
def test_memory_does_not_grow_with_the_data_set(name: str, tmp_path: Path) -> None:
    """Reading ten times as many recordings holds hardly more at once: less than two recordings on top."""
    if name == "csn":
        for number in range(100):
            write_challenge(tmp_path / f"{number:03}", f"JS{number:05}", "426783006", samples=5000)
    else:
        write_mimic(tmp_path, [(f"1000{i:04}", f"4{i:07}", ["Sinus rhythm"] * 9) for i in range(100)], samples=5000)
    assert peak(name, tmp_path, 100) < peak(name, tmp_path, 10) + 2 * 12 * 5000 * 4


def peak(name: str, root: Path, recordings: int) -> int:
    """The most bytes held while so many are read and dropped, after the caches are warm."""
    assert len(list(islice(dataset(name).read(root, EVERY), 5))) == 5
    tracemalloc.start()
    count = sum(1 for _ in islice(dataset(name).read(root, EVERY), recordings))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == recordings
    return most


# What is wrong


@pytest.mark.parametrize(
    ("name", "words"),
    [("ptb-xl", r"ptbxl_database\.csv is missing"), ("cpsc2018", "no WFDB record"), ("csn", "give the folder of the Challenge"),
     ("mitdb", "no WFDB record"), ("cinc2017", "REFERENCE.csv is missing"), ("ludb", "give the folder of LUDB"),
     ("mimic-iv-ecg", r"record_list\.csv is missing"), ("ptb", "allowed are ptb-xl")],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_wrong_dataset_or_folder_says_what_it_wants(name: str, words: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read(name, tmp_path / folder)


@pytest.mark.parametrize("keep", [0, 24, 24 + 12 * 2 * 20, 301])
def test_a_record_that_was_cut_short_is_skipped_and_named(keep: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = write_challenge(tmp_path, "JS0001", "426783006").with_suffix(".mat")
    write_challenge(tmp_path, "JS0002", "426783006")
    damaged.write_bytes(damaged.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert [r.id for r in read("csn", tmp_path)] == ["JS0002"]
    assert str(tmp_path / "JS0001") in caplog.text


@pytest.mark.parametrize(
    "text", ["", "nothing of the kind", "JS0001 12 500 50\n", "JS0001 12 500 50\nJS0001.mat xx\n", "JS0001 0 500 50\n"]
)
def test_a_header_that_is_none_is_skipped_and_named(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_challenge(tmp_path, "JS0001", "426783006").with_suffix(".hea").write_text(text)
    write_challenge(tmp_path, "JS0002", "426783006")
    with caplog.at_level(logging.WARNING):
        assert [r.id for r in read("csn", tmp_path)] == ["JS0002"]
    assert "JS0001" in caplog.text


def test_a_record_of_which_nothing_is_said_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_challenge(tmp_path / "csn", "JS0001", "")
    write_ludb(tmp_path / "ludb", "7")
    with caplog.at_level(logging.WARNING):
        assert read("csn", tmp_path / "csn") == read("ludb", tmp_path / "ludb") == []
    assert "JS0001" in caplog.text
    assert "ludb/7" in caplog.text


def test_annotations_that_are_missing_skip_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mitdb(tmp_path, "100").with_suffix(".atr").unlink()
    with caplog.at_level(logging.WARNING):
        assert read("mitdb", tmp_path) == []
    assert str(tmp_path / "100") in caplog.text


def test_mimic_tables_that_part_are_refused(tmp_path: Path) -> None:
    root = write_mimic(tmp_path, [("10000032", "1", ["Sinus rhythm"]), ("10000032", "2", ["Sinus rhythm"])])
    table = root / "machine_measurements.csv"
    head, one, two = table.read_text().splitlines()
    for lines, words in (([head, two, one], "names study 1 where .* names 2"), ([head, one], "study 2 where .* names none")):
        table.write_text("\n".join(lines) + "\n")
        with pytest.raises(ConfigError, match=words):
            read("mimic-iv-ecg", root)
    table.write_text("subject_id,study\n")
    with pytest.raises(ConfigError, match="no column 'study_id'"):
        read("mimic-iv-ecg", root)


@pytest.mark.skipif(not (ARCHIVE / "mitdb").is_dir(), reason="needs the MIT-BIH Arrhythmia Database")
def test_the_real_mitdb_shows_only_rhythms_and_beats_that_have_a_concept() -> None:
    concepts = dataset("mitdb").concepts(Path())
    for recording in read("mitdb", ARCHIVE / "mitdb", [1, 2, 10]):
        assert set(recording.codes) <= set(concepts)
