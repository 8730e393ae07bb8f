"""A `Recording`'s codes, machine statements and report in; the concepts it shows and the captions that say so out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernels.findings import read_toml
from kernels.words import naming_words

from .records import Recording
from .report import translate

PROMPTS = Path(__file__).with_name("ptbxl_prompts.toml")

SPEAKERS = {"machine": "12SL:", "report": "report:"}
"""Before the concepts that a machine's statements, or a written report, name; those of codes have nothing before them."""

_GLUE = frozenset({
    "LPAREN", "RPAREN", "COMMA", "$SWITH", "$SOR", "$SAND", "AU", "AC", "PO", "CRO", "OCC", "FREQ",
    "ST&", "2", "RAVL", "SOKOLYON", "CORNPROD", "ROMESTES",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one recording, by whom."""

    concepts: tuple[str, ...]
    """SCP codes as they are, 12SL acronyms behind `12SL:`, what the report affirms behind `report:`."""
    codes: tuple[str, ...] = ()
    """The cardiologist's codes in words."""
    machine: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    """Translated, sentence by sentence."""

    def caption(self, who: str) -> str:
        """What `codes`, `machine`, `report` or `all` of them say; all of them where that one is silent."""
        parts = {"codes": ", ".join(self.codes), "machine": _tidy(" ".join(self.machine)), "report": ", ".join(self.report)}
        return parts.get(who) or ". ".join(part for part in parts.values() if part) or "ECG"

    def without(self, hidden: Hidden) -> Said:
        """The same with no word of what is hidden."""
        kept = {name: tuple(text for text in getattr(self, name) if not hidden.named_by(text)) for name in ("codes", "machine", "report")}
        return Said(self.concepts, **kept)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Findings that training must not hear of, as sets of words: a text that holds all words of one of them names it."""

    words: tuple[frozenset[str], ...] = ()

    @classmethod
    def of(cls, prompts: Iterable[str]) -> Hidden:
        return cls(tuple(sorted({naming_words(prompt) for prompt in prompts}, key=sorted)))

    def named_by(self, text: str) -> bool:
        said = naming_words(text)
        return any(words <= said for words in self.words)


@dataclass(frozen=True, slots=True)
class Concepts:
    """What the texts of a training set can name: one row a concept, a few phrasings each."""

    names: tuple[str, ...]
    phrasings: tuple[tuple[str, ...], ...]
    row: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", {name: i for i, name in enumerate(self.names)})

    def rows(self, names: Iterable[str]) -> list[int]:
        """Of those names that are concepts here, in order."""
        return sorted(self.row[name] for name in names if name in self.row)


def read_prompts(path: Path = PROMPTS) -> dict[str, tuple[str, ...]]:
    """SCP code -> the phrasings of what it names."""
    return {code: tuple(texts) for code, texts in read_toml(path).items()}


def what_is_said(
    recording: Recording, concepts: Mapping[str, str], prompts: Mapping[str, Sequence[str]], machine: Mapping[str, str]
) -> Said:
    """`concepts` are those of the codes of its data set, `machine` the texts of 12SL's acronyms."""
    shown = [concepts[code] for code in recording.codes if code in concepts]
    translated = translate(recording.report)
    spoken = [SPEAKERS["machine"] + word for word in recording.machine if word not in _GLUE]
    return Said(
        concepts=tuple(dict.fromkeys([*shown, *spoken, *(SPEAKERS["report"] + finding for finding in translated.findings)])),
        codes=tuple(prompts[name][0] for name in shown if prompts.get(name)),
        machine=tuple(machine.get(word, "") for word in recording.machine),
        report=tuple(part for part in re.split(r"\s*[,.;]\s*", translated.text) if part),
    )


def speaker(name: str) -> str:
    """Whose concept this is: `codes`, `machine` or `report`."""
    return next((who for who, before in SPEAKERS.items() if name.startswith(before)), "codes")


def collect_concepts(
    count: Mapping[str, int], prompts: Mapping[str, Sequence[str]], machine: Mapping[str, str], hidden: Hidden, at_least: int = 5
) -> Concepts:
    """The concepts with a text that occur `at_least` times and name nothing hidden, in alphabetical order."""
    texts = {name: tuple(prompts[name]) for name in count if name in prompts}
    texts |= {SPEAKERS["machine"] + word: (_tidy(text),) for word, text in machine.items()}
    texts |= {name: (name.removeprefix(SPEAKERS["report"]),) for name in count if speaker(name) == "report"}
    open_ = {name for name, phrasings in texts.items() if any(phrasings) and not any(hidden.named_by(text) for text in phrasings)}
    names = tuple(sorted(name for name, n in count.items() if n >= at_least and name in open_))
    return Concepts(names, tuple(texts[name] for name in names))


def _tidy(text: str) -> str:
    """One machine statement as prose: without stars, doubled blanks and the glue before its first word."""
    text = re.sub(r"\*+", "", text)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").replace("( ", "(").replace(" )", ")")
    return re.sub(r"^(with|plus|,)+\s+", "", text.strip(" ,"))
