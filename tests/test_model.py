"""The engine of a config: the one that is asked for, or, in one line, the one that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge import model
from edge.config import Config, read_config
from edge.model import name_model, open_model
from kernels.bundle import SHIPPED_BUNDLE, BundleError
from kernels.engine import Engine, StreamEngine, open_engine
from kernels.engine_onnx import OnnxEngine
from kernels.findings import ConfigError


def _config(folder: Path, lines: str) -> tuple[Config, Path]:
    path = folder / "edge.toml"
    path.write_text(f'[model]\n{lines}\n[[source]]\nname = "bed1"\ndevice = "frame"\nstdin = true\n')
    return read_config(path), path


@pytest.mark.parametrize("trouble", [ConfigError("pycuda is absent"), BundleError("TensorRT misjudges"), OSError("the GPU failed")])
def test_an_engine_that_is_not_to_be_had_is_told_and_replaced(trouble: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bundle: Any, name: str, threads: int) -> Engine:
        if name == "tensorrt":
            raise trouble
        return open_engine(bundle, name, threads)

    monkeypatch.setattr(model, "open_engine", broken)
    with capture_logs() as log, open_model(*_config(tmp_path, 'engine = "tensorrt"')) as engine:
        assert isinstance(engine, OnnxEngine)
    assert [(line["why"], line["instead"]) for line in log] == [(str(trouble), "onnx")]


def test_a_bundle_that_onnx_runtime_refuses_too_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bundle: Any, name: str, threads: int) -> Engine:
        raise BundleError("no such operator")

    monkeypatch.setattr(model, "open_engine", broken)
    with pytest.raises(BundleError):
        open_model(*_config(tmp_path, 'engine = "openvino"'))


def test_a_bare_name_is_a_shipped_bundle_and_a_file_beside_the_config_comes_first(tmp_path: Path) -> None:
    with open_model(*_config(tmp_path, 'bundle = "cardiogloss-stream"')) as engine:
        assert isinstance(engine, StreamEngine)
    (tmp_path / "cardiogloss-stream").write_bytes(SHIPPED_BUNDLE.read_bytes())
    with open_model(*_config(tmp_path, 'bundle = "cardiogloss-stream"')) as engine:
        assert not isinstance(engine, StreamEngine)
    with pytest.raises(BundleError, match="cannot read bundle"):
        open_model(*_config(tmp_path, 'bundle = "models/cardiogloss-int8"'))


def test_another_engine_is_another_model_to_what_was_begun(tmp_path: Path) -> None:
    config, path = _config(tmp_path, "")
    with open_model(config, path) as onnx, open_engine(onnx.bundle, "openvino") as openvino:
        assert name_model(onnx, config) != name_model(openvino, config)


def test_threads_reach_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def heard(bundle: Any, name: str, threads: int) -> Engine:
        asked.append((name, threads))
        return open_engine(bundle, name, threads)

    monkeypatch.setattr(model, "open_engine", heard)
    open_model(*_config(tmp_path, "threads = 2")).close()
    assert asked == [("onnx", 2)]
