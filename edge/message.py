"""An `Event` in; the JSON object that tells it to other programs out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .alarm import Alert
from .pipeline import Event, FollowUp, Seen
from .score import Scores
from .strip import Strip

SCHEMA = 2
"""The version of every message that goes out."""

Message = dict[str, Any]


def to_message(event: Event) -> Message:
    """An object with `type` scores, vitals, alert or evidence; times in seconds of the stream, rates in beats per minute."""
    match event:
        case Scores():
            return _scores(event)
        case Alert():
            return _alert(event)
        case Seen():
            return _vitals(event)
        case FollowUp():
            return _follow_up(event)


def _scores(scores: Scores) -> Message:
    return {
        "type": "scores",
        "source": scores.source,
        "at_s": scores.at_s,
        "probability": scores.probability,
        "abstained": scores.abstained,
        "unobservable": list(scores.unobservable),
        "quality": scores.quality,
    }


def _alert(alert: Alert) -> Message:
    return {
        "type": "alert",
        "id": alert.id,
        "seq": alert.seq,
        "source": alert.source,
        "stream": alert.stream,
        "finding": alert.finding,
        "kind": alert.kind,
        "priority": alert.priority,
        "state": alert.state,
        "at_s": alert.at_s,
        "onset_s": alert.onset_s,
        "score": alert.score,
        "why": alert.why,
        "acknowledged_by": alert.acknowledged_by,
        "silenced": alert.silenced,
        "heart_rate_bpm": alert.heart_rate_bpm,
        "quality": alert.quality,
        "bundle": alert.bundle,
        "evidence": {
            "decided": [{"at_s": at_s, "score": score} for at_s, score in alert.evidence.scores],
            "strip": _strip(alert.evidence.strip) if alert.evidence.strip else None,
        },
    }


def _vitals(seen: Seen) -> Message:
    return {
        "type": "vitals",
        "source": seen.source,
        "at_s": seen.vitals.at_s,
        "heart_rate_bpm": seen.vitals.heart_rate_bpm,
        "beats_s": list(seen.vitals.beats_s),
        "quality": seen.quality.by_lead() if seen.quality else {},
    }


def _follow_up(follow_up: FollowUp) -> Message:
    alert = follow_up.alert
    return {
        "type": "evidence",
        "id": alert.id,
        "source": alert.source,
        "finding": alert.finding,
        "at_s": follow_up.at_s,
        "strip": _strip(follow_up.strip),
    }


def _strip(strip: Strip) -> Message:
    return {"start_s": strip.start_s, "rate_hz": strip.rate_hz, "leads": list(strip.leads), "uv": [_uv(lead) for lead in strip.samples_mv]}


def _uv(lead_mv: np.ndarray[Any, np.dtype[np.float32]]) -> list[int | None]:
    whole: list[int | None] = np.round(np.nan_to_num(lead_mv) * 1000).astype(np.int64).tolist()
    for i in np.flatnonzero(np.isnan(lead_mv)).tolist():
        whole[i] = None
    return whole
