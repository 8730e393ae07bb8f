"""The CSV decoder: NumPy's values in any cut, gaps from the time column, and clear words where leads or rate are unknown."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.decode.csv import Columns, CsvDecoder
from kernels.findings import ConfigError


def _text(rows: int = 700, header: str = "time,I,II", rate_hz: float = 250.0, drop: range = range(0)) -> bytes:
    x = np.random.default_rng(0).normal(size=(rows, 2)).round(3)
    lines = [f"{i / rate_hz:.4f},{a},{b}" for i, (a, b) in enumerate(x) if i not in drop]
    return "\n".join([header, *lines, ""]).encode()


def _decode(data: bytes, cuts: list[int], columns: Columns = Columns()) -> list[Chunk]:
    decoder = CsvDecoder(columns)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [c for a, b in itertools.pairwise(edges) for c in decoder.feed(data[a:b])] + list(decoder.flush())


def _joined(chunks: list[Chunk]) -> np.ndarray:
    """Laid out by `start`; NaN where samples were lost."""
    whole = np.full((len(chunks[0].leads), chunks[-1].end), np.nan, np.float32)
    for chunk in chunks:
        whole[:, chunk.start : chunk.end] = chunk.samples_mv
    return whole


def test_reads_what_numpy_reads() -> None:
    data = _text()
    wanted = np.loadtxt(data.decode().splitlines(), delimiter=",", skiprows=1)
    chunks = _decode(data, [])
    assert chunks[0].rate_hz == 250
    assert chunks[0].leads == ("I", "II")
    assert np.allclose(_joined(chunks), wanted[:, 1:].T.astype(np.float32))


@given(cuts=st.lists(st.integers(0, 16_000), max_size=15), drop=st.integers(0, 690))
def test_any_cut_gives_the_same_samples(cuts: list[int], drop: int) -> None:
    data = _text(drop=range(drop, drop + 5))
    assert np.array_equal(_joined(_decode(data, cuts)), _joined(_decode(data, [])), equal_nan=True)


@given(st.binary(max_size=3000))
def test_no_bytes_after_the_first_line_are_an_exception(garbage: bytes) -> None:
    decoder = CsvDecoder(Columns(rate_hz=250.0))
    for data in (b"I,II\n0.1,0.2\n", garbage):
        for chunk in decoder.feed(data):
            assert chunk.samples_mv.shape[0] == 2
    list(decoder.flush())


def test_lost_rows_are_a_gap() -> None:
    chunks = _decode(_text(drop=range(600, 610)), [])
    assert [(c.start, c.end) for c in chunks] == [(0, 600), (610, 700)]


def test_rows_out_of_order_or_of_another_width_are_counted_and_left_out() -> None:
    lines = ["t,I", *(f"{i / 100},{i}" for i in range(300)), "2.99,7", "0.5,7", "3.0,300,7", "3.0,300"]
    decoder = CsvDecoder(Columns())
    chunks = [*decoder.feed("\n".join(lines).encode()), *decoder.flush()]
    assert np.concatenate([c.samples_mv[0] for c in chunks]).tolist() == list(range(301))
    assert decoder.skipped == 3


def test_without_a_time_column_a_malformed_row_keeps_its_place() -> None:
    (chunk,) = _decode(b"I,II\n1,2\nbroken\n3,4\n", [], Columns(rate_hz=100.0))
    assert np.array_equal(chunk.samples_mv, np.float32([[1, np.nan, 3], [2, np.nan, 4]]), equal_nan=True)


@given(cuts=st.lists(st.integers(0, 20_000), max_size=8))
def test_the_rate_of_a_jittering_clock_does_not_depend_on_the_cut(cuts: list[int]) -> None:
    rng = np.random.default_rng(3)
    data = "\n".join(["t,I", *(f"{i / 333.3 + rng.normal() * 3e-4:.5f},{i}" for i in range(1200))]).encode()
    chunks = _decode(data, cuts)
    assert {c.rate_hz for c in chunks} == {_decode(data, [])[0].rate_hz}
    assert chunks[-1].end == 1200


def test_late_and_early_rows_are_no_gap_and_drift_is_followed() -> None:
    """A clock 0.3 percent fast, every 50th row 3 ms late."""
    lines = ["t,I", *(f"{i / 250.75 + 0.003 * (i % 50 == 49):.5f},{i}" for i in range(5000))]
    chunks = _decode("\n".join(lines).encode(), [])
    assert chunks[-1].end == pytest.approx(5000, abs=1)


@pytest.mark.parametrize("stamp", ["inf", "1e300", "nan", "", "-5"])
def test_one_bad_time_stamp_costs_one_row(stamp: str) -> None:
    lines = ["t,I", *(f"{i / 100 if i != 600 else stamp},{i}" for i in range(1000))]
    decoder = CsvDecoder(Columns())
    chunks = [*decoder.feed("\n".join(lines).encode()), *decoder.flush()]
    assert sum(c.samples_mv.shape[1] for c in chunks) == 999
    assert chunks[-1].end == 1000


def test_a_clock_that_starts_again_is_a_gap() -> None:
    lines = ["t,I", *(f"{i / 100},{i}" for i in range(1000)), *(f"{i / 100},{i}" for i in range(1000)), ""]
    chunks = _decode("\n".join(lines).encode(), [])
    assert [c.samples_mv.shape[1] for c in chunks] == [1000, 999]
    assert chunks[1].start > chunks[0].end


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfI,II\r\n1.5,2\r\n",
        b'"I","II"\n"1.5","2"\n',
        b"I;II\n1,5;2\n",
        b"I II\n1.5 2\n",
        b"I\tII\n1.5\t2e0\n",
        b"# a comment\nlead I,lead ii\n1.5,2\n",
    ],
)
def test_the_usual_spellings_of_a_table(data: bytes) -> None:
    (chunk,) = _decode(data, [], Columns(rate_hz=100.0))
    assert chunk.leads == ("I", "II")
    assert chunk.samples_mv.tolist() == [[1.5], [2.0]]


@pytest.mark.parametrize("rate_hz", [125.0, 250.0, 360.0, 500.0, 1000.0])
@pytest.mark.parametrize("lost", [0, 2, 5, 25])
def test_rows_lost_among_the_first_do_not_bend_the_rate(rate_hz: float, lost: int) -> None:
    gone = set(np.random.default_rng(lost).choice(np.arange(1, 499), lost, replace=False).tolist())
    lines = ["time,I", *(f"{i / rate_hz:.4f},{i}" for i in range(2000) if i not in gone), ""]
    chunks = _decode("\n".join(lines).encode(), [])
    assert chunks[0].rate_hz == rate_hz
    assert chunks[-1].end == pytest.approx(2000, abs=1)


def test_a_stamp_a_millisecond_low_at_a_kilohertz_is_no_gap() -> None:
    rng = np.random.default_rng(0)
    lines = ["time_ms,I", *(f"{i - (rng.random() < 0.005)},{i}" for i in range(3000)), ""]
    chunks = _decode("\n".join(lines).encode(), [])
    assert [(c.start, c.end) for c in chunks] == [(0, 3000)]


@pytest.mark.parametrize("header", ["timestamp,I,II", ",Time (s),I,II", "'Elapsed time','MLI','MLII'", "I,t,II", "Time [ms],I,II"])
def test_a_time_column_is_found_by_its_usual_names(header: str) -> None:
    scale = 1000 if "ms" in header else 1
    cells = {",": "{n},{t},1,2", "I": "1,{t},2"}.get(header[0], "{t},1,2")
    rows = [cells.format(n=n, t=n / 100 * scale) for n in range(800) if not 600 <= n < 650]
    chunks = _decode("\n".join([header, *rows, ""]).encode(), [], Columns(leads=("-", "I", "II") if header[0] == "," else ()))
    assert [(c.start, c.end) for c in chunks] == [(0, 600), (650, 800)]
    assert {"I", "II"} <= set(chunks[0].leads)


def test_a_line_of_units_is_obeyed_or_refused() -> None:
    (chunk,) = _decode("I,II\n\N{MICRO SIGN}V,\N{MICRO SIGN}V\n1000,2000\n".encode(), [], Columns(rate_hz=100.0))
    assert chunk.samples_mv.tolist() == [[1.0], [2.0]]
    with pytest.raises(ConfigError, match="give the unit with --unit"):
        _decode(b"I,II\nmmHg,mV\n1,2\n", [], Columns(rate_hz=100.0))


def test_empty_cells_at_the_ends_of_a_row_are_cells() -> None:
    (chunk,) = _decode(b"I\tII\n0.5\t\n\t2\n1\t2\t\n", [], Columns(rate_hz=100.0))
    assert np.array_equal(chunk.samples_mv, np.float32([[0.5, np.nan, 1], [np.nan, 2, 2]]), equal_nan=True)


@pytest.mark.parametrize("stamps", [["-1e308", "0.01"], ["1e308", "0"], ["-1e17", "0.00"], ["1600000000.003", "-1e308", "1600000000.011"]])
def test_absurd_clocks_are_no_traceback(stamps: list[str]) -> None:
    lines = ["time,II", *(f"{stamp},1" for stamp in stamps), *(f"{i / 100},{i}" for i in range(1, 700)), ""]
    assert sum(c.samples_mv.shape[1] for c in _decode("\n".join(lines).encode(), [])) >= 690


def test_what_is_not_finite_is_nan() -> None:
    (chunk,) = _decode(b"II\ninf\n1e40\n-inf\n1\n", [], Columns(rate_hz=100.0))
    assert np.isnan(chunk.samples_mv[0]).tolist() == [True, True, True, False]


def test_cells_that_are_no_number_become_nan() -> None:
    (chunk,) = _decode(b"I;II\n1;x\n;2\n", [], Columns(rate_hz=100.0))
    assert np.array_equal(chunk.samples_mv, np.float32([[1, np.nan], [np.nan, 2]]), equal_nan=True)


def test_milliseconds_rounded_still_tell_the_rate() -> None:
    lines = ["time_ms,II"] + [f"{round(i / 0.36)},0" for i in range(600)] + [""]
    (chunk,) = _decode("\n".join(lines).encode(), [])
    assert chunk.rate_hz == 360


def test_units_scale() -> None:
    (chunk,) = _decode(b"II\n1000\n", [], Columns(rate_hz=100.0, mv_per_unit=1e-3))
    assert chunk.samples_mv.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        (b"1,2\n3,4\n", Columns(rate_hz=250.0), "--leads I,II"),
        (b"foo,bar\n3,4\n", Columns(rate_hz=250.0), "--leads I,II"),
        (b"I,II\n3,4\n", Columns(), "--rate 250"),
        (b"1,2\n", Columns(("I",), 250.0), "names 1 leads, but there are 2"),
        (b"1,2\n", Columns(("I", "XX"), 250.0), "unknown lead 'XX'"),
        (b"t,I\n5,1\n5,2\n5,3\n", Columns(), "does not rise"),
        (b"I,I\n5,1\n", Columns(rate_hz=250.0), "stands twice"),
        (b"5,1\n", Columns(("I", "I"), 250.0), "stands twice"),
        (b"5,1\n", Columns(("-", "-"), 250.0), "no known lead"),
        (b"t,I\n0.00,1\n0.00,2\n0.01,3\n", Columns(), "rows share a time"),
        (b"t,I\n0.00,1\n0.01,2\n0.02,3\n", Columns(rate_hz=250.0), "contradicts the time column, which runs at 100 Hz"),
        (b"", Columns(rate_hz=250.0), "holds no row of numbers"),
        (b"I,II\n", Columns(rate_hz=250.0), "holds no row of numbers"),
        (b"I,II\nx,y\n", Columns(rate_hz=250.0), "delete it and give the unit"),
        (b"date,I\n2020-01-01,1\n", Columns(), "no column is called time"),
    ],
)
def test_what_the_file_does_not_say_must_be_given(data: bytes, columns: Columns, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _decode(data, [], columns)


def test_a_clock_that_jumps_by_years_is_named() -> None:
    times = [*(i / 100 for i in range(600)), *(1.7e9 + i / 100 for i in range(600))]
    data = "\n".join(["t,I", *(f"{time:.2f},1" for time in times), ""]).encode()
    with pytest.raises(ConfigError, match="claims a gap of 19676 days; mend its time"):
        _decode(data, [])


@pytest.mark.parametrize("days", [1, 30])
def test_a_long_pause_is_a_gap(days: int) -> None:
    lines = ["t,I", *(f"{i / 100 + (days * 86400 if i >= 600 else 0):.2f},1" for i in range(1200)), ""]
    chunks = _decode("\n".join(lines).encode(), [])
    assert chunks[-1].end == pytest.approx(days * 8640000 + 1200, abs=2)


@pytest.mark.parametrize("step", [4, 1, 4_000_000])
def test_a_time_that_counts_something_else_says_what_to_call_it(step: int) -> None:
    data = "\n".join(["time,I", *(f"{i * step},1" for i in range(700)), ""]).encode()
    for columns in (Columns(), Columns(rate_hz=250.0)):
        with pytest.raises(ConfigError, match="call it time_ms"):
            _decode(data, [], columns)


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ("I (mV),II (mV)", (1, 1)),
        ("I [uV],II [uV]", (1e-3, 1e-3)),
        ("I_mV,II_uV", (1, 1e-3)),
        ("I (V),II mV", (1e3, 1)),
        ("I,II\nmV,uV", (1, 1e-3)),
        ("ECG I (\N{MICRO SIGN}V),Lead II(\N{GREEK SMALL LETTER MU}V)", (1e-3, 1e-3)),
    ],
)
def test_a_unit_in_the_header_is_obeyed_unless_the_operator_gives_one(header: str, scale: tuple[float, float]) -> None:
    data = f"{header}\n3,5\n".encode()
    (chunk,) = _decode(data, [], Columns(rate_hz=100.0))
    assert chunk.leads == ("I", "II")
    assert chunk.samples_mv[:, 0].tolist() == pytest.approx([3 * scale[0], 5 * scale[1]])
    (chunk,) = _decode(data, [], Columns(rate_hz=100.0, mv_per_unit=0.5))
    assert chunk.samples_mv[:, 0].tolist() == [1.5, 2.5]


def test_a_column_that_is_no_lead_may_have_any_unit() -> None:
    (chunk,) = _decode(b"II,Resp\nuV,ohm\n1000,7\n", [], Columns(rate_hz=100.0))
    assert chunk.samples_mv[0].tolist() == [1.0]


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\nI;II\n1.5;2\n",
        b'I,II\n"1,5","2,0"\n',
        b'"I","II"\n"1,5","2"\n',
        "I,II\n\N{MICRO SIGN}V,\N{MICRO SIGN}V\n1500,2000\n".encode("latin-1"),
        b"I,II\r1.5,2\r",
        b"I,II\r\n1.5,2\r\n",
        "I,II\r\n1.5,2\r\n".encode("utf-16"),
        "\ufeffI\tII\n1,5\t2\n".encode("utf-16-be"),
    ],
)
def test_what_spreadsheets_export_reads_the_same_in_any_cut(data: bytes) -> None:
    for cuts in ([], list(range(len(data)))):
        chunks = _decode(data, cuts, Columns(rate_hz=100.0))
        assert chunks[0].leads == ("I", "II")
        assert np.concatenate([chunk.samples_mv for chunk in chunks], axis=1).tolist() == [[1.5], [2.0]]


def test_times_of_hours_and_minutes_are_read_as_rdsamp_writes_them() -> None:
    stamps = [f"'{i // 21600}:{i / 360 % 60:06.3f}'" for i in range(700)]
    lines = ["'Elapsed time','MLII','V5'", "'hh:mm:ss.mmm','mV','mV'", *(f"{stamp},1,-1" for stamp in stamps)]
    chunks = _decode("\n".join(lines).encode(), [])
    assert (chunks[0].rate_hz, chunks[0].leads, chunks[-1].end) == (360, ("II", "V5"), 700)
    lines[402:] = [line.replace("'0:", "'2:00:", 1) for line in lines[402:]]
    assert _decode("\n".join(lines).encode(), [])[-1].end == pytest.approx(700 + 7200 * 360, abs=1)
