"""The `cardiogloss-trainer` command: what it needs is imported inside, so that a missing package is one line."""

from __future__ import annotations

from kernels.terminal import run


def main() -> None:
    """The `cardiogloss-trainer` command."""
    run(_program, "cardiogloss-trainer")


def _program() -> None:
    from .command import app

    app()


if __name__ == "__main__":
    main()
