"""The words of `windows` in; a file of labelled windows, to quantise a bundle with and to judge another engine by, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.findings import ConfigError, Finding
from kernels.gate import UNTOLD
from kernels.signal import Samples
from kernels.terminal import errors
from kernels.writable import check_writable

from .embed import Embedded, Seen, View, embed
from .evaluate import LeadSet, of_source
from .evaluate_command import DatasetOption, LeadsOption, RootOption, parse_lead_sets
from .metrics import Bools
from .options import parse_folds
from .source import Source
from .zero_shot import finding_labels, observable


def windows_command(
    root: RootOption,
    out: Annotated[Path, typer.Option(help="The file to write (.npz).")],
    bundle: Annotated[Path, typer.Option(help="The bundle whose findings are labelled.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    name: DatasetOption = "ptb-xl",
    folds: Annotated[str, typer.Option(help="As in 9 or 1-8.")] = "9",
    leads: LeadsOption = None,
    most: Annotated[int | None, typer.Option(help="So many recordings at most, evenly chosen.", show_default="all")] = None,
) -> None:
    """Write the windows of these folds as the bundle sees them, with the label of each of its findings.

    `--leads` adds copies as a device with only these leads would give them, in which a finding that they cannot show has no label.
    """
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out} must be a file that ends in .npz")
    check_writable(out)
    if most is not None and most < 1:
        raise ConfigError(f"--most {most} must be positive")
    source = Source(name, root, tuple(parse_folds(folds)))
    lead_sets = [(), *(leads for leads in parse_lead_sets(leads or []) if leads)]
    with errors.status("reading recordings"):
        arrays: dict[str, Any] = labelled_windows(Bundle.read(bundle), source, lead_sets, most)
    np.savez_compressed(out, **arrays)
    told = f"wrote {out}: {len(arrays['ecg'])} windows of {len(set(arrays['patient']))} patients, {len(arrays['names'])} findings"
    errors.print(told, highlight=False, soft_wrap=True)


def labelled_windows(
    bundle: Bundle, source: Source, lead_sets: Sequence[LeadSet] = ((),), most: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """`ecg` [n, 12, samples] in mV, `labels` [n, findings] (1 shown, 0 not, -1 untold), `names` [findings] and `patient` [n].

    The rules are those of `evaluate`: recordings in mV only, windows that overlap by half, each with the codes of its recording.
    Raises ConfigError where a set of leads has no recording.
    """
    card = bundle.card
    seen = embed(source.read(), [View(_as_it_is, leads) for leads in lead_sets], card.rate_hz, card.samples)
    told = [_thin_out(of_source(one, source), most) for one in seen]
    return {
        "ecg": np.concatenate([one.windows() for one in told]),
        "labels": np.concatenate([_labels(card.findings, one, source) for one in told]),
        "names": np.array([f.name for f in card.findings]),
        "patient": np.array([r.patient for one in told for r in one.recordings for _ in r.embedding]),
    }


def _as_it_is(ecg: Samples) -> Samples:
    return ecg


def _thin_out(embedded: Embedded, most: int | None) -> Embedded:
    """At most so many of the recordings, from the first to the last."""
    recordings = embedded.recordings
    if most is None or len(recordings) <= most:
        return embedded
    return Embedded(embedded.leads, tuple(recordings[i * len(recordings) // most] for i in range(most)))


def _labels(findings: Sequence[Finding], embedded: Embedded, source: Source) -> npt.NDArray[np.int8]:
    """One row a window."""
    shown = finding_labels(findings, embedded.recordings, source.concepts)
    told = observable(findings, embedded) & _labelled(findings, embedded, source)
    rows = np.where(told, shown, UNTOLD).astype(np.int8)
    return np.repeat(rows, [len(r.embedding) for r in embedded.recordings], axis=0)


def _labelled(findings: Sequence[Finding], embedded: Embedded, source: Source) -> Bools:
    """[findings]: whether any code of the data set, or of these recordings, means a finding."""
    codes = {code for r in embedded.recordings for code in r.codes} | set(source.concepts)
    first = embedded.recordings[0]
    everything = Seen(first.id, first.patient, first.fold, tuple(codes), first.present, first.embedding)
    labelled: Bools = finding_labels(findings, [everything], source.concepts)[0]
    return labelled
