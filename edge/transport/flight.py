"""The client of paho and the limits of each connection in; which of its messages may be sent, and which never can be, out."""

from __future__ import annotations

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MessageState
from paho.mqtt.properties import Properties as Packed

_LOSSES = 3
"""Of the connection with the same message unacknowledged, and nothing acknowledged in between: the broker cannot bear it."""
_LARGEST = 268_435_460
"""Bytes of the largest packet of all (standard section 2.1.4)."""
_CLOSED = -1
"""A limit below the number in flight, whatever that is. To paho 0 would mean none."""
_HEADERS = 9
"""Bytes of a PUBLISH at most beside topic, properties and payload."""


class Flight:
    """What paho has taken of QoS 1 and the broker not yet acknowledged. But for `is_too_large`, for the network thread.

    It leaves in the order in which it was taken, in each connection from the oldest that is not acknowledged, and never more than
    the limit at a time. Left to itself, paho sends what it takes while it connects at once, ahead of what waits and now and then of
    CONNECT; of two retained messages of a topic the broker may then keep the older. And what waits it sends after the CONNACK all at
    once, above any limit. It has no public way to say otherwise, so from `close` to `open` its limit is such that it only queues.
    """

    def __init__(self, client: Client, most: int) -> None:
        self._client = client
        # paho holds it while it takes a message. One half taken would be put back to be sent with the CONNACK, and then left there.
        self._lock = client._out_message_mutex
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

    def close(self) -> None:
        """Before a connection is made: what is taken from now on is queued behind what waits."""
        with self._lock:
            self._client._max_inflight_messages = _CLOSED
            for message in self._held():
                message.state = MessageState.MQTT_MS_QUEUED

    def begin(self, properties: Packed | None) -> dict[int, str]:
        """A connection, before anything is sent in it; the mids that must not be, and why. The limits are those of its CONNACK."""
        self.most = min(self._ours, getattr(properties, "ReceiveMaximum", self._ours))
        self._largest = getattr(properties, "MaximumPacketSize", _LARGEST)
        refused = {message.mid: why for message in self._held() if (why := self._objection(message))}
        for mid in refused:
            self._client._out_messages.pop(mid, None)
        if self._losses >= _LOSSES:
            self._acquit()
        return refused

    def open(self) -> None:
        """What waits may leave; paho sends the rest as the others are acknowledged."""
        with self._lock:
            self._limit()
            self._client._update_inflight()

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
        self._acquit()
        self._limit()

    def _held(self) -> list[MQTTMessage]:
        return list(self._client._out_messages.values())

    def _objection(self, message: MQTTMessage) -> str:
        if message.mid == self._suspect and self._losses >= _LOSSES:
            return f"the connection was lost {self._losses} times while it was sent"
        return self.too_large if self.is_too_large(message.topic, message.payload, message.properties) else ""

    def _acquit(self) -> None:
        self._suspect, self._losses, self._alone = None, 0, max(self._alone - 1, 0)

    def _limit(self) -> None:
        # The public way refuses while there is a connection; before one the broker's limit is not known.
        self._client._max_inflight_messages = 1 if self._alone else self.most
