"""Windows and what a score-worker says of them in; the bytes of their messages, and from these the same to the bit, out.

All numbers are little-endian, and nothing is padded. Both messages begin alike:

    offset  type      meaning
    0       3 bytes   EC 67 77 for a window, EC 67 72 for an answer
    3       u8        version: 1
    4       u32       bytes of the whole message
    8       16 bytes  session: the UUID that a gateway draws at its start
    24      u64       number: one more with every window of the session
    32      32 bytes  SHA-256 of the bundle: that the window is for, or that answered

A window goes on so:

    64      u16       leads that follow: bit 0 is I, then II III aVR aVL aVF V1 V2 V3 V4 V5 V6; all of the others is NaN (7FC00000)
    66      u16       samples of each lead
    68      ...       zlib (RFC 1950): the first byte of every float32, lead after lead, then all second bytes, third, and fourth
    last 4  u32       CRC-32 of everything before

An answer goes on so:

    64      u8        0: scored, 1: refused
    65      u8        letters of the worker's name
    66      u16       findings; 0 where refused
    68      ...       the name in UTF-8, then a float32 for the probability of each finding, or in UTF-8 why it was refused
    last 4  u32       CRC-32 of everything before
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from kernels.bundle import Bundle
from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

_WINDOW, _ANSWER = b"\xecgw", b"\xecgr"
_VERSION = 1
_HEAD = struct.Struct("<3sBI16sQ32s")
_SHAPE = struct.Struct("<HH")
_OUTCOME = struct.Struct("<BBH")
_CRC = struct.Struct("<I")
_FIXED = _HEAD.size + _SHAPE.size + _CRC.size
_BODY = _HEAD.size + _SHAPE.size

_SCORED, _REFUSED = 0, 1
_NAN = np.uint32(0x7FC00000)
_FASTEST = 1
"""Level of zlib. Level 6 takes three times as long for 1 % less."""
_LONGEST_NAME = 64
_LONGEST_WORDS = 1000


@dataclass(frozen=True, slots=True)
class Ticket:
    """Names one window among those of all gateways, for ever."""

    session: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A window that a gateway wants scored: `ecg` [12, n] in mV, NaN where there is no signal."""

    ticket: Ticket
    bundle: str
    """The sha256 of the bundle's card."""
    ecg: Samples


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of a window: its `probability` [findings], or why there is none."""

    ticket: Ticket
    bundle: str
    """Of the worker."""
    worker: str
    probability: Samples | None = None
    refused: str | None = None


def check_windows(bundle: Bundle) -> None:
    """Raises ConfigError for a bundle that takes streams: what it has seen of one cannot be shared."""
    if bundle.card.stride:
        raise ConfigError("model.bundle: score-workers share windows, and this bundle takes streams; use the one it was made from")


def pack_window(asked: Asked) -> bytes:
    """Raises ValueError where `ecg` is not [12, n] of at most 65535 samples."""
    leads, samples = asked.ecg.shape
    if leads != len(LEADS) or samples > 0xFFFF:
        raise ValueError(f"a window is [{len(LEADS)}, n] with n up to 65535, not {asked.ecg.shape}")
    bits = np.ascontiguousarray(asked.ecg, "<f4").view("<u4")
    present = (bits != _NAN).any(axis=1)
    # Bytes of like meaning side by side: a tenth smaller than the numbers as they are, in less time.
    planes = np.ascontiguousarray(bits[present]).view(np.uint8).reshape(-1, 4).T
    mask = sum(1 << row for row in np.flatnonzero(present).tolist())
    return _seal(_WINDOW, asked.ticket, asked.bundle, _SHAPE.pack(mask, samples) + zlib.compress(planes.tobytes(), _FASTEST))


def unpack_window(message: bytes) -> Asked | None:
    """None where these bytes are not exactly one sound window."""
    head = _open(_WINDOW, message)
    if head is None:
        return None
    mask, samples = _SHAPE.unpack_from(message, _HEAD.size)
    present = [row for row in range(len(LEADS)) if mask >> row & 1]
    planes = _inflate(message[_BODY : -_CRC.size], 4 * len(present) * samples)
    if mask >> len(LEADS) or planes is None:
        return None
    bits = np.full((len(LEADS), samples), _NAN, "<u4")
    numbers = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(4, -1).T)
    bits[present] = numbers.view("<u4").reshape(len(present), samples)
    return Asked(*head, bits.view(np.float32))


def pack_answer(answer: Answer) -> bytes:
    """What is too long of the worker's name, or of the words, is left out."""
    name = _clip(answer.worker, _LONGEST_NAME)
    if answer.probability is None:
        outcome, findings, body = _REFUSED, 0, _clip(answer.refused or "", _LONGEST_WORDS)
    else:
        outcome, findings, body = _SCORED, len(answer.probability), answer.probability.astype("<f4").tobytes()
    return _seal(_ANSWER, answer.ticket, answer.bundle, _OUTCOME.pack(outcome, len(name), findings) + name + body)


def unpack_answer(message: bytes) -> Answer | None:
    """None where these bytes are not exactly one sound answer."""
    head = _open(_ANSWER, message)
    if head is None:
        return None
    outcome, letters, findings = _OUTCOME.unpack_from(message, _HEAD.size)
    body = message[_BODY + letters : -_CRC.size]
    try:
        name = message[_BODY : _BODY + letters].decode()
        if outcome == _REFUSED:
            return Answer(*head, name, refused=body.decode())
    except UnicodeDecodeError:
        return None
    if outcome != _SCORED or len(body) != 4 * findings:
        return None
    return Answer(*head, name, np.frombuffer(body, "<f4").astype(np.float32))


def _seal(magic: bytes, ticket: Ticket, bundle: str, body: bytes) -> bytes:
    length = _HEAD.size + len(body) + _CRC.size
    message = _HEAD.pack(magic, _VERSION, length, ticket.session, ticket.number, bytes.fromhex(bundle)) + body
    return message + _CRC.pack(zlib.crc32(message))


def _open(magic: bytes, message: bytes) -> tuple[Ticket, str] | None:
    """Ticket and bundle of a sound message of this kind."""
    if len(message) < _FIXED or _CRC.unpack_from(message, len(message) - _CRC.size)[0] != zlib.crc32(memoryview(message)[: -_CRC.size]):
        return None
    found, version, length, session, number, bundle = _HEAD.unpack_from(message)
    if found != magic or version != _VERSION or length != len(message):
        return None
    return Ticket(session, number), bundle.hex()


def _inflate(packed: bytes, length: int) -> bytes | None:
    """Exactly so many bytes, however many there would be."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, length + 1)
    except zlib.error:
        return None
    return data if len(data) == length and inflater.eof and not inflater.unused_data else None


def _clip(text: str, most: int) -> bytes:
    """As UTF-8, no letter cut in two."""
    return text.encode(errors="replace")[:most].decode(errors="ignore").encode()
