"""How much of a recording a file holds, and how much it promises, in; the error that says so, out."""

from __future__ import annotations

from kernels.findings import ConfigError


def truncated(held_s: float, promised_s: float, of: str = "") -> ConfigError:
    """To be raised unless the operator wants what is left."""
    return ConfigError(
        f"is truncated: it holds {held_s:.2f} of {of}{promised_s:.2f} s; copy it again, or replay what is there with --partial"
    )
