"""Laws of asking in words: percentiles, what the bundle is given, what is said of training, and the command itself."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import kstest, percentileofscore, spearmanr

import edge.ask
from edge.ask import ask_command, checked, in_figures, prepare
from edge.decode.chunk import Chunk
from edge.likeness import MOST_LEAD_SETS, Answer, Asked, Look, answers, cosine, look, percentile_of
from edge.pipeline import Options
from edge.replay import replay
from edge.score import Scores
from edge.transport.file import open_recording
from edge.wording import Known, Wording, in_sentences, measured_auroc
from kernels.bundle import Bundle
from kernels.engine import Engine, Result, open_engine
from kernels.export import bake, head_of
from kernels.findings import ConfigError, Finding
from kernels.language import LanguageModel, embed_prompts
from kernels.reference import SHIPPED_REFERENCE, Reference
from kernels.signal import LEADS, Samples
from kernels.terminal import run
from kernels.words import asked_words, denies, naming_words
from trainer.embed import Embedded, View, embed
from trainer.reference_command import reference_command
from trainer.source import Source
from trainer.text import Hidden, read_prompts
from trainer.zero_shot import logits

from .conftest import ARCHIVE, EXCERPT

TEXTS = ("atrial fibrillation", "sinus rhythm", "left bundle branch block", "banana")
PTB_XL = ARCHIVE / "ptb-xl"

needs_ptb_xl = pytest.mark.skipif(not PTB_XL.is_dir(), reason="needs PTB-XL")


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return LanguageModel()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.read()


@pytest.fixture(scope="module")
def asked(bundle: Bundle, reference: Reference) -> tuple[Asked, list[Known]]:
    return prepare(TEXTS, bundle, reference)


@pytest.fixture(scope="module")
def looks(engine: Engine, asked: tuple[Asked, list[Known]]) -> list[Look]:
    return list(look(open_recording(EXCERPT), engine, asked[0], Options(hop_s=2.0)).windows)


@pytest.fixture(scope="module")
def wording(bundle: Bundle, reference: Reference, language: LanguageModel) -> Wording:
    return Wording(bundle.card, reference.about.taught, language.embed)


@pytest.fixture(scope="module")
def unseen(engine: Engine) -> list[Embedded]:
    """Every third person of fold 9, in all leads and in II."""
    recordings = itertools.islice(Source("ptb-xl", PTB_XL, (9,)).read(), 0, None, 3)
    return embed(recordings, [View(lambda ecg: engine.run(ecg).embedding, leads) for leads in ((), ("II",))], 100.0, 1000)


# --- percentiles


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(-6, 6))
def test_a_percentile_is_that_of_scipy_also_among_equals(others: list[int], value: int) -> None:
    ours = percentile_of(np.array([value / 4]), np.array(others)[:, None] / 4)
    assert ours[0] == pytest.approx(percentileofscore(np.array(others) / 4, value / 4, kind="mean"))


def test_each_window_is_compared_with_the_reference_in_its_own_leads(
    engine: Engine, asked: tuple[Asked, list[Known]], looks: list[Look], reference: Reference
) -> None:
    assert len({seen.leads for seen in looks}) >= 1
    for leads in {seen.leads for seen in looks}:
        ecg = reference.ecg.copy()
        ecg[:, [i for i, lead in enumerate(LEADS) if lead not in leads]] = np.nan
        others = engine.run(ecg).embedding @ asked[0].embedded.T
        for seen in (seen for seen in looks if seen.leads == leads):
            expected = [percentileofscore(column, s, kind="mean") for column, s in zip(others.T, seen.similarity, strict=True)]
            assert seen.percentile == pytest.approx(expected, abs=0.4)  # a rounding may move it past one of 300


@needs_ptb_xl
def test_percentiles_of_people_never_seen_are_uniform_in_any_leads(
    engine: Engine, asked: tuple[Asked, list[Known]], reference: Reference, unseen: list[Embedded]
) -> None:
    """By Kolmogorov and Smirnov for two samples of 112 and 300, 5 %."""
    for seen, leads in zip(unseen, (LEADS, ("II",)), strict=True):
        others = cosine(engine.run(reference.seen_in(leads)).embedding, asked[0])
        percentiles = np.stack([percentile_of(row, others) for row in cosine(seen.windows(), asked[0])])
        assert len(percentiles) == 112
        for column in percentiles.T:
            assert kstest(column / 100, "uniform").statistic < 1.36 * np.sqrt(1 / 112 + 1 / 300)


# --- what the windows and texts are


def test_windows_are_masked_and_scored_as_in_a_replay(engine: Engine, looks: list[Look]) -> None:
    names = [finding.name for finding in engine.bundle.card.findings]
    events = [e for _, told in replay(open_recording(EXCERPT), engine, Options(hop_s=2.0)) for e in told]
    scores = {e.at_s: e for e in events if isinstance(e, Scores) and e.probability}
    assert [seen.at_s for seen in looks] == list(scores)
    for seen in looks:
        told = dict(zip(names, seen.probability.tolist(), strict=True))
        assert {name: told[name] for name in scores[seen.at_s].probability} == pytest.approx(scores[seen.at_s].probability, abs=2e-6)


def test_a_bundle_that_takes_streams_sees_each_window_by_itself(asked: tuple[Asked, list[Known]], reference: Reference) -> None:
    stream = Bundle.read(Path("cardiogloss-stream"))
    texts, _ = prepare(TEXTS[:1], stream, reference)
    with open_engine(stream) as engine:
        alone = look(open_recording(EXCERPT), engine, texts, Options(hop_s=1.0), from_s=60.0).windows
        all_ = look(open_recording(EXCERPT), engine, texts, Options(hop_s=10.0)).windows
    assert [seen.at_s for seen in alone] == [70.0]
    same = next(seen for seen in all_ if seen.at_s == 70.0)
    assert same.similarity == pytest.approx(alone[0].similarity, abs=1e-6)


def test_a_text_is_embedded_as_bake_and_the_trainer_do(
    bundle: Bundle, engine: Engine, asked: tuple[Asked, list[Known]], looks: list[Look]
) -> None:
    head = head_of(bundle)
    text = embed_prompts(LanguageModel(), [[t] for t in TEXTS])
    ecg = asked[0].reference.ecg[:5]
    ours = cosine(engine.run(ecg).embedding, asked[0])
    assert head.scale * ours + head.bias == pytest.approx(logits(head, engine.run(ecg).embedding, text), abs=1e-4)
    with open_engine(bake(bundle, [Finding(name=f"asked_{i}", prompts=(t,)) for i, t in enumerate(TEXTS)])) as baked:
        slope, offset = bundle.card.pooled_calibration
        assert baked.run(ecg).probability == pytest.approx(expit(slope * (head.scale * ours + head.bias) + offset), abs=1e-5)


def test_fibrillation_stands_high_where_the_annotators_saw_it_and_low_elsewhere(looks: list[Look]) -> None:
    notes = wfdb.rdann(str(EXCERPT), "atr")
    rhythm = [
        (sample / notes.fs, note.strip("\x00")) for sample, note in zip(notes.sample, notes.aux_note, strict=True) if note.startswith("(")
    ]
    fibrillates, others = list[float](), list[float]()
    for seen in looks:
        said = {
            note
            for (at, note), end in zip(rhythm, [*(at for at, _ in rhythm[1:]), 1e9], strict=True)
            if at < seen.at_s and end > seen.at_s - 10
        }
        (fibrillates if said == {"(AFIB"} else others if said == {"(N"} else []).append(float(seen.percentile[0]))
    assert len(fibrillates) > 10 and len(others) > 10
    assert np.median(fibrillates) > 95
    assert np.median(others) < 90
    assert np.mean([a > b for a in fibrillates for b in others]) > 0.9


@needs_ptb_xl
def test_a_normal_recording_agrees_with_normal_and_not_with_fibrillation(bundle: Bundle, engine: Engine, reference: Reference) -> None:
    recording = next(r for r in Source("ptb-xl", PTB_XL, (9,)).read() if r.codes[0] == "NORM" and r.amplitude_known)
    texts, known = prepare(("normal ECG", "atrial fibrillation"), bundle, reference)
    (path,) = (PTB_XL / "records100").glob(f"*/{int(recording.id):05}_lr.hea")
    seen = look(open_recording(path), engine, texts, Options()).windows
    normal, fibrillation = answers(seen, texts, known, bundle.card)
    assert normal.percentile > 50 > fibrillation.percentile
    assert normal.probability is not None and fibrillation.probability is not None
    assert normal.probability > 0.5 > fibrillation.probability


class _Counted(Engine):
    """Counts the windows of each call."""

    def __init__(self, engine: Engine) -> None:
        self.bundle, self._engine, self.calls = engine.bundle, engine, list[int]()

    def run(self, ecg: Samples) -> Result:
        self.calls.append(len(ecg))
        return self._engine.run(ecg)

    def close(self) -> None:
        raise AssertionError


class _Idle(_Counted):
    """Sees nothing in any window."""

    width = 0

    def run(self, ecg: Samples) -> Result:
        self.calls.append(len(ecg))
        return Result(np.zeros((len(ecg), len(self.bundle.card.findings)), np.float32), np.zeros((len(ecg), self.width), np.float32))


def test_windows_share_calls_of_the_engine(engine: Engine, asked: tuple[Asked, list[Known]], looks: list[Look]) -> None:
    counted = _Counted(engine)
    look(open_recording(EXCERPT), counted, asked[0], Options(hop_s=2.0))
    assert sum(counted.calls) == len(looks) + 300 * len({seen.leads for seen in looks})
    assert len(counted.calls) <= len(looks) / 8


@dataclass(frozen=True)
class _Flicker:
    """Every 10 s other leads of twelve."""

    lead_sets: Sequence[Sequence[str]]
    name: str = "flicker"
    duration_s: float | None = None

    def chunks(self, block: int = 0) -> Iterator[Chunk]:
        ecg = Reference.read().ecg[0]
        for i, leads in enumerate(self.lead_sets):
            yield Chunk(i * 1100, 100.0, tuple(leads), ecg[[LEADS.index(lead) for lead in leads]])


def test_rare_combinations_of_leads_cost_no_reference_and_are_counted(engine: Engine, asked: tuple[Asked, list[Known]]) -> None:
    rare = [("I", lead) for lead in LEADS[1:]] + [("II", lead) for lead in LEADS[2:]]
    assert len(rare) > MOST_LEAD_SETS
    counted = _Idle(engine)
    counted.width = asked[0].embedded.shape[1]
    seen = look(_Flicker([*[("I", "II")] * 4, *rare]), counted, asked[0], Options(hop_s=10.0))
    assert counted.calls.count(300) == MOST_LEAD_SETS
    assert len(seen.windows) + seen.left_out == 4 + len(rare) and seen.left_out == len(rare) - MOST_LEAD_SETS
    assert sum(len(s.leads) == 6 for s in seen.windows) == 5  # all limb leads follow from two
    few = look(_Flicker([*[("I", "II")] * 120, ("V1",)]), counted, asked[0], Options(hop_s=10.0))
    assert (len(few.windows), few.left_out) == (120, 1)


# --- what is known of a text


@pytest.mark.parametrize(
    ("text", "relation", "statement"),
    [
        ("left bundle branch block", "statement", "left bundle branch block"),
        ("LBBB", "statement", "left bundle branch block"),
        ("AF", "statement", "atrial fibrillation"),
        ("complete heart block", "statement", "complete heart block"),
        ("AV block I", "statement", "1st degree AV block"),
        ("acute inferior myocardial infarction", "more", "inferior myocardial infarction"),
        ("no atrial fibrillation", "more", "atrial fibrillation"),
        ("ventricular trigeminy", "more", "trigeminy"),
        ("idioventricular", "less", "Idioventricular rhythm"),
        ("mitral valve disease", "mentioned", None),
        ("sinus pause", "never", None),
        ("Osborn wave", "never", None),
        ("Brugada pattern", "unlike", None),
        ("banana", "unlike", None),
        ("the weather is nice today", "unlike", None),
    ],
)
def test_a_text_is_held_against_what_was_said_of_the_training_recordings(
    wording: Wording, text: str, relation: str, statement: str | None
) -> None:
    (known,) = wording.known([text])
    assert (known.relation, known.statements[0].texts[0] if known.statements else None) == (relation, statement)


def test_what_was_never_trained_is_said_to_be_so_with_what_was_measured(wording: Wording, reference: Reference) -> None:
    told = {text: " ".join(in_sentences(k, reference.about.taught)) for text, k in zip(_ODD, wording.known(_ODD), strict=True)}
    assert "Never trained" in told["sinus pause"] and "0.64" in told["sinus pause"] and "'pause'" in told["sinus pause"]
    assert "mean nothing" in told["banana"] and "0.64" not in told["banana"]
    assert "does not understand a denial" in told["no atrial fibrillation"]
    assert told["sinus rhythm"].startswith("Trained: ") and "common" in told["sinus rhythm"]
    assert "common" not in told["AF"]


_ODD = ("sinus pause", "banana", "no atrial fibrillation", "sinus rhythm", "AF")


@pytest.mark.parametrize(
    ("text", "name"), [("LBBB", "left_bundle_branch_block"), ("Sinus Tachycardia", "sinus_tachycardia"), ("AF", "atrial_fibrillation")]
)
def test_a_finding_of_the_bundle_is_recognised_in_any_spelling(wording: Wording, text: str, name: str) -> None:
    (known,) = wording.known([text])
    assert known.finding is not None and known.finding.name == name


def test_no_other_finding_is_taken_for_one_of_the_bundle(wording: Wording) -> None:
    told = wording.known(["right bundle branch", "incomplete left bundle branch block", "atrial", "ventricular fibrillation"])
    assert [known.finding for known in told] == [None] * 4


def test_a_bundle_of_other_training_is_told_nothing_about(bundle: Bundle, reference: Reference) -> None:
    def never(texts: Sequence[str]) -> Samples:
        raise AssertionError(texts)

    card = bundle.card.model_copy(update={"training": {"sources": {"csn": [1, 2]}}})
    known = Wording(card, reference.about.taught, never).known(["atrial fibrillation", "banana"])
    assert [k.relation for k in known] == ["unknown", "unknown"]
    assert known[0].finding is not None
    assert "not known" in in_sentences(known[1], reference.about.taught)[0]


def test_words_are_those_by_which_the_trainer_hides_findings() -> None:
    texts = [text for ways in read_prompts().values() for text in ways]
    for one in texts:
        hidden = Hidden.of([one])
        assert [hidden.named_by(other) for other in texts] == [naming_words(one) <= naming_words(other) for other in texts], one


_DENIALS = (
    "no AF, AF is absent, MI ruled out, rules out MI, free of ischemia, arrhythmia-free, negative for ischemia, kein Vorhofflimmern, "
    "keine Ischämie, ohne Befund, nicht normal, Keinen Infarkt, isn't AF, without AF, lack of P waves, non sinus"
)
_NO_DENIALS = "non-specific ischemia, non-diagnostic T waves, nodal rhythm, notched P, negative T waves, freeze, sinus rhythm, ST elevation"


@pytest.mark.parametrize(("texts", "expected"), [(_DENIALS, True), (_NO_DENIALS, False)])
def test_a_denial_is_noticed_and_nothing_else_is_one(texts: str, expected: bool) -> None:
    assert {text: denies(text) for text in texts.split(", ")} == dict.fromkeys(texts.split(", "), expected)


def test_a_denial_is_told_to_be_useless(wording: Wording, reference: Reference) -> None:
    for known in wording.known(["no AF", "MI ruled out", "negative for ischemia", "kein Vorhofflimmern"]):
        told = in_sentences(known, reference.about.taught)
        assert told[-1] == "It does not understand a denial; do not rely on it." and "as it would without" not in " ".join(told)


@needs_ptb_xl
def test_a_denial_ranks_people_neither_as_what_it_denies_nor_the_other_way(
    bundle: Bundle, reference: Reference, unseen: list[Embedded]
) -> None:
    """Why nothing is claimed of it but that it is not understood."""
    asked, _ = prepare(("atrial fibrillation", "no atrial fibrillation"), bundle, reference)
    rho = float(spearmanr(cosine(unseen[0].windows(), asked)).statistic)
    assert 0 < rho < 0.8


def test_only_what_the_card_names_as_a_concept_was_trained(wording: Wording, bundle: Bundle, reference: Reference) -> None:
    concepts, statements = set(bundle.card.training["concepts"]), reference.about.taught.statements
    asked = [statement for statement in statements if asked_words(statement.texts[0])]
    rare = 0
    for statement, known in zip(asked, wording.known([s.texts[0] for s in asked]), strict=True):
        named = {s.name for s in statements if any(asked_words(t) == asked_words(statement.texts[0]) for t in s.texts)}
        assert (known.relation, known.trained) == ("statement", "yes" if named & concepts else "hardly"), statement.name
        assert in_sentences(known, reference.about.taught)[0].startswith("Trained:" if named & concepts else "Hardly trained:")
        rare += not named & concepts
    assert rare > 50
    assert [k.trained for k in wording.known(["complete heart block", "ventricular tachycardia", "AF"])] == ["hardly", "hardly", "yes"]


@pytest.mark.parametrize("age", ["acute", "old", "Recent"])
def test_an_age_is_told_to_be_one_that_training_hardly_told_apart(age: str, wording: Wording, bundle: Bundle, reference: Reference) -> None:
    aged, known = wording.known([f"{age} inferior myocardial infarction", "inferior MI"])
    assert (aged.relation, aged.trained, known.relation) == ("more", "in part", "statement")
    assert aged.finding == known.finding is not None
    assert f"'{age.lower()}' was hardly told apart in training." in in_sentences(aged, reference.about.taught)
    assert measured_auroc(bundle.card, aged, LEADS) is None and measured_auroc(bundle.card, known, LEADS) is not None


def test_a_beat_is_ectopic_only_beside_what_makes_it_so(wording: Wording) -> None:
    ectopic = (
        "ventricular beats",
        "PVC",
        "premature beats",
        "supraventricular complexes",
        "extrasystoles",
        "ventricular premature contraction",
    )
    assert all("ectopic" in asked_words(text) for text in ectopic)
    assert not any("ectopic" in asked_words(text) for text in ("QRS complex", "heart beats", "ventricular escape beats", "QS complex"))
    for known in wording.known(["QRS complex", "heart beats"]):
        assert not any("extrasystole" in text or "premature" in text for s in known.statements for text in s.texts)


def test_the_degree_of_a_block_is_read_in_front_and_behind() -> None:
    for behind, front in (("AV block I", "first"), ("AV-Block II", "second"), ("av block iii", "third"), ("AV block 1", "first")):
        assert asked_words(behind) == asked_words(f"{front} degree AV block")
    assert asked_words("AV block in inferior MI") == {"av", "block", "inferior", "infarction"}
    assert asked_words("second degree AV block (Mobitz I)") == {"second", "degree", "av", "block", "mobitz", "i"}


def test_what_is_mentioned_often_is_not_called_hardly_trained(wording: Wording, reference: Reference) -> None:
    often, seldom = wording.known(["normal", "mitral valve disease"])
    assert (often.relation, often.trained, seldom.relation, seldom.trained) == ("mentioned", "in part", "mentioned", "hardly")
    told = " ".join(in_sentences(often, reference.about.taught))
    assert "ardly" not in told and "only" not in told and "3,246 times" in told


@pytest.mark.parametrize("text", ["Vorhofflimmern", "心房細動", "Präexzitation", "fibrilación auricular", "мерцательная аритмия"])
def test_a_text_in_another_language_is_asked_whole_and_nothing_false_is_said_of_it(
    text: str, wording: Wording, reference: Reference
) -> None:
    assert checked([text]) == (text,)
    assert asked_words(text) == set(text.casefold().split())
    (known,) = wording.known([text])
    told = " ".join(in_sentences(known, reference.about.taught))
    assert "Never trained in these words" in told and "best in English" in told and "through their translation" in told
    assert "mean nothing" not in told or "If they are English" in told


def test_training_hides_by_the_words_it_always_did() -> None:
    for text, words in (
        ("old inferior MI", {"inferior", "infarction"}),
        ("acute Präexzitation", {"pr", "exzitation"}),
        ("QRS complex", {"qrs", "ectopic"}),
        ("AV block I", {"av", "block", "i"}),
        ("Non-specific ischaemia", {"nonspecific", "ischemia"}),
    ):
        assert naming_words(text) == words


# --- the reference


def test_a_reference_is_read_as_it_was_written_to_the_step(reference: Reference, tmp_path: Path) -> None:
    moved = Reference(reference.about, reference.ecg[:20] + np.float32(0.003))
    moved.write(tmp_path / "other.npz")
    read = Reference.read(tmp_path / "other.npz")
    assert read.about == reference.about
    measured = [LEADS.index(lead) for lead in ("I", "II", "V1", "V6")]
    assert np.abs(read.ecg - moved.ecg)[:, measured].max() <= 0.005 + 1e-5


def test_the_shipped_reference_keeps_einthovens_law(reference: Reference) -> None:
    lead = dict(zip(LEADS, reference.ecg.swapaxes(0, 1), strict=True))
    assert np.allclose(lead["III"], lead["II"] - lead["I"], atol=1e-5)
    assert np.allclose(lead["aVR"] + lead["aVL"] + lead["aVF"], 0, atol=1e-5)


@needs_ptb_xl
def test_statements_are_counted_as_the_tables_have_them(reference: Reference) -> None:
    rows = [
        row for name in ("ptb-xl", "ptb-xl-znorm") for row in csv.DictReader((ARCHIVE / name / "ptbxl_database.csv").open(encoding="utf-8"))
    ]
    taught = [row["scp_codes"] for row in rows if int(row["strat_fold"]) <= 8]
    counts = {statement.name: statement.recordings for statement in reference.about.taught.statements}
    assert reference.about.taught.recordings == len(taught)
    for code in ("AFIB", "CLBBB", "NORM", "LVH"):
        assert counts[code] == sum(f"'{code}'" in codes for codes in taught)


def test_a_file_that_is_no_reference_is_told_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", ecg=np.zeros(3))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(SHIPPED_REFERENCE.read_bytes()[:5000])
    (tmp_path / "text.npz").write_text("none")
    for path in tmp_path.iterdir():
        with pytest.raises(ConfigError, match="is no reference"):
            Reference.read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Reference.read(tmp_path / "absent.npz")


def test_the_command_that_makes_a_reference_takes_what_the_bundle_was_trained_on(ptbxl: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out.json"
    held_out.write_text(json.dumps({"rows": [{"task": "held-out all", "value": 0.5, "low": 0.4, "high": 0.6, "per_class": {"AFIB": 0.5}}]}))
    reference_command([str(ptbxl)], tmp_path / "made.npz", held_out=held_out, most=20)
    made = Reference.read(tmp_path / "made.npz")
    taught = {int(row["strat_fold"]): 0 for row in csv.DictReader((ptbxl / "ptbxl_database.csv").open())}
    assert 10 in taught and made.about.taught.recordings == 32
    assert made.ecg.shape == (20, 12, 1000) and not np.isnan(made.ecg).any()
    assert {s.name: s.recordings for s in made.about.taught.statements}["NORM"] == 32
    assert made.about.taught.held_out is not None and made.about.taught.held_out.findings == 1
    with pytest.raises(ConfigError, match="not trained on it"):
        reference_command([f"cinc2017={ptbxl}"], tmp_path / "other.npz")


# --- the command


def _code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name="ask")(ask_command)
    monkeypatch.setattr("sys.argv", ["cardiogloss", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(app, "cardiogloss")
    return int(ended.value.code or 0)


def test_the_command_tells_of_each_text_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["atrial fibrillation", "normal ECG", "sinus pause"]
    assert _code([str(EXCERPT), *texts, "--json", "--hop", "10"], monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert [answer["text"] for answer in told["answers"]] == texts
    fibrillation, normal, pause = told["answers"]
    assert fibrillation["finding"] == "atrial_fibrillation" and fibrillation["highest_probability"] > 0.9
    assert fibrillation["percentile"] == pytest.approx(np.median([p for _, p, _ in fibrillation["by_window"]]), abs=0.01)
    assert normal["finding"] == "normal_ecg" and normal["probability"] is None
    assert pause["relation"] == "never" and pause["finding"] is None and pause["auroc"] is None
    assert told["windows"] == len(fibrillation["by_window"]) == 27


def test_the_command_says_in_words_what_was_trained_and_what_the_leads_cannot_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _code([str(EXCERPT), "LBBB", "normal ECG", "[red]banana", "--at", "20"], monkeypatch) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 window of 10 s, leads II V1" in told
    assert "The bundle knows this as left bundle branch block: probability 0.0" in told
    assert "These leads cannot show normal ECG, which needs I+II+V1" in told
    assert "[red]banana: Never trained" in told and "mean nothing" in told
    assert re.search(r"\[red\]banana \(\d+ %\)", told)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument"),
        ([str(EXCERPT)], "Missing argument"),
        ([str(EXCERPT), " "], "names nothing"),
        ([str(EXCERPT), "AF", "?!"], "names nothing"),
        ([str(EXCERPT), "AF", "--at", "-3"], "--at"),
        ([str(EXCERPT), "AF", "--at", "nan"], "--at"),
        ([str(EXCERPT), "AF", "--at", "265"], "nothing to compare"),
        ([str(EXCERPT), "AF", "--at", "500"], "lasts only 270 s"),
        ([str(EXCERPT), "AF", "--hop", "11"], "--hop"),
        ([str(EXCERPT), "AF", "--reference", "nowhere.npz"], "cannot read reference"),
        ([str(EXCERPT), "AF", "--bundle", "nowhere.onnx"], "cannot read bundle"),
        (["nowhere", "AF"], "no such recording"),
    ],
)
def test_a_mistake_ends_with_code_2_and_says_what_to_mend(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _code(arguments, monkeypatch) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["torch", "transformers", "onnx"])
def test_without_the_language_model_one_sentence_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edge.ask, "find_spec", lambda name: None if name == missing else importlib.util.find_spec(name))
    assert _code([str(EXCERPT), "AF"], monkeypatch) == 2
    told = capsys.readouterr().err.strip()
    assert told.endswith("pip install 'cardiogloss[text]'") and "Traceback" not in told


@pytest.mark.parametrize(("leads", "measured"), [(LEADS, 0.999), (("II", "V1"), None), (("V1", "II", "I"), 0.7)])
def test_an_auroc_is_told_only_of_the_leads_it_was_measured_in(
    leads: Sequence[str], measured: float | None, bundle: Bundle, wording: Wording
) -> None:
    rows = [{**r, "per_class": {"atrial_fibrillation": a}, "leads": of} for r in bundle.card.metrics["rows"] for of, a in _ROWS.items()]
    card = bundle.card.model_copy(update={"metrics": {"rows": rows}})
    (known,) = wording.known(["AF"])
    assert measured_auroc(card, known, leads) == measured


_ROWS = {"all": 0.999, "I,II,V1": 0.7}


def test_the_auroc_of_twelve_leads_is_not_told_of_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _code([str(EXCERPT), "AF", "--hop", "10"], monkeypatch) == 0
    told = capsys.readouterr().out
    assert "The bundle knows this as" in told and "AUROC" not in told


@given(st.floats(0, 1))
def test_an_auroc_is_not_rounded_up_to_one(auroc: float) -> None:
    assert (float(in_figures(auroc)) < 1) == (auroc < 1)
    assert float(in_figures(auroc)) == pytest.approx(auroc, abs=0.0051)


def test_an_auroc_of_nearly_one_is_told_to_three_places() -> None:
    assert [in_figures(a) for a in (0.9991, 0.99999, 0.9949, 0.953)] == ["0.999", "0.999", "0.99", "0.95"]


def test_texts_are_asked_once_each_without_their_blanks() -> None:
    assert checked(["  long   QT ", "AF", "long QT"]) == ("long QT", "AF")


def test_a_finding_that_some_windows_cannot_show_is_scored_in_the_others(
    bundle: Bundle, looks: list[Look], asked: tuple[Asked, list[Known]], wording: Wording
) -> None:
    (known,) = wording.known(["left bundle branch block"])
    told: list[Answer] = []
    for leads in (frozenset({"V1"}), frozenset({"II"})):
        mixed = [
            Look(s.at_s, leads if i % 2 else frozenset({"II"}), s.similarity, s.percentile, s.probability) for i, s in enumerate(looks)
        ]
        told += answers(mixed, Asked(TEXTS[:1], asked[0].embedded[:1], asked[0].reference), [known], bundle.card)
    column = [f.name for f in bundle.card.findings].index("left_bundle_branch_block")
    assert told[0].probability == pytest.approx(np.median([s.probability[column] for s in looks[1::2]]))
    assert told[1].probability is None
