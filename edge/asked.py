"""The bundle, findings file, hop and outputs that a command line names in; the model and options to watch with out, or what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kernels.bundle import Bundle, Card
from kernels.findings import ConfigError, read_findings

from .pipeline import Options


def model_of(bundle: Path, findings: Path | None) -> Bundle:
    """The bundle, for the findings of this file if one is given. Raises BundleError, and ConfigError for a mistake in the file."""
    model = Bundle.read(bundle)
    if findings is None:
        return model
    wanted = read_findings(findings)
    from kernels.export import bake

    return bake(model, wanted)


def check_drawing() -> None:
    """Raises ConfigError where nothing can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("drawing needs matplotlib: pip install 'cardiogloss[plot]'")


def options_of(hop_s: float, card: Card) -> Options:
    """Raises ConfigError for a hop that is shorter than a sample or longer than the window."""
    if not 1 / card.rate_hz <= hop_s <= card.window_s:
        raise ConfigError(f"--hop {hop_s:g} must lie between {1 / card.rate_hz:g} and the window's {card.window_s:g} s")
    return Options(hop_s=hop_s)
