"""What an operator says of a device in; its wiring, and with it the decoder of its bytes and the encoder of others like them, out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from .chunk import LEFT_OUT, Chunk, finite, name_leads
from .wfdb import FASTEST_HZ

Number = TypeVar("Number", bound=np.generic)


@dataclass(slots=True)
class Tally:
    """What came and what did not, since the decoder began."""

    samples: int = 0
    lost: int = 0
    """Samples that were sent, by the word of a counter or a clock, and never came whole."""
    broken: int = 0
    """Frames that a checksum or a range refused."""
    garbage: int = 0
    """Bytes outside of any frame."""
    repeated: int = 0
    """Frames that came twice, or too late for their place."""
    restarts: int = 0
    """How often the device began to count anew."""
    clock_steps: int = 0
    """How often the device's clock was set while its counter went on."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one device is set up. A sample of `units` is (units - zero) / units_per_mv."""

    leads: tuple[str, ...]
    """The lead of each signal, in the device's order; - for one that is left out. Empty where the bytes say it themselves."""
    rate_hz: float
    units_per_mv: float
    zero: float = 0.0

    @property
    def kept(self) -> tuple[str, ...]:
        """The leads without those left out."""
        return tuple(lead for lead in self.leads if lead != LEFT_OUT)

    def to_mv(self, rows: Sequence[Sequence[float]]) -> Samples:
        """Rows of units, a row a sample and a column a signal -> [kept leads, n] in mV; NaN stays NaN."""
        units = self.keep(np.asarray(rows, np.float64).reshape(len(rows), len(self.leads)).T)
        return finite((units - self.zero) / self.units_per_mv)

    def keep(self, signals: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The rows [kept leads, n] of all signals [signals, n]."""
        return signals[[i for i, lead in enumerate(self.leads) if lead != LEFT_OUT]]

    def to_units(self, samples_mv: Samples, lowest: int, highest: int) -> npt.NDArray[np.int64]:
        """Samples [signals, n] in mV -> rows [n, signals] of what an ADC with these limits reads; NaN is read as 0 mV."""
        units = np.nan_to_num(samples_mv).astype(np.float64) * self.units_per_mv + self.zero
        return np.clip(np.rint(units), lowest, highest).astype(np.int64).T


def of_twelve(wiring: Wiring) -> Wiring:
    """All twelve leads, where the wiring of bytes that say their leads themselves names none."""
    return wiring if wiring.leads else replace(wiring, leads=LEADS)


class Decoder(ABC):
    """Bytes of one device in any cut -> chunks. Never raises, whatever the bytes: it skips, finds its place again and counts."""

    turn: int | None = None
    """How many samples the device counts before it begins anew; None where it does not count, or not before each of the last chunks."""

    last_error: str | None = None
    """What was wrong with the last bytes that could not be read, where there are words for it."""

    def __init__(self) -> None:
        self.tally = Tally()

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples that these bytes complete."""

    def flush(self) -> Iterator[Chunk]:
        """What was held back, at the end of the bytes."""
        yield from ()


class Encoder(ABC):
    """Samples -> the bytes that the device would send for them."""

    @abstractmethod
    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Samples [signals, n] in the order of the wiring's leads, those left out included."""


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device: what its maker set, and who reads and writes its bytes."""

    name: str
    title: str
    """For people: maker and model."""
    wiring: Wiring
    """The defaults. A rate or scale of 0 is unknown: each message says it, or for a stream of bytes the operator must."""
    decoder: Callable[[Wiring], Decoder]
    encoder: Callable[[Wiring], Encoder]
    baud: int | None = None
    wake: bytes = b""
    """Sent once the port is open, so that the device begins."""
    sleep: bytes = b""
    """Sent before the port is closed."""
    signals: range | None = None
    """How many signals it may have, where that is not fixed."""
    by_message: bool = False
    """Whether its bytes come as whole messages, as over MQTT, and never cut."""

    @property
    def says_itself(self) -> bool:
        """Whether its bytes tell leads and rate."""
        return self.by_message or (not self.wiring.leads and self.wiring.rate_hz > 0)

    def wire(
        self,
        leads: Sequence[str] = (),
        rate_hz: float | None = None,
        units_per_mv: float | None = None,
        zero: float | None = None,
    ) -> Wiring:
        """The defaults with what the operator knows better. Raises ConfigError for what this device cannot be."""
        rate_hz = self.wiring.rate_hz if rate_hz is None else rate_hz
        scale = self.wiring.units_per_mv if units_per_mv is None else units_per_mv
        if not 0 <= rate_hz <= FASTEST_HZ:
            raise ConfigError(f"rate_hz {rate_hz:g} must be positive and at most {FASTEST_HZ:g}")
        if rate_hz == 0 and not self.by_message:
            raise ConfigError(f"rate_hz must be given: the bytes of {self.title} do not say it; count its samples over a minute")
        if units_per_mv is not None and not 0 < abs(scale) < float("inf"):
            raise ConfigError(f"units_per_mv {scale:g} must be a number other than 0; a negative one turns the lead over")
        return Wiring(self._name_leads(leads), rate_hz, scale, self.wiring.zero if zero is None else zero)

    def _name_leads(self, leads: Sequence[str]) -> tuple[str, ...]:
        if not leads:
            return self.wiring.leads
        allowed = self.signals or range(len(self.wiring.leads), len(self.wiring.leads) + 1)
        if len(leads) not in allowed:
            many = str(allowed[0]) if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
            raise ConfigError(f"leads names {len(leads)} leads, but {self.title} has {many} signals; name each, - for one to leave out")
        return name_leads([f"signal {i + 1}" for i in range(len(leads))], leads)


class Stretches:
    """Rows of units, one a sample, in; chunks without a gap out, however the rows come."""

    def __init__(self, wiring: Wiring, tally: Tally) -> None:
        self._wiring = wiring
        self._tally = tally
        self._start = 0
        self._off: tuple[str, ...] = ()
        self._rows: list[Sequence[float]] = []
        self._done: list[Chunk] = []

    def add(self, row: Sequence[float], lost: int = 0, off: tuple[str, ...] = ()) -> None:
        """The next sample of every signal, after `lost` that never came; `off` names the leads whose electrode is off."""
        if lost or off != self._off:
            self._close(lost)
            self._off = off
        self._rows.append(row)

    def take(self) -> Iterator[Chunk]:
        """Everything added since the last time."""
        self._close()
        done, self._done = self._done, []
        yield from done

    def _close(self, lost: int = 0) -> None:
        if self._rows:
            self._done.append(Chunk(self._start, self._wiring.rate_hz, self._wiring.kept, self._wiring.to_mv(self._rows), self._off))
            self._tally.samples += len(self._rows)
            self._start += len(self._rows)
            self._rows = []
        self._start += lost
        self._tally.lost += lost
