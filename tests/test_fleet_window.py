"""A window and its answer survive the wire to the bit, nothing damaged is taken for one, and when to ask again follows RFC 6298."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.fleet.answer import Panel
from edge.fleet.patience import FIRST_S, LEAST_S, MOST_S, Patience
from edge.fleet.round import Round
from edge.fleet.topics import answer_topic, check_gateway, result_topic, window_topic, windows_of
from edge.fleet.window import Answer, Asked, Ticket, check_windows, pack_answer, pack_window, unpack_answer, unpack_window
from edge.wildcard import matched
from kernels.bundle import Bundle
from kernels.engine import Engine, open_engine
from kernels.engine_onnx import OnnxEngine
from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from .conftest import EXCERPT

BUNDLE = "c0ffee00" * 8
tickets = st.builds(Ticket, st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
bundles = st.binary(min_size=32, max_size=32).map(bytes.hex)
patterns = hnp.arrays(np.uint32, st.tuples(st.just(12), st.integers(1, 40)), elements=st.integers(0, 2**32 - 1))
"""Every float32 there is, every NaN among them."""


@st.composite
def windows(draw: st.DrawFn) -> Asked:
    """With leads that are absent, as most are, and leads of NaN that no computation makes, beside any bits."""
    bits = draw(patterns)
    for nan in (np.array(np.nan, np.float32).view(np.uint32), 0x7FC00001, 0xFFC00000):
        bits[draw(st.lists(st.integers(0, 11), unique=True))] = nan
    return Asked(draw(tickets), draw(bundles), bits.view(np.float32))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    worker, own = draw(st.text(max_size=20)), draw(bundles)
    if draw(st.booleans()):
        return Answer(draw(tickets), own, worker, refused=draw(st.text(max_size=50)))
    bits = draw(hnp.arrays(np.uint32, st.integers(0, 30), elements=st.integers(0, 2**32 - 1)))
    return Answer(draw(tickets), own, worker, bits.view(np.float32))


def _bits(samples: Samples | None) -> bytes | None:
    return None if samples is None else samples.astype("<f4", copy=False).tobytes()


@given(windows())
def test_a_window_survives_to_the_bit_whatever_its_floats(asked: Asked) -> None:
    read = unpack_window(pack_window(asked))
    assert read is not None
    assert (read.ticket, read.bundle, read.ecg.shape, str(read.ecg.dtype)) == (asked.ticket, asked.bundle, asked.ecg.shape, "float32")
    assert _bits(read.ecg) == _bits(asked.ecg)


@given(answers())
def test_an_answer_survives_to_the_bit(answer: Answer) -> None:
    read = unpack_answer(pack_answer(answer))
    assert read is not None
    assert (read.ticket, read.bundle, read.worker, read.refused) == (answer.ticket, answer.bundle, answer.worker, answer.refused)
    assert _bits(read.probability) == _bits(answer.probability)


@given(st.one_of(windows().map(pack_window), answers().map(pack_answer)), st.data())
def test_no_flipped_bit_no_cut_and_no_longer_message_is_taken_for_one(message: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8 * len(message) - 1))
    flipped = bytearray(message)
    flipped[at // 8] ^= 1 << at % 8
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    for damaged in (bytes(flipped), cut, message + data.draw(st.binary(min_size=1, max_size=8))):
        assert unpack_window(damaged) is None
        assert unpack_answer(damaged) is None


def test_every_single_bit_of_a_message_matters() -> None:
    message = pack_window(Asked(Ticket(bytes(16), 7), BUNDLE, np.ones((12, 3), np.float32)))
    for at in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[at // 8] ^= 1 << at % 8
        assert unpack_window(bytes(flipped)) is None


@given(st.binary(max_size=200))
def test_chance_bytes_are_no_message(noise: bytes) -> None:
    assert unpack_window(noise) is None and unpack_answer(noise) is None


@given(windows(), answers())
def test_neither_is_taken_for_the_other(asked: Asked, answer: Answer) -> None:
    assert unpack_answer(pack_window(asked)) is None and unpack_window(pack_answer(answer)) is None


def test_the_bytes_of_a_window_are_those_that_the_format_says() -> None:
    """Written here by hand, field by field, from the description alone."""
    ecg = np.full((12, 3), np.nan, np.float32)
    ecg[1] = [0.5, -1.0, 2.0]
    planes = bytes(struct.pack("<f", value)[byte] for byte in range(4) for value in (0.5, -1.0, 2.0))
    body = struct.pack("<HH", 1 << LEADS.index("II"), 3) + zlib.compress(planes, 1)
    head = b"\xec\x67\x77\x01" + struct.pack("<I", 64 + len(body) + 4) + bytes(range(16)) + struct.pack("<Q", 42) + bytes.fromhex(BUNDLE)
    message = head + body + struct.pack("<I", zlib.crc32(head + body))
    assert pack_window(Asked(Ticket(bytes(range(16)), 42), BUNDLE, ecg)) == message


def test_the_bytes_of_an_answer_are_those_that_the_format_says() -> None:
    body = struct.pack("<BBH", 0, 2, 2) + b"w1" + struct.pack("<2f", 0.25, 1.0)
    head = b"\xec\x67\x72\x01" + struct.pack("<I", 64 + len(body) + 4) + bytes(range(16)) + struct.pack("<Q", 42) + bytes.fromhex(BUNDLE)
    message = head + body + struct.pack("<I", zlib.crc32(head + body))
    assert pack_answer(Answer(Ticket(bytes(range(16)), 42), BUNDLE, "w1", np.array([0.25, 1.0], np.float32))) == message


def test_a_small_message_cannot_fill_the_memory() -> None:
    """What inflates to more than its shape says is refused, though its sum is right."""
    body = struct.pack("<HH", 1, 3) + zlib.compress(bytes(10_000_000), 9)
    head = b"\xec\x67\x77\x01" + struct.pack("<I", 64 + len(body) + 4) + bytes(24) + bytes.fromhex(BUNDLE)
    assert unpack_window(head + body + struct.pack("<I", zlib.crc32(head + body))) is None


def test_long_words_and_names_are_cut_between_letters() -> None:
    read = unpack_answer(pack_answer(Answer(Ticket(bytes(16), 1), BUNDLE, "ü" * 200, refused="é" * 5000)))
    assert read is not None and read.refused is not None
    assert read.worker == "ü" * 32 and set(read.refused) == {"é"} and len(read.refused) == 500


def test_a_real_window_takes_less_room_than_its_samples(engine: Engine) -> None:
    from edge.pipeline import Pipeline
    from edge.transport.file import open_recording

    pipeline = Pipeline("x", engine)
    jobs = [job.ecg for chunk in open_recording(EXCERPT).chunks() for job in pipeline.prepare(chunk).jobs]
    sizes = [len(pack_window(Asked(Ticket(bytes(16), 0), BUNDLE, ecg))) for ecg in jobs]
    assert max(sizes) < 2 * engine.bundle.card.samples * 4


def test_an_answer_goes_to_the_gateway_of_the_window_s_topic_and_nowhere_else() -> None:
    topic = window_topic("clinic/ecg", "ward3", "gw1")
    assert answer_topic(topic) == result_topic("clinic/ecg", "ward3", "gw1") == "clinic/ecg/ward3/fleet/result/gw1"
    assert matched(windows_of("clinic/ecg", "+"), topic) is not None
    assert matched(windows_of("clinic/ecg", "ward4"), topic) is None
    assert answer_topic("clinic/ecg/ward3/bed1/ecg") is None


@pytest.mark.parametrize("name", ["", "a/b", "+", "gw#"])
def test_a_gateway_is_one_level_of_a_topic(name: str) -> None:
    with pytest.raises(ConfigError, match="client_id"):
        check_gateway(name)


def test_a_bundle_of_streams_cannot_be_shared() -> None:
    from pathlib import Path

    check_windows(Bundle.read(Path("cardiogloss")))
    with pytest.raises(ConfigError, match="takes streams"):
        check_windows(Bundle.read(Path("cardiogloss-stream")))


def test_a_panel_says_of_each_window_what_its_engine_says_alone(bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    ecg = rng.standard_normal((5, 12, bundle.card.samples)).astype(np.float32)
    asked = [Asked(Ticket(bytes(16), i), bundle.card.sha256, window) for i, window in enumerate(ecg)]
    with open_engine(bundle) as engine:
        panel = Panel([engine], "w1")
        told = panel.answer([*asked, asked[0]])
        assert [answer.ticket.number for answer in told] == [0, 1, 2, 3, 4, 0]
        for answer, window in zip(told, (*ecg, ecg[0]), strict=True):
            assert _bits(answer.probability) == _bits(engine.run(window[None]).probability[0])
    assert (panel.windows, panel.batches) == (5, 1)


def test_a_panel_says_why_a_window_has_no_score(bundle: Bundle, engine: OnnxEngine) -> None:
    panel = Panel([engine], "w1")
    other = Asked(Ticket(bytes(16), 1), BUNDLE, np.zeros((12, bundle.card.samples), np.float32))
    short = Asked(Ticket(bytes(16), 2), bundle.card.sha256, np.zeros((12, 7), np.float32))
    of_other, of_short = panel.answer([other, short])
    assert of_other.probability is None and of_other.bundle == bundle.card.sha256
    assert of_other.refused and bundle.card.sha256[:12] in of_other.refused and BUNDLE[:12] in of_other.refused
    assert of_short.refused == f"windows of this bundle have {bundle.card.samples} samples, not 7"


def test_patience_follows_rfc_6298() -> None:
    """Its section 2, by hand: first R, then alpha 1/8 and beta 1/4, four deviations."""
    patience = Patience()
    assert patience.limit_s(1) == FIRST_S
    patience.bear(0.4, 1)
    assert patience.limit_s(1) == pytest.approx(0.4 + 4 * 0.2)
    patience.bear(0.6, 1)
    deviation_s = 0.75 * 0.2 + 0.25 * abs(0.4 - 0.6)
    assert patience.limit_s(1) == pytest.approx(7 / 8 * 0.4 + 1 / 8 * 0.6 + 4 * deviation_s)


@given(st.lists(st.floats(0, 100)), st.integers(1, 64))
def test_patience_stays_between_its_bounds_and_doubles_with_each_loss(silences_s: list[float], windows: int) -> None:
    patience = Patience()
    for silence_s in silences_s:
        patience.bear(silence_s, windows)
    before_s = patience.limit_s(windows)
    patience.lose()
    assert LEAST_S <= before_s <= MOST_S
    assert patience.limit_s(windows) == min(2 * before_s, MOST_S)


@given(st.lists(st.tuples(st.sampled_from(["score", "take", "time", "refuse"]), st.integers(0, 7)), max_size=60))
def test_a_round_never_has_two_copies_of_a_window_on_the_way_to_the_broker_and_ends_once_each_is_scored(
    steps: list[tuple[str, int]],
) -> None:
    """Against a model of sets: which windows are open, and of which a copy is not taken yet."""
    round_, now_s, open_ = Round(Patience(), 0.0), 0.0, set(range(8))
    mids: dict[int, int] = {}

    def send(copies: list[tuple[int, bytes]]) -> None:
        for number, message in copies:
            assert number in open_ and number not in mids.values() and message == bytes([number])
            mid = max(mids, default=0) + 1
            mids[mid] = number
            round_.sent(number, mid)

    for number in range(8):
        round_.add(number, bytes([number]))
    send([(number, bytes([number])) for number in range(8)])
    for kind, number in steps:
        if kind == "score":
            assert round_.scored(number, now_s) == (number in open_)
            open_.discard(number)
            for mid in [mid for mid, of in mids.items() if of not in open_]:
                del mids[mid]
            send(round_.revived())
        elif kind == "take":
            for mid in [mid for mid, of in mids.items() if of == number]:
                del mids[mid]
                round_.taken(mid)
        elif kind == "refuse":
            send(round_.refused(number))
        else:
            now_s += MOST_S
            send(round_.due(now_s))
        assert round_.open == len(open_) and round_.is_over == (not open_)


def test_while_nobody_answers_one_window_alone_is_asked_again_and_all_once_somebody_does() -> None:
    round_ = Round(Patience(), 0.0)
    for number in range(5):
        round_.add(number, b"")
    assert [number for number, _ in round_.due(MOST_S)] == [0, 1, 2, 3, 4]
    assert [number for number, _ in round_.due(2 * MOST_S)] == [0]
    assert [number for number, _ in round_.due(3 * MOST_S)] == [0]
    assert round_.scored(0, 3 * MOST_S + 0.1)
    assert [number for number, _ in round_.revived()] == [1, 2, 3, 4]
    assert round_.revived() == []


def test_a_window_that_many_refuse_waits() -> None:
    round_ = Round(Patience(), 0.0)
    round_.add(0, b"")
    assert [len(round_.refused(0)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert round_.refused(99) == []
    assert len(round_.due(MOST_S)) == 1
