"""The words of `ask` in; how well a recording agrees with any texts, and whether a model was ever taught them, out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from kernels.bundle import SHIPPED_BUNDLE, Bundle, Card
from kernels.engine import cores, open_engine
from kernels.findings import ConfigError, in_words
from kernels.reference import SHIPPED_REFERENCE, Reference, Taught
from kernels.signal import LEADS, Samples
from kernels.terminal import console, errors
from kernels.words import asked_words

from .asked import options_of
from .likeness import STRIKING, Answer, Asked, Look, Looks, answers, look, usual_leads
from .table import clock
from .transport.file import columns_of, open_recording
from .wording import Known, Wording, in_sentences

_NEEDED = ("onnx", "torch", "transformers")
"""Of the extra `text`."""

_LEGEND = (
    "So many in a hundred of those recordings are less like the text than the median window here, and than the highest. Of a recording "
    f"of their kind the median is 50 % by chance, and {100 - STRIKING:g} % of the windows lie over {STRIKING:g} %; the highest of many "
    "is high by chance alone. Of recordings with atrial fibrillation, four in five stand at 92 to 99 %."
)
"""The last as measured on 16 recordings of fold 9 of PTB-XL that have it, with 12 leads, I+II+V2, I, and II."""
_NOTHING = " In brackets: the text is unlike anything the model has learnt in English."


def ask_command(
    recording: Annotated[Path, typer.Argument(help="A recording of any format that `replay` reads.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help='What to look for, as in "left bundle branch block".')],
    bundle: Annotated[Path, typer.Option(help="The model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    reference: Annotated[Path, typer.Option(help="Compare with these recordings.", show_default="300 of PTB-XL")] = SHIPPED_REFERENCE,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 5.0,
    at: Annotated[float | None, typer.Option(help="Only the window that begins here, in seconds, or at the next hop.")] = None,
    leads: Annotated[str, typer.Option(help="Leads of the signals, in order (I,II; - leaves one out) or by name (ECG=I,EKG2=V5).")] = "",
    rate: Annotated[float | None, typer.Option(help="Samples a second, for a CSV file without a time column.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of a CSV file: mV, uV or V; a number means mV for each unit.")] = "mV",
    partial: Annotated[bool, typer.Option(help="Read what is left of a truncated recording.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Ask a recording for anything in words: how well it agrees, compared with other recordings, and whether that was ever trained."""
    wanted = checked(texts)
    if at is not None and not 0 <= at < math.inf:
        raise ConfigError(f"--at {at:g} must be a number of seconds from the recording's beginning")
    source = open_recording(recording, columns_of(leads, rate, unit), partial)
    model, compared = Bundle.read(bundle), Reference.read(reference)
    options = options_of(hop, model.card)
    check_fit(compared, model.card, reference)
    with errors.status("reading the language model"):
        asked, known = prepare(wanted, model, compared)

    with open_engine(model, threads=cores()) as engine, errors.status(f"reading {source.name}"):
        looks = look(source, engine, asked, options, at)
    _tell(source.name, looks, asked, answers(looks.windows, asked, known, model.card), model.card, as_json)


def checked(texts: Sequence[str]) -> tuple[str, ...]:
    """Without blanks around them, each once. Raises ConfigError for one that names nothing."""
    trimmed = tuple(dict.fromkeys(" ".join(text.split()) for text in texts))
    for text in trimmed:
        if not asked_words(text):
            raise ConfigError(f"{text!r} names nothing; say what to look for in a word or more, as in 'left bundle branch block'")
    return trimmed


def check_fit(reference: Reference, card: Card, path: Path) -> None:
    """Raises ConfigError for recordings of another rate or length than the bundle takes."""
    about, samples = reference.about, reference.ecg.shape[2]
    if about.rate_hz != card.rate_hz or samples != card.samples:
        have, want = f"{samples} samples at {about.rate_hz:g} Hz", f"{card.samples} at {card.rate_hz:g} Hz"
        raise ConfigError(f"{path} holds windows of {have}, the bundle takes {want}; make one with `cardiogloss-trainer reference`")


def prepare(texts: tuple[str, ...], model: Bundle, reference: Reference) -> tuple[Asked, list[Known]]:
    """Embed the texts as `bake` would. Raises ConfigError where the language model is not installed."""
    if not all(map(find_spec, _NEEDED)):
        raise ConfigError("asking in words needs the language model that the bundle was trained with: pip install 'cardiogloss[text]'")
    from kernels.export import head_of
    from kernels.language import LanguageModel

    embed: Callable[[Sequence[str]], Samples] = LanguageModel(model.card.text_encoder).embed
    text, head = embed(texts), head_of(model)
    if text.shape[1] != head.text_weight.shape[1]:
        raise ConfigError(f"text encoder {model.card.text_encoder!r} gives {text.shape[1]} numbers a text, the bundle wants others")
    return Asked(texts, head.project(text), reference), Wording(model.card, reference.about.taught, embed).known(texts)


def _tell(name: str, looks: Looks, asked: Asked, told: Sequence[Answer], card: Card, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(as_dict(name, looks, asked, told)) + "\n")
        return
    console.print(f"[bold]{escape(name)}[/]: {_of_windows(looks, card)}", highlight=False)
    console.print(f"against {asked.reference.about.title}, one window each, seen in the same leads", highlight=False)
    unlike = any(answer.known.relation == "unlike" for answer in told)
    console.print(_table(told, card), _LEGEND + _NOTHING * unlike, highlight=False)
    for answer in told:
        says = " ".join([*_of_finding(answer, usual_leads(looks.windows)), *in_sentences(answer.known, asked.reference.about.taught)])
        console.print(f"\n[bold]{escape(answer.text)}[/]: {escape(says)}", highlight=False)


def _table(told: Sequence[Answer], card: Card) -> Table:
    heads = ("percentile", "highest", "at", f"over {STRIKING:g} %", "trained")
    table = Table("text", *(Column(head, no_wrap=True) for head in heads), box=None, pad_edge=False, header_style="dim")
    for answer in told:
        begin_s = answer.highest_at_s - card.window_s
        figures = [f"{answer.percentile:.0f} %", f"{answer.highest:.0f} %", clock(begin_s), f"{100 * answer.striking:.0f} %"]
        means_nothing = answer.known.relation == "unlike"
        cells = [f"({figure})" for figure in figures] if means_nothing else figures
        table.add_row(escape(answer.text), *cells, answer.known.trained)
    return table


def _of_windows(looks: Looks, card: Card) -> str:
    count = len(looks.windows)
    left_out = f"; {looks.left_out} more of rare combinations of leads are left out" if looks.left_out else ""
    shown = in_order(frozenset[str]().union(*(seen.leads for seen in looks.windows)))
    return f"{count} window{'s' * (count > 1)} of {card.window_s:g} s, leads {' '.join(shown)}{left_out}"


def in_order(leads: Collection[str]) -> list[str]:
    """As they are usually named."""
    return [lead for lead in LEADS if lead in leads]


def _of_finding(answer: Answer, leads: Collection[str]) -> Iterator[str]:
    """What the bundle itself says of it, and how good it is at that in these leads."""
    finding = answer.known.finding
    if finding and answer.probability is None:
        needed = " or ".join("+".join(group) for group in finding.leads)
        yield f"These leads cannot show {in_words(finding.name)}, which needs {needed}."
        return
    if finding:
        highest = f"highest {answer.highest_probability:.2f}"
        knows = "knows only" if answer.known.ages else "knows this as"
        yield f"The bundle {knows} {in_words(finding.name)}: probability {answer.probability:.2f} (median), {highest}."
    if answer.auroc is not None:
        shown = "all leads" if len(leads) == len(LEADS) else f"leads {' '.join(in_order(leads))}"
        yield f"AUROC {in_figures(answer.auroc)} on recordings it had not seen, {shown}."


def in_figures(auroc: float) -> str:
    """Two decimals, or three of one that is nearly 1: never rounded up to it."""
    return f"{auroc:.2f}" if auroc < 0.995 else f"{math.floor(1000 * auroc) / 1000:.3f}"


def as_dict(name: str, looks: Looks, asked: Asked, told: Sequence[Answer]) -> dict[str, Any]:
    """What `--json` prints."""
    about = asked.reference.about
    return {
        "source": name,
        "windows": len(looks.windows),
        "windows_left_out": looks.left_out,
        "reference": {"title": about.title, "licence": about.licence, "recordings": len(asked.reference.ecg)},
        "answers": [_answer_as_dict(answer, column, looks.windows, about.taught) for column, answer in enumerate(told)],
    }


def _answer_as_dict(answer: Answer, column: int, looks: Sequence[Look], taught: Taught) -> dict[str, Any]:
    known = answer.known
    return {
        "text": answer.text,
        "percentile": round(answer.percentile, 2),
        "highest": round(answer.highest, 2),
        "highest_at_s": answer.highest_at_s,
        "share_over_95": round(answer.striking, 4),
        "finding": known.finding.name if known.finding else None,
        "probability": answer.probability,
        "highest_probability": answer.highest_probability,
        "auroc": answer.auroc,
        "relation": known.relation,
        "trained": known.trained,
        "statements": [statement.model_dump(mode="json") for statement in known.statements],
        "mentions": known.mentions,
        "nearest": known.nearest,
        "nearest_cosine": known.cosine,
        "unseen_words": known.unseen,
        "denied": known.denied,
        "not_told_apart": known.ages,
        "says": in_sentences(known, taught),
        "by_window": [[seen.at_s, round(float(seen.percentile[column]), 2), round(float(seen.similarity[column]), 6)] for seen in looks],
    }
