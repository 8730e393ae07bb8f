"""Texts and what a model was taught in words in; how far it knows each of them, in a sentence or two, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from kernels.bundle import Card
from kernels.findings import Finding, in_words
from kernels.reference import Statement, Taught
from kernels.signal import Samples
from kernels.words import denies, naming_words

UNLIKE = 0.5
"""Of 374 phrasings of what the shipped model learnt, 96 % have a cosine above this with one of another statement; of 34 texts that
are about anything else 28 have none, and neither have rare names such as Brugada's, of which the language model knows as little."""

COMMON = 0.2
"""What a larger share of people shows is no reason for a high percentile: of sinus rhythm it has a median of 53 on fold 9."""

Relation = Literal["statement", "more", "less", "mentioned", "never", "unlike", "unknown"]
"""Of a text to the training: said as it is; more or less than a statement; only in passing; never; and like nothing that was."""

Embed = Callable[[Sequence[str]], Samples]
"""Texts -> [n, d], each row of unit norm."""

Words = frozenset[str]


@dataclass(frozen=True, slots=True)
class Known:
    """How far a model knows a text."""

    relation: Relation
    finding: Finding | None
    """The bundle's own that the text names."""
    statements: tuple[Statement, ...]
    """What says the same, each part of it, or the least that says more; the most frequent first."""
    mentions: int
    """Recordings whose reports have all its words in one phrase."""
    nearest: str
    """What sounds most like it to the language model, of all that was said of the training set."""
    cosine: float
    unseen: tuple[str, ...]
    """Its words that stand in no training text."""
    denied: bool
    """Whether it denies something, which was not learnt as such."""


class Wording:
    """What a bundle's training texts were, to hold others against."""

    def __init__(self, card: Card, taught: Taught, embed: Embed) -> None:
        self._findings = [(naming_words(text), finding) for finding in card.findings for text in (in_words(finding.name), *finding.prompts)]
        self._statements: dict[Words, list[Statement]] = {}
        for statement in sorted(taught.statements, key=lambda s: -s.recordings):
            for words in {naming_words(text) for text in statement.texts} - {frozenset()}:
                self._statements.setdefault(words, []).append(statement)
        self._captions = [(naming_words(text), n) for text, n in taught.captions.items()]
        self._texts = list(dict.fromkeys(text for s in taught.statements for text in s.texts))
        self._vocabulary = frozenset[str]().union(*self._statements, *(words for words, _ in self._captions))
        self._is_of_these = _sources(card) == taught.sources
        self._embed = embed

    def known(self, texts: Sequence[str]) -> list[Known]:
        """How far each of them is known."""
        unsaid = [text for text in dict.fromkeys(texts) if naming_words(text) not in self._statements]
        if not self._is_of_these:
            return [Known("unknown", self._finding(naming_words(text)), (), 0, "", 0.0, (), denies(text)) for text in texts]
        cosines = dict(zip(unsaid, self._embed(unsaid) @ self._embedded.T, strict=True)) if unsaid else {}
        return [self._unsaid(text, cosines[text]) if text in cosines else self._said(text) for text in texts]

    @cached_property
    def _embedded(self) -> Samples:
        """Of all training texts, which takes a second or two and is not needed for those that are among them."""
        return self._embed(self._texts)

    def _said(self, text: str) -> Known:
        same = self._statements[naming_words(text)]
        return Known("statement", self._finding(naming_words(text)), tuple(same), 0, same[0].texts[0], 1.0, (), False)

    def _unsaid(self, text: str, cosines: Samples) -> Known:
        words, nearest = naming_words(text), int(np.argmax(cosines))
        cosine = float(cosines[nearest])
        mentions = sum(n for said, n in self._captions if words <= said)
        relation, statements = self._relation(words, mentions, cosine)
        return Known(
            relation,
            self._finding(words),
            statements,
            mentions,
            self._texts[nearest],
            round(cosine, 3),
            tuple(sorted(words - self._vocabulary)),
            denies(text),
        )

    def _relation(self, words: Words, mentions: int, cosine: float) -> tuple[Relation, tuple[Statement, ...]]:
        if cosine < UNLIKE:
            return "mentioned" if mentions else "unlike", ()
        if parts := self._parts(words):
            return "more", tuple(self._statements[part][0] for part in parts)
        more = [said for said in self._statements if words < said]
        if more:
            least = min(more, key=lambda said: (len(said), -self._statements[said][0].recordings))
            return "less", (self._statements[least][0],)
        return "mentioned" if mentions else "never", ()

    def _parts(self, words: Words) -> list[Words]:
        """The statements that it says more than, without those that say less than another of them."""
        inside = [said for said in self._statements if said < words]
        largest = [said for said in inside if not any(said < other for other in inside)]
        return sorted(largest, key=lambda said: -self._statements[said][0].recordings)

    def _finding(self, words: Words) -> Finding | None:
        return next((finding for said, finding in self._findings if said == words), None)


def _sources(card: Card) -> dict[str, tuple[int, ...]]:
    learnt: dict[str, list[int]] = card.training.get("sources", {})
    return {name: tuple(folds) for name, folds in learnt.items()}


def in_sentences(known: Known, taught: Taught) -> list[str]:
    """Whether it was trained, and what that means for the answer."""
    says = [_OF_RELATION[known.relation](known, taught)]
    if known.relation in ("never", "unlike", "mentioned"):
        instead = "; it may answer for that instead" if known.relation != "unlike" else ""
        says.append(f"Nearest of what it learnt: {known.nearest!r}, cosine {known.cosine:.2f}{instead}.")
    if known.unseen:
        says.append(f"In no training text: {', '.join(map(repr, known.unseen))}.")
    if known.denied:
        says.append("The model does not understand a denial: it ranks recordings about as it would without it.")
    return says


def _said_of(known: Known, taught: Taught) -> str:
    first, *more = known.statements if known.relation == "more" else known.statements[:1]
    told = [f"{first.texts[0]!r} was said of {first.recordings:,}", *(f"{s.texts[0]!r} of {s.recordings:,}" for s in more)]
    return f"{', '.join(told)} of the {taught.recordings:,} training recordings"


def _few(mentions: int, taught: Taught) -> str:
    return f"it is only mentioned in the reports, of {mentions:,} of the {taught.recordings:,} training recordings"


def _common(known: Known, taught: Taught) -> str:
    share = known.statements[0].recordings / taught.recordings
    return f" It is common, so {100 - 100 * share:.0f} % and more already speaks for it." if share >= COMMON else ""


def _never(taught: Taught) -> str:
    held_out = taught.held_out
    if not held_out:
        return "How well such findings are found was not measured."
    measured = f"{held_out.findings} findings that were kept from training had a macro AUROC of {held_out.auroc:.2f}"
    return f"{measured} ({held_out.low:.2f} to {held_out.high:.2f}; 0.5 is chance)."


_OF_RELATION: dict[Relation, Callable[[Known, Taught], str]] = {
    "statement": lambda known, taught: f"Trained: {_said_of(known, taught)}.{_common(known, taught)}",
    "more": lambda known, taught: f"Trained in part: {_said_of(known, taught)}.",
    "less": lambda known, taught: f"Trained only as a part of more: {_said_of(known, taught)}.",
    "mentioned": lambda known, taught: f"Hardly trained: {_few(known.mentions, taught)}. {_never(taught)}",
    "never": lambda _, taught: f"Never trained: nothing said of the {taught.recordings:,} training recordings names it. {_never(taught)}",
    "unlike": lambda *_: "Never trained, and unlike anything that was said of the training recordings: the figures mean nothing.",
    "unknown": lambda *_: (
        "Whether it was trained is not known: the reference tells of other training data. `cardiogloss-trainer reference` makes one."
    ),
}


def measured_auroc(card: Card, known: Known) -> float | None:
    """Of the finding, or of the statement by its SCP code, on recordings that the model had not seen; None where it was not measured."""
    tasks = {"findings"} if known.finding else {"diagnostic", "form", "rhythm"}
    same = [statement.name for statement in known.statements] if known.relation == "statement" else []
    names = [known.finding.name] if known.finding else same
    rows: list[dict[str, Any]] = card.metrics.get("rows", [])
    asked = [row for row in rows if row["metric"] == "auroc_macro" and row["leads"] == "all" and row["task"] in tasks]
    told = ((row, name) for row in asked for name in names if name not in row["too_few"])
    return next((row["per_class"][name] for row, name in told if name in row["per_class"]), None)
