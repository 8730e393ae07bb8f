"""What a TensorRT plan was built for in; the plan that is kept for it, or word of why there is none, out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Key:
    """All that a plan depends on: with any other it may not load, or load and run slowly."""

    graph: str
    """The sha256 of the encoder's graph; the findings are no part of it."""
    precision: str
    gpu: str
    compute_capability: str
    driver: str
    tensorrt: str
    """Module and version."""
    recipe: str
    """What the builder was asked for."""


def cache_folder() -> Path:
    """$CARDIOGLOSS_CACHE, else cardiogloss under $XDG_CACHE_HOME, else ~/.cache/cardiogloss."""
    if own := os.environ.get("CARDIOGLOSS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cardiogloss"


def plan_folder() -> Path:
    """Where plans lie, and what TensorRT measured for them."""
    return cache_folder() / "engines"


def plan_path(key: Key, folder: Path) -> Path:
    """One file a model and precision: what was built for another GPU or driver is replaced, not collected."""
    return folder / f"{key.graph[:16]}-{key.precision}.plan"


def key_path(plan: Path) -> Path:
    """Beside each plan lies what it was built for, with the hash of its bytes."""
    return plan.with_suffix(".json")


def read_plan(key: Key, folder: Path) -> bytes | None:
    """The kept plan; None, and a line in the log, where it is of something else or damaged."""
    path = plan_path(key, folder)
    try:
        plan, kept = path.read_bytes(), json.loads(key_path(path).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("plan_unreadable", path=str(path), why=str(error))
        return None
    known = kept if isinstance(kept, dict) else {}
    differs = [f"{name} {known.get(name)!r}, now {value!r}" for name, value in _facts(key, plan).items() if known.get(name) != value]
    if differs:
        log.warning("plan_stale", path=str(path), why="; ".join(differs))
    return None if differs else plan


def write_plan(key: Key, plan: bytes, path: Path) -> None:
    """The plan, then its key: torn in between, they do not fit and it is built again. Raises OSError."""
    replace_file(path, plan)
    replace_file(key_path(path), json.dumps(_facts(key, plan), indent=1).encode() + b"\n")


def _facts(key: Key, plan: bytes) -> dict[str, str]:
    return {**asdict(key), "plan": hashlib.sha256(plan).hexdigest()}


def keep_plan(key: Key, plan: bytes, folder: Path) -> None:
    """Where it cannot be kept it is built anew at each start."""
    with told_not_raised("plan_not_kept", folder):
        write_plan(key, plan, plan_path(key, folder))


@contextmanager
def told_not_raised(event: str, path: Path) -> Iterator[None]:
    """A cache that cannot be read or written costs time at each start and a line in the log; it must not end a monitor."""
    try:
        yield
    except OSError as error:
        log.warning(event, path=str(path), why=str(error))


def replace_file(path: Path, data: bytes) -> None:
    """Whole or not at all: written beside, flushed to the disk, moved into place. Who may read it, the umask says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
