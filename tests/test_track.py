"""Streams: an engine is given exactly the samples that the windows say, whatever the cut, the batch and the speed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.clock import Arrival
from edge.decode.chunk import Chunk
from edge.decode.device import Wiring
from edge.decode.frame import FrameDecoder
from edge.inbox import Inbox
from edge.live import Dated, Live
from edge.message import to_message
from edge.pipeline import Event, Options, Pipeline
from edge.score import Scores
from edge.supervisor import Supervisor
from edge.worker import Post, Worker
from kernels.bundle import Bundle
from kernels.engine import Engine, Result, StreamEngine, open_engine
from kernels.signal import LEADS, Samples

from .conftest import cut, heart
from .daemon import frames

STRIDE = 32
WINDOW = 1000


class Recorder(Engine):
    """Takes windows and keeps them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.windows: list[Samples] = []

    def run(self, ecg: Samples) -> Result:
        self.windows += list(ecg)
        return _result([0] * len(ecg), self.bundle)

    def close(self) -> None: ...


class Checksums(StreamEngine):
    """The state is the CRC-32 of every sample so far, and so is what is told."""

    stride = STRIDE

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.calls: list[tuple[int, ...]] = []

    def begin(self) -> Samples:
        return _halves(0)

    def step(self, ecg: Samples, states: Samples) -> tuple[Result, Samples]:
        assert len(ecg) == len(states) and ecg.shape[2] % STRIDE == 0 and ecg.shape[2]
        self.calls.append(ecg.shape)
        sums = [_checksum(one, round(float(high)) << 16 | round(float(low))) for one, (high, low) in zip(ecg, states, strict=True)]
        return _result(sums, self.bundle), np.array([_halves(one) for one in sums])

    def run(self, ecg: Samples) -> Result:
        raise AssertionError("it takes streams")

    def close(self) -> None: ...


def _checksum(ecg: Samples, before: int = 0) -> int:
    return zlib.crc32(np.nan_to_num(ecg.T, nan=99.0).tobytes(), before)


def _halves(number: int) -> Samples:
    return np.array([number >> 16, number & 0xFFFF], np.float32)


def _result(sums: Sequence[int], bundle: Bundle) -> Result:
    probability = np.zeros((len(sums), len(bundle.card.findings)), np.float32)
    probability[:, :2] = np.array([_halves(one) for one in sums]).reshape(-1, 2) / 65536
    return Result(probability, probability[:, :1])


def _told(engine: Engine, chunks: Sequence[Chunk], options: Options) -> list[Event]:
    pipeline = Pipeline("bed1", engine, options)
    return [event for chunk in chunks for event in pipeline.feed(chunk)] + list(pipeline.flush())


def _expected(bundle: Bundle, chunks: Sequence[Chunk], options: Options) -> list[list[float] | None]:
    """By the rule, from windows that another engine was given: two numbers a window; None where it abstains."""
    recorder = Recorder(bundle)
    scores = [event for event in _told(recorder, chunks, options) if isinstance(event, Scores)]
    windows = iter(recorder.windows)
    begins = [chunk.start for i, chunk in enumerate(chunks) if i == 0 or chunk.start != chunks[i - 1].end]
    told: list[list[float] | None] = []
    fed: list[Samples] = []
    origin, stretch = 0, -1
    masked: set[str] = set()
    for one in scores:
        start = round(one.at_s * 100) - WINDOW
        begun = max(begin for begin in begins if begin <= start)
        if one.abstained:
            stretch = -1
            told.append(None)
            continue
        window = next(windows)
        bad = {lead for lead, state in one.quality.items() if state != "good"}
        if begun != stretch or origin + len(fed) < start or bad != masked:
            origin, stretch, fed, masked = start, begun, [], bad
        while len(fed) + STRIDE <= start + WINDOW - origin:
            at = origin + len(fed) - start
            fed += list(window[:, at : at + STRIDE].T)
        told.append(np.round(_halves(_checksum(np.array(fed).T)).astype(float) / 65536, 6).tolist())
    return told


def _two(event: Scores, bundle: Bundle) -> list[float] | None:
    return None if event.abstained else [event.probability[finding.name] for finding in bundle.card.findings[:2]]


@pytest.fixture(scope="module")
def bundle_of_any_lead(bundle: Bundle) -> Bundle:
    """With findings that any lead shows."""
    findings = tuple(finding.model_copy(update={"leads": ()}) for finding in bundle.card.findings)
    return Bundle(bundle.onnx, bundle.card.model_copy(update={"findings": findings}))


def _patient(seed: int = 0) -> list[Chunk]:
    """A gap, a lead that goes, and three moments without any: windows that hold all three abstain; at the bundle's rate."""
    samples = heart(70, 62, 100, seed)
    samples[3, 1500:2100] = np.nan
    for at in (3900, 4300, 4700):
        samples[:, at : at + 30] = np.nan
    return [Chunk(0, 100.0, LEADS, samples[:, :1307]), Chunk(1350, 100.0, LEADS, samples[:, 1350:])]


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 6200), max_size=20), hop_s=st.sampled_from([0.1, 0.2, 0.5, 1.0, 2.5, 9.7, 10.0]))
def test_a_stream_has_seen_exactly_the_samples_that_its_window_says(bundle_of_any_lead: Bundle, cuts: list[int], hop_s: float) -> None:
    options, whole = Options(hop_s), _patient()
    parts = [part for chunk in whole for part in cut(chunk, [at - chunk.start for at in cuts])]
    scores = [event for event in _told(Checksums(bundle_of_any_lead), parts, options) if isinstance(event, Scores)]
    expected = _expected(bundle_of_any_lead, whole, options)
    assert (None in expected or hop_s > 1) and len([one for one in expected if one]) >= 2
    assert [_two(one, bundle_of_any_lead) for one in scores] == expected


def test_of_each_sample_everything_is_computed_once(bundle_of_any_lead: Bundle) -> None:
    engine = Checksums(bundle_of_any_lead)
    _told(engine, [Chunk(0, 100.0, LEADS, heart(70, 60, 100))], Options())
    assert sum(batch * samples for batch, _, samples in engine.calls) == 6000 // STRIDE * STRIDE


def _live(engine: Engine, names: Sequence[str]) -> list[Post]:
    decoder = partial(FrameDecoder, Wiring((), 0.0, 0.0))
    return [Post(Live(name, decoder, Pipeline(name, engine)), Inbox(lambda: None)) for name in names]


def _played(engine: Engine, sent: dict[str, list[bytes]], turns: Iterator[int]) -> dict[str, list[str]]:
    """By source, when so many frames of each source come in a round, in turn."""
    told: dict[str, list[str]] = {name: [] for name in sent}

    def tell(source: str, dated: Dated) -> None:
        told[source].append(json.dumps(to_message(dated.event)))  # type: ignore[arg-type]

    worker, posts, waiting = Worker(tell, Supervisor()), _live(engine, list(sent)), {name: list(one) for name, one in sent.items()}
    while any(waiting.values()):
        for post in posts:
            taken = next(turns)
            for data in waiting[post.live.name][:taken]:
                post.inbox.put(Arrival(data, 0.0, 0.0))
            del waiting[post.live.name][:taken]
        worker.round(posts)
    for post in posts:
        post.ended = True
    worker.round(posts)
    assert worker.supervisor.faults == 0
    return told


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), most=st.sampled_from([2, 30, 400]))
def test_streams_that_share_a_batch_are_told_what_each_is_told_alone(bundle_of_any_lead: Bundle, seed: int, most: int) -> None:
    """However many windows of one source come at once, and whatever the number of new samples of each."""
    rng = np.random.default_rng(seed)
    sent = {f"bed{i}": frames(Chunk(0, 100.0, LEADS, heart(60 + 9 * i, 25 + 2 * i, 100, i))) for i in range(5)}
    together = _played(Checksums(bundle_of_any_lead), sent, iter(lambda: int(rng.integers(0, most)), None))
    for name, one in sent.items():
        alone = _played(Checksums(bundle_of_any_lead), {name: one}, iter(lambda: 1, None))
        assert together[name] == alone[name]
    assert any('"type": "scores"' in line for line in together["bed0"])


def test_streams_of_as_many_samples_share_a_call(bundle_of_any_lead: Bundle) -> None:
    engine = Checksums(bundle_of_any_lead)
    sent = {f"bed{i}": frames(Chunk(0, 100.0, LEADS, heart(70, 20, 100, i))) for i in range(8)}
    _played(engine, sent, iter(lambda: 1, None))
    assert {batch for batch, _, _ in engine.calls} == {8}


def test_a_pipeline_that_follows_another_begins_anew(bundle_of_any_lead: Bundle) -> None:
    samples, engine = heart(70, 40, 100), Checksums(bundle_of_any_lead)
    first, second = cut(Chunk(0, 100.0, LEADS, samples), [2000])
    last, pipeline = Pipeline("bed1", engine), Pipeline("bed1", engine)
    list(last.feed(first))
    list(pipeline.succeed(last))
    told = [event for event in pipeline.feed(second) if isinstance(event, Scores)]
    alone = [event for event in _told(engine, [Chunk(2000, 100.0, LEADS, samples[:, 2000:])], Options()) if isinstance(event, Scores)]
    assert [one.probability for one in told] == [one.probability for one in alone[: len(told)]]
    assert len(told) >= 10


@pytest.mark.parametrize("trouble", ["off", "noise"])
def test_a_lead_that_comes_or_goes_is_scored_as_its_windows_are(excerpt: Chunk, trouble: str) -> None:
    """By the shipped streams, while the heart fibrillates. Nothing of the lead's past is missed, and nothing of its noise remembered."""
    samples = excerpt.samples_mv[:, : 60 * 360].copy()
    rng = np.random.default_rng(0)
    samples[0, 30 * 360 : 34 * 360] = np.nan if trouble == "off" else rng.normal(0, 3, 4 * 360)
    chunk = Chunk(0, excerpt.rate_hz, excerpt.leads, samples)
    with open_engine(Bundle.read(Path("cardiogloss-stream"))) as streams:
        recorder = Recorder(streams.bundle)
        list(_told(recorder, [chunk], Options()))
        told = [event for event in _told(streams, [chunk], Options()) if isinstance(event, Scores)]
        changes = [i for i in range(1, len(told)) if told[i].quality != told[i - 1].quality]
        assert len(changes) >= 2
        for i in changes:
            alone = streams.run(recorder.windows[i][None]).probability[0]
            names = [finding.name for finding in streams.bundle.card.findings]
            assert told[i].probability == {n: round(float(p), 6) for n, p in zip(names, alone, strict=True) if n in told[i].probability}
