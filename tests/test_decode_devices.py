"""The decoders of serial devices: what their makers publish, what a real port gave, and laws that hold for each of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode import bitalino, cyton, olimex, protocentral, shimmer
from edge.decode.chunk import LEFT_OUT, Chunk
from edge.decode.device import Decoder, Device, Tally, Wiring
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .conftest import ARCHIVE

DEVICES = {d.name: d for d in (*cyton.DEVICES, *olimex.DEVICES, *protocentral.DEVICES, *bitalino.DEVICES, shimmer.DEVICE)}
PROTOCOLS = ["cyton", "cyton-daisy", "olimex", "ads1292r", "healthypi5", "max30003", "bitalino", "bitalino-1", "shimmer3"]
CAPTURES = sorted((ARCHIVE / "devices" / "olimex").glob("*.bin"))

every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
every_protocol = pytest.mark.parametrize("device", [DEVICES[name] for name in PROTOCOLS], ids=PROTOCOLS)


@dataclass(frozen=True)
class Decoded:
    """Everything that a decoder made of some bytes."""

    samples_mv: dict[int, tuple[float, ...]]
    """By index."""
    off: dict[int, tuple[str, ...]]
    tally: Tally

    @property
    def rows(self) -> np.ndarray:
        return np.array(list(self.samples_mv.values())).T


def _decode(decoder: Decoder, data: bytes, cuts: Sequence[int] = ()) -> Decoded:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [chunk for a, b in itertools.pairwise(edges) for chunk in decoder.feed(data[a:b])] + list(decoder.flush())
    samples_mv: dict[int, tuple[float, ...]] = {}
    off: dict[int, tuple[str, ...]] = {}
    for chunk in chunks:
        assert chunk.start == (max(samples_mv) + 1 if samples_mv else 0) or chunk.start > max(samples_mv, default=-1)
        for i, row in enumerate(chunk.samples_mv.T.tolist()):
            samples_mv[chunk.start + i] = tuple(row)
            if chunk.lead_off:
                off[chunk.start + i] = chunk.lead_off
    assert decoder.tally.samples == len(samples_mv)
    return Decoded(samples_mv, off, decoder.tally)


def _all_leads(device: Device) -> Wiring:
    """Every signal a lead, as far as there are leads."""
    count = len(device.wiring.leads)
    return replace(device.wiring, leads=(*LEADS, *[LEFT_OUT] * count)[:count])


def _noise(wiring: Wiring, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.8, 0.8, (len(wiring.leads), n)).astype(np.float32)


def _frames(device: Device, wiring: Wiring, samples_mv: np.ndarray) -> list[bytes]:
    """The bytes of each sample."""
    encoder = device.encoder(wiring)
    return [encoder.feed(samples_mv[:, i : i + 1]) for i in range(samples_mv.shape[1])]


def _missing(device: Device, sent_mv: np.ndarray, decoded: Decoded) -> int:
    """How many samples did not come, found again by the value of the first lead, which the samples do not share."""
    step = 0.6 / abs(device.wiring.units_per_mv)
    came = decoded.rows[0] if decoded.samples_mv else np.empty(0)
    return sum(not np.any(np.abs(came - value) < step) for value in sent_mv)


def _ramp(wiring: Wiring, n: int) -> np.ndarray:
    """The first lead never has a value twice."""
    samples_mv = _noise(wiring, n)
    samples_mv[0] = np.linspace(-0.7, 0.7, n)
    return samples_mv


def test_names_are_unique_and_every_device_has_a_rate_a_scale_and_a_lead() -> None:
    assert len(DEVICES) == sum(map(len, (cyton.DEVICES, olimex.DEVICES, protocentral.DEVICES, bitalino.DEVICES))) + 1
    for device in DEVICES.values():
        wiring = device.wire()
        assert wiring.rate_hz > 0 and wiring.units_per_mv and wiring.kept and set(wiring.kept) <= set(LEADS)


@every_device
def test_a_wrong_number_of_leads_is_the_operators_mistake(device: Device) -> None:
    with pytest.raises(ConfigError, match="signals"):
        device.wire(leads=["I"] * 17)


@every_device
def test_what_was_encoded_is_decoded_to_within_half_a_unit(device: Device) -> None:
    wiring = _all_leads(device)
    samples_mv = _noise(wiring, 600)
    decoded = _decode(device.decoder(wiring), device.encoder(wiring).feed(samples_mv))
    assert list(decoded.samples_mv) == list(range(600))
    units = np.rint(samples_mv.astype(np.float64) * wiring.units_per_mv + wiring.zero)
    if device.name.startswith("bitalino"):
        units[4:] -= units[4:] % 16  # The device itself sends only the upper 6 of 10 bits.
    wanted = wiring.to_mv(units.T.tolist())
    assert np.array_equal(decoded.rows, wanted)
    assert np.abs(decoded.rows[:4] - samples_mv[:4]).max() <= 0.5 / abs(wiring.units_per_mv) + 1e-6
    assert decoded.tally == Tally(samples=600)


@every_device
def test_signals_left_out_do_not_come(device: Device) -> None:
    samples_mv = _noise(device.wiring, 20)
    decoded = _decode(device.decoder(device.wiring), device.encoder(device.wiring).feed(samples_mv))
    kept = [lead != LEFT_OUT for lead in device.wiring.leads]
    assert np.abs(decoded.rows - samples_mv[kept]).max() <= 16 / abs(device.wiring.units_per_mv)


@every_device
def test_an_adc_clips_at_its_limits_and_the_decoder_stays_in_step(device: Device) -> None:
    wiring = _all_leads(device)
    samples_mv = np.full((len(wiring.leads), 40), 1e6, np.float32)
    samples_mv[:, ::2] = -np.inf
    samples_mv[:, 1] = np.nan
    decoded = _decode(device.decoder(wiring), device.encoder(wiring).feed(samples_mv))
    assert len(decoded.samples_mv) == 40
    assert np.abs(decoded.rows[:, 1]).max() <= 8.5 / abs(wiring.units_per_mv)


@every_protocol
@given(cuts=st.lists(st.integers(0, 2000), max_size=12), seed=st.integers(0, 5))
def test_any_cut_gives_the_same_samples_starts_and_counts(device: Device, cuts: list[int], seed: int) -> None:
    wiring = _all_leads(device)
    frames = _frames(device, wiring, _noise(wiring, 60, seed))
    data = b"\x00\xa0\x0a" + b"".join(frames[:20]) + b"xyz" + b"".join(frames[22:40])[:-1] + b"".join(frames[40:])
    assert repr(_decode(device.decoder(wiring), data, cuts)) == repr(_decode(device.decoder(wiring), data))


@every_protocol
def test_byte_by_byte_is_as_good_as_at_once(device: Device) -> None:
    wiring = _all_leads(device)
    data = b"\xa5\x5a" + b"".join(_frames(device, wiring, _noise(wiring, 40)))
    assert repr(_decode(device.decoder(wiring), data, range(len(data)))) == repr(_decode(device.decoder(wiring), data))


@every_protocol
@given(garbage=st.lists(st.binary(max_size=70), min_size=4, max_size=4))
def test_garbage_between_runs_of_frames_costs_at_most_one_frame_each_time(device: Device, garbage: list[bytes]) -> None:
    """The one is a frame whose beginning completes a false frame out of the garbage's end."""
    wiring = _all_leads(device)
    samples_mv = _ramp(wiring, 36)
    frames = _frames(device, wiring, samples_mv)
    data = b"".join(noise + b"".join(frames[12 * i : 12 * i + 12]) for i, noise in enumerate(garbage))
    decoded = _decode(device.decoder(wiring), data)
    assert _missing(device, samples_mv[0], decoded) <= len(garbage)
    assert decoded.tally.samples <= 36 + len(garbage) * 70 // 3


@every_device
@given(data=st.binary(max_size=3000))
def test_no_bytes_are_an_exception(device: Device, data: bytes) -> None:
    decoded = _decode(device.decoder(device.wiring), data)
    assert decoded.tally.garbage <= len(data)


@every_protocol
def test_no_chunk_spans_a_cut_out_of_the_bytes(device: Device) -> None:
    """Bytes lost inside of two frames: the rest comes, and there is a gap."""
    wiring = _all_leads(device)
    samples_mv = _ramp(wiring, 60)
    frames = _frames(device, wiring, samples_mv)
    data = b"".join(frames[:29]) + frames[29][:-2] + frames[30][2:] + b"".join(frames[31:])
    decoder = device.decoder(wiring)
    chunks = list(decoder.feed(data)) + list(decoder.flush())
    assert (
        _missing(
            device,
            samples_mv[0],
            Decoded({c.start + i: tuple(x) for c in chunks for i, x in enumerate(c.samples_mv.T.tolist())}, {}, decoder.tally),
        )
        <= 3
    )
    assert len(chunks) == 2 and chunks[1].start > chunks[0].end
    assert decoder.tally.lost >= 1


COUNTING = [name for name in DEVICES if DEVICES[name].decoder(DEVICES[name].wiring).turn is not None]


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("dropped", [1, 2, 7, 15, 16, 17, 130, 255, 256, 300])
def test_dropped_frames_are_counted_exactly_up_to_the_turn_of_the_counter(name: str, dropped: int) -> None:
    device, wiring = DEVICES[name], DEVICES[name].wiring
    frames = _frames(device, wiring, _noise(wiring, 700))
    decoder = device.decoder(wiring)
    decoded = _decode(decoder, b"".join(frames[:200] + frames[200 + dropped :]))
    assert decoder.turn is not None
    lost = dropped % decoder.turn
    assert decoded.tally == Tally(samples=700 - dropped, lost=lost)
    assert list(decoded.samples_mv) == [*range(200), *range(200 + lost, 700 - dropped + lost)]


@every_protocol
@pytest.mark.parametrize("filler", ["random", "sync"])
def test_memory_is_bounded_whatever_the_bytes(device: Device, filler: str) -> None:
    """The time per byte must not grow either: this feeds half a megabyte, in which anything quadratic would stand still."""
    decoder = device.decoder(device.wiring)
    head = _frames(device, device.wiring, _noise(device.wiring, 1))[0][:2]
    size = 60_000 if device.name.startswith("bitalino") else 500_000
    data = np.random.default_rng(1).bytes(size) if filler == "random" else head * (size // len(head))
    framer = decoder._framer  # type: ignore[attr-defined]
    for at in range(0, len(data), 4096):
        for chunk in decoder.feed(data[at : at + 4096]):
            assert chunk.samples_mv.size
        assert framer.held <= 140


@pytest.mark.parametrize("name", ["cyton", "shimmer3", "bitalino"])
def test_ten_seconds_at_500_hz_cost_less_than_two_percent_of_them(name: str) -> None:
    device = DEVICES[name]
    data = device.encoder(device.wiring).feed(_noise(device.wiring, 5000))
    best_s = np.inf
    for _ in range(3):
        decoder, began_s = device.decoder(device.wiring), time.process_time()
        for at in range(0, len(data), 500):
            for _ in decoder.feed(data[at : at + 500]):
                pass
        best_s = min(best_s, time.process_time() - began_s)
    assert decoder.tally.samples == 5000
    assert best_s < 0.2


# What the makers say. Every expected value is worked out from the sources named, never from our encoder.


def _first(name: str, data: bytes, leads: Sequence[str] = ()) -> Chunk:
    decoder = DEVICES[name].decoder(DEVICES[name].wire(leads=leads))
    return next(iter([*decoder.feed(data), *decoder.flush()]))


def test_cyton_gives_the_microvolts_of_openbcis_scale_factor() -> None:
    """docs.openbci.com, Cyton Data Format: 0.02235 uV a count at a gain of 24; 24 bits big-endian, FFFFFF = -1."""
    frame = "a0 %02x 00aec3 ff513d ffffff 000000 7fffff 800000 000001 000064 0000 0000 0000 c0"
    data = bytes.fromhex(frame % 1 + frame % 2 + frame % 4)
    decoder = DEVICES["cyton"].decoder(DEVICES["cyton"].wire(leads=["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]))
    first, second = [*decoder.feed(data), *decoder.flush()]
    counts = np.array([44739, -44739, -1, 0, np.nan, np.nan, 1, 100])
    assert first.samples_mv[:, 0] == pytest.approx(counts * 0.02235e-3, rel=1e-4, nan_ok=True)
    assert (first.start, first.end, second.start) == (0, 2, 3), "number 3 is missing"


def test_cyton_takes_the_end_bytes_of_the_documentation_and_no_other() -> None:
    for end in range(256):
        data = bytes.fromhex("a001" + "00" * 30) + bytes((end,))
        decoder = DEVICES["cyton"].decoder(DEVICES["cyton"].wiring)
        assert bool(list(decoder.feed(data + b"\xa0"))) == (0xC0 <= end <= 0xC6)


def test_a_daisy_frame_is_even_and_comes_before_its_cyton_frame() -> None:
    """BrainFlow, cyton_daisy.cpp: an even number carries signals 9 to 16, the odd one after it 1 to 8."""
    frame = "a0 %02x " + "%06x" + "00" * 21 + "000000000000 c0"
    data = bytes.fromhex("".join(frame % (n, 100 if n % 2 == 0 else 200) for n in (3, 4, 5, 6, 7)) + "a0")
    leads = ["I", *"-------", "II", *"-------"]
    decoder = DEVICES["cyton-daisy"].decoder(DEVICES["cyton-daisy"].wire(leads=leads))
    (chunk,) = decoder.feed(data)
    assert chunk.samples_mv / 0.02235e-3 == pytest.approx(np.array([[200, 200], [100, 100]]), rel=1e-4)


def test_half_a_daisy_pair_is_a_lost_sample() -> None:
    device = DEVICES["cyton-daisy"]
    pairs = _frames(device, device.wiring, _noise(device.wiring, 10))
    decoded = _decode(device.decoder(device.wiring), b"".join([*pairs[:4], pairs[4][33:], pairs[5], pairs[6][:33], *pairs[7:]]))
    assert list(decoded.samples_mv) == [0, 1, 2, 3, 5, 7, 8, 9]


def test_halves_of_two_daisy_pairs_are_no_sample() -> None:
    device = DEVICES["cyton-daisy"]
    pairs = _frames(device, device.wiring, _noise(device.wiring, 10))
    decoded = _decode(device.decoder(device.wiring), b"".join([*pairs[:4], pairs[4][:33], pairs[6][33:], *pairs[7:]]))
    assert list(decoded.samples_mv) == [0, 1, 2, 3, 7, 8, 9]


def test_olimex_gives_the_millivolts_of_its_gain() -> None:
    """Olimex: 10 bits of 5 V behind 10 * 80 * 3.56 = 2848; 512 is 0 V, and the shield turns the signal over."""
    frame = "a55a02 %02x 0147 0200 02b9 0000 03ff 0200 01"
    chunk = _first("olimex", bytes.fromhex(frame % 255 + frame % 0), leads=["I", "II", "V1", "V2", "V3", "-"])
    units = np.array([327, 512, 697, 0, 1023])
    assert chunk.samples_mv[:, 0] == pytest.approx((512 - units) * 5000 / 1024 / 2848, abs=1e-6)
    assert chunk.samples_mv.shape[1] == 2


def test_a_reset_signal_is_no_sample_and_begins_anew() -> None:
    """logston's sketch, write_reset_signal: all 512, number 0, switches 2, for a second or more."""
    reset = bytes.fromhex("a55a02 00 0200 0200 0200 0200 0200 0200 02")
    frame = "a55a02 %02x 0147 0200 02b9 0000 03ff 0200 01"
    data = bytes.fromhex("".join(frame % n for n in (90, 91))) + 375 * reset + bytes.fromhex("".join(frame % n for n in (0, 1, 2)))
    decoded = _decode(DEVICES["olimex-logston"].decoder(DEVICES["olimex-logston"].wiring), data)
    assert list(decoded.samples_mv) == [0, 1, 3, 4, 5]
    assert decoded.tally == Tally(samples=5, lost=1, broken=375, restarts=1)


def test_reset_signals_at_the_very_beginning_are_not_a_restart() -> None:
    reset = bytes.fromhex("a55a02 00 0200 0200 0200 0200 0200 0200 02")
    frame = bytes.fromhex("a55a02 00 0147 0200 02b9 0000 03ff 0200 01")
    decoded = _decode(DEVICES["olimex"].decoder(DEVICES["olimex"].wiring), 10 * reset + frame)
    assert list(decoded.samples_mv) == [0]
    assert (decoded.tally.restarts, decoded.tally.lost) == (0, 0)


MV = 2420 / (12 * (2**23 - 1))
"""A count of an ADS1292R at a gain of 12, data sheet SBAS502: VREF / gain / (2^23 - 1), VREF = 2.42 V."""


@pytest.mark.parametrize(
    ("name", "packet", "wanted_mv"),
    [
        # 02.OpenView.ino, version 3: 8 bytes, the 24-bit sample shifted right by 4.
        ("ads1292r", "0afa 0800 02 280a 0000 4800 1000 000b", [[2600 * 16 * MV]]),
        ("ads1292r", "0afa 0800 02 d8f5 0000 4800 1000 000b", [[-2600 * 16 * MV]]),
        # 02-ecg-plot-openview.ino, version 2: 9 bytes, shifted by 6.
        ("ads1292r", "0afa 0900 02 8a02 0000 1000 4800 00 000b", [[650 * 64 * MV]]),
        # Example-1-ECG-Respiration-Plot-Openview.ino: 20 bytes, shifted by 8.
        ("ads1292r", "0afa 1400 02 a300 0000" + "00" * 16 + "000b", [[163 * 256 * MV]]),
        # Healthypiv4_Arduino.ino: 20 bytes, shifted by 8, the last is the status.
        ("healthypi4", "0afa 1400 02 a300 0000" + "00" * 13 + "5078 00 000b", [[163 * 256 * MV]]),
        # max30001_async.c: 18 bits of +-1 V at a gain of 20; types 2 and 3 of OpenView.
        ("healthypi5", "0afa 1600 02 3d0a0000" + "00" * 18 + "000b", [[2621 * 1000 / (2**17 * 20)]]),
        (
            "healthypi5",
            "0afa 3200 03" + "".join(f"{i:02x}000000" for i in range(8)) + "00" * 18 + "000b",
            [[i * 1000 / (2**17 * 20) for i in range(8)]],
        ),
        # SNAS602, equation 13: V = (code / ADCMAX - 1/2) * 2 * 2.4 V / 3.5, with ADCMAX = 800000h at R2 = 4, R3 = 64.
        (
            "ads1293",
            "0afa 0c00 02 e5174000 00004000 00000000 000b",
            [[(0x4017E5 / 0x800000 - 0.5) * 4800 / 3.5], [0], [-2400 / 3.5]],
        ),
        ("ads1293", "0afa 0e00 02 e5174000 00004000 00000000 4800 000b", [[(0x4017E5 / 0x800000 - 0.5) * 4800 / 3.5], [0], [-2400 / 3.5]]),
        # MAX30003 data sheet: V = ADC * 1 V / (2^17 * gain). Protocentral_MAX30003: 2621 goes as (2621 >> 2) << 16 | 1.
        ("max30003", "0afa 0c00 02 01008f02 00000000 00000000 000b", [[2621 * 1000 / (2**17 * 20)]]),
        ("max30003", "0afa 0c00 02 3d0a0000 00000000 00000000 000b", [[2621 * 1000 / (2**17 * 20)]]),
        ("max30003", "0afa 1100 02 0000000000 01008f02 00000000 00000000 000b", [[2621 * 1000 / (2**17 * 20)]]),
        # -2622 in 18 bits is 3F5C2h: its upper 16 bits FD70h, its lower 2 bits 2.
        ("max30003", "0afa 0c00 02 020070fd 00000000 00000000 000b", [[-2622 * 1000 / (2**17 * 20)]]),
        # protocentral_max30001.cpp, CNFG_ECG = 825000h: a gain of 80.
        ("max30001", "0afa 0c00 02 02003d0a 00000000 00000000 000b", [[10486 * 1000 / (2**17 * 80)]]),
    ],
)
def test_protocentrals_packets_give_the_millivolts_of_the_data_sheet(name: str, packet: str, wanted_mv: list[list[float]]) -> None:
    chunk = _first(name, bytes.fromhex(packet) * 2)
    count = len(wanted_mv[0])
    assert chunk.samples_mv.shape[1] == 2 * count
    assert chunk.samples_mv[:, :count] == pytest.approx(np.array(wanted_mv), abs=1e-6, rel=1e-6)


def test_a_ppg_packet_of_a_healthypi5_is_neither_a_sample_nor_garbage() -> None:
    ecg, ppg = "0afa 3200 03" + "00" * 50 + "000b", "0afa 1300 04" + "00" * 19 + "000b"
    decoded = _decode(DEVICES["healthypi5"].decoder(DEVICES["healthypi5"].wiring), bytes.fromhex(ecg + ppg + ppg + ecg + ppg))
    assert decoded.tally == Tally(samples=16)


def test_bytes_skipped_between_packets_without_a_counter_are_a_gap() -> None:
    packet = bytes.fromhex("0afa 0800 02 280a 0000 4800 1000 000b")
    decoded = _decode(DEVICES["ads1292r"].decoder(DEVICES["ads1292r"].wiring), 3 * packet + 3 * packet[:-1] + 3 * packet)
    assert decoded.tally.samples == 6 and decoded.tally.lost == 3
    assert list(decoded.samples_mv) == [0, 1, 2, 6, 7, 8]


def _crc4_by_division(data: bytes) -> int:
    """Remainder of long division by x^4 + x + 1, bit strings only."""
    bits = list(map(int, "".join(f"{byte:08b}" for byte in data)))
    for i in range(len(bits) - 4):
        if bits[i]:
            bits[i : i + 5] = [a ^ b for a, b in zip(bits[i : i + 5], (1, 0, 0, 1, 1), strict=True)]
    return int("".join(map(str, bits[-4:])), 2)


@given(data=st.binary(min_size=1, max_size=8))
def test_bitalinos_checksum_is_the_remainder_of_its_polynomial(data: bytes) -> None:
    assert bitalino.crc4(data) == _crc4_by_division(data)


def test_bitalino_gives_the_millivolts_of_its_ecg_sensor() -> None:
    """PLUX, ECG sensor data sheet: (ADC / 2^10 - 1/2) * 3.3 V / 1100; live.c: number and checksum last, then inputs and signal 1.

    853 = 1101010101b: its upper 4 bits beside the digital inputs, its lower 6 at the top of the byte before.
    """
    frames = b""
    for number in range(5):
        body = bytes((0b01010100, 0b1101, number << 4))
        frames += body[:2] + bytes((number << 4 | _crc4_by_division(body),))
    chunk = _first("bitalino-1", frames)
    assert chunk.samples_mv == pytest.approx(np.full((1, 5), (853 / 1024 - 0.5) * 3300 / 1100), abs=1e-6)


def test_bitalinos_six_signals_lie_where_its_python_interface_reads_them() -> None:
    """revolution-python-api, read(): A1 = ((d[-2] & 0x0F) << 6) | (d[-3] >> 2), and so on to A6 = d[-8] & 0x3F."""
    rng = np.random.default_rng(3)
    bodies = [rng.bytes(7) + bytes((number << 4,)) for number in range(16)]
    frames = [body[:7] + bytes((body[7] | _crc4_by_division(body),)) for body in bodies]
    chunk = _first("bitalino", b"".join(frames), leads=["I", "II", "V1", "V2", "V3", "V4"])
    wanted = [
        [
            (d[-2] & 0x0F) << 6 | d[-3] >> 2,
            (d[-3] & 0x03) << 8 | d[-4],
            d[-5] << 2 | d[-6] >> 6,
            (d[-6] & 0x3F) << 4 | d[-7] >> 4,
            16 * ((d[-7] & 0x0F) << 2 | d[-8] >> 6),
            16 * (d[-8] & 0x3F),
        ]
        for d in frames
    ]
    assert chunk.samples_mv == pytest.approx((np.array(wanted).T / 1024 - 0.5) * 3300 / 1100, abs=1e-6)


def test_bitalinos_frames_have_the_length_of_its_python_interface() -> None:
    """ceil((12 + 10 n) / 8) up to four signals, ceil((52 + 6 (n - 4)) / 8) beyond."""
    assert [bitalino.frame_length(n) for n in range(1, 7)] == [3, 4, 6, 7, 8, 8]


def test_bitalinos_commands_are_those_of_its_firmware() -> None:
    """uart.c: FF stops, C3 sets 1000 Hz, and A6 A5 A4 A3 A2 A1 0 1 starts these inputs."""
    assert {n: DEVICES[n].wake.hex() for n in ("bitalino", "bitalino-2", "bitalino-1")} == {
        "bitalino": "ffc3fd",
        "bitalino-2": "ffc30d",
        "bitalino-1": "ffc305",
    }


@pytest.mark.parametrize("name", ["bitalino", "bitalino-1", "bitalino-3"])
def test_every_flipped_bit_of_a_bitalino_frame_is_refused_and_costs_that_frame_only(name: str) -> None:
    device, wiring = DEVICES[name], _all_leads(DEVICES[name])
    frames = _frames(device, wiring, _noise(wiring, 30))
    whole = _decode(device.decoder(wiring), b"".join(frames)).samples_mv
    length = len(frames[0])
    for bit in range(8 * length):
        data = bytearray(b"".join(frames))
        data[15 * length + bit // 8] ^= 1 << bit % 8
        decoded = _decode(device.decoder(wiring), bytes(data))
        assert decoded.samples_mv == {i: row for i, row in whole.items() if i != 15}
        assert decoded.tally == Tally(samples=29, lost=1, broken=1, garbage=length)


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_bitalino_keeps_its_place_over_a_few_broken_frames(broken: int) -> None:
    device = DEVICES["bitalino"]
    frames = _frames(device, device.wiring, _noise(device.wiring, 20))
    data = b"".join(frames[:10] + [bytes((f[0] ^ 1,)) + f[1:] for f in frames[10 : 10 + broken]] + frames[10 + broken : 12 + broken])
    decoded = _decode(device.decoder(device.wiring), data)
    assert decoded.tally == Tally(samples=12, lost=broken, broken=broken, garbage=8 * broken), "two frames after it are enough"


def test_random_bytes_are_hardly_ever_a_run_of_bitalino_frames() -> None:
    """2^-28 a byte; 60,000 bytes give none."""
    decoder = DEVICES["bitalino-1"].decoder(DEVICES["bitalino-1"].wiring)
    assert not list(decoder.feed(np.random.default_rng(5).bytes(60_000)))


def test_shimmer_gives_the_millivolts_of_an_ads1292r_at_a_gain_of_six() -> None:
    """SBAS502: 2.42 V / 6 / (2^23 - 1); LogAndStream: a clock of 24 bits at 32768 Hz, little-endian, then for each chip its status and
    2 x 24 bits big-endian."""
    packet = "00 %s 80 00513e ffaec2 80 000001 7fffff"
    data = bytes.fromhex(packet % "c0ffff" + packet % "000000" + packet % "400000" + packet % "000100")
    decoder = DEVICES["shimmer3"].decoder(DEVICES["shimmer3"].wire(leads=["II", "I", "V1", "V2"]))
    first, second = [*decoder.feed(data + bytes.fromhex(packet % "400100")), *decoder.flush()]
    counts = np.array([20798, -20798, 1, 8388607])
    assert first.samples_mv[:, 0] == pytest.approx(counts * 2420 / 6 / (2**23 - 1), rel=1e-6)
    assert (first.start, first.end) == (0, 3), "the clock began anew without a gap"
    assert second.start == 5, "192 ticks are three samples at 512 Hz"


def test_shimmer_names_the_leads_of_inputs_that_are_off() -> None:
    """ADS1292R, LOFF_STAT: bit 0 IN1P, 1 IN1N, 2 IN2P, 3 IN2N; the firmware puts them lowest in the status."""
    packet = "00 %s %02x 000000 000000 %02x 000000 000000"
    statuses = [(0x80, 0x80), (0x81, 0x80), (0x88, 0x80), (0x80, 0x84), (0x90, 0x90)]
    data = bytes.fromhex("".join(packet % ((64 * i).to_bytes(3, "little").hex(), *s) for i, s in enumerate(statuses)))
    decoder = DEVICES["shimmer3"].decoder(DEVICES["shimmer3"].wire(leads=["II", "I", "-", "V1"]))
    decoded = _decode(decoder, data)
    assert decoded.off == {1: ("II",), 2: ("I",), 3: ("V1",)}


def test_a_shimmer_packet_whose_clock_does_not_fit_waits_for_one_that_goes_on_from_it() -> None:
    device = DEVICES["shimmer3"]
    frames = _frames(device, device.wiring, _noise(device.wiring, 100))
    decoder = device.decoder(device.wiring)
    assert sum(c.samples_mv.shape[1] for c in decoder.feed(b"".join(frames[:10]))) == 10
    assert not list(decoder.feed(frames[60]))
    (chunk,) = decoder.feed(frames[61])
    assert (chunk.start, chunk.end) == (60, 62)


def test_shimmer_packets_whose_clocks_do_not_go_on_are_not_believed() -> None:
    """Zeros have the form of packets; so do packets of which each was cut out of another minute."""
    device = DEVICES["shimmer3"]
    frames = _frames(device, device.wiring, _noise(device.wiring, 100))
    for data in (bytes(900), b"".join(frames[::10])):
        assert _decode(device.decoder(device.wiring), data).tally == Tally(garbage=len(data))


@pytest.mark.parametrize("status", [4, 11])
@pytest.mark.parametrize("bit", [0x20, 0x40])
def test_a_shimmer_status_with_a_bit_that_the_firmware_never_sets_is_no_packet(status: int, bit: int) -> None:
    """EXG_readData: ((STAT1 & 4Fh) << 1) + (STAT2 >> 7) leaves bits 5 and 6 at 0."""
    device = DEVICES["shimmer3"]
    frames = [bytearray(frame) for frame in _frames(device, device.wiring, _noise(device.wiring, 20))]
    frames[10][status] |= bit
    decoded = _decode(device.decoder(device.wiring), b"".join(frames))
    assert list(decoded.samples_mv) == [*range(10), *range(11, 20)]
    assert decoded.tally == Tally(samples=19, lost=1, broken=1, garbage=18)


@pytest.mark.parametrize("name", ["shimmer3", "healthypi4"])
def test_an_electrode_off_is_reported_as_long_as_it_is_off(name: str) -> None:
    device = DEVICES[name]
    encoder = device.encoder(device.wiring)
    samples_mv = _noise(device.wiring, 10)
    data = encoder.feed(samples_mv) + encoder.feed(samples_mv, lead_off=("I",)) + encoder.feed(samples_mv)
    decoded = _decode(device.decoder(device.wiring), data)
    assert decoded.off == dict.fromkeys(range(10, 20), ("I",))


def test_a_cyton_lead_that_is_off_is_railed_and_comes_as_nan() -> None:
    device = DEVICES["cyton"]
    wiring = device.wire(leads=["I", "II", *"------"])
    decoded = _decode(device.decoder(wiring), device.encoder(wiring).feed(_noise(wiring, 5), lead_off=("II",)))
    assert np.isnan(decoded.rows).tolist() == [[False] * 5, [True] * 5]


# What a real port gave: an Arduino with an Olimex shield on a patient simulator, reset while the port was open.


@pytest.mark.skipif(not CAPTURES, reason="the captures are not at hand")
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_a_real_capture_is_clean_after_its_reset(path: Path) -> None:
    device = DEVICES["olimex-logston"]
    wiring = replace(device.wiring, leads=LEADS[:6], units_per_mv=1.0, zero=0.0)
    data = path.read_bytes()
    decoder = device.decoder(wiring)
    chunks = [*decoder.feed(data), *decoder.flush()]
    naive = _scan(data)
    assert np.array_equal(chunks[-1].samples_mv.T, naive), "after the reset everything is one chunk"
    assert all(chunk.samples_mv.min() >= 0 and chunk.samples_mv.max() <= 1023 for chunk in chunks)
    assert decoder.tally.restarts == 1 and decoder.tally.garbage <= 100
    assert 375 <= decoder.tally.broken <= 378, "three seconds of reset signal, and the spliced frames before it"
    assert decoder.tally.lost <= 256
    before = len(data) - 17 * (len(naive) + 375)
    assert sum(c.samples_mv.shape[1] for c in chunks[:-1]) <= before // 17 <= 20, "a few frames of before the reset"


def _scan(data: bytes) -> np.ndarray:
    """Without any care: the frames from the last place where the number is 0 and then counts up to the very end, 17 bytes apart."""
    reset = data.rfind(bytes.fromhex("a55a0200 0200 0200 0200 0200 0200 0200 02"))
    begin = data.find(b"\xa5\x5a\x02\x00", reset + 17)
    count = (len(data) - begin) // 17
    frames = np.frombuffer(data, np.uint8, 17 * count, begin).reshape(count, 17)
    assert (frames[:, :3] == [0xA5, 0x5A, 2]).all() and (np.diff(frames[:, 3].astype(int)) % 256 == 1).all()
    return frames[:, 4:16].copy().view(">u2").astype(np.float32)


@pytest.mark.skipif(not CAPTURES, reason="the captures are not at hand")
def test_the_captures_ran_at_125_hz() -> None:
    """At 125 Hz the sinus rhythm beats 72 times a minute; at the official 256 Hz it would be 147."""
    from scipy.signal import find_peaks

    device = DEVICES["olimex-logston"]
    decoder = device.decoder(device.wiring)
    lead_mv = list(decoder.feed((ARCHIVE / "devices/olimex/nsr.bin").read_bytes()))[-1].samples_mv[0]
    peaks, _ = find_peaks(lead_mv - np.median(lead_mv), height=0.3, distance=20)
    beats_per_minute = 60 * device.wiring.rate_hz / np.median(np.diff(peaks))
    assert beats_per_minute == pytest.approx(72, abs=2), "and its R waves point upwards"
