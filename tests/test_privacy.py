"""What no package that we run may do: keep or send anything about this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import EXCERPT
from .daemon import ROOT


def test_scoring_leaves_nothing_in_the_home_of_the_user(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 keeps a database of events and an identity of the device under ~/.cache, unless it is told not to."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    command = [sys.executable, "-m", "edge", "replay", str(EXCERPT), "--json"]
    done = subprocess.run(command, env=kept | {"HOME": str(tmp_path)}, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0 and b'"scores"' in done.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
