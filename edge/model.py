"""A config in; the engine that it asks for, or the one that every machine has, out."""

from __future__ import annotations

from pathlib import Path

import structlog

from kernels.bundle import Bundle, BundleError
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError

from .check import must_fit
from .config import Config
from .systemd import notify

FALL_BACK = "onnx"

_MAKING_S = 1800
"""An engine that is made for this machine may take so long, once."""

log = structlog.get_logger()


def open_model(config: Config, path: Path) -> Engine:
    """Raises BundleError, or ConfigError for what the bundle cannot do."""
    bundle = Bundle.read(config.model.bundle)
    must_fit(config, bundle.card, path)
    name, threads = config.model.engine, config.model.threads
    if name == FALL_BACK:
        return open_engine(bundle, name, threads)
    notify(f"EXTEND_TIMEOUT_USEC={_MAKING_S * 1_000_000}")
    try:
        return open_engine(bundle, name, threads)
    except (ConfigError, BundleError, OSError) as error:
        log.warning("engine not to be had", engine=name, why=str(error), instead=FALL_BACK)
        return open_engine(bundle, FALL_BACK, threads)


def name_model(engine: Engine, config: Config) -> str:
    """What decides which alerts the same samples give."""
    return f"{engine.bundle.card.sha256} {type(engine).__name__} {config.model.hop_s:g}"
