"""A findings file (TOML) in; the findings to watch for, each with its prompts, codes, leads and thresholds, out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .signal import LEADS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FINDINGS = Path(__file__).parent / "shipped" / "findings.toml"

TECHNICAL = {
    "stalled": "nothing comes from the source",
    "no_signal": "no lead shows a heart: electrodes off, a flat line, or an amplifier at its limit",
    "noise": "every lead is buried in noise or hum",
    "lead_off": "a lead is off, though another is usable",
    "no_usable_signal": "the model abstains from window after window, though no single fault lasts",
    "leads_missing": "findings that are to be watched cannot be seen in the leads at hand",
}
"""What is wrong with the signal and not with the heart, by the name of its alert: silence must never be taken for health."""

_ABBREVIATIONS = {"av", "ecg", "st", "t", "qt", "af", "vt", "vf", "wpw"}


class ConfigError(Exception):
    """The operator's file or option is wrong; the message names what and says what is allowed."""


class Finding(BaseModel):
    """What one label text names, and when its score is an alert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    prompts: tuple[str, ...] = Field(min_length=1)
    priority: Literal["high", "medium", "low", "none"] = "low"
    """IEC 60601-1-8 words; `none` is scored but never alerts."""
    raise_at: float = Field(default=0.5, gt=0, lt=1)
    clear_at: float = Field(default=0.35, gt=0, lt=1)
    leads: tuple[tuple[str, ...], ...] = ()
    """Sets of leads of which one must be wholly present; empty where any lead will do."""
    snomed: str = ""
    scp: tuple[str, ...] = ()
    k: int = Field(default=3, ge=1)
    """So many of the last `n` windows must reach `raise_at`, and as many fall below `clear_at`."""
    n: int = Field(default=5, ge=1)
    for_s: float = Field(default=0.0, ge=0)
    """For so long they must go on to do so before the alert is raised."""
    cool_down_s: float = Field(default=10.0, ge=0)
    """After its alert has cleared it stays quiet for so long."""
    irregular: bool = False
    """Whether a window counts towards it only while the intervals between the beats do not repeat."""
    above_bpm: float | None = Field(default=None, gt=0)
    below_bpm: float | None = Field(default=None, gt=0)
    """Whether it counts only at such a heart rate; one that is well beyond speaks against it."""
    silences: tuple[str, ...] = ()
    """Findings that mean nothing while this one is there, as a bundle branch block in a paced rhythm."""

    @field_validator("leads")
    @classmethod
    def _known_leads(cls, leads: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        unknown = [lead for group in leads for lead in group if lead not in LEADS]
        if unknown:
            raise ValueError(f"unknown lead {unknown[0]!r}; allowed are {' '.join(LEADS)}")
        return leads

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in TECHNICAL:
            raise ValueError(f"{name!r} is the name of a technical alert; choose another")
        return name

    @model_validator(mode="after")
    def _hysteresis(self) -> Finding:
        if self.clear_at > self.raise_at:
            raise ValueError(f"clear_at {self.clear_at} must not exceed raise_at {self.raise_at}")
        if self.k > self.n:
            raise ValueError(f"k {self.k} must not exceed n {self.n}")
        return self

    def observable(self, present: frozenset[str]) -> bool:
        """Whether these leads can show it at all."""
        return bool(present) and (not self.leads or any(present >= set(group) for group in self.leads))


def in_words(name: str) -> str:
    """`first_degree_av_block` -> `first degree AV block`"""
    return " ".join(word.upper() if word in _ABBREVIATIONS else word for word in name.split("_"))


def by_silence(findings: Sequence[Finding]) -> list[Finding]:
    """Each before those that it silences. Raises ValueError where they silence each other in a circle."""
    silenced_by = {f.name: [other.name for other in findings if f.name in other.silences] for f in findings}
    named = {f.name: f for f in findings}
    try:
        return [named[name] for name in TopologicalSorter(silenced_by).static_order()]
    except CycleError as error:
        raise ValueError(f"{' silences '.join(error.args[1])}: findings must not silence each other in a circle") from error


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    finding: tuple[Finding, ...] = Field(min_length=1)

    @field_validator("finding")
    @classmethod
    def _unique(cls, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        names = [finding.name for finding in findings]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"finding {twice[0]!r} stands twice; give each its own name")
        return findings

    @field_validator("finding")
    @classmethod
    def _silences(cls, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        names = {finding.name for finding in findings}
        unknown = [name for finding in findings for name in finding.silences if name not in names]
        if unknown:
            raise ValueError(f"silences names {unknown[0]!r}, which is no finding of this file; allowed are {', '.join(sorted(names))}")
        by_silence(findings)
        return findings


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError where it is absent or not TOML."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a text. Raises ConfigError that says where it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        # The parser lets these through for a number of thousands of digits and for brackets nested as deep.
        raise ConfigError(f"{where} is not TOML: a number is too long or brackets are nested too deep") from error


def read_findings(path: Path = DEFAULT_FINDINGS) -> tuple[Finding, ...]:
    """The `[[finding]]` tables of a findings file. Raises ConfigError naming the table, the key and what is allowed."""
    try:
        return _File.model_validate(read_toml(path)).finding
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
