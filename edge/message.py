"""An `Event` in; the JSON object that tells it to other programs out."""

from __future__ import annotations

from typing import Any

from .alarm import Alert
from .pipeline import Event, Seen
from .score import Scores

Message = dict[str, Any]


def to_message(event: Event) -> Message:
    """An object with `type` scores, vitals or alert; times in seconds of the stream, rates in beats per minute."""
    match event:
        case Scores():
            return _scores(event)
        case Alert():
            return _alert(event)
        case Seen():
            return _vitals(event)


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
        "source": alert.source,
        "finding": alert.finding,
        "priority": alert.priority,
        "state": alert.state,
        "at_s": alert.at_s,
        "onset_s": alert.onset_s,
        "score": alert.score,
        "evidence": [{"at_s": at_s, "probability": p} for at_s, p in alert.evidence],
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
