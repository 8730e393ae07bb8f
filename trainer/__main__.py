"""The `cardiogloss-trainer` command: what it needs is imported inside, so that a missing package is one line."""

from __future__ import annotations

from kernels.terminal import run


def main() -> None:
    """The `cardiogloss-trainer` command."""
    run(_program, "cardiogloss-trainer")


def _program(prog_name: str) -> None:
    from .command import app

    app(prog_name=prog_name)


if __name__ == "__main__":
    main()
