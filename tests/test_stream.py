"""Streams: the step graph against torch's own encoder over the whole signal, whatever the steps and whoever shares a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from edge.decode.chunk import Chunk
from kernels.bundle import SHIPPED_BUNDLE, Bundle, BundleError, golden_windows
from kernels.engine import Result, StreamEngine, open_engine
from kernels.export import assemble, head_of, trace_to_onnx
from kernels.findings import ConfigError
from kernels.network import read_network
from kernels.signal import STRIDE, Samples, resample, to_standard_leads
from kernels.stream import calibrate, to_stream
from tests.conftest import heart
from trainer.embed import Past
from trainer.model import Encoder
from trainer.records import Recording

WHOLE = 992
"""The steps of 32 samples in a window of 1,000."""


def _untrained() -> Encoder:
    """Small, causal, and with norms that do something."""
    torch.manual_seed(0)
    encoder = Encoder(width=8, dim=256, causal=True).eval()
    for norm in (m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.2)
    return encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return _untrained()


@pytest.fixture(scope="module")
def window_bundle(encoder: Encoder, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("stream") / "encoder.pt2"
    program = torch.export.export(encoder, (torch.zeros(2, 12, 1000),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    training = {**bundle.card.training, "recipe": {**bundle.card.training["recipe"], "causal": True}}
    return assemble(trace_to_onnx(path), head_of(bundle), bundle.card.model_copy(update={"training": training}))


@pytest.fixture(scope="module")
def windows() -> Samples:
    """Hearts of several rates; with a lead off for a while, with two leads, and without any."""
    ecg = np.stack([heart(bpm, 10, 100, seed=bpm) for bpm in (45, 75, 130, 88)])
    ecg[1, 3, 200:500] = np.nan
    ecg[2, 2:] = np.nan
    ecg[3] = np.nan
    return ecg


def _enough(windows: Samples) -> Samples:
    """The same over and over: they have the same ranges."""
    return np.tile(windows, (8, 1, 1))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def engine(request: pytest.FixtureRequest, window_bundle: Bundle, windows: Samples) -> Iterator[StreamEngine]:
    ranges = calibrate(window_bundle, _enough(windows)) if request.param == "int8" else None
    with open_engine(to_stream(window_bundle, ranges)) as opened:
        assert isinstance(opened, StreamEngine)
        yield opened


def _walk(engine: StreamEngine, ecg: Samples, steps: list[int]) -> Result:
    """The result after these numbers of strides from the beginning."""
    states = np.repeat(engine.begin()[None], len(ecg), axis=0)
    at = 0
    for step in steps:
        result, states = engine.step(np.ascontiguousarray(ecg[:, :, at : at + step * STRIDE]), states)
        at += step * STRIDE
    return result


def _cut(total: int) -> st.SearchStrategy[list[int]]:
    """Any way to walk so many strides."""
    return st.lists(st.integers(1, total), max_size=8).map(lambda ends: np.diff([0, *sorted({*ends, total})]).tolist())


def test_a_window_gives_what_torch_gives(engine: StreamEngine, encoder: Encoder, windows: Samples) -> None:
    with torch.no_grad():
        expected = encoder(torch.from_numpy(windows)).numpy()
    assert np.allclose(engine.run(windows).embedding, expected, atol=1e-5 if engine.bundle.card.precision == "fp32" else 0.05)


def test_the_window_bundle_and_the_stream_bundle_are_one_model(window_bundle: Bundle, windows: Samples) -> None:
    with open_engine(window_bundle) as whole, open_engine(to_stream(window_bundle)) as stream:
        assert np.allclose(whole.run(windows).probability, stream.run(windows).probability, atol=1e-5)


@given(steps=_cut(WHOLE // STRIDE))
def test_any_steps_end_where_one_step_ends(engine: StreamEngine, windows: Samples, steps: list[int]) -> None:
    once, walked = engine.run(windows), _walk(engine, windows[:, :, :WHOLE], steps)
    tolerance = 1e-5 if engine.bundle.card.precision == "fp32" else 0.02  # a rounding of the front end may tip a whole number
    assert np.allclose(walked.embedding, once.embedding, atol=tolerance)


def test_a_result_sees_ten_seconds_and_what_they_remember(engine: StreamEngine, encoder: Encoder) -> None:
    """Torch over a minute at once, pooled over the last 31 positions, is the oracle of a stream with a past."""
    ecg = heart(70, 60, 100)[None, :, : 60 * 100 // STRIDE * STRIDE]
    with torch.no_grad():
        samples, present = encoder.front_end(torch.from_numpy(ecg))
        hidden = encoder.stem_norm(encoder.stem(samples) + encoder._lead_bias(present))
        positions = encoder.blocks(encoder._halve(torch.relu(hidden)))[..., -(WHOLE // STRIDE) :]
        expected = torch.nn.functional.normalize(encoder.project(encoder._pool(positions)), dim=-1).numpy()
    found = _walk(engine, ecg, [3, 4, 3, 3] * 11 + [32, 3, 4, 5]).embedding
    assert np.allclose(found, expected, atol=1e-5 if engine.bundle.card.precision == "fp32" else 0.05)


@given(data=st.data())
def test_no_stream_changes_a_bit_of_another(engine: StreamEngine, windows: Samples, data: DataObject) -> None:
    """Neither the size of a batch, nor who else is in it, nor the place in it."""
    order = data.draw(st.permutations(range(len(windows) * 5)))
    many = np.concatenate([windows * gain for gain in (1.0, 0.5, 2.0, -1.0, 0.1)])[order, :, : 3 * STRIDE]
    size = data.draw(st.integers(1, len(many)))
    states = np.repeat(engine.begin()[None], len(many), axis=0)
    together, after = engine.step(many, states)
    apart, after_apart = engine.step(many[:size], states[:size])
    assert np.array_equal(together.probability[:size], apart.probability)
    assert np.array_equal(together.embedding[:size], apart.embedding)
    assert np.array_equal(after[:size], after_apart, equal_nan=True)


@pytest.fixture(scope="module")
def shipped(excerpt: Chunk) -> Iterator[tuple[StreamEngine, Samples]]:
    """The stream bundle that is shipped, and real and made hearts [40, 12, 2000]."""
    real = to_standard_leads(resample(excerpt.samples_mv, 360, 100), excerpt.leads)
    hearts = [heart(40 + 5 * i, 20, 100, seed=i) for i in range(20)]
    ecg = np.stack([*hearts, *(real[:, at : at + 2000] for at in range(0, 20_000, 1000))])
    with open_engine(Bundle.read(SHIPPED_BUNDLE.with_name("cardiogloss-stream.onnx"))) as opened:
        assert isinstance(opened, StreamEngine)
        yield opened, ecg


@given(data=st.data())
def test_the_shipped_streams_share_a_call_and_no_bits(shipped: tuple[StreamEngine, Samples], data: DataObject) -> None:
    """At the beginning and later, steps short and long."""
    engine, ecg = shipped
    members = data.draw(st.lists(st.integers(0, len(ecg) - 1), min_size=1, max_size=20))
    lengths = data.draw(st.lists(st.sampled_from([1, 3, 4, 31]), min_size=1, max_size=3))
    states, at = np.repeat(engine.begin()[None], len(members), axis=0), 0
    for length in lengths:
        piece = ecg[members, :, at * STRIDE : (at + length) * STRIDE]
        if piece.shape[2] < length * STRIDE:
            break
        together, after = engine.step(piece, states)
        for i in range(len(members)):
            apart, after_apart = engine.step(piece[i : i + 1], states[i : i + 1])
            assert np.array_equal(together.probability[i : i + 1], apart.probability)
            assert np.array_equal(together.embedding[i : i + 1], apart.embedding)
            assert np.array_equal(after[i : i + 1], after_apart)
        states, at = after, at + length


def test_the_shipped_streams_go_together_on_this_processor(shipped: tuple[StreamEngine, Samples]) -> None:
    assert shipped[0]._may_share  # type: ignore[attr-defined]


def test_the_same_ranges_give_the_same_bytes(window_bundle: Bundle, windows: Samples) -> None:
    ranges = calibrate(window_bundle, _enough(windows))
    assert to_stream(window_bundle, ranges).onnx == to_stream(window_bundle, calibrate(window_bundle, _enough(windows))).onnx


def test_int8_says_what_float32_says(window_bundle: Bundle, windows: Samples) -> None:
    ranges = calibrate(window_bundle, _enough(windows))
    with open_engine(to_stream(window_bundle)) as full, open_engine(to_stream(window_bundle, ranges)) as coarse:
        assert np.abs(full.run(windows).probability - coarse.run(windows).probability).max() < 0.05


def test_a_stream_bundle_survives_the_disk_and_tells_where_it_is_from(window_bundle: Bundle, tmp_path: Path) -> None:
    stream = to_stream(window_bundle)
    (tmp_path / "stream.onnx").write_bytes(stream.onnx)
    card = Bundle.read(tmp_path / "stream.onnx").card
    assert (card.stride, card.precision, card.derived_from) == (STRIDE, "fp32", window_bundle.card.sha256)
    assert card.findings == window_bundle.card.findings


def test_an_encoder_that_looks_ahead_takes_no_streams(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="looks ahead"):
        to_stream(bundle)


def test_what_is_no_float32_bundle_of_windows_cannot_be_made_a_stream(window_bundle: Bundle) -> None:
    stream = to_stream(window_bundle)
    coarse = Bundle(window_bundle.onnx, window_bundle.card.model_copy(update={"precision": "int8"}))
    for other in (stream, coarse):
        with pytest.raises(ConfigError, match="only a float32 bundle that takes windows can be made a stream"):
            to_stream(other)


def test_few_windows_give_no_ranges(window_bundle: Bundle, windows: Samples) -> None:
    with pytest.raises(ConfigError, match="4 windows are too few"):
        calibrate(window_bundle, windows)


@pytest.mark.parametrize("other", [{"pooling": "mean"}, {"kernel": 1}, {"kernel": 2}, {"lead_aware": False}], ids=str)
def test_an_encoder_of_another_shape_is_told(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt2"
    encoder = Encoder(width=4, dim=16, causal=True, **other).eval()
    program = torch.export.export(encoder, (torch.zeros(2, 12, 1000),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    with pytest.raises(BundleError, match="another shape than cardiogloss trains for streams"):
        read_network(trace_to_onnx(path))


def test_no_other_engine_opens_a_stream_bundle(window_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="takes no bundle made for streams"):
        open_engine(to_stream(window_bundle), "reference")


def test_no_stream_no_row(engine: StreamEngine) -> None:
    result, states = engine.step(np.empty((0, 12, 64), np.float32), np.empty((0, len(engine.begin())), np.float32))
    findings = len(engine.bundle.card.findings)
    assert (result.probability.shape, result.embedding.shape, states.shape) == ((0, findings), (0, 256), (0, len(engine.begin())))
    assert engine.run(np.empty((0, 12, 1000), np.float32)).probability.shape == (0, findings)


def test_samples_and_states_in_another_float_type_are_those_in_float32(engine: StreamEngine, windows: Samples) -> None:
    states = np.repeat(engine.begin()[None], len(windows), axis=0)
    coarse, after = engine.step(windows[:, :, :64].astype(np.float64), states.astype(np.float64))
    fine, expected = engine.step(windows[:, :, :64], states)
    assert np.array_equal(coarse.probability, fine.probability)
    assert np.array_equal(after, expected, equal_nan=True)


@pytest.mark.parametrize(("count", "more"), [(3, 0), (2, 1), (2, -1)])
def test_states_of_another_shape_are_refused(engine: StreamEngine, count: int, more: int) -> None:
    with pytest.raises(BundleError, match="2 streams have states of shape"):
        engine.step(np.zeros((2, 12, 32), np.float32), np.zeros((count, len(engine.begin()) + more), np.float32))


def test_many_windows_take_no_more_memory_than_a_few(engine: StreamEngine, windows: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go in groups, and no bit shows it."""
    sizes: list[int] = []
    step = type(engine).step
    monkeypatch.setattr(type(engine), "step", lambda self, ecg, states: sizes.append(len(ecg)) or step(self, ecg, states))
    many = engine.run(np.tile(windows, (5, 1, 1))).probability
    assert sizes == [8, 8, 4]
    assert np.array_equal(many, np.tile(engine.run(windows).probability, (5, 1)))


@pytest.mark.parametrize("shape", [(1, 12, 33), (1, 12, 0), (1, 12, 1056), (1, 11, 32), (12, 32)])
def test_steps_of_other_shapes_are_refused(engine: StreamEngine, shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="a multiple of 32"):
        engine.step(np.zeros(shape, np.float32), engine.begin()[None])


def test_golden_windows_are_written_down_anew(engine: StreamEngine) -> None:
    golden = np.array(engine.bundle.card.golden, np.float32)
    assert np.allclose(engine.run(golden_windows(1000)).probability, golden, atol=1e-6)


def test_the_network_is_read_as_it_was_written(window_bundle: Bundle, encoder: Encoder) -> None:
    import onnx

    network = read_network(onnx.load_model_from_string(window_bundle.onnx))
    assert [block.first.stride for block in network.blocks] == [1, 1, 2, 1, 2, 1, 2, 1]
    assert np.allclose(network.project, encoder.project.weight.detach().numpy())


def test_nothing_later_than_its_stride_reaches_a_position(encoder: Encoder, windows: Samples) -> None:
    """The law that streams rest on, asked of torch itself."""

    def positions(ecg: Samples) -> torch.Tensor:
        samples, present = encoder.front_end(torch.from_numpy(ecg))
        return encoder.blocks(encoder._halve(torch.relu(encoder.stem_norm(encoder.stem(samples) + encoder._lead_bias(present)))))

    later = windows[:1].copy()
    later[..., 10 * STRIDE :] += 1
    with torch.no_grad():
        before, after = positions(windows[:1]), positions(later)
    assert torch.equal(before[..., :10], after[..., :10])
    assert not torch.equal(before[..., 10:], after[..., 10:])


def _recording(number: int, samples_mv: Samples, after: str | None) -> Recording:
    return Recording(f"r+{number}", samples_mv, 100.0, "", (), (), "r", 1, after=after)


def test_recordings_that_go_on_are_one_stream(engine: StreamEngine) -> None:
    """And one that does not begins anew."""
    ecg = heart(70, 40, 100)
    windows = [ecg[None, :, at : at + 1000] for at in range(0, 4000, 1000)]
    past = Past(engine)
    found = [past.encode(_recording(i, w[0], f"r+{i - 1}" if i else None), w) for i, w in enumerate(windows)]
    assert np.allclose(found[3], _walk(engine, ecg[None, :, : 4000 // STRIDE * STRIDE], [31, 31, 31, 32]).embedding, atol=1e-6)
    alone = past.encode(_recording(9, windows[2][0], "another"), windows[2])
    assert np.array_equal(alone, engine.run(windows[2]).embedding)
    assert not np.array_equal(alone, found[2])
