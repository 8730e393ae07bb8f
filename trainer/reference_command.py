"""The words of `reference` in; a file of recordings to compare others with, and of what a model was taught in words, out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kernels.bundle import SHIPPED_BUNDLE, Bundle, Card
from kernels.findings import ConfigError
from kernels.reference import About, HeldOut, Reference, Statement, Taught
from kernels.signal import Samples
from kernels.terminal import errors
from kernels.words import naming_words
from kernels.writable import check_writable

from .datasets.ptb_xl import read_machine_texts
from .records import Recording, cut_windows
from .source import Source
from .text import Hidden, Said, collect_concepts, what_is_said
from .train_command import Roots

MOST = 300

PTB_XL_LICENCE = "PTB-XL: P. Wagner et al., Scientific Data 7, 154 (2020), CC BY 4.0"


@dataclass(slots=True)
class _Read:
    """What is kept of the recordings that were gone through."""

    windows: dict[str, Samples] = field(default_factory=dict)
    """Patient -> the first window [12, samples] in mV."""
    concepts: Counter[str] = field(default_factory=Counter)
    phrases: Counter[str] = field(default_factory=Counter)
    recordings: int = 0


def reference_command(
    root: Roots,
    out: Annotated[Path, typer.Option(help="The file to write (.npz).")],
    bundle: Annotated[Path, typer.Option(help="The bundle that was trained on them.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    held_out: Annotated[Path | None, typer.Option(help="What `held-out --json` wrote of the same recipe.")] = None,
    most: Annotated[int, typer.Option(min=20, help="So many recordings are kept, of one patient each.")] = MOST,
    title: Annotated[str, typer.Option(help="What the recordings are called.")] = "PTB-XL",
    licence: Annotated[str, typer.Option(help="Of the recordings, with those who are to be named.")] = PTB_XL_LICENCE,
) -> None:
    """Write what `cardiogloss ask` compares with: recordings that a bundle was trained on, and all that it was told about them."""
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out} must be a file that ends in .npz")
    check_writable(out)
    card = Bundle.read(bundle).card
    sources = _sources(root, card)
    with errors.status("reading recordings"):
        read = _go_through(sources, card)
    ecg = _evenly(list(read.windows.values()), most)
    about = About(
        title=f"{len(ecg)} recordings of {title}", licence=licence, rate_hz=card.rate_hz, taught=_taught(read, sources, card, held_out)
    )
    Reference(about, ecg).write(out)
    told = f"wrote {out}: {about.title}, {len(about.taught.statements)} statements, {len(about.taught.captions)} phrases of reports"
    errors.print(told, highlight=False, soft_wrap=True)


def _sources(root: Sequence[str], card: Card) -> list[Source]:
    """Of each data set the folds that the bundle was trained on."""
    learnt: dict[str, list[int]] = card.training.get("sources", {})
    named = [Source.parse(text, ()) for text in root]
    strange = [source.name for source in named if source.name not in learnt]
    if strange:
        raise ConfigError(f"--root {strange[0]}: the bundle was not trained on it, but on {', '.join(learnt) or 'nothing that it names'}")
    return [Source(source.name, source.root, tuple(learnt[source.name])) for source in named]


def _go_through(sources: Sequence[Source], card: Card) -> _Read:
    read = _Read()
    for source in sources:
        for recording, said in _said(source):
            read.recordings += 1
            read.concepts.update(set(said.concepts))
            read.phrases.update(set(said.report))
            if recording.amplitude_known and recording.patient not in read.windows:
                window = cut_windows(recording, card.rate_hz, card.samples, card.samples)[0]
                if not np.isnan(window).any():
                    read.windows[recording.patient] = window
    if not read.windows:
        raise ConfigError("--root holds no whole recording of twelve leads in mV that the bundle was trained on; give other folders")
    return read


def _said(source: Source) -> Iterator[tuple[Recording, Said]]:
    concepts, prompts, machine = source.concepts, source.prompts, read_machine_texts(source.root)
    for recording in source.read():
        yield recording, what_is_said(recording, concepts, prompts, machine)


def _evenly(windows: Sequence[Samples], most: int) -> Samples:
    """At most so many, from the first to the last."""
    kept = min(len(windows), most)
    return np.stack([windows[i * len(windows) // kept] for i in range(kept)])


def _taught(read: _Read, sources: Sequence[Source], card: Card, held_out: Path | None) -> Taught:
    prompts = {name: texts for source in sources for name, texts in source.prompts.items()}
    machine = {word: text for source in sources for word, text in read_machine_texts(source.root).items()}
    concepts = collect_concepts(read.concepts, prompts, machine, Hidden(), at_least=1)
    named = zip(concepts.names, concepts.phrasings, strict=True)
    return Taught(
        sources=card.training["sources"],
        recordings=read.recordings,
        statements=tuple(Statement(name=name, texts=tuple(filter(None, texts)), recordings=read.concepts[name]) for name, texts in named),
        captions={text: n for text, n in sorted(read.phrases.items()) if naming_words(text)},
        held_out=_held_out(held_out) if held_out else None,
    )


def _held_out(path: Path) -> HeldOut:
    """The row over all findings."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        row = next(row for row in rows if row["task"] == "held-out all")
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"{path} was not written by `cardiogloss-trainer held-out --json`") from error
    return HeldOut(auroc=round(row["value"], 3), low=round(row["low"], 3), high=round(row["high"], 3), findings=len(row["per_class"]))
