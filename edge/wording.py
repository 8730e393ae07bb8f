"""Texts and what a model was taught in words in; how far it knows each of them, in a sentence or two, out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from kernels.bundle import Card
from kernels.findings import Finding, in_words
from kernels.reference import Statement, Taught
from kernels.signal import LEADS, Samples
from kernels.words import ages, asked_words, denies

UNLIKE = 0.5
"""Of 374 phrasings of what the shipped model learnt, 96 % have a cosine above this with one of another statement; of 34 texts that
are about anything else 28 have none, and neither have rare names such as Brugada's, of which the language model knows as little."""

PASSING = 0.01
"""What is mentioned less often than in so many of the recordings was hardly trained."""

COMMON = 0.2
"""What a larger share of people shows is no reason for a high percentile: of sinus rhythm it has a median of 53 on fold 9."""

Relation = Literal["statement", "more", "less", "mentioned", "never", "unlike", "unknown"]
"""Of a text to the training: said as it is; more or less than a statement; only in passing; never; and like nothing that was."""

Trained = Literal["yes", "in part", "hardly", "never", "not known"]
"""In a word. What was said of too few recordings to be one of the card's concepts was hardly trained."""

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
    trained: Trained
    mentions: int
    """How often the reports have all its words in one phrase; one report may have several."""
    nearest: str
    """What sounds most like it to the language model, of all that was said of the training set."""
    cosine: float
    unseen: tuple[str, ...]
    """Its words that stand in no training text."""
    denied: bool
    """Whether it denies something, which was not learnt as such."""
    foreign: bool = False
    """Whether it may be of another language than English: none of its words stands in a training text, or one has other letters."""
    ages: tuple[str, ...] = ()
    """Its words such as `acute`, without which it would be what training knew."""


class Wording:
    """What a bundle's training texts were, to hold others against."""

    def __init__(self, card: Card, taught: Taught, embed: Embed) -> None:
        self._findings = [(asked_words(text), finding) for finding in card.findings for text in (in_words(finding.name), *finding.prompts)]
        self._statements: dict[Words, list[Statement]] = {}
        for statement in sorted(taught.statements, key=lambda s: -s.recordings):
            for words in {asked_words(text) for text in statement.texts} - {frozenset()}:
                self._statements.setdefault(words, []).append(statement)
        self._captions = [(asked_words(text), n) for text, n in taught.captions.items()]
        self._texts = list(dict.fromkeys(text for s in taught.statements for text in s.texts))
        self._vocabulary = frozenset[str]().union(*self._statements, *(words for words, _ in self._captions))
        self._concepts = frozenset[str](card.training.get("concepts", ()))
        self._is_of_these = _sources(card) == taught.sources
        self._recordings = taught.recordings
        self._embed = embed

    def known(self, texts: Sequence[str]) -> list[Known]:
        """How far each of them is known."""
        if not self._is_of_these:
            return [self._unknown(text) for text in texts]
        unsaid = [text for text in dict.fromkeys(texts) if asked_words(text) not in self._statements]
        cosines = dict(zip(unsaid, self._embed(unsaid) @ self._embedded.T, strict=True)) if unsaid else {}
        return [self._unsaid(text, cosines[text]) if text in cosines else self._said(text) for text in texts]

    @cached_property
    def _embedded(self) -> Samples:
        """Of all training texts, which takes a second or two and is not needed for those that are among them."""
        return self._embed(self._texts)

    def _unknown(self, text: str) -> Known:
        return Known("unknown", self._finding(asked_words(text)), (), "not known", 0, "", 0.0, (), denies(text))

    def _said(self, text: str) -> Known:
        same = tuple(self._statements[asked_words(text)])
        trained: Trained = "yes" if self._is_concept(same) else "hardly"
        return Known("statement", self._finding(asked_words(text)), same, trained, 0, same[0].texts[0], 1.0, (), False)

    def _unsaid(self, text: str, cosines: Samples) -> Known:
        words, nearest = asked_words(text), int(np.argmax(cosines))
        mentions = sum(n for said, n in self._captions if words <= said)
        relation, statements = self._relation(words, mentions, float(cosines[nearest]))
        ageless = words - ages(words)
        return Known(
            relation,
            self._finding(words) or self._finding(ageless),
            statements,
            self._trained(relation, statements, mentions),
            mentions,
            self._texts[nearest],
            round(float(cosines[nearest]), 3),
            tuple(sorted(words - self._vocabulary)),
            denies(text),
            words.isdisjoint(self._vocabulary) or not text.isascii(),
            tuple(sorted(ages(words))) if ageless in self._statements else (),
        )

    def _relation(self, words: Words, mentions: int, cosine: float) -> tuple[Relation, tuple[Statement, ...]]:
        ageless = words - ages(words)
        if ageless in self._statements:
            return "more", (self._statements[ageless][0],)
        if cosine < UNLIKE:
            return "mentioned" if mentions else "unlike", ()
        if parts := self._parts(words):
            return "more", tuple(self._statements[part][0] for part in parts)
        more = [said for said in self._statements if words < said]
        if more:
            least = min(more, key=lambda said: (len(said), -self._statements[said][0].recordings))
            return "less", (self._statements[least][0],)
        return "mentioned" if mentions else "never", ()

    def _trained(self, relation: Relation, statements: Sequence[Statement], mentions: int) -> Trained:
        if relation in ("never", "unlike"):
            return "never"
        often = mentions > PASSING * self._recordings if relation == "mentioned" else self._is_concept(statements)
        return "in part" if often else "hardly"

    def _is_concept(self, statements: Sequence[Statement]) -> bool:
        return any(statement.name in self._concepts for statement in statements)

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
    return [*_of_training(known, taught), *_of_words(known)]


def _of_training(known: Known, taught: Taught) -> Iterator[str]:
    yield _OF_RELATION[known.relation](known, taught)
    if known.relation in ("never", "unlike", "mentioned"):
        instead = "; it may answer for that instead" if known.relation != "unlike" else ""
        yield f"Nearest of what it learnt: {known.nearest!r}, cosine {known.cosine:.2f}{instead}."


def _of_words(known: Known) -> Iterator[str]:
    if known.ages:
        yield f"{_quoted(known.ages)} was hardly told apart in training."
    if known.unseen:
        yield f"In no training text: {_quoted(known.unseen)}."
    if known.foreign:
        yield "Texts are best in English; the training knew German reports only through their translation."
    if known.denied:
        yield "It does not understand a denial; do not rely on it."


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))


def _statement(known: Known, taught: Taught) -> str:
    few = ", too few to be learnt by name" if known.trained == "hardly" else ""
    start = "Hardly trained" if few else "Trained"
    return f"{start}: {_said_of(known, taught)}{few}.{_common(known, taught)}"


def _in_part(how: str, known: Known, taught: Taught) -> str:
    start = f"Hardly trained, and {how}" if known.trained == "hardly" else f"Trained {how}"
    return f"{start}: {_said_of(known, taught)}."


def _said_of(known: Known, taught: Taught) -> str:
    first, *more = known.statements if known.relation == "more" else known.statements[:1]
    told = [f"{first.texts[0]!r} was said of {first.recordings:,}", *(f"{s.texts[0]!r} of {s.recordings:,}" for s in more)]
    return f"{', '.join(told)} of the {taught.recordings:,} training recordings"


def _mentioned(known: Known, taught: Taught) -> str:
    times = "once" if known.mentions == 1 else f"{known.mentions:,} times"
    if known.trained == "in part":
        return f"Trained in part: the reports of the {taught.recordings:,} training recordings mention it {times}, and more than it."
    few = f"the reports of the {taught.recordings:,} training recordings only mention it, {times}"
    return f"Hardly trained: {few}. {_never(taught)}"


def _unlike(known: Known) -> str:
    if known.foreign:
        unlike = "they are unlike anything that was said of the training recordings, and the figures mean nothing"
        return f"Never trained in these words. If they are English, {unlike}."
    return "Never trained, and unlike anything that was said of the training recordings: the figures mean nothing."


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
    "statement": _statement,
    "more": lambda known, taught: _in_part("in part", known, taught),
    "less": lambda known, taught: _in_part("only as a part of more", known, taught),
    "mentioned": _mentioned,
    "never": lambda _, taught: (
        f"Never trained in these words: nothing said of the {taught.recordings:,} training recordings names it. {_never(taught)}"
    ),
    "unlike": lambda known, _: _unlike(known),
    "unknown": lambda *_: (
        "Whether it was trained is not known: the reference tells of other training data. `cardiogloss-trainer reference` makes one."
    ),
}


def measured_auroc(card: Card, known: Known, leads: Collection[str]) -> float | None:
    """Of the finding, or of the statement by its SCP code, on recordings that the model had not seen, in exactly these leads.

    None where the card has no such row, and of a text that says more than either.
    """
    if known.ages:
        return None
    tasks = {"findings"} if known.finding else {"diagnostic", "form", "rhythm"}
    same = [statement.name for statement in known.statements] if known.relation == "statement" else []
    names = [known.finding.name] if known.finding else same
    rows: list[dict[str, Any]] = card.metrics.get("rows", [])
    asked = [row for row in rows if row["metric"] == "auroc_macro" and row["task"] in tasks and _are(leads, row["leads"])]
    told = ((row, name) for row in asked for name in names if name not in row["too_few"])
    return next((row["per_class"][name] for row, name in told if name in row["per_class"]), None)


def _are(leads: Collection[str], named: str) -> bool:
    return set(leads) == set(LEADS if named == "all" else named.split(","))
