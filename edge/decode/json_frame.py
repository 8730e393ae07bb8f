"""JSON messages, a frame each, in; the `Chunk`s that they hold, out.

    {"v": 1, "seq": 7, "t": 1767225600.0, "hz": 250, "leads": ["I", "II"], "mv": [[0.1, null], [0.2, 0.3]]}

`seq`, one more with every message, and `t`, seconds since 1970 of the first sample, may be left out; without both, no
loss is ever noticed. Instead of `mv` there may be `adc` with `mv_per_lsb`, one number or one for each lead. `lead_off`
lists leads whose electrode is off. null is an invalid sample. A single lead may be a plain list. `hz` and `leads` are
those of the wiring where they are left out, and so is the scale of `adc`.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, standard_lead

from .chunk import LEFT_OUT, Chunk, finite
from .device import Decoder, Device, Encoder, Wiring, of_twelve
from .sequence import SEQ_RANGE, Frame, Sequencer
from .wfdb import FASTEST_HZ

LONGEST_S = 60.0
"""No message holds more."""
MOST_SIGNALS = 32

_LATEST_S = 1e11
"""The year 5138: a larger number counts milliseconds."""


class Refused(ValueError):
    """A message is no frame; says in a sentence why, and how to mend it."""


class MessageDecoder(Decoder):
    """Messages that hold one or several frames each. `last_error` says what was wrong with the last that was refused."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self._wiring = wiring
        self._sequencer = Sequencer(self.tally)

    @abstractmethod
    def read(self, message: bytes) -> Iterable[Frame]:
        """The frames of one message. Raises Refused."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that this whole message sets free."""
        self.turn = SEQ_RANGE
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                frames = tuple(self.read(data))
        except Refused as error:
            self.tally.broken += 1
            self.last_error = str(error)
            return
        for frame in frames:
            yield from self._told(self._sequencer.feed(frame))

    def flush(self) -> Iterator[Chunk]:
        """Frames held back until one before them comes."""
        yield from self._told(self._sequencer.flush())

    def _told(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.turn = self.turn and self._sequencer.turn
            yield chunk


class JsonDecoder(MessageDecoder):
    """The project's own JSON."""

    def read(self, message: bytes) -> Iterable[Frame]:
        """The one frame of one message. Raises Refused."""
        return (to_frame(parse(message), self._wiring),)


def parse(message: bytes) -> dict[str, Any]:
    """One JSON object. Raises Refused."""
    try:
        document = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the message is no JSON: {error}; send one JSON object a message") from None
    if not isinstance(document, dict):
        raise Refused('the message is JSON, but no object; send one like {"hz": 250, "leads": ["I"], "mv": [0.1]}')
    return document


def to_frame(document: Mapping[str, Any], wiring: Wiring) -> Frame:
    """The frame that an object describes. Raises Refused."""
    if document.get("v", 1) != 1:
        raise Refused(f"v is {show(document['v'])}; this program reads version 1, so send 1 or leave v out")
    samples_mv = _samples(document, wiring)
    rate_hz = rate("hz", document.get("hz"), wiring)
    lead_off = names("lead_off", document.get("lead_off")) or []
    leads = names("leads", document.get("leads"))
    return build(_seq(document.get("seq")), _time(document.get("t")), rate_hz, leads, samples_mv, lead_off, wiring)


def build(
    seq: int | None,
    t_s: float | None,
    rate_hz: float,
    signals: Sequence[str] | None,
    samples_mv: npt.NDArray[np.float64],
    lead_off: Sequence[str],
    wiring: Wiring,
) -> Frame:
    """A frame of the signals [signals, n] that are known leads; the wiring names them where the message does not. Raises Refused."""
    most = int(LONGEST_S * rate_hz)
    if not 0 < samples_mv.shape[1] <= most:
        raise Refused(f"the message holds {samples_mv.shape[1]} samples a lead; send from 1 to {most}, which is {LONGEST_S:g} s")
    named = _name(signals, len(samples_mv), wiring)
    rows = [row for row, lead in enumerate(named) if lead in LEADS]
    leads = tuple(named[row] for row in rows)
    twice = [lead for lead in leads if leads.count(lead) > 1]
    if twice:
        raise Refused(f"lead {twice[0]} stands twice; name each signal once")
    if not leads:
        raise Refused(f"none of the signals {show(', '.join(signals or named))} is a known lead; name them by {' '.join(LEADS)}")
    off = {standard_lead(name) for name in lead_off}
    return Frame(seq, t_s, rate_hz, leads, finite(samples_mv[rows]), tuple(lead for lead in leads if lead in off))


def _name(signals: Sequence[str] | None, count: int, wiring: Wiring) -> Sequence[str]:
    """The lead of each signal, - for one that is none."""
    leads = [name if name in LEADS else standard_lead(name) or LEFT_OUT for name in signals or ()]
    if signals is None or (wiring.leads and not any(lead in LEADS for lead in leads)):
        leads = list(wiring.leads)
    if not leads:
        raise Refused("the message does not say its leads; name them in it, or by `leads` in the source's configuration")
    if len(leads) != count:
        raise Refused(f"{len(leads)} leads are named, but there are {count} lists of samples; send one list a lead")
    return leads


def rate(key: str, value: Any, wiring: Wiring) -> float:
    """The message's rate, or else the wiring's. Raises Refused."""
    if value is None and not wiring.rate_hz:
        raise Refused(f"{key} is missing; say the sampling rate in the message, or by `rate_hz` in the source's configuration")
    rate_hz = wiring.rate_hz if value is None else number(key, value)
    if not 1 <= rate_hz <= FASTEST_HZ:
        raise Refused(f"{key} is {rate_hz:g}; send samples per second, from 1 to {FASTEST_HZ:g}")
    return rate_hz


def number(key: str, value: Any) -> float:
    """A finite number. Raises Refused."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    raise Refused(f"{key} is {show(value)}; send a number")


def names(key: str, value: Any) -> list[str] | None:
    """A list of names; None where there is none. Raises Refused."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or not len(value) <= MOST_SIGNALS:
        raise Refused(f'{key} must be a list of at most {MOST_SIGNALS} names, like ["I", "II"]')
    return value


def show(value: Any) -> str:
    """A value as a message may quote it: short, and never deep."""
    return json.dumps(value)[:40] if isinstance(value, (str, int, float)) or value is None else f"a {type(value).__name__}"


def _samples(document: Mapping[str, Any], wiring: Wiring) -> npt.NDArray[np.float64]:
    """[signals, n] in mV."""
    if ("mv" in document) == ("adc" in document):
        raise Refused("the message must hold either mv, samples in mV, or adc, samples in the converter's units")
    if "mv" in document:
        return _matrix("mv", document["mv"])
    units = _matrix("adc", document["adc"]) - wiring.zero
    scale = document.get("mv_per_lsb")
    if scale is not None:
        return units * _scale(scale, len(units))
    if not wiring.units_per_mv:
        raise Refused("adc needs a scale; send mv_per_lsb, or give `units_per_mv` in the source's configuration")
    return units / wiring.units_per_mv


def _scale(value: Any, signals: int) -> npt.NDArray[np.float64]:
    scales = [number("mv_per_lsb", each) for each in (value if isinstance(value, list) else [value] * signals)]
    if len(scales) != signals or not all(scales):
        raise Refused("mv_per_lsb must be a number other than 0, or a list with one for each lead")
    return np.array(scales)[:, None]


def _matrix(key: str, rows: Any) -> npt.NDArray[np.float64]:
    """Lists of numbers -> [signals, n]; null is NaN."""
    if isinstance(rows, list) and not any(isinstance(row, list) for row in rows):
        rows = [rows]
    if not isinstance(rows, list) or len(rows) > MOST_SIGNALS:
        raise Refused(f"{key} must be a list with one list of numbers for each lead, at most {MOST_SIGNALS}")
    if not all(isinstance(row, list) and set(map(type, row)) <= {int, float, type(None)} for row in rows):
        raise Refused(f"{key} holds something that is no number; send numbers, and null for an invalid sample")
    if len({len(row) for row in rows}) > 1:
        raise Refused(f"the lists in {key} differ in length; send as many samples for each lead, and null for an invalid one")
    try:
        return np.array(rows, np.float64)
    except OverflowError:
        raise Refused(f"{key} holds a number that is too large; send mV, or units with their scale") from None


def _seq(value: Any) -> int | None:
    if value is None:
        return None
    seq = number("seq", value)
    if seq < 0 or seq != int(seq):
        raise Refused(f"seq is {show(value)}; send a whole number, one more with every message")
    return int(value) % SEQ_RANGE


def _time(value: Any) -> float | None:
    """0 stands for no clock, as on a device that was never told the time."""
    t_s = 0.0 if value is None else number("t", value)
    if not 0 <= t_s < _LATEST_S:
        raise Refused(f"t is {t_s:g}; send seconds since 1970, not milliseconds")
    return t_s or None


class JsonEncoder(Encoder):
    """One message for each call, in mV, whose numbers keep every bit of the samples; seq counts from 0."""

    def __init__(self, wiring: Wiring, begin_s: float | None = None) -> None:
        """`begin_s` is the time of the first sample since 1970; None for a device without a clock. Raises ConfigError without a rate."""
        if not wiring.rate_hz:
            raise ConfigError("rate_hz must be given, so that the messages can say it")
        self._wiring = of_twelve(wiring)
        self._begin_s = begin_s
        self._seq = 0
        self._sent = 0

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Samples [signals, n] of the wiring's leads, or of all twelve where it names none."""
        kept = self._wiring.keep(samples_mv)
        document = {"v": 1, "seq": self._seq, "hz": self._wiring.rate_hz, "leads": self._wiring.kept, "lead_off": list(lead_off)}
        if self._begin_s is not None:
            document["t"] = self._begin_s + self._sent / self._wiring.rate_hz
        mv = [[None if math.isnan(value) else value for value in row] for row in kept.astype(np.float64).tolist()]
        self._seq = (self._seq + 1) % SEQ_RANGE
        self._sent += samples_mv.shape[1]
        return json.dumps(document | {"mv": mv}, separators=(",", ":")).encode()


DEVICE = Device(
    name="json",
    title="cardiogloss JSON messages",
    wiring=Wiring(leads=(), rate_hz=0.0, units_per_mv=0.0),
    decoder=JsonDecoder,
    encoder=JsonEncoder,
    signals=range(1, MOST_SIGNALS + 1),
    by_message=True,
)
