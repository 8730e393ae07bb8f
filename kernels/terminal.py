"""A command-line program in; its exit code and one-line errors out, the same for all three commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from .bundle import BundleError
from .findings import ConfigError

console = Console()
errors = Console(stderr=True)

_EXTRAS = {"matplotlib": "plot", "onnx": "bake", "wfdb": "formats"}


def run(program: Callable[..., object], name: str) -> None:
    """Exit 0 when all went well, 2 for what the operator or deployer can mend, 1 for the rest; never a traceback for these."""
    try:
        program(prog_name=name)
    except (ConfigError, BundleError) as error:
        _tell(name, error)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = "train" if name == "cardiogloss-trainer" else _EXTRAS.get(error.name or "", "text")
        _tell(name, ConfigError(f"this needs the package {error.name}: pip install 'cardiogloss[{extra}]'"))
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _tell(name, error)
        sys.exit(1)


def bare_table(columns: Sequence[str], title: str | None = None) -> Table:
    """Without lines around its cells, to be filled."""
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")


def _tell(name: str, error: Exception) -> None:
    errors.print(f"{name}: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
