"""Command-line words in; trained runs, calibrated bundles and tables of figures out."""

from __future__ import annotations

import typer

from .evaluate_command import calibrate_command, evaluate_command
from .reference_command import reference_command
from .train_command import held_out_command, reports_command, train_command
from .windows_command import windows_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def cardiogloss_trainer() -> None:
    """Trains, calibrates and evaluates cardiogloss models."""


app.command(name="train")(train_command)
app.command(name="held-out")(held_out_command)
app.command(name="reports")(reports_command)
app.command(name="calibrate")(calibrate_command)
app.command(name="evaluate")(evaluate_command)
app.command(name="windows")(windows_command)
app.command(name="reference")(reference_command)
