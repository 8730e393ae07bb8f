"""A config in; the engine that it asks for, or the one that every machine has, out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from kernels.bundle import Bundle, BundleError
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError

from .check import must_fit
from .config import Config
from .fleet.remote import RemoteEngine
from .systemd import notify

FALL_BACK = "onnx"

_MAKING_S = 1800
"""An engine that is made for this machine may take so long, once."""

log = structlog.get_logger()


def open_model(config: Config, path: Path, meanwhile: Callable[[], object] = lambda: None) -> Engine:
    """`meanwhile` is called a few times a second while score-workers are waited for, by the thread that waits.

    Raises BundleError, or ConfigError for what the bundle cannot do.
    """
    bundle = Bundle.read(config.model.bundle)
    must_fit(config, bundle.card, path)
    if config.model.engine == "remote":
        assert config.mqtt is not None
        return RemoteEngine(bundle, config.mqtt, config.site, config.mqtt.client_id or f"cardiogloss-{config.name}", meanwhile)
    return open_local(bundle, config.model.engine, config.model.threads)


def open_local(bundle: Bundle, name: str, threads: int) -> Engine:
    """On this machine; where that engine is not to be had, the one that every machine has. Raises BundleError."""
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
