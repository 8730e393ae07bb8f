"""A folder of 12-lead WFDB records of the PhysioNet Challenges 2020 and 2021 in; recordings with SNOMED CT codes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..records import Recording, fold_of
from ..text import read_prompts
from .dataset import Dataset, Label, Task
from .source import read_waveform, record_paths, skip
from .vocabulary import concepts_of, snomed

_CPSC2018 = {
    "NORM": ("426783006",),
    "AF": ("164889003",),
    "I-AVB": ("270492004",),
    "LBBB": ("164909002", "733534002"),
    "RBBB": ("59118001", "713427006"),
    "PAC": ("284470004", "63593006"),
    "PVC": ("164884008", "427172004", "17338001"),
    "STD": ("429622005",),
    "STE": ("164931005",),
}


def read_challenge(prefix: str, root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """The recordings of these folds of the records anywhere below a folder (Perez Alday et al. 2020, Reyna et al. 2021).

    The Challenge's own folder holds other data sets too, PTB-XL among them: only records are read whose name begins with
    `prefix`. A record is one patient: the sources do not say more. Raises ConfigError where there is no record.
    """
    for path in record_paths(root, "the Challenge's WFDB records, such as training/cpsc_2018 or WFDBRecords"):
        fold = fold_of(path.name)
        if fold in folds and path.name.startswith(prefix):
            yield from _read_record(path, fold)


def _read_record(path: Path, fold: int) -> Iterator[Recording]:
    waveform = read_waveform(path)
    codes = _diagnoses(waveform.comments) if waveform else ()
    if waveform and codes:
        yield Recording(path.name, waveform.samples_mv, waveform.rate_hz, "", codes, (), path.name, fold, waveform.amplitude_known)
    elif waveform:
        skip(path, "its header has no diagnosis (a line #Dx:)")


def _diagnoses(comments: Sequence[str]) -> tuple[str, ...]:
    """The codes of the `Dx` lines, each once and in their order."""
    lists = [text.partition(":")[2].split(",") for text in comments if text.partition(":")[0].strip() == "Dx"]
    return tuple(dict.fromkeys(code.strip() for codes in lists for code in codes if code.strip()))


def _cpsc2018_tasks(root: Path) -> list[Task]:
    """The nine classes of the China Physiological Signal Challenge 2018 (Liu et al. 2018)."""
    prompts = read_prompts() | {name: word.prompts for name, word in snomed().items()}
    words = {"NORM": "NORM", "I-AVB": "IAVB"}
    labels = (Label(name, frozenset(codes), (prompts[words.get(name, name)],)) for name, codes in _CPSC2018.items())
    return [Task("cpsc2018", tuple(labels))]


def _csn_tasks(root: Path) -> list[Task]:
    """Every condition of Chapman-Shaoxing-Ningbo (Zheng et al. 2020, 2022), equivalent codes merged as the Challenge does."""
    return [Task("csn", tuple(word.label() for word in snomed().values()))]


def _cpsc2018_concepts(root: Path) -> dict[str, str]:
    """Of its nine classes only: its recordings were not asked for anything else, and its "normal" is more than a rhythm."""
    told = {code for codes in _CPSC2018.values() for code in codes}
    return {code: name for code, name in concepts_of(snomed().values()).items() if code in told} | {_CPSC2018["NORM"][0]: "NORM"}


def _csn_concepts(root: Path) -> dict[str, str]:
    return concepts_of(snomed().values())


CPSC2018 = Dataset(partial(read_challenge, "A"), _cpsc2018_tasks, _cpsc2018_concepts)
CSN = Dataset(partial(read_challenge, "JS"), _csn_tasks, _csn_concepts)
