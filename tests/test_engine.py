"""The engines: ONNX Runtime against the ONNX reference evaluator and torch, alone or in a batch; other shapes refused."""

from __future__ import annotations

import numpy as np
import pytest

from edge.decode.chunk import Chunk
from kernels.bundle import Bundle, BundleError, golden_windows
from kernels.compare import compare
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError
from kernels.signal import resample, to_standard_leads


def _windows(excerpt: Chunk) -> np.ndarray:
    """Two real windows of two leads: fibrillation and sinus rhythm."""
    twelve = to_standard_leads(resample(excerpt.samples_mv, 360, 100), excerpt.leads)
    return np.stack([twelve[:, :1000], twelve[:, 12_000:13_000]])


def test_compare_agrees_with_the_reference(bundle: Bundle, excerpt: Chunk) -> None:
    assert compare(bundle, "onnx", _windows(excerpt)).worst <= 1e-4


def test_a_batch_does_not_change_the_bits_of_its_members(engine: Engine, excerpt: Chunk) -> None:
    windows = _windows(excerpt)
    together = engine.run(windows)
    alone = [engine.run(window[None]) for window in windows]
    assert np.array_equal(together.probability, np.concatenate([r.probability for r in alone]))
    assert np.array_equal(together.embedding, np.concatenate([r.embedding for r in alone]))


def test_embeddings_have_unit_norm_and_probabilities_lie_between_0_and_1(engine: Engine, excerpt: Chunk) -> None:
    result = engine.run(_windows(excerpt))
    assert np.allclose(np.linalg.norm(result.embedding, axis=1), 1, atol=1e-5)
    assert ((result.probability >= 0) & (result.probability <= 1)).all()
    assert result.probability.shape == (2, len(engine.bundle.card.findings))


def test_any_input_gives_finite_numbers(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    strange = [np.zeros((12, 1000)), np.full((12, 1000), 1e6), rng.standard_normal((12, 1000)) * 1e4, np.full((12, 1000), np.nan)]
    assert np.isfinite(engine.run(np.stack(strange).astype(np.float32)).probability).all()


def test_no_window_no_row(engine: Engine) -> None:
    assert engine.run(np.empty((0, 12, 1000), np.float32)).probability.shape == (0, len(engine.bundle.card.findings))


@pytest.mark.parametrize("shape", [(12, 1000), (1, 12, 999), (1, 11, 1000), (1, 1, 12, 1000)])
def test_other_shapes_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="takes windows of shape"):
        engine.run(np.zeros(shape, np.float32))


def test_an_unknown_engine_names_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="onnx, reference"):
        open_engine(bundle, "tensorflow")


def test_a_context_manager_closes(bundle: Bundle) -> None:
    with open_engine(bundle) as opened:
        opened.run(golden_windows(bundle.card.samples))
    with pytest.raises(AttributeError):
        opened.run(golden_windows(bundle.card.samples))
