"""A TOML file in, a monitor's own config too; what a score-worker is to do, out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from kernels.findings import read_toml

from ..config import Config, Http, Log, Model, Mqtt
from ..mistakes import NAME_PATTERN, Mistake, fit
from ..rules import rules


class Settings(BaseModel):
    """The tables of an `edge.toml` that a score-worker reads; what says which sources to watch is left alone."""

    model_config = Config.model_config

    site: str = Field(default="", pattern=NAME_PATTERN, max_length=64)
    """Whose windows are scored; those of all sites where it is left out."""
    model: Model = Field(default_factory=Model)
    """What scores the windows."""
    mqtt: Mqtt
    """The broker that has the windows."""
    http: Http | None = None
    """Where to ask how the worker is; nowhere where it is left out, as several may run on one machine."""
    log: Log = Field(default_factory=Log)
    """What goes to standard error."""


def read_settings(path: Path) -> Settings:
    """Raises ConfigError with every mistake, one a line: the file, the key, what is wrong and what is allowed."""
    tables = read_toml(path)
    others = Config.model_fields.keys() - Settings.model_fields.keys()
    return fit(Settings, {key: value for key, value in tables.items() if key not in others}, path, _rules)


def _rules(settings: Settings) -> Iterator[Mistake]:
    yield from rules(Config.model_construct(mqtt=settings.mqtt, source=()))
    if settings.model.engine == "remote":
        yield Mistake(("model", "engine"), "a score-worker scores itself; it must be onnx, openvino or tensorrt")
    if settings.mqtt.version == "3.1.1":
        yield Mistake(("mqtt", "version"), "workers share windows by a subscription of MQTT 5; leave it out, and use a broker that has it")
