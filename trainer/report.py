"""A report as written in; clean English text, the findings it names and how much of it was understood out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from kernels.findings import read_toml

GLOSSARY = Path(__file__).with_name("glossary.toml")

_ENDINGS = ("", "e", "er", "es", "en", "em")
_SPELLING = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_REMARK = re.compile(r"(\b\d\.\d\d\s*)?(\bunbestä.*|\bunconfirmed\b.*|\bedit:.*|consensus label.*)$")
_BLANK = re.compile(r"trace only requested|!")
_TOKEN = re.compile(r"v\d(?:\s*[-,]\s*v?\d)*(?!\w)|[^\W_]+|,|[.;:!?](?=\s|$)")
_LEAD = re.compile(r"i{1,3}|av[rlf]|v\d[-,v\d\s]*")
_LOOSE_RIGHT = frozenset({"before", "place", "link", "negation"})
_LOOSE_LEFT = frozenset({"after", "place", "link", "denial"})


@dataclass(frozen=True, slots=True)
class Translation:
    """What a report says in English, what it affirms, and the share of its letters that we could read."""

    text: str
    findings: tuple[str, ...]
    understood: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of many foreign reports the glossary reads: mean share of words, share of reports read to 80 %."""

    reports: int
    words: float
    whole: float
    by_language: dict[str, int]
    missed: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Glossary:
    """Every spelling as its words -> what it says and in which role; the words that only one language has."""

    phrases: Mapping[tuple[str, ...], tuple[str, str]]
    longest: int
    words: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of a report: `role` is a table of the glossary, `stop`, `comma` or, where we cannot read it, empty."""

    written: str
    say: str
    role: str


def clean(report: str) -> str:
    """Lower case, without remarks on who confirmed it, with single blanks and stops."""
    text = _cleaner(report)
    while (again := _cleaner(text)) != text:
        text = again
    return text


def language(report: str) -> str:
    """`de`, `en` or `sv`, whichever has most words of its own in it; `""` where there are none at all."""
    words, own = _tokens(clean(report)), read_glossary().words
    known = any(word[0].isalpha() for word in words)
    return max(("en", "de", "sv"), key=lambda name: sum(word in own[name] for word in words)) if known else ""


def translate(report: str) -> Translation:
    """English for it; a finding counts where it is stated or suspected, never where it is denied."""
    text = clean(report)
    parts = tuple(_parts(text))
    spoken = text if language(text) == "en" else _speak(parts)
    return Translation(spoken, tuple(dict.fromkeys(_affirmed(parts))), _share(parts))


def coverage(reports: Iterable[str]) -> Coverage:
    """What the glossary makes of the German and Swedish ones among these reports."""
    texts = [(language(report), clean(report)) for report in reports]
    foreign = [tuple(_parts(text)) for name, text in texts if name in ("de", "sv")]
    shares = [_share(parts) for parts in foreign] or [0.0]
    missed = Counter(part.written for parts in foreign for part in parts if not part.role and _letters(part.written))
    whole = sum(share >= 0.8 for share in shares) / len(shares)
    return Coverage(len(foreign), sum(shares) / len(shares), whole, dict(Counter(name for name, _ in texts)), tuple(missed.most_common(50)))


@lru_cache
def read_glossary(path: Path = GLOSSARY) -> Glossary:
    """The glossary, its spellings written out. Raises ValueError where one stands in two places."""
    tables = read_toml(path)
    own = _own_words(tables, tables.pop("words"))
    phrases: dict[tuple[str, ...], tuple[str, str]] = {}
    for role, say, spelling in spellings(tables):
        key = tuple(_tokens(clean(spelling)))
        if phrases.setdefault(key, (say, role)) != (say, role):
            raise ValueError(f"{spelling!r} says both {say!r} and {phrases[key][0]!r}")
    return Glossary(phrases, max(map(len, phrases)), own)


def spellings(tables: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Role, English and each way to write it, with every ending that a `~` stands for."""
    for role, table in tables.items():
        for say, others in table.items():
            for written in (say, *(text for texts in others.values() for text in texts)):
                yield from ((role, say, spelling) for spelling in _inflected(written))


def _inflected(written: str) -> Iterator[str]:
    first, *rest = written.split("~")
    for endings in product(_ENDINGS, repeat=len(rest)):
        yield first + "".join(ending + piece for ending, piece in zip(endings, rest, strict=True))


def _own_words(tables: Mapping[str, Any], function_words: Mapping[str, str]) -> dict[str, frozenset[str]]:
    found = {name: set(_tokens(clean(text))) for name, text in function_words.items()}
    for say, others in (entry for table in tables.values() for entry in table.items()):
        for name, texts in {**others, "en": [say, *others.get("en", ())]}.items():
            found[name].update(word for text in texts for spelling in _inflected(text) for word in _tokens(clean(spelling)))
    return {name: frozenset(words.difference(*(found[other] for other in found if other != name))) for name, words in found.items()}


def _cleaner(report: str) -> str:
    text = re.sub(r"\s+", " ", report.lower().replace("#", "ü"))
    text = _BLANK.sub(" ", _REMARK.sub("", text))
    text = re.sub(r"\s*\b\d\.\d\d(?: u\w*)?\s*$", "", text)  # the archive cuts long reports off amid the remark
    text = re.sub(r"\s+([.,;])", r"\1", text)
    text = re.sub(r"([.,;])[.,;]+", r"\1", text)
    return re.sub(r"\s+", " ", text).strip(" ,;") if re.search(r"\w", text) else ""


def _tokens(text: str) -> list[str]:
    return [token.translate(_SPELLING) for token in _TOKEN.findall(text)]


def _parts(text: str) -> Iterator[_Part]:
    """The report from left to right, always the longest phrase that fits."""
    words, at = _tokens(text), 0
    while at < len(words):
        size, say, role = _longest(words, at)
        yield _Part(" ".join(words[at : at + size]), say, role)
        at += size


def _longest(words: Sequence[str], at: int) -> tuple[int, str, str]:
    glossary = read_glossary()
    for size in range(min(glossary.longest, len(words) - at), 0, -1):
        if found := glossary.phrases.get(tuple(words[at : at + size])):
            return size, *found
    return 1, *_unlisted(words[at])


def _unlisted(word: str) -> tuple[str, str]:
    if _LEAD.fullmatch(word):
        return word.upper().replace("AV", "aV"), "after"
    return "", "comma" if word == "," else "stop" if word in ".;:!?" else ""


def _speak(parts: Iterable[_Part]) -> str:
    """The phrases in order; a comma parts two statements, a blank what belongs to one."""
    said = [part for part in parts if part.say and part.role != "filler"]
    near = (a.role in _LOOSE_RIGHT or b.role in _LOOSE_LEFT for a, b in pairwise(said))
    return "".join(glue + part.say for glue, part in zip(("", *(" " if close else ", " for close in near)), said, strict=False))


def _affirmed(parts: Sequence[_Part]) -> Iterator[str]:
    """The findings that no denial reaches: one before reaches over `or` and commas, one after only its neighbour."""
    denied = spent = False
    for at, part in enumerate(parts):
        if part.role == "finding":
            denied = denied and not spent
            spent = denied
            following = (later.role for later in parts[at + 1 :] if later.role not in ("after", "place", ""))
            if not denied and next(following, "") != "denial":
                yield part.say
        elif part.role in ("negation", "stop"):
            denied, spent = part.role == "negation", False
        elif part.role in ("link", "comma"):
            spent = False


def _share(parts: Sequence[_Part]) -> float:
    known = sum(_letters(part.written) for part in parts if part.role)
    return known / max(known + sum(_letters(part.written) for part in parts if not part.role), 1)


def _letters(text: str) -> int:
    return sum(character.isalpha() for character in text)
