"""A text in; the words that say what it names, in one spelling, out."""

from __future__ import annotations

import re

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
_NEGATIONS = frozenset({"no", "not", "without", "never", "absent", "absence", "exclude", "excluded", "excludes", "denies"})


def naming_words(text: str) -> frozenset[str]:
    """`Old inferior infarct` and `inferior MI` -> the same two words; empty where it names nothing."""
    plain = re.sub(r"\b(non|pre|a)[- ](?=specific|excitation|v\b)", r"\1", text.lower())
    words = (_SAME_WORD.get(word, word).split() for word in re.findall(r"[a-z0-9]+", plain))
    return frozenset(word for several in words for word in several) - _STOP_WORDS


def denies(text: str) -> bool:
    """Whether it says that something is not there."""
    return not _NEGATIONS.isdisjoint(re.findall(r"[a-z]+", text.lower()))
