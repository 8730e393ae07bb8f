"""The messages between a monitor and other programs, as types: JSON objects in and out, and what a program may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .alarm import Alert, Kind, Priority
from .episode import Change
from .message import SCHEMA
from .quality import State
from .strip import Strip

LONGEST_STRIP_S, MOST_LEADS = 60.0, 16
"""Nobody draws a longer or wider strip, however little room it takes in a message."""
FARTHEST_S = 1e10
"""A stream lasts for less than three hundred years."""


class _Part(BaseModel):
    """What a later version adds is ignored, so that a reader need not change with it."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False)


class _Message(_Part):
    version: int = Field(default=SCHEMA, alias="schema")
    """Of this format; raised where something is taken away or means something else."""
    site: str
    """Where the monitor stands."""
    shard: str = ""
    """Which monitor of the site it is, as in `2of3`, where several share the sources."""


class _FromSource(_Message):
    time: float
    """Seconds since 1970."""
    source: str
    """The device."""


class ScoresMessage(_FromSource):
    """What the model says of one window: raw, never gated. Not retained, QoS 0."""

    type: Literal["scores"]
    at_s: float
    """End of the window, in seconds since the stream began."""
    probability: dict[str, float]
    """By finding, calibrated; empty where the model abstained."""
    abstained: str | None
    """Why there is no score."""
    unobservable: list[str]
    """Findings that the leads cannot show."""
    quality: dict[str, State]
    """By lead: its most frequent fault in the window, or good."""


class VitalsMessage(_FromSource):
    """The beats of one second. Not retained, QoS 0."""

    type: Literal["vitals"]
    at_s: float
    heart_rate_bpm: float | None
    """The mean of ten seconds; null without enough clear beats."""
    beats_s: list[float]
    """R peaks that became certain, each told once."""
    quality: dict[str, State]
    """By lead, of the last second."""


class StripPart(_Part):
    """A few seconds of the leads, a minute at most."""

    start_s: float = Field(ge=-FARTHEST_S, le=FARTHEST_S)
    rate_hz: float = Field(ge=1, le=10_000)
    leads: list[Annotated[str, Field(max_length=40)]] = Field(max_length=MOST_LEADS)
    uv: list[list[Annotated[int, Field(ge=-(2**63), lt=2**63)] | None]]
    """Microvolts, lead by lead; null where there is no signal."""

    @model_validator(mode="after")
    def _as_long_as_each_other(self) -> StripPart:
        if len(self.uv) != len(self.leads) or len(set(map(len, self.uv))) > 1:
            raise ValueError("uv must hold equally many values for each lead")
        if self.length_s > LONGEST_STRIP_S:
            raise ValueError(f"uv must hold {LONGEST_STRIP_S:g} s at most")
        return self

    @property
    def length_s(self) -> float:
        return len(self.uv[0] if self.uv else ()) / self.rate_hz


class DecidedPart(_Part):
    """One window or second that decided."""

    at_s: float
    score: float


class EvidencePart(_Part):
    """What an alert rests on."""

    decided: list[DecidedPart]
    strip: StripPart | None
    """The seconds before; null where a command made the change."""


class AlertState(_FromSource):
    """The last word about a finding at a source, without its evidence. Retained, QoS 1."""

    type: Literal["alert"]
    id: str
    """Of the episode, the same from raised to cleared."""
    seq: int
    """0 for raised, then 1, 2, 3; `id` and `seq` together name a message: drop what you have seen."""
    stream: str
    """The stretch of time that `at_s` counts in; empty in a replay."""
    finding: str
    kind: Kind
    """Physiological, or technical: of the signal and not of the heart."""
    priority: Priority
    """IEC 60601-1-8."""
    state: Change
    at_s: float
    """When it was decided."""
    onset_s: float
    """When the first window came that counted towards it."""
    onset_time: float
    """The same in seconds since 1970."""
    score: float
    """The highest since the onset: a probability; for a technical finding the share of what cannot be seen."""
    why: str | None
    """In words, where there is more to say than the score."""
    acknowledged_by: str | None
    silenced: bool
    """Whether somebody asked for quiet: do not sound it."""
    heart_rate_bpm: float | None
    quality: dict[str, State] | None
    bundle: str
    """The beginning of the hash of the model."""


class AlertMessage(AlertState):
    """A finding was raised, grew worse or was told anew, or cleared. QoS 1, from a durable outbox."""

    evidence: EvidencePart
    outbox: str = ""
    """The outbox that numbers this and other messages; another one begins at 1 again."""
    number: int = 0
    """1, 2, 3 over all alerts and evidence of an outbox: a hole means that one is missing."""


class EvidenceMessage(_FromSource):
    """What the leads showed in the seconds after an alert was raised. QoS 1, from the outbox."""

    type: Literal["evidence"]
    id: str
    """Of the alert."""
    finding: str
    at_s: float
    strip: StripPart
    outbox: str = ""
    number: int = 0


class StatusMessage(_FromSource):
    """The state of a source and what came of it since the monitor began. Retained, QoS 1."""

    model_config = ConfigDict(extra="allow")

    type: Literal["status"]
    state: Literal["online", "stalled", "offline"]
    why: str | None
    samples: int
    """Of each lead."""
    lost: int
    """Samples that were sent and never came."""


class SiteMessage(_Message):
    """Whether the monitor itself is there. Retained, QoS 1; offline comes by its last will."""

    type: Literal["site"]
    state: Literal["online", "offline"]
    outbox: str = ""
    """The outbox that numbers the alerts,"""
    last: int = 0
    """and its last number so far."""


class Resend(_Part):
    """What a subscriber asks for that has missed some: to the site's topic `resend`."""

    outbox: str
    after: int = Field(ge=0)
    """The last number that it has."""


class ResentMessage(_Part):
    """The end of what was sent again, all of it on the site's topic `resent`. QoS 1."""

    type: Literal["resent"]
    outbox: str = Field(min_length=1)
    first: int = Field(ge=0)
    """Every message from this number on is still known,"""
    last: int = Field(ge=0)
    """up to this one."""


class ReplyMessage(_FromSource):
    """What became of a command. QoS 1."""

    type: Literal["reply"]
    command_id: str | None
    ok: bool
    why: str | None


MESSAGES: dict[str, type[BaseModel]] = {
    "scores": ScoresMessage,
    "vitals": VitalsMessage,
    "alert": AlertMessage,
    "alert-state": AlertState,
    "evidence": EvidenceMessage,
    "status": StatusMessage,
    "site": SiteMessage,
    "reply": ReplyMessage,
    "resend": Resend,
    "resent": ResentMessage,
}


def to_strip(parts: Sequence[StripPart]) -> Strip:
    """Strips of one alert that follow each other, as one [leads, n]; what lies between them is NaN.

    A part is left out that begins before the first, has another rate, or makes the whole longer or wider than one part may be.
    """
    first, *others = parts
    whole = [first]
    for part in others:
        whole += [part] if _belongs(part, whole) else []
    leads = _leads_of(whole)
    begins = [round((part.start_s - first.start_s) * first.rate_hz) for part in whole]
    ends = [at + len(part.uv[0] if part.uv else ()) for at, part in zip(begins, whole, strict=True)]
    samples = np.full((len(leads), max(ends)), np.nan, np.float32)
    for at, part in zip(begins, whole, strict=True):
        for lead, uv in zip(part.leads, part.uv, strict=True):
            samples[leads.index(lead), at : at + len(uv)] = np.array(uv, np.float64) / 1000
    return Strip(first.start_s, first.rate_hz, leads, samples)


def _belongs(part: StripPart, before: Sequence[StripPart]) -> bool:
    first, after_s = before[0], part.start_s - before[0].start_s
    is_near = after_s >= 0 and after_s + part.length_s <= LONGEST_STRIP_S
    return is_near and part.rate_hz == first.rate_hz and len(_leads_of([*before, part])) <= MOST_LEADS


def _leads_of(parts: Sequence[StripPart]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lead for part in parts for lead in part.leads))


def to_alert(state: AlertState, begun_time: float) -> Alert:
    """What was on when a monitor ended, in the seconds of a stream that began at `begun_time` (since 1970)."""
    return Alert(
        id=state.id,
        seq=state.seq,
        source=state.source,
        stream=state.stream,
        finding=state.finding,
        kind=state.kind,
        priority=state.priority,
        state=state.state,
        at_s=round(state.time - begun_time, 3),
        onset_s=round(state.onset_time - begun_time, 3),
        score=state.score,
        why=state.why,
        acknowledged_by=state.acknowledged_by,
        silenced=state.silenced,
        heart_rate_bpm=state.heart_rate_bpm,
        quality=state.quality,
        bundle=state.bundle,
    )
