"""Lines of text: any cut, any garbage, the marks of SparkFun's sketch, and the scale of the AD8232."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.decode.device import Device, Wiring
from edge.decode.lines import DEVICES, LONGEST, LineDecoder
from kernels.findings import ConfigError

BY_NAME = {device.name: device for device in DEVICES}
TWO = Wiring(("I", "II"), 100.0, 1.0)


def _decode(data: bytes, wiring: Wiring = TWO, cuts: list[int] = []) -> tuple[LineDecoder, list[Chunk]]:  # noqa: B006
    decoder = LineDecoder(wiring)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return decoder, [c for a, b in itertools.pairwise(edges) for c in decoder.feed(data[a:b])] + list(decoder.flush())


def _joined(chunks: list[Chunk]) -> list[list[object]]:
    """One entry a sample, so that the cut of the chunks does not show."""
    return [[c.start + i, c.lead_off, *map(repr, c.samples_mv[:, i].tolist())] for c in chunks for i in range(c.samples_mv.shape[1])]


@given(
    lines=st.lists(
        st.sampled_from(
            [
                "0.1,0.2",
                "-1;2e-1",
                "1 2",
                "3\t4",
                "!",
                "!,!",
                "5,!",
                "boot v1",
                "# note",
                "1,2,3",
                "",
                "nan,1",
                ",",
                "x" * 300,
                "1," + "0" * 300 + "2",
            ]
        )
    ),
    ends=st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=100, max_size=100),
    cuts=st.lists(st.integers(0, 2000), max_size=15),
)
def test_any_cut_and_any_line_end_give_the_same_samples(lines: list[str], ends: list[str], cuts: list[int]) -> None:
    data = "".join(line + end for line, end in zip(lines, ends, strict=False)).encode()
    (one, whole), (other, cut) = _decode(data), _decode(data, cuts=cuts)
    _, plain = _decode("\n".join([*lines, ""]).encode())
    assert _joined(cut) == _joined(whole) == _joined(plain)
    assert one.tally == other.tally


@given(st.binary(max_size=3000) | st.text("0123456789.,;!-+eE \t\r\nnaIV#", max_size=3000).map(str.encode))
def test_no_bytes_are_an_exception_and_little_is_held(data: bytes) -> None:
    for wiring in (TWO, Wiring((), 100.0, 1.0)):
        decoder = LineDecoder(wiring)
        for at in range(0, len(data), 100):
            for chunk in decoder.feed(data[at : at + 100]):
                assert len(chunk.leads) == chunk.samples_mv.shape[0] > 0
            assert decoder.held <= LONGEST


def test_an_endless_line_is_garbage_and_is_not_held() -> None:
    decoder = LineDecoder(TWO)
    assert list(decoder.feed(b"\n")) == []
    for _ in range(1000):
        assert list(decoder.feed(b"1" * 1000)) == []
        assert decoder.held <= LONGEST
    assert decoder.tally.garbage == 1_000_000
    (chunk,) = decoder.feed(b"\n1,2\n")
    assert chunk.samples_mv.tolist() == [[1.0], [2.0]]


def test_the_first_line_may_be_cut_and_is_not_believed() -> None:
    decoder, (chunk,) = _decode(b"12,5\n512,5\n")
    assert chunk.samples_mv.tolist() == [[512.0], [5.0]]
    assert decoder.tally.garbage == 4


def test_an_electrode_off_is_said_and_time_goes_on() -> None:
    _, chunks = _decode(b"\n1,2\n!\n!,4\n5,6\n")
    assert [(c.start, c.lead_off) for c in chunks] == [(0, ()), (1, ("I", "II")), (2, ("I",)), (3, ())]
    joined = np.concatenate([c.samples_mv for c in chunks], axis=1)
    assert np.array_equal(joined, np.float32([[1, np.nan, np.nan, 5], [2, np.nan, 4, 6]]), equal_nan=True)


def test_a_row_of_another_width_is_broken_and_keeps_its_place() -> None:
    decoder, (chunk,) = _decode(b"\n1,2\n3\n4,5,6\n7,8\n")
    assert np.array_equal(chunk.samples_mv[0], np.float32([1, np.nan, np.nan, 7]), equal_nan=True)
    assert decoder.tally.broken == 2
    assert decoder.last_error is not None and "3 columns" in decoder.last_error


def test_words_are_garbage_and_take_no_time() -> None:
    decoder, (chunk,) = _decode(b"\n1,2\nWiFi connected\n# 3,4\n5,6\n")
    assert chunk.samples_mv.tolist() == [[1.0, 5.0], [2.0, 6.0]]
    assert decoder.tally.garbage == len("WiFi connected") + len("# 3,4")


def test_a_header_names_the_leads_where_the_operator_did_not() -> None:
    data = b"\n1,2\nMLII,resp\n3,4\nMLII,resp\n5,6\n"
    decoder, (chunk,) = _decode(data, Wiring((), 100.0, 1.0))
    assert chunk.leads == ("II",)
    assert chunk.samples_mv.tolist() == [[3.0, 5.0]]
    assert (decoder.tally.broken, decoder.tally.garbage) == (1, 0)
    _, (chunk,) = _decode(data, Wiring(("I", "II"), 100.0, 1.0))
    assert chunk.leads == ("I", "II")


def test_the_scale_of_an_ad8232_is_what_the_parts_say() -> None:
    # 1 mV is 1.1 V behind a gain of 1100, around 1.65 V: on an Uno 2.75 V / 5 V * 1024, on an ESP32 2.75 V / 3.3 V * 4095.
    for name, volt, adc in [
        ("ad8232", 1.65, 337.92),
        ("ad8232", 2.75, 563.2),
        ("esp32-ad8232", 1.65, 2047.5),
        ("esp32-ad8232", 2.75, 3412.5),
    ]:
        wiring = BY_NAME[name].wire(rate_hz=100)
        _, (chunk,) = _decode(f"\n{adc}\n".encode(), wiring)
        assert chunk.samples_mv[0, 0] == pytest.approx((volt - 1.65) / 1.1, abs=1e-6)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_the_rate_must_be_given(device: Device) -> None:
    with pytest.raises(ConfigError, match="rate_hz must be given"):
        device.wire(leads=("I",))
    with pytest.raises(ConfigError, match="rate_hz must be given"):
        device.wire(leads=("I",), rate_hz=0)
    assert device.wire(leads=("I",), rate_hz=180).rate_hz == 180


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@given(mv=st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 2), min_size=1, max_size=30), off=st.sets(st.sampled_from(["I", "V1"])))
def test_encoded_samples_come_back_within_half_a_unit(device: Device, mv: list[tuple[float, float]], off: set[str]) -> None:
    wiring = device.wire(leads=("I", "V1"), rate_hz=100)
    samples = np.float32(mv).T
    (chunk,) = LineDecoder(wiring).feed(device.encoder(wiring).feed(samples, tuple(off)))
    assert chunk.lead_off == tuple(lead for lead in ("I", "V1") if lead in off)
    for row, lead in enumerate(("I", "V1")):
        if lead in off:
            assert np.isnan(chunk.samples_mv[row]).all()
        else:
            step = 0 if device.name == "lines" else 0.5 / wiring.units_per_mv + 1e-6
            assert np.abs(chunk.samples_mv[row] - samples[row]).max() <= step
