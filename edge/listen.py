"""A `[[source]]` and a time in; what its device sends meanwhile, in mV, out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import Samples

from .clock import Arrival
from .config import Config, Source
from .decode.chunk import Chunk
from .inbox import Inbox
from .reader import Reader
from .supervisor import Supervisor
from .transport.mqtt import Broker
from .transport.open import open_transport


def listen(config: Config, name: str, seconds: float) -> tuple[Chunk, ...]:
    """The chunks of the source of this name. Raises ConfigError where there is none, or where it sends nothing that can be read."""
    source = find(config, name)
    inbox = Inbox(lambda: None)
    with _line(config, source, inbox) as reader:
        time.sleep(seconds)
    decoder = source.kind.decoder(source.wiring())
    chunks = tuple(chunk for arrival in inbox.take() for chunk in decoder.feed(arrival.data))
    if not chunks:
        why = (reader.problem if reader else None) or decoder.last_error or f"nothing came in {seconds:g} s"
        raise ConfigError(f"{name}: no sample could be read from {source.place}: {why}")
    return chunks


def joined(chunks: tuple[Chunk, ...]) -> Samples:
    """The samples [leads, n] of all chunks with the leads of the last; a gap closes over."""
    return np.concatenate([chunk.without_loose() for chunk in chunks if chunk.leads == chunks[-1].leads], axis=1)


def find(config: Config, name: str) -> Source:
    """The source of this name. Raises ConfigError where there is none."""
    for source in config.source:
        if name == source.name:
            return source
    known = ", ".join(source.name for source in config.source if source.name) or "none, as all have wildcards"
    raise ConfigError(f"no source is named {name!r}; named are {known}")


@contextmanager
def _line(config: Config, source: Source, inbox: Inbox) -> Iterator[Reader | None]:
    transport = open_transport(source)
    if transport is None:
        with _subscribed(config, source, inbox):
            yield None
        return
    reader = Reader(source.name, transport, inbox, Supervisor())
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()
        reader.join()


@contextmanager
def _subscribed(config: Config, source: Source, inbox: Inbox) -> Iterator[None]:
    assert config.mqtt is not None and source.mqtt is not None

    def take(topic: str, payload: bytes, retained: bool) -> None:
        if not retained:
            inbox.put(Arrival(payload, time.monotonic(), time.time()))

    broker = Broker(config.mqtt, "", config.mqtt.password(), on_message=take)
    broker.subscribe(source.mqtt)
    broker.start()
    try:
        yield
    finally:
        broker.stop()
