"""The client of paho and the limits of each connection in; which of its messages may be sent, and which never can be, out."""

from __future__ import annotations

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MessageState
from paho.mqtt.properties import Properties as Packed

_LOSSES = 3
"""Of the connection with the same message unacknowledged, and nothing acknowledged in between: the broker cannot bear it."""
_LARGEST = 268_435_460
"""Bytes of the largest packet of all (standard section 2.1.4)."""
_HEADERS = 9
"""Bytes of a PUBLISH at most beside topic, properties and payload."""


class Flight:
    """What paho has taken of QoS 1 and the broker not yet acknowledged. But for `is_too_large`, for the network thread.

    After each connect paho sends all of it at once, for ever and above any limit. It has no public way to say otherwise. Its locks
    are left alone: one step of the interpreter copies what it holds, and only its network thread takes anything away.
    """

    def __init__(self, client: Client, most: int) -> None:
        self._client = client
        self._ours = self.most = most
        self._largest = _LARGEST
        self._suspect: int | None = None
        self._losses = 0
        self._alone = 0
        """So many go one by one, as the broker hung up on one of them and may have taken others before it."""

    @property
    def too_large(self) -> str:
        """In words."""
        return f"it is larger than the {self._largest} bytes that the broker allows"

    def is_too_large(self, topic: str, payload: bytes | bytearray, properties: Packed | None) -> bool:
        """For the packet that the broker would get."""
        beside = len(topic.encode()) + _HEADERS + (len(properties.pack()) if properties and self._largest < _LARGEST else 1)
        return beside + len(payload) > self._largest

    def holds(self, mid: int) -> bool:
        """Whether it is one of them."""
        return mid in self._client._out_messages

    def begin(self, properties: Packed | None) -> dict[int, str]:
        """A connection, before anything is sent in it; the mids that must not be, and why. The limits are those of its CONNACK."""
        self.most = min(self._ours, getattr(properties, "ReceiveMaximum", self._ours))
        self._largest = getattr(properties, "MaximumPacketSize", _LARGEST)
        refused = {message.mid: why for message in self._held() if (why := self._objection(message))}
        for mid in refused:
            self._client._out_messages.pop(mid, None)
        if self._losses >= _LOSSES:
            self.answered()
        self._hold_back()
        return refused

    def end(self) -> None:
        """The broker hung up, or the network failed."""
        sent = [message.mid for message in self._held() if message.state == MessageState.MQTT_MS_WAIT_FOR_PUBACK]
        oldest = sent[0] if sent else None
        self._losses = self._losses + 1 if oldest == self._suspect else 1
        self._suspect = oldest
        if self._losses == _LOSSES - 1:
            self._alone = max(self._alone, len(sent))

    def answered(self) -> None:
        """One of them is done with."""
        self._suspect, self._losses, self._alone = None, 0, max(self._alone - 1, 0)
        self._limit()

    def _held(self) -> list[MQTTMessage]:
        return list(self._client._out_messages.values())

    def _objection(self, message: MQTTMessage) -> str:
        if message.mid == self._suspect and self._losses >= _LOSSES:
            return f"the connection was lost {self._losses} times while it was sent"
        return self.too_large if self.is_too_large(message.topic, message.payload, message.properties) else ""

    def _limit(self) -> int:
        # The public way refuses while there is a connection; before one the broker's limit is not known.
        self._client._max_inflight_messages = 1 if self._alone else self.most
        return self._client._max_inflight_messages

    def _hold_back(self) -> None:
        """All beyond the limit, which paho then sends as the others are acknowledged."""
        states = [message.state for message in self._held()]
        room = self._limit() - states.count(MessageState.MQTT_MS_WAIT_FOR_PUBACK)
        ready = [message for message in self._held() if message.state == MessageState.MQTT_MS_PUBLISH]
        for message in ready[max(room, 0) :]:
            message.state = MessageState.MQTT_MS_QUEUED
