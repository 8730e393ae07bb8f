"""A text in; the words that say what it names, in one spelling, out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

_STOP_WORDS = frozenset({"a", "an", "and", "in", "of", "or", "the", "with", "to", "due", "by", "myocardial", "old", "acute"})
_SAME_WORD = {
    "1st": "first", "2nd": "second", "3rd": "third", "infarct": "infarction", "infarcts": "infarction", "mi": "infarction",
    "ischaemia": "ischemia", "ischaemic": "ischemia", "ischemic": "ischemia", "long": "prolonged", "lengthened": "prolonged",
    "complex": "ectopic", "complexes": "ectopic", "contraction": "ectopic", "contractions": "ectopic",
    "beat": "ectopic", "beats": "ectopic", "extrasystole": "ectopic", "extrasystoles": "ectopic",
    "voltages": "voltage", "waves": "wave", "abnormalities": "abnormality",
    "repolarisation": "repolarization",
    "atrioventricular": "av", "lv": "left ventricular", "rv": "right ventricular",
    "lvh": "left ventricular hypertrophy", "rvh": "right ventricular hypertrophy", "lbbb": "left bundle branch block",
    "rbbb": "right bundle branch block", "irbbb": "incomplete right bundle branch block", "lafb": "left anterior fascicular block",
    "lah": "left anterior fascicular block", "af": "atrial fibrillation", "afib": "atrial fibrillation",
    "pvc": "premature ventricular ectopic",
    "ves": "premature ventricular ectopic", "pac": "premature atrial ectopic", "sves": "premature atrial ectopic", "twave": "t wave",
    "wpw": "wolff parkinson white", "bigeminal": "bigeminy", "trigeminal": "trigeminy",
}  # fmt: skip
"""One spelling for words that name the same thing, abbreviations written out."""

_BEATS = frozenset({"complex", "complexes", "contraction", "contractions", "beat", "beats"})
"""Ectopic in training, where nothing else was said of them; of a question only beside these."""
_OF_ECTOPY = frozenset({"premature", "ventricular", "atrial", "supraventricular", "ectopic"})
_AGES = frozenset({"acute", "old", "chronic", "recent", "subacute", "new"})
_ASKED_STOP_WORDS = _STOP_WORDS - _AGES
_DEGREES = {"i": "first", "ii": "second", "iii": "third", "1": "first", "2": "second", "3": "third"}
_DEGREE_BEHIND = re.compile(r"\b(?:av|atrioventricular)[- ]block,? (?:grade |degree )?(iii|ii|i|[123])\b(?!:)")
_DENIAL = re.compile(
    r"\b(?:no|not|non|nor|neither|without|never|absent|absence|excludes?|excluded|excluding|exclusion|denie[sd]|lacks?|lacking|negative for"
    r"|rul(?:es?|ed|ing) out|free (?:of|from)|\w+-free|\w+n['\u2019]t|cannot"
    r"|kein|keine[mnrs]?|ohne|nicht|nie|sans|pas|sin|ingen|inga|inget|inte|ej|utan)\b"
)
"""Also in German, Swedish, French and Spanish."""
_NOT_A_DENIAL = re.compile(r"\bnon[- ](?=specific|diagnostic|significant|sustained|st\b)")


def naming_words(text: str) -> frozenset[str]:
    """`Old inferior infarct` and `inferior MI` -> the same two words; empty where it names nothing. What training hides goes by these."""
    words = (_SAME_WORD.get(word, word).split() for word in re.findall(r"[a-z0-9]+", _joined(text.lower())))
    return frozenset(word for several in words for word in several) - _STOP_WORDS


def asked_words(text: str) -> frozenset[str]:
    """The same for a question, in letters of any script: an age is a word of its own, and a beat is not ectopic because it is a beat."""
    plain = _joined(unicodedata.normalize("NFKC", text).casefold())
    words = re.findall(r"[^\W_]+", _DEGREE_BEHIND.sub(lambda found: f"{_DEGREES[found[1]]} degree av block", plain))
    return frozenset(chain.from_iterable(_spelt(words))) - _ASKED_STOP_WORDS


def ages(words: frozenset[str]) -> frozenset[str]:
    """Those that say how long something has been there."""
    return words & _AGES


def denies(text: str) -> bool:
    """Whether it says that something is not there."""
    return _DENIAL.search(_NOT_A_DENIAL.sub("", unicodedata.normalize("NFKC", text).casefold())) is not None


def _joined(text: str) -> str:
    return re.sub(r"\b(non|pre|a)[- ](?=specific|excitation|v\b)", r"\1", text)


def _spelt(words: Sequence[str]) -> Iterator[Sequence[str]]:
    premature = "premature" in words
    for i, word in enumerate(words):
        if word in _BEATS and not premature and _OF_ECTOPY.isdisjoint(words[max(i - 1, 0) : i + 2]):
            yield ("complex",)
        else:
            yield _SAME_WORD.get(word, word).split()
