"""Who may import whom, and what the edge must never need."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"edge": {"trainer"}, "trainer": {"edge"}, "kernels": {"edge", "trainer"}}
HEAVY = {"torch", "transformers", "pandas", "scipy", "tensorflow", "wfdb", "matplotlib", "onnx"}


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_point_one_way(package: str) -> None:
    for path in _files(package):
        assert not set(_imports(ast.parse(path.read_text()))) & FORBIDDEN[package], path


def test_the_edge_starts_without_heavy_packages() -> None:
    """Importing the whole command must not load what the edge install does not have."""
    code = "import sys, edge.__main__, edge.pipeline, kernels.engine_onnx; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)))
    assert not loaded & HEAVY


SUPERVISOR = "edge/supervisor.py"


def test_no_module_prints_and_only_the_supervisor_catches_everything() -> None:
    for package in FORBIDDEN:
        for path in _files(package):
            tree = ast.parse(path.read_text())
            calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert "print" not in calls, path
            broad = [
                h for h in ast.walk(tree) if isinstance(h, ast.ExceptHandler) and (h.type is None or ast.unparse(h.type) == "Exception")
            ]
            assert len(broad) == (path == ROOT / SUPERVISOR), path


def test_every_module_says_in_one_sentence_what_goes_in_and_out() -> None:
    for package in FORBIDDEN:
        for path in _files(package):
            assert ast.get_docstring(ast.parse(path.read_text())), path
