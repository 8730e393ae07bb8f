"""The trainer on a tiny set in PTB-XL's layout: it learns, resumes to the bit, shares its work, and exports what torch computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer
from typer.testing import CliRunner

from kernels.engine import open_engine
from kernels.export import bake, export_run, read_head
from kernels.findings import ConfigError, Finding, read_toml
from kernels.signal import LEADS
from tests.conftest import heart
from trainer.augment import Augment
from trainer.batches import Batch, TrainingSet, keep_leads, make_training_set
from trainer.command import app
from trainer.datasets.ptb_xl import read_ptb_xl
from trainer.heldout import FAMILIES, Found, find, split
from trainer.loss import UNTOLD, info_nce, jaccard, soft_sigmoid
from trainer.model import Encoder, Model, encoder_of
from trainer.options import parse_folds
from trainer.ranks import Ranks
from trainer.recipe import RECIPES, Recipe, check_recipe, read_recipe
from trainer.records import Recording, cut_windows
from trainer.source import Source
from trainer.store import Store, open_store
from trainer.text import Hidden, Said, collect_concepts, read_prompts, what_is_said
from trainer.train import TRAIN_FOLDS, Training, batch_losses, train
from trainer.train_command import changed
from trainer.warmup import WarmUp

RECIPE = Recipe(epochs=3, batch=8, width=4, kernel=3, dim=16, learning_rate=5e-3)
FINDINGS = (
    Finding(name="slow", prompts=("sinus bradycardia",), scp=("SBRAD",)),
    Finding(name="fast", prompts=("sinus tachycardia",), scp=("STACH",)),
)
MACHINE = {"NSR": "Normal sinus rhythm", "NML": "*** Normal ECG ***", "LPAREN": "("}
SCP = {code: code for code in read_prompts()}


@pytest.fixture(scope="module")
def store(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store([Source("ptb-xl", ptbxl, TRAIN_FOLDS)], 100, 10, tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def data(store: Store, ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return make_training_set(store, [Source("ptb-xl", ptbxl, TRAIN_FOLDS)], RECIPE, Hidden(), tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def run(data: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    list(train(Training(RECIPE, data, folder)))
    return folder


def ecg_of(root: Path, folds: list[int]) -> torch.Tensor:
    """[n, 12, 1000]"""
    return torch.from_numpy(np.concatenate([cut_windows(r, 100, 1000, hop=1000) for r in read_ptb_xl(root, folds)]))


# Recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read_and_builds_an_encoder_under_six_million_parameters(path: Path) -> None:
    recipe = read_recipe(path.stem)
    assert sum(p.numel() for p in encoder_of(recipe.model_dump()).parameters()) <= 6_000_000


def test_a_wrong_recipe_says_which_key_and_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'best'; give a file, or one of cardiogloss, etp, mets"):
        read_recipe("best")
    (tmp_path / "mine.toml").write_text("epoch = 3")
    with pytest.raises(ConfigError, match=r"epoch: .*; known keys are text_encoder, width"):
        read_recipe(str(tmp_path / "mine.toml"))
    for line, words in (
        ("epochs=0", "greater than or equal to 1"),
        ('class_prompt="ECG"', "must hold {text} once"),
        ("epochs", "is not TOML"),
        ("kernel=4", "must be odd"),
        ("causal=true\npooling='mean'", "causal needs pooling"),
        ("causal=true\nkernel=1", "a kernel above 1"),
        ("causal=true\nlead_aware=false", "lead_aware = true"),
        ('caption_prompt="{a} {text} b"', "no other braces"),
    ):
        with pytest.raises(ConfigError, match=words):
            changed(RECIPE, [line])
    with pytest.raises(ConfigError, match="must not both be 0"):
        check_recipe({"caption_weight": 0, "concept_weight": 0}, "mine")
    assert changed(RECIPE, ["epochs=7", 'loss="info-nce"']).loss == "info-nce"


# Texts


def recording(report: str = "", codes: tuple[str, ...] = (), machine: tuple[str, ...] = ()) -> Recording:
    return Recording("1", np.zeros((12, 10), np.float32), 100, report, codes, machine, "1", 1)


def test_captions_say_codes_machine_statements_and_the_report_in_english() -> None:
    said = what_is_said(recording("sinusrhythmus. linksschenkelblock", ("NORM", "SR"), ("NSR", "NML")), SCP, read_prompts(), MACHINE)
    assert said.caption("codes") == "normal ECG, sinus rhythm"
    assert said.caption("machine") == "Normal sinus rhythm Normal ECG"
    assert said.caption("report") == "sinus rhythm, left bundle branch block"
    assert said.caption("all") == ". ".join(said.caption(who) for who in ("codes", "machine", "report"))
    assert set(said.concepts) == {"NORM", "SR", "12SL:NSR", "12SL:NML", "report:sinus rhythm", "report:left bundle branch block"}


def test_who_is_silent_is_spoken_for_by_the_others() -> None:
    assert what_is_said(recording(codes=("SR",)), SCP, read_prompts(), {}).caption("report") == "sinus rhythm"
    assert what_is_said(recording(), SCP, read_prompts(), {}).caption("all") == "ECG"


def test_rare_concepts_glue_and_hidden_ones_are_left_out() -> None:
    count = Counter(
        {"NORM": 9, "SR": 9, "SBRAD": 4, "12SL:NSR": 9, "12SL:LPAREN": 9, "report:sinus bradycardia": 9, "report:T wave inversion": 9}
    )
    concepts = collect_concepts(count, read_prompts(), {"NSR": "Normal sinus rhythm", "LPAREN": ""}, Hidden.of(["sinus bradycardia"]))
    assert concepts.names == ("12SL:NSR", "NORM", "SR", "report:T wave inversion")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Left bundle branch block", True),
        ("block of the left branch, bundle", True),
        ("incomplete left bundle-branch block", True),
        ("right bundle branch block", False),
        ("LBBB with wide QRS", True),
        ("RBBB", False),
        ("", False),
    ],
)
def test_a_text_names_what_is_hidden_when_it_holds_all_its_words(text: str, named: bool) -> None:
    hidden = Hidden.of(["left bundle branch block"])
    assert hidden.named_by(text) is named
    assert Said((), codes=(text,), report=(text, "sinus rhythm")).without(hidden).caption("report") == (
        "sinus rhythm" if named else f"{text}, sinus rhythm"
    )


def test_nothing_hidden_changes_nothing() -> None:
    said = Said(("SR",), codes=("sinus rhythm",), machine=("(",), report=("normal ECG",))
    assert said.without(Hidden()) == said


# The store


def test_the_store_holds_every_window_and_is_read_once(ptbxl: Path, store: Store) -> None:
    assert np.array_equal(store.ecg, ecg_of(ptbxl, list(TRAIN_FOLDS)).numpy())
    assert [said.codes for _, said in store.said()] == [
        tuple(read_prompts()[code][0] for code in r.codes) for r in read_ptb_xl(ptbxl, TRAIN_FOLDS)
    ]
    before = (store.folder / "ecg.f32").stat().st_mtime_ns
    again = open_store([Source("ptb-xl", ptbxl, TRAIN_FOLDS)], 100, 10, store.folder.parent)
    assert (again.folder / "ecg.f32").stat().st_mtime_ns == before


def test_a_long_recording_gives_every_whole_window_and_a_short_one_ends_in_nan() -> None:
    long, short = (Recording("1", heart(70, seconds, 100), 100, "", (), (), "1", 1) for seconds in (25, 4))
    assert cut_windows(long, 100, 1000, hop=1000).shape == (2, 12, 1000)
    assert np.isnan(cut_windows(short, 100, 1000, hop=1000)[0, :, 400:]).all()
    assert not np.isnan(cut_windows(short, 100, 1000, hop=1000)[0, :, :399]).any()


def test_memory_does_not_grow_with_the_data(ptbxl: Path, tmp_path: Path) -> None:
    peaks = []
    for folds in ([1], TRAIN_FOLDS):
        tracemalloc.start()
        open_store([Source("ptb-xl", ptbxl, tuple(folds))], 100, 10, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_what_a_data_set_never_speaks_of_is_neither_shown_nor_absent(data: TrainingSet, tmp_path: Path) -> None:
    """MIT-BIH knows rhythms: it must not teach that its recordings have a normal voltage."""
    assert set(np.unique(data.shown)) == {0, 1}
    told = next(iter(_challenge_set(tmp_path).shown))
    names = _challenge_set(tmp_path).concepts.names
    assert {name: told[i] for i, name in enumerate(names)}["SBRAD"] == 1
    assert {told[i] for i, name in enumerate(names) if name.startswith(("12SL:", "report:"))} <= {UNTOLD}


def _challenge_set(folder: Path) -> TrainingSet:
    root = folder / "csn"
    root.mkdir(exist_ok=True)
    for i in range(12):
        digits = (heart(50, 10, 500, seed=i) * 1000).astype("<i2")
        (root / f"JS{i}.mat").write_bytes(b"\0" * 24 + digits.T.tobytes())
        lines = [f"JS{i}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (root / f"JS{i}.hea").write_text("\n".join([f"JS{i} 12 500 {digits.shape[1]}", *lines, "#Dx: 426177001", ""]))
    sources = [Source.parse(f"csn={root}", range(1, 11))]
    return make_training_set(open_store(sources, 100, 10, folder / "windows"), sources, RECIPE, Hidden(), folder / "set")


@pytest.mark.parametrize(("text", "words"), [("nothing", "is not a folder"), ("ptb=.", "unknown dataset 'ptb'")])
def test_a_wrong_source_says_what_it_wants(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Source.parse(text, [1])


# Losses


@given(hnp.arrays(bool, st.tuples(st.integers(2, 8), st.integers(1, 6))))
def test_jaccard_equals_the_overlap_of_sets(shown: np.ndarray) -> None:
    sets = [set(np.flatnonzero(row)) for row in shown]
    wanted = [[1.0 if i == j or not a | b else len(a & b) / len(a | b) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    assert np.allclose(jaccard(torch.tensor(shown, dtype=torch.float32)), wanted)


def test_jaccard_asks_only_for_what_both_could_have_told() -> None:
    """A recording that was only asked for its rhythm is no stranger to one of the same rhythm with more said of it."""
    shown = torch.tensor([[1.0, UNTOLD, UNTOLD], [1, 1, 0], [0, 1, 0], [0, UNTOLD, UNTOLD]])
    assert jaccard(shown)[0].tolist() == [1, 1, 0, 0]
    assert jaccard(shown)[1, 2] == 0.5


def test_identical_reports_are_positives_of_each_other() -> None:
    """The pull towards a twin is that towards the recording's own text."""
    logits = torch.zeros(3, 3, requires_grad=True)
    soft_sigmoid(logits, jaccard(torch.tensor([[1.0, 0], [1, 0], [0, 1]]))).backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad[0], logits.grad[0, [1, 0, 2]])
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


def test_sigmoid_loss_equals_torch_and_untold_targets_pull_nowhere() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0.0, 1, 0, 1, UNTOLD]] * 4)
    loss = soft_sigmoid(logits, targets)
    assert torch.allclose(loss, nn.BCEWithLogitsLoss(reduction="sum")(logits[:, :4], targets[:, :4]) / 4)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, 4].any()
    assert logits.grad[:, :4].all()


def test_info_nce_equals_cross_entropy_both_ways() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    own = torch.arange(6)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(info_nce(logits, torch.eye(6)), wanted)


# Augmentation


def test_augmentation_is_drawn_from_its_generator_and_hides_whole_leads(ptbxl: Path) -> None:
    ecg = ecg_of(ptbxl, [1, 2])
    first, again = (Augment(torch.Generator().manual_seed(5), lead_subsets=1.0)(ecg) for _ in range(2))
    assert torch.equal(first.nan_to_num(), again.nan_to_num())
    present = ~first.isnan().all(dim=2)
    assert present.any(dim=1).all()
    both = present[:, 0] & present[:, 1]
    assert torch.equal(present[both][:, 2:6].all(dim=1), both[both])


def test_every_customary_set_of_leads_is_drawn() -> None:
    ecg = torch.zeros(4000, 12, 8)
    present = ~Augment(torch.Generator().manual_seed(0), lead_subsets=0.9)(ecg).isnan().all(dim=2)
    drawn = {"".join("x" if there else "." for there in row) for row in present.tolist()}
    for names in ("I", "II", "I II III aVR aVL aVF", "II V1", "I II III aVR aVL aVF V2", " ".join(LEADS)):
        assert "".join("x" if lead in names.split() else "." for lead in LEADS) in drawn


def test_no_window_of_a_recording_with_one_lead_is_blank() -> None:
    ecg = torch.full((300, 12, 50), torch.nan)
    ecg[:, 1] = 1.0
    assert not Augment(torch.Generator().manual_seed(0), lead_subsets=1.0)(ecg).isnan().flatten(1).all(dim=1).any()


def test_reversed_arms_keep_einthovens_law(ptbxl: Path) -> None:
    """A lead that follows from I and II still does, and the chest does not notice."""
    ecg = ecg_of(ptbxl, list(TRAIN_FOLDS))
    ecg = ecg.clone()
    ecg[:, 2], ecg[:, 3] = ecg[:, 1] - ecg[:, 0], -(ecg[:, 0] + ecg[:, 1]) / 2
    ecg[:, 4], ecg[:, 5] = ecg[:, 0] - ecg[:, 1] / 2, ecg[:, 1] - ecg[:, 0] / 2
    ecg = ecg.repeat(20, 1, 1)
    seen = Augment(torch.Generator().manual_seed(1))._reversed(ecg)
    changed_ = (seen != ecg).any(dim=2)
    assert changed_.any(dim=0).tolist() == [True] * 5 + [False] * 7
    assert torch.allclose(seen[:, 2], seen[:, 1] - seen[:, 0], atol=1e-6)
    assert torch.allclose(seen[:, 4], seen[:, 0] - seen[:, 1] / 2, atol=1e-6)
    hit = changed_[:, 0]
    assert torch.equal(seen[hit, 0], -ecg[hit, 0])
    assert 0.005 < hit.float().mean() < 0.05


def test_without_electrodes_and_subsets_nothing_changes(ptbxl: Path) -> None:
    ecg = ecg_of(ptbxl, [1])
    assert torch.equal(Augment(torch.Generator(), lead_subsets=0.0, electrode=False)(ecg), ecg)


def test_keep_leads_is_what_a_device_with_these_leads_shows(ptbxl: Path) -> None:
    ecg = ecg_of(ptbxl, [1])
    one, two = keep_leads(ecg, ["II"]), keep_leads(ecg, ["I", "II"])
    assert [lead for lead, x in zip(LEADS, one[0], strict=True) if not x.isnan().any()] == ["II"]
    assert [lead for lead, x in zip(LEADS, two[0], strict=True) if not x.isnan().any()] == list(LEADS[:6])
    assert torch.allclose(two[:, 2], ecg[:, 1] - ecg[:, 0])


# Training


def test_a_run_that_was_killed_goes_on_to_the_same_weights(data: TrainingSet, run: Path, tmp_path: Path) -> None:
    stopped = Training(RECIPE, data, tmp_path)
    stopped.run_epoch()
    stopped.save()
    stopped.run_epoch()  # not saved: lost in the kill
    torch.manual_seed(99)
    list(train(Training(RECIPE, data, tmp_path)))
    whole, resumed = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (run, tmp_path))
    assert all(torch.equal(whole["ema"][name], resumed["ema"][name]) for name in whole["ema"])


def test_a_run_of_another_recipe_or_a_damaged_one_is_not_taken_up(data: TrainingSet, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begun with another epochs, learning_rate"):
        Training(RECIPE.model_copy(update={"epochs": 9, "learning_rate": 1e-3}), data, run)
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match="is damaged"):
        Training(RECIPE, data, tmp_path)
    with pytest.raises(ConfigError, match="begun with other recordings, texts or noise"):
        Training(RECIPE, data, run, torch.zeros(4, 2000))
    with pytest.raises(ConfigError, match="does not divide among 3 processes"):
        Training(RECIPE, data, tmp_path / "new", None, Ranks(0, 3))
    with pytest.raises(ConfigError, match=r"batch 64 exceeds the 3. windows"):
        Training(RECIPE.model_copy(update={"batch": 64}), data, tmp_path / "new")


@pytest.mark.parametrize("name", ["mets", "etp", "cardiogloss"])
def test_every_recipe_learns_and_exports_what_torch_computes(
    name: str, data: TrainingSet, store: Store, ptbxl: Path, tmp_path: Path
) -> None:
    small = {"epochs": 4, "batch": 8, "width": 4, "kernel": 3, "dim": 16, "learning_rate": 5e-3, "short_epochs": 1}
    recipe = read_recipe(name).model_copy(update=small)
    own = make_training_set(store, [Source("ptb-xl", ptbxl, TRAIN_FOLDS)], recipe, Hidden(), tmp_path)
    training = Training(recipe, own, tmp_path)
    part = "concept" if recipe.concept_weight else "caption"
    losses = [epoch[part] for epoch in train(training)]
    assert losses[-1] < losses[0]
    model, bundle = training.ema.module.eval(), export_run(tmp_path, FINDINGS)
    ecg = keep_leads(ecg_of(ptbxl, [9]), ["I", "II", "V3"])
    match = model.match_concept if recipe.concept_weight else model.match_caption
    with torch.inference_mode():
        embedding = model.encoder(ecg)
        text = model.text(torch.tensor(read_head(onnx.load_model_from_string(bundle.onnx)).text))
        probability = match(embedding, text).sigmoid()
    with open_engine(bundle) as engine:
        result = engine.run(ecg.numpy())
    assert np.allclose(result.embedding, embedding, atol=1e-5)
    assert np.allclose(result.probability, probability, atol=1e-5)
    assert bundle.card.training["recipe"]["class_prompt"] == recipe.class_prompt


def test_a_warmed_up_encoder_tells_windows_apart_and_resumes_to_the_bit(store: Store, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"warmup_epochs": 3})

    def warm(folder: Path, epochs: int) -> tuple[Encoder, list[float]]:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        warming = WarmUp(recipe, encoder_of(recipe.model_dump()), store, folder, None, Ranks())
        losses = [loss for loss, _ in zip(warming.run(), range(epochs), strict=False)]
        return warming.encoder, losses

    whole, losses = warm(tmp_path / "whole", 3)
    warm(tmp_path / "cut", 1)
    resumed, _ = warm(tmp_path / "cut", 3)
    assert losses[-1] < losses[0]
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


# Several processes

RANK = """
import sys
from pathlib import Path
import torch
from tests.test_trainer import gradients
from trainer.ranks import ranks
with ranks() as among:
    torch.set_num_threads(1)
    found = gradients(sys.argv[1], among)
    torch.save(found, Path(sys.argv[2]) / f"{among.rank}.pt")
"""


def gradients(loss: str, among: Ranks) -> dict[str, torch.Tensor]:
    """The loss and every gradient of one batch of eight, of which this rank sees its share."""
    recipe = RECIPE.model_copy(update={"loss": loss, "soft_targets": loss == "sigmoid"})
    torch.manual_seed(3)
    model = Model(6, encoder_of(recipe.model_dump())).eval()  # batch norm of a share is not that of the whole
    whole = Batch(torch.randn(8, 12, 200), torch.randn(8, 6), (torch.rand(8, 5) < 0.4).float())
    concept = torch.randn(5, 6)
    batch = Batch(*(among.share(part) for part in (whole.ecg, whole.caption, whole.shown)))
    losses = batch_losses(model, recipe, among, model.encoder(batch.ecg), batch, concept)
    (losses["caption"] + losses["concept"]).backward()
    among.average_gradients(model)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()} | found


def torchrun(*words: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, *words], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("loss", ["sigmoid", "info-nce"])
def test_two_processes_have_the_loss_and_the_gradients_of_one(loss: str, tmp_path: Path) -> None:
    """Negatives are gathered: each signal meets the captions of both."""
    (tmp_path / "rank.py").write_text(RANK)
    torchrun(str(tmp_path / "rank.py"), loss, str(tmp_path))
    alone = gradients(loss, Ranks())
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert shared.keys() == alone.keys()
        assert all(torch.allclose(shared[name], alone[name], atol=1e-5) for name in alone)


def test_torchrun_trains_one_model_on_two_processes(ptbxl: Path, tmp_path: Path) -> None:
    sets = [word for line in ("epochs=1", "batch=8", "width=4", "kernel=3", "warmup_epochs=1") for word in ("--set", line)]
    torchrun("-m", "trainer", "train", "--root", str(ptbxl), "--out", str(tmp_path / "run"), *sets)
    assert len(export_run(tmp_path / "run", FINDINGS).card.findings) == 2


# What was never heard of


def test_every_finding_is_held_out_once_and_its_words_reach_no_text(store: Store, ptbxl: Path, tmp_path: Path) -> None:
    from trainer.datasets import dataset

    parts = split(dataset("ptb-xl").tasks(ptbxl), 2)
    names = [label.name for part in parts for label in part.labels]
    assert sorted(names) == sorted({"NORM", "LVOLT", "SR", "SBRAD", "STACH"})
    for part in parts:
        own = make_training_set(store, [Source("ptb-xl", ptbxl, TRAIN_FOLDS)], RECIPE, part.hidden, tmp_path / str(part.number))
        assert not {label.name for label in part.labels} & set(own.concepts.names)
        said = [said.without(part.hidden) for _, said in store.said()]
        spoken = [text for s in said for text in (*s.codes, *s.machine, *s.report)]
        assert not [text for text in (*spoken, *(text for texts in own.concepts.phrasings for text in texts)) if part.hidden.named_by(text)]


@pytest.mark.parametrize(
    ("code", "named", "free"),
    [
        ("IMI", ["Inferior infarct", "old inferior mi", "inferior myocardial damage"], ["Anterior infarct", "anterior ischaemia"]),
        ("1AVB", ["with 1st degree AV block", "first degree A-V block", "prolonged PR interval"], ["bundle branch block", "short PR"]),
        ("LNGQT", ["Prolonged QT", "long QT interval"], ["prolonged P wave"]),
        ("PVC", ["premature ventricular contractions", "ventricular extrasystoles", "a PVC"], ["broad P waves"]),
        ("ISC_", ["anterior ischaemia", "ischaemic heart disease"], ["ST depression"]),
        ("CRBBB", ["incomplete rbbb", "Right bundle branch block"], ["Left bundle branch block"]),
        ("LVH", ["lv hypertrophy", "left ventricular strain"], ["Right ventricular hypertrophy", "left atrial enlargement"]),
        ("AFIB", ["Atrial fibrillation", "afib with rapid ventricular response", "AF"], ["left atrial enlargement", "irregular rhythm"]),
        ("LVOLT", ["Low voltage QRS", "low limb lead voltage"], ["high voltage"]),
        ("IVCD", ["Nonspecific intraventricular conduction delay"], ["Nonspecific ST abnormality"]),
    ],
)  # fmt: skip
def test_a_finding_is_hidden_under_every_name_it_goes_by(code: str, named: list[str], free: list[str]) -> None:
    family = next(table for table in read_toml(FAMILIES).values() if code in table["codes"])
    prompts = [text for member in family["codes"] for text in read_prompts()[member]]
    hidden = Hidden.of([*family["words"], *prompts])
    assert [text for text in named if not hidden.named_by(text)] == []
    assert [text for text in free if hidden.named_by(text)] == []


def test_every_statement_is_in_one_family_and_every_prompt_of_a_family_names_it() -> None:
    tables = read_toml(FAMILIES).values()
    codes = [code for table in tables for code in table["codes"]]
    assert sorted(codes) == sorted(read_prompts())


def test_held_out_figures_average_what_has_enough_positives() -> None:
    from trainer.datasets import Label

    rng = np.random.default_rng(0)
    shown = np.zeros((60, 2), bool)
    shown[:20, 0], shown[:3, 1] = True, True
    labels = tuple(Label(name, frozenset([name]), (("x",),)) for name in "ab")
    found = Found(labels, shown + 0.1 * rng.normal(size=shown.shape), shown, tuple(map(str, range(60))))
    interval, per_class = found.macro_auroc(["a", "b"])
    assert per_class == {"a": 1.0}
    assert interval.value == interval.high == 1.0


def test_a_model_finds_by_cosine_what_its_bundle_finds_by_probability(data: TrainingSet, run: Path, ptbxl: Path) -> None:
    from kernels.language import LanguageModel
    from trainer.datasets import Label

    label = Label("SBRAD", frozenset(["SBRAD"]), (("sinus bradycardia",),))
    model = Training(RECIPE, data, run).ema.module
    found = find(model, RECIPE, LanguageModel(), [label], read_ptb_xl(ptbxl, [9, 10]))
    with open_engine(export_run(run, FINDINGS)) as engine:
        probability = engine.run(ecg_of(ptbxl, [9, 10]).numpy()).probability[:, 0]
    assert np.array_equal(np.argsort(found.cosine[:, 0]), np.argsort(probability))
    assert found.shown[:, 0].tolist() == ["SBRAD" in r.codes for r in read_ptb_xl(ptbxl, [9, 10])]


# The rest


def test_a_text_encoder_of_another_width_or_none_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = export_run(run, FINDINGS)
    new = [Finding(name="wide", prompts=("left bundle branch block",))]
    with pytest.raises(ConfigError, match="cannot load text encoder"):
        bake(bundle, new, str(tmp_path))
    config = BertConfig(vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="gives 8 numbers a text, the bundle was trained with 384"):
        bake(bundle, new, str(tmp_path))


def test_the_commands_train_hold_out_and_say_what_is_wrong(ptbxl: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    sets = [word for line in ("epochs=1", "batch=8", "width=4", "kernel=3") for word in ("--set", line)]
    trained = runner.invoke(app, ["train", "--root", str(ptbxl), "--out", str(tmp_path / "run"), *sets])
    assert trained.exit_code == 0, trained.exception
    assert {"encoder.pt2", "head.npz", "training.json", "checkpoint.pt"} <= {p.name for p in (tmp_path / "run").iterdir()}
    out = tmp_path / "held.json"
    words = ["held-out", "--root", str(ptbxl), "--out", str(tmp_path / "held"), "--parts", "2", "--folds", "1-10", "--json", str(out)]
    held = runner.invoke(app, [*words, *sets])
    assert held.exit_code == 0, held.exception
    assert {row["task"] for row in json.loads(out.read_text())["rows"]} >= {"held-out rhythm", "held-out all"}
    read = runner.invoke(app, ["reports", "--root", str(ptbxl)])
    assert read.exit_code == 0, read.exception
    assert "words        1.000" in read.output
    for text in ("nine", "8-1", "1-8-9", ""):
        with pytest.raises(ConfigError, match="must read like"):
            parse_folds(text)
    assert parse_folds("1-3,9") == [1, 2, 3, 9]
