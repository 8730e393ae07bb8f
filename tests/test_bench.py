"""The benchmark: multiply-adds, bursts by turns, percentiles, energy, what can be selected, and one short run of the command."""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from typer.testing import CliRunner

from kernels import bench as benching
from kernels.bench import ENGINES, Selection, bench, cores
from kernels.bench_command import _spread, bench_command, draw, most_disturbed, read_bundles, repeat, windows_of
from kernels.bundle import SHIPPED_BUNDLE, Bundle, Card, golden_windows
from kernels.engine import Engine, Result, StreamEngine, open_engine
from kernels.findings import ConfigError
from kernels.peak import Macs, Peak, count_hop, count_macs, find_meter, hop_sizes, measure_peak
from kernels.rounds import LEAST_RUNS, ROUNDS, Row, Tally, Task, run_rounds, to_rows

PEAK = Peak(100.0, 400.0)


# Multiply-adds


def _card(**facts: Any) -> Card:
    return Card(rate_hz=100.0, window_s=10.0, findings=(), text_encoder="none", **facts)


def _bundle(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: Sequence[tuple[str, list[Any]]], **facts: Any
) -> Bundle:
    """A graph whose last node makes `out`; not sealed, as only its graph is asked about."""
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "g", entries, out, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Bundle(model.SerializeToString(), _card(**facts))


ECG = ("ecg", ["batch", 12, "n"])


def test_the_shipped_encoder_costs_what_torch_counts(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    from trainer.model import encoder_of

    encoder = encoder_of(bundle.card.training["recipe"]).eval()
    with flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 12, bundle.card.samples))
    cosines = len(bundle.card.findings) * encoder.project.out_features
    assert count_macs(bundle) == Macs(floating=counter.get_total_flops() / 2 + cosines)


def test_the_shipped_encoder_costs_163_million(bundle: Bundle) -> None:
    """By hand: outputs, inputs, kernel and positions of each convolution of a ResNet-18 of width 48."""
    convolutions = [(48, 12, 15, 500), *[(48, 48, 5, 250)] * 4]
    for outputs, positions in ((96, 125), (192, 63), (384, 32)):
        convolutions += [
            (outputs, outputs // 2, 5, positions),
            (outputs, outputs // 2, 1, positions),
            *[(outputs, outputs, 5, positions)] * 3,
        ]
    products = [(48, 12), (256, 2 * 384), (len(bundle.card.findings), 256)]
    assert count_macs(bundle).total == sum(map(math.prod, [*convolutions, *products])) == pytest.approx(163e6, rel=0.005)


def test_the_count_agrees_with_the_shapes_that_onnx_infers(bundle: Bundle) -> None:
    model = onnx.load_model_from_string(bundle.onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)}
    sizes = {i.name: list(i.dims) for i in inferred.initializer}
    counted = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            counted += math.prod(shapes[node.output[0]]) * math.prod(sizes[node.input[1]][1:])
        elif node.op_type == "Gemm" and node.input[0] != "text":
            counted += shapes[node.output[0]][1] * shapes.get(node.input[1], sizes.get(node.input[1]))[1]
    assert count_macs(bundle).total == counted


@settings(max_examples=30)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(20, 60)
)
def test_a_convolution_costs_what_torch_counts(each: int, kernel: int, stride: int, dilation: int, groups: int, samples: int) -> None:
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    reach = (kernel - 1) * dilation
    weight = np.zeros((each * groups, 12 // groups, kernel), np.float32)
    node = helper.make_node(
        "Conv", ["ecg", "w"], ["out"], group=groups, strides=[stride], dilations=[dilation], pads=[reach, 0], kernel_shape=[kernel]
    )
    with flop_counter.FlopCounterMode(display=False) as counter:
        padded = torch.zeros(1, 12, samples + reach)
        torch.nn.functional.conv1d(padded, torch.from_numpy(weight), stride=stride, dilation=dilation, groups=groups)
    assert count_macs(_bundle([node], {"w": weight}, [ECG]), samples) == Macs(floating=counter.get_total_flops() / 2)


def test_products_cost_rows_times_columns_times_what_they_sum_over() -> None:
    weights = {"square": np.zeros((50, 7), np.float32), "gemm": np.zeros((5, 84), np.float32)}
    flatten = numpy_helper.from_array(np.array([0, -1]), "flat")
    nodes = [
        helper.make_node("MatMul", ["ecg", "square"], ["product"]),  # [1, 12, 50] by [50, 7]
        helper.make_node("Reshape", ["product", "flat"], ["row"]),
        helper.make_node("Gemm", ["row", "gemm"], ["out"], transB=1),  # [1, 84] by [84, 5]
    ]
    bundle = _bundle(nodes, weights | {"flat": numpy_helper.to_array(flatten)}, [ECG])
    assert count_macs(bundle, 50) == Macs(floating=12 * 50 * 7 + 84 * 5)


def test_what_no_window_changes_costs_nothing() -> None:
    weights = {"a": np.zeros((30, 40), np.float32), "b": np.zeros((40, 7), np.float32)}
    nodes = [helper.make_node("MatMul", ["a", "b"], ["ab"]), helper.make_node("MatMul", ["ecg", "ab"], ["out"])]
    assert count_macs(_bundle(nodes, weights, [ECG]), 30) == Macs(floating=12 * 30 * 7)


class _OneWindow(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self._left = [{"ecg": np.random.default_rng(0).standard_normal((1, 12, 40)).astype(np.float32)}]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("form", [quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator])
def test_a_quantised_graph_costs_as_much_but_in_whole_numbers(form: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 12, 5), np.float32), "m": rng.standard_normal((36, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["ecg", "w"], ["hidden"], kernel_shape=[5]), helper.make_node("MatMul", ["hidden", "m"], ["out"])]
    plain = _bundle(nodes, weights, [("ecg", ["batch", 12, 40])])
    (tmp_path / "plain.onnx").write_bytes(plain.onnx)
    quantization.quantize_static(tmp_path / "plain.onnx", tmp_path / "small.onnx", _OneWindow(), quant_format=form, per_channel=True)
    small = Bundle((tmp_path / "small.onnx").read_bytes(), plain.card)
    assert count_macs(plain, 40) == Macs(floating=8 * 12 * 5 * 36 + 8 * 36 * 3)
    assert count_macs(small, 40) == Macs(integer=count_macs(plain, 40).total)


@given(st.integers(1, 400), st.integers(1, 64))
def test_hops_give_a_stream_all_whole_strides_that_have_come(hop: int, stride: int) -> None:
    """Against a stream that is told one sample after the other."""
    sizes, waiting = [], 0
    for sample in range(1, hop * stride + 1):
        waiting += 1
        if sample % hop == 0 and waiting >= stride:
            sizes.append(waiting // stride * stride)
            waiting %= stride
    cycle = hop_sizes(hop, stride)
    assert sizes == [size for _, size in zip(sizes, itertools.cycle(cycle), strict=False)]
    assert sum(cycle) % hop == 0


def test_a_hop_of_a_stream_costs_its_samples_and_what_comes_once_each_step() -> None:
    """A convolution over the new samples, and a product of the state that is made at each step, whatever its size."""
    weights = {"w": np.zeros((4, 12, 32), np.float32), "m": np.zeros((6, 10), np.float32)}
    nodes = [
        helper.make_node("Conv", ["ecg", "w"], ["out"], kernel_shape=[32], strides=[32]),
        helper.make_node("MatMul", ["state", "m"], ["next_state"]),
    ]
    stream = _bundle(nodes, weights, [ECG, ("state", ["batch", 6])], stride=32)
    assert count_macs(stream, 96) == Macs(floating=3 * 4 * 12 * 32 + 60)
    assert count_hop(stream, 100).total == pytest.approx(100 / 32 * 4 * 12 * 32 + 60)


def test_the_least_time_takes_each_kind_at_its_own_peak() -> None:
    assert Macs(floating=50e9, integer=100e9).least_s(Peak(100.0, 400.0)) == pytest.approx(1.0 + 0.5)


def test_the_peak_of_this_machine_is_told_by_a_process_of_its_own() -> None:
    measured = measure_peak(threads=1, seconds=0.03)
    assert 0.05 < measured.fp32_gflops < 1e6
    assert 0.05 < measured.int8_gops < 1e6
    assert measured.or_more(Peak(1e9, 0.0)) == Peak(1e9, measured.int8_gops)


# Timing


class _Clock:
    """Goes on only when a task runs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _task(name: str, clock: _Clock, cost_s: float, log: list[str], **facts: Any) -> Task:
    def run() -> int:
        clock.now_s += cost_s
        log.append(name)
        return 1000

    return Task(name, "model", "fp32", 1, run, Macs(1e6), **facts)


def test_every_round_has_a_burst_of_each_task() -> None:
    clock, log = _Clock(), []
    tallies = [Tally(_task(name, clock, cost_s, log)) for name, cost_s in (("fast", 0.001), ("slow", 0.01))]
    assert run_rounds(tallies, 2.0, clock=clock)
    bursts = [name for name, _ in itertools.groupby(log)]
    assert bursts == ["fast", "slow"] * ROUNDS
    assert [tally.spent_s for tally in tallies] == [pytest.approx(2.0, abs=0.011)] * 2


def test_a_task_slower_than_its_share_is_spread_over_the_rounds_and_runs_often_enough() -> None:
    clock, log = _Clock(), []
    tallies = [Tally(_task("fast", clock, 0.01, log)), Tally(_task("huge", clock, 3.0, log), warm_s=3.0)]
    run_rounds(tallies, 1.0, clock=clock)
    bursts = [list(group) for name, group in itertools.groupby(log) if name == "huge"]
    assert [len(burst) for burst in bursts] == [1] * LEAST_RUNS


def test_the_first_run_of_a_burst_does_not_count_as_its_caches_are_cold() -> None:
    clock, log = _Clock(), []
    tally = Tally(_task("only", clock, 0.01, log))
    run_rounds([tally], 1.0, clock=clock)
    assert len(log) == len(tally.seconds) + ROUNDS


def test_nothing_is_collected_while_the_clock_runs_and_everything_after() -> None:
    seen: set[bool] = set()
    clock = _Clock()

    def run() -> int:
        clock.now_s += 0.01
        seen.add(gc.isenabled())
        return 1000

    run_rounds([Tally(Task("a", "model", "fp32", 1, run, Macs()))], 0.1, clock=clock)
    assert seen == {False}
    assert gc.isenabled()


def test_what_was_measured_before_an_interrupt_stands() -> None:
    clock, log = _Clock(), []
    tallies = [Tally(_task(name, clock, 0.01, log)) for name in ("first", "second", "third")]
    plain = tallies[1].task.run

    def interrupted() -> int:
        if log.count("second") == 3:
            raise KeyboardInterrupt
        return plain()

    tallies[1] = Tally(Task("second", "model", "fp32", 1, interrupted, Macs(1e6)))
    assert not run_rounds(tallies, 1.0, meter=_Meter(), clock=clock, cpu_clock=clock)
    rows = to_rows(tallies, 1, PEAK, with_joules=True)
    assert [(row.engine, row.share_of_core) for row in rows] == [("first", pytest.approx(1.0)), ("second", pytest.approx(1.0))]
    assert [row.joules_per_window for row in rows] == [pytest.approx(0.05)] * 2
    assert gc.isenabled()


seconds_lists = st.lists(st.floats(1e-5, 10), min_size=2, max_size=300)


@given(seconds_lists, st.sampled_from([1, 8, 256]), st.integers(1, 4))
def test_a_row_tells_median_and_percentile_as_the_standard_library_does(seconds: list[float], batch: int, threads: int) -> None:
    tally = Tally(Task("onnx", "model", "fp32", batch, lambda: 1000, Macs(1e8)), seconds, [1000] * len(seconds))
    (row,) = to_rows([tally], threads, PEAK, with_joules=False)
    median_s = statistics.median(seconds)
    assert row.median_ms == pytest.approx(1e3 * median_s)
    assert row.p99_ms == pytest.approx(1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[98])
    assert row.windows_per_s == pytest.approx(batch / median_s)
    assert row.sources_per_core == pytest.approx(batch / median_s / threads)
    assert row.share_of_peak == pytest.approx(2 * 1e8 * batch / (median_s * 100e9))
    assert row.joules_per_window is None and row.times_torch is None


def test_a_stream_counts_every_size_of_hop_as_often_as_it_comes() -> None:
    tally = Tally(Task("stream", "model", "int8", 8, lambda: 96, Macs(1.0), hop_s=1.0), [3.0, 3.0, 3.0, 7.0], [96, 96, 96, 128])
    assert tally.typical_s == 4.0


def test_ratios_are_against_torch_of_the_same_batch() -> None:
    def tally(engine: str, batch: int, seconds: float) -> Tally:
        return Tally(Task(engine, "model", "fp32", batch, lambda: 1000, Macs(1.0)), [seconds], [1000])

    rows = to_rows([tally("torch", 1, 8.0), tally("torch", 64, 90.0), tally("onnx", 1, 2.0), tally("onnx", 64, 30.0)], 1, PEAK, True)
    assert [(row.engine, row.batch, row.times_torch) for row in rows] == [
        ("torch", 1, 1),
        ("onnx", 1, 4),
        ("torch", 64, 1),
        ("onnx", 64, 3),
    ]


def test_of_two_torch_rows_the_first_is_what_others_are_measured_against() -> None:
    tallies = [Tally(Task("torch", name, "fp32", 1, lambda: 1000, Macs(1.0)), [s], [1000]) for name, s in (("first", 8.0), ("second", 2.0))]
    assert [row.times_torch for row in to_rows(tallies, 1, PEAK, False)] == [1, 4]


def test_a_gpu_has_no_share_of_the_cores_peak() -> None:
    rows = to_rows([Tally(Task("tensorrt", "model", "fp16", 1, lambda: 1000, Macs(1.0)), [1.0], [1000])], 1, PEAK, False)
    assert (rows[0].share_of_peak, rows[0].sources_per_core) == (None, None)


class _Meter:
    """Five watts."""

    name = "fake"

    def begin(self) -> None: ...

    def end(self, seconds: float) -> float:
        return 5.0 * seconds


def test_a_row_tells_what_part_of_its_time_the_process_ran() -> None:
    clock, log = _Clock(), []
    tallies = [Tally(_task(name, clock, 0.01, log)) for name in ("onnx", "tensorrt")]
    run_rounds(tallies, 1.0, clock=clock, cpu_clock=lambda: clock.now_s / 4)
    assert [row.share_of_core for row in to_rows(tallies, 1, PEAK, False)] == [pytest.approx(0.25), None]


def test_a_machine_that_is_not_quiet_is_told_by_its_worst_row() -> None:
    shares = {"torch": 0.4, "onnx": 0.9, "openvino": 1.0, "tensorrt": None}
    rows = [_row(engine, 1, 100.0, share) for engine, share in shares.items()]
    assert most_disturbed(rows) == (0.4, rows[0])
    assert most_disturbed(rows[2:]) is None


def test_joules_are_shared_among_the_windows_that_were_timed() -> None:
    clock, log = _Clock(), []
    tally = Tally(_task("onnx", clock, 0.01, log))
    run_rounds([tally], 1.0, meter=_Meter(), clock=clock)
    (row,) = to_rows([tally], 1, PEAK, with_joules=True)
    assert row.joules_per_window == pytest.approx(5.0 * 0.01)


# Energy


def _files(root: Path, **values: object) -> None:
    for name, value in values.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")


def _zone(sys_tree: Path, zone: str, name: str, energy_uj: int) -> Path:
    folder = sys_tree / "class/powercap" / zone
    _files(folder, name=name, energy_uj=energy_uj, max_energy_range_uj=1_000_000_000)
    return folder / "energy_uj"


def test_rapl_tells_the_packages_once_and_goes_on_after_its_range(tmp_path: Path) -> None:
    first = _zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = _zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    others = [("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")]
    rest = [_zone(tmp_path, zone, name, 0) for zone, name in others]
    meter = find_meter(tmp_path)
    assert meter is not None
    meter.begin()
    for file in rest:
        file.write_text("700000000")
    first.write_text("7500000")
    second.write_text("500000")
    assert meter.end(1.0) == pytest.approx(2.5 + 1.5)


def _rail(folder: Path, number: int, label: str, millivolts: int, milliamperes: int) -> None:
    _files(folder, **{f"in{number}_input": millivolts, f"in{number}_label": label, f"curr{number}_input": milliamperes})


def test_a_jetson_that_measures_its_supply_tells_that_alone(tmp_path: Path) -> None:
    folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    _rail(folder, 1, "VDD_IN", 5000, 1000)
    _rail(folder, 2, "VDD_CPU_GPU_CV", 5000, 400)
    _rail(folder, 3, "VDD_SOC", 5000, 200)
    _files(folder, in4_input=999, curr4_input=999, in7_input=999)
    meter = find_meter(tmp_path)
    assert meter is not None
    meter.begin()
    (folder / "curr1_input").write_text("2000")
    assert meter.end(4.0) == pytest.approx((5.0 + 10.0) / 2 * 4.0)


def test_a_jetson_that_measures_only_parts_tells_their_sum(tmp_path: Path) -> None:
    for address, label in (("1-0040", "VDD_GPU_SOC"), ("1-0041", "VIN_SYS_5V0")):
        _rail(tmp_path / f"bus/i2c/drivers/ina3221/{address}/hwmon/hwmon3", 1, label, 10_000, 300)
        _files(tmp_path / f"bus/i2c/drivers/ina3221/{address}/hwmon/hwmon3", in4_input=999, curr4_input=999)
    meter = find_meter(tmp_path)
    assert meter is not None
    meter.begin()
    assert meter.end(2.0) == pytest.approx(2 * 3.0 * 2.0)


def test_counters_that_may_not_be_read_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    energy = _zone(tmp_path, "intel-rapl:0", "package-0", 0)
    energy.unlink()
    energy.mkdir()
    assert find_meter(tmp_path) is None
    assert find_meter(tmp_path / "nothing") is None


# What is measured


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"engines": ("onnx", "tensorflow")}, "unknown engine 'tensorflow'; allowed are torch, torch-compile"),
        ({"engines": ()}, "allowed are torch"),
        ({"batches": (1, 0)}, "batch 0: allowed are whole numbers from 1"),
        ({"batches": ()}, "allowed are whole numbers from 1"),
        ({"threads": 0}, "threads 0: allowed are 1 to"),
        ({"threads": cores() + 1}, f"allowed are 1 to {cores()}"),
        ({"seconds": 0.0}, "seconds 0: allowed is any time above 0"),
        ({"seconds": math.inf}, "seconds inf"),
        ({"seconds": math.nan}, "seconds nan"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_what_can(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Selection(**wrong)


class _Fake(Engine):
    """Fails in batches of more than one."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.is_open = True

    def run(self, ecg: np.ndarray) -> Result:
        if len(ecg) > 1:
            raise RuntimeError("out of memory\nand much more")
        return Result(ecg, ecg)

    def close(self) -> None:
        self.is_open = False


def test_an_engine_that_fails_is_told_and_costs_the_others_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes: list[_Fake] = []

    def opened(engine: str, bundle: Bundle, threads: int) -> Engine:
        if engine == "openvino":
            raise ConfigError("this needs another processor")
        fakes.append(_Fake(bundle))
        return fakes[-1]

    monkeypatch.setattr(benching, "_open", opened)
    monkeypatch.setattr(benching, "_why_absent", lambda engine: "")
    monkeypatch.setattr(benching, "measure_peak", lambda threads, seconds: PEAK)
    selection = Selection(("onnx", "openvino", "stream"), (1, 2), 1, 0.01)
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    report = bench({"model": bundle}, repeat(golden_windows(1000), 2), selection, lambda share: None)
    assert [(row.engine, row.batch) for row in report.rows] == [("onnx", 1)]
    assert report.absent == (
        "openvino: this needs another processor",
        "stream: none of the bundles is made for it",
        "onnx, batch 2: out of memory",
    )
    assert [fake.is_open for fake in fakes] == [False]
    assert before is None or os.sched_getaffinity(0) == before


def test_nothing_to_measure_says_why(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="nothing to measure: stream: none of the bundles is made for it"):
        bench({"model": bundle}, golden_windows(1000), Selection(("stream",), (1,)), lambda share: None)


def test_an_absent_package_is_told_with_what_mends_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "find_spec", lambda package: None)
    with pytest.raises(ConfigError) as told:
        bench({"model": bundle}, golden_windows(1000), Selection(("openvino", "torch"), (1,)), lambda share: None)
    assert "openvino: not installed (pip install 'cardiogloss[openvino]'); torch: not installed" in str(told.value)


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "stream"])
def test_window_engines_take_no_bundle_made_for_streams_and_stream_no_other(engine: str) -> None:
    windows, streams = (Bundle(b"", _card(stride=stride)) for stride in (None, 32))
    assert benching._takes(engine, windows) and not benching._takes(engine, streams)
    assert benching._takes("stream", streams) and not benching._takes("stream", windows)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
def test_onnxruntime_that_falls_back_to_the_cpu_is_no_gpu(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="fell back to the CPU"):
        benching._CudaEngine(bundle)


def test_torch_scores_a_batch_as_onnxruntime_does_and_in_one_call(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every other engine would be measured against something slower than torch is."""
    pytest.importorskip("torch")
    from kernels.engine_torch import TorchEngine

    sizes: list[int] = []
    plain = TorchEngine._execute
    monkeypatch.setattr(TorchEngine, "_execute", lambda self, ecg: sizes.append(len(ecg)) or plain(self, ecg))
    ecg = repeat(golden_windows(1000), 5)
    with benching._open("torch", bundle, 1) as torch_engine, open_engine(bundle) as expected:
        sizes.clear()
        result = torch_engine.run(ecg)
        assert np.abs(result.probability - expected.run(ecg).probability).max() < 1e-4
        assert np.abs(result.embedding - expected.run(ecg).embedding).max() < 1e-4
    assert sizes == [5]


class _Streams(StreamEngine):
    """Keeps what it is given; a state counts the samples of its stream."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.stride, self.given = bundle, 32, list[np.ndarray]()

    def begin(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def step(self, ecg: np.ndarray, states: np.ndarray) -> tuple[Result, np.ndarray]:
        assert (states == sum(piece.shape[2] for piece in self.given)).all() and states.shape == (len(ecg), 1)
        self.given.append(ecg)
        return Result(ecg, ecg), states + ecg.shape[2]

    def run(self, ecg: np.ndarray) -> Result:
        raise NotImplementedError

    def close(self) -> None: ...


def test_a_stream_goes_on_where_its_last_hop_ended() -> None:
    engine = _Streams(Bundle(b"", _card(stride=32)))
    ecg = repeat(golden_windows(1000), 4)
    run = benching._stream_run(engine, ecg, 100)
    taken = [run() for _ in range(8)]
    assert sum(taken) == 800 and all(size % 32 == 0 for size in taken)
    assert np.array_equal(np.concatenate(engine.given, axis=2), ecg[:, :, :800], equal_nan=True)


# The command


def test_too_few_windows_are_repeated_each_time_shifted() -> None:
    ecg = np.random.default_rng(0).standard_normal((3, 12, 1000)).astype(np.float32)
    many = repeat(ecg, 8)
    assert np.array_equal(many[:3], ecg)
    assert len({window.tobytes() for window in many}) == 8
    assert all(np.array_equal(np.sort(many[i]), np.sort(ecg[i % 3])) for i in range(8))


def test_windows_come_from_either_kind_of_numpy_file(tmp_path: Path, bundle: Bundle) -> None:
    ecg = np.random.default_rng(0).standard_normal((5, 12, 1000))
    np.save(tmp_path / "w.npy", ecg)
    np.savez(tmp_path / "w.npz", ecg=ecg, names=np.array(["a"]))
    for name in ("w.npy", "w.npz"):
        told, read = windows_of(tmp_path / name, {"model": bundle})
        assert told == {"from": name, "count": 5}
        assert read.dtype == np.float32 and np.array_equal(read, ecg.astype(np.float32))


def test_other_files_are_no_windows(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "short.npy", np.zeros((5, 12, 999)))
    np.save(tmp_path / "none.npy", np.zeros((0, 12, 1000)))
    np.savez(tmp_path / "other.npz", windows=np.zeros((5, 12, 1000)))
    for name in ("text.npy", "short.npy", "none.npy", "other.npz", "absent.npy"):
        with pytest.raises(ConfigError, match=name):
            windows_of(tmp_path / name, {"model": bundle})


def test_bundles_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / SHIPPED_BUNDLE.name).write_bytes(SHIPPED_BUNDLE.read_bytes())
    with pytest.raises(ConfigError, match="the same file name"):
        read_bundles([SHIPPED_BUNDLE, tmp_path / SHIPPED_BUNDLE.name])


number = {"type": "number", "exclusiveMinimum": 0}
number_or_null = {"anyOf": [number, {"type": "null"}]}
FIGURES = {
    "engine": {"enum": [*ENGINES, "reference"]},
    "precision": {"enum": ["fp32", "fp16", "int8"]},
    "batch": {"type": "integer"},
    "threads": {"type": "integer"},
    "median_ms": number,
    "p99_ms": number,
    "windows_per_s": number,
    **dict.fromkeys(("joules_per_window", "share_of_peak", "sources_per_core", "times_torch"), number_or_null),
    "bundle": {"type": "string"},
    "runs": {"type": "integer", "minimum": LEAST_RUNS},
    "share_of_core": {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "null"}]},
}
SCHEMA = {
    "type": "object",
    "required": ["rows", "machine", "windows", "bundles"],
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": list(FIGURES), "properties": FIGURES, "additionalProperties": False},
        },
        "machine": {"type": "object", "required": ["processor", "cores", "versions", "peak", "energy"]},
        "windows": {"type": "object", "required": ["from", "count"]},
        "bundles": {"type": "array", "items": {"type": "object", "required": ["name", "sha256", "precision", "stride"]}},
    },
}


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench_command)
    return app


def test_the_command_measures_writes_and_draws(command: typer.Typer, tmp_path: Path) -> None:
    words = [str(SHIPPED_BUNDLE), "--seconds", "0.2", "--batch", "1", "--engine", "onnx"]
    done = CliRunner().invoke(command, [*words, "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")])
    told = json.loads((tmp_path / "b.json").read_text())
    assert done.exit_code == 0, done.output
    jsonschema.validate(told, SCHEMA)
    assert list(told["rows"][0])[:7] == ["engine", "precision", "batch", "threads", "median_ms", "p99_ms", "windows_per_s"]
    assert [(row["engine"], row["batch"], row["threads"]) for row in told["rows"]] == [("onnx", 1, 1)]
    assert told["bundles"][0]["sha256"] == Bundle.read(SHIPPED_BUNDLE).card.sha256
    assert "batch 1" in done.output and "measured peak" in done.output
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch", "1,x"], "batch '1,x': allowed are whole numbers"),
        (["--batch", "0"], "batch 0"),
        (["--engine", "onyx"], "unknown engine 'onyx'"),
        (["--json", "no/such/folder/b.json"], "there is no folder"),
        (["--plot", "b.xyz"], "must end in one of .png, .svg, .pdf"),
        (["--json", "."], "name a file that can be written"),
        (["--threads", "9999"], "threads 9999"),
    ],
)
def test_the_command_refuses_before_it_measures(command: typer.Typer, words: list[str], told: str) -> None:
    done = CliRunner().invoke(command, words)
    assert isinstance(done.exception, ConfigError)
    assert told in str(done.exception)


def test_an_interrupted_command_tells_and_writes_what_it_has(
    command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    runs = iter(range(10_000))

    class Impatient(_Fake):
        def run(self, ecg: np.ndarray) -> Result:
            if next(runs) == 60:
                raise KeyboardInterrupt
            return Result(ecg, ecg)

    monkeypatch.setattr(benching, "_open", lambda engine, bundle, threads: Impatient(bundle))
    monkeypatch.setattr(benching, "measure_peak", lambda threads, seconds: PEAK)
    done = CliRunner().invoke(command, [str(SHIPPED_BUNDLE), "--engine", "onnx", "--seconds", "9", "--json", str(tmp_path / "b.json")])
    told = json.loads((tmp_path / "b.json").read_text())
    assert done.exit_code == 1
    assert "these are the figures so far" in done.output
    assert not told["whole"] and told["rows"][0]["runs"] > 0


@pytest.mark.parametrize("peaks", [1, 0])
def test_an_interrupt_while_the_peak_is_measured_again_costs_no_row(
    peaks: int, command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(peaks))

    def peak(threads: int, seconds: float) -> Peak:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return PEAK

    monkeypatch.setattr(benching, "measure_peak", peak)
    words = [str(SHIPPED_BUNDLE), "--engine", "onnx", "--batch", "1", "--seconds", "0.1", "--json", str(tmp_path / "b.json")]
    done = CliRunner().invoke(command, words)
    assert done.exit_code != 0
    assert (tmp_path / "b.json").exists() == (peaks == 1)
    assert peaks == 0 or json.loads((tmp_path / "b.json").read_text())["rows"][0]["runs"] >= LEAST_RUNS


def test_without_rows_nothing_is_drawn(command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: Any) -> bool:
        return False

    monkeypatch.setattr(benching, "measure_peak", lambda threads, seconds: PEAK)
    monkeypatch.setattr(benching, "run_rounds", interrupted)
    done = CliRunner().invoke(command, [str(SHIPPED_BUNDLE), "--engine", "onnx", "--batch", "1", "--plot", str(tmp_path / "b.png")])
    assert done.exit_code == 1, done.exception
    assert "these are the figures so far" in done.output
    assert not (tmp_path / "b.png").exists()


def _row(engine: str, batch: int, windows_per_s: float, share: float | None = 1.0) -> Row:
    return Row(engine, "fp32", batch, 1, 1e3 * batch / windows_per_s, 1.0, windows_per_s, None, None, None, None, "model", 10, share)


def test_the_picture_has_a_line_with_its_name_for_each_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure_of = pytest.importorskip("matplotlib.figure")
    kept: list[Any] = []
    monkeypatch.setattr(figure_of.Figure, "savefig", lambda figure, *words, **more: kept.append(figure))
    draw(
        [_row(e, b, s * b**0.1) for e, s in (("torch", 100.0), ("onnx", 200.0), ("openvino", 201.0)) for b in (1, 8, 64)],
        "t",
        tmp_path / "x.png",
    )
    (axes,) = kept[0].axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 8, 64]] * 3
    assert sorted(text.get_text() for text in axes.texts) == ["onnx fp32", "openvino fp32", "torch fp32"]


def _pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    return itertools.pairwise(sorted(values))


@given(st.dictionaries(st.text(max_size=3), st.floats(1, 1e6), min_size=1, max_size=12), st.floats(1.01, 2))
def test_no_name_in_the_picture_lies_over_another_or_below_its_line(ends: dict[str, float], ratio: float) -> None:
    heights = _spread(ends, ratio)
    assert all(heights[name] >= end for name, end in ends.items())
    assert all(above >= below * ratio * (1 - 1e-9) for below, above in _pairs(list(heights.values())))
    assert sorted(ends, key=lambda n: (ends[n], heights[n])) == sorted(heights, key=lambda n: heights[n])
