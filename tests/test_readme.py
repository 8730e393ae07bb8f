"""The README tells the truth: each `$ cardiogloss` command in its console blocks prints what stands below it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = {"cardiogloss": "edge", "cardiogloss-kernels": "kernels", "cardiogloss-trainer": "trainer"}


def _examples() -> list[tuple[str, str]]:
    """(command, output) of every ```console block."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


@pytest.mark.parametrize(("command", "output"), [example for example in _examples() if example[0].startswith("cardiogloss")])
def test_a_command_prints_what_the_readme_shows(command: str, output: str, tmp_path: Path) -> None:
    name, *words = shlex.split(command.replace("demo/", f"{tmp_path}/"))
    env = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", MODULES[name], *words], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    printed = done.stdout + done.stderr.replace(f"{tmp_path}/", "demo/")
    assert _tidy(printed) == _tidy(output)


def _tidy(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_there_are_examples_and_every_file_named_exists() -> None:
    assert len(_examples()) >= 2
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
