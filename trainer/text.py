"""A `Recording`'s codes and machine statements in; the concepts it shows and the captions that say so out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.findings import read_toml

from .records import Recording

PROMPTS = Path(__file__).with_name("ptbxl_prompts.toml")

_GLUE = frozenset({
    "LPAREN", "RPAREN", "COMMA", "$SWITH", "$SOR", "$SAND", "AU", "AC", "PO", "CRO", "OCC", "FREQ",
    "ST&", "2", "RAVL", "SOKOLYON", "CORNPROD", "ROMESTES",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Concepts:
    """What the texts of a training set can name: one row a concept, a few phrasings each."""

    names: tuple[str, ...]
    phrasings: tuple[tuple[str, ...], ...]

    def of(self, recording: Recording) -> frozenset[int]:
        """The rows that this recording shows."""
        return frozenset(self.names.index(name) for name in concept_names(recording) if name in self.names)


def concept_names(recording: Recording) -> frozenset[str]:
    """SCP codes as they are, 12SL acronyms behind `12SL:`, without the words that only join others."""
    return frozenset(recording.codes) | {f"12SL:{word}" for word in recording.machine if word not in _GLUE}


def read_prompts(path: Path = PROMPTS) -> dict[str, tuple[str, ...]]:
    """SCP code -> the phrasings of what it names."""
    return {code: tuple(texts) for code, texts in read_toml(path).items()}


def collect_concepts(
    recordings: Iterable[Recording],
    prompts: Mapping[str, Sequence[str]],
    machine_texts: Mapping[str, str],
    at_least: int = 5,
) -> Concepts:
    """The concepts with a text that occur `at_least` times, in alphabetical order."""
    count = Counter(name for recording in recordings for name in concept_names(recording))
    texts: dict[str, tuple[str, ...]] = {code: tuple(phrasings) for code, phrasings in prompts.items()}
    texts |= {f"12SL:{word}": (_tidy(text),) for word, text in machine_texts.items()}
    names = tuple(sorted(name for name, n in count.items() if n >= at_least and texts.get(name)))
    return Concepts(names, tuple(texts[name] for name in names))


def captions(recording: Recording, prompts: Mapping[str, Sequence[str]], machine_texts: Mapping[str, str]) -> tuple[str, ...]:
    """Three ways to say what this recording shows: the cardiologist's codes, the machine's statements, both."""
    coded = ", ".join(prompts[code][0] for code in recording.codes if prompts.get(code))
    spoken = _tidy(" ".join(machine_texts.get(word, "") for word in recording.machine))
    both = ". ".join(part for part in (coded, spoken) if part) or "ECG"
    return (coded or both, spoken or both, both)


def _tidy(text: str) -> str:
    """One machine statement as prose: without stars, doubled blanks and the glue before its first word."""
    text = re.sub(r"\*+", "", text)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").replace("( ", "(").replace(" )", ")")
    return re.sub(r"^(with|plus|,)+\s+", "", text.strip(" ,"))
