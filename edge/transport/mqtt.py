"""The MQTT settings and what to send in; every message of the topics asked for, and what became of those sent, out."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as Packed
from paho.mqtt.reasoncodes import ReasonCode

from ..config import Mqtt
from ..wildcard import check_filter
from .backoff import Backoff
from .flight import Flight
from .stream import check_address
from .tls import tls_context

OnMessage = Callable[[str, bytes, bool], None]
"""(topic, payload, retained); a retained message is older than the subscription, by an unknown time."""
OnState = Callable[[bool, str], None]
"""(connected, why), after each change and each failed attempt, and at no other time."""
OnPublished = Callable[[int], None]
"""(mid) of QoS 1 that the broker has taken over."""
OnRefused = Callable[[int, str], None]
"""(mid, why) of QoS 1 that the broker will not have, and that is not sent again. MQTT 5 tells; else it shows when the broker hangs up."""
OnDelivery = Callable[[str, bytes, "Receipt"], None]
"""(topic, payload, receipt) of a message that the broker holds for delivered only once `acknowledge` was given the receipt."""
OnRefusal = Callable[[str], None]
"""(words) of a subscription or a message that the broker refused, the same words once in a connection."""

_QUEUED = 1000
"""Messages of QoS 1 held in memory for a broker that is away."""
_INFLIGHT = {"3.1.1": 100, "5": 20, "auto": 20}
"""Sent and not yet acknowledged. An MQTT 5 broker hangs up above its own limit; some allow 10, and the lower of the two holds."""
_HANG_UPS = 3
"""Some brokers that know no MQTT 5 hang up on it; so does whatever stands before one that is just away."""
_TOLD = 100
_FAREWELL_S = 3.0

_SILENCE = "Keep alive timeout"
_TOO_NEW = "Unsupported protocol version"
_TWIN = "another program uses the same client_id; give each its own"

_HINTS = {
    "Bad user name or password": "check user and password",
    "Not authorized": "check user, password and the broker's access list",
    _TOO_NEW: 'set version = "3.1.1"',
    "Session taken over": _TWIN,
}

_Phase = Literal["away", "asking", "refused", "connected"]


@dataclass(frozen=True, slots=True)
class Properties:
    """What MQTT 5 lets a message say beside its payload (standard section 3.3.2.3); 3.1.1 leaves it out."""

    content_type: str = ""
    expiry_s: int | None = None
    """The broker throws it away where it could not deliver it for so long."""
    user: tuple[tuple[str, str], ...] = ()
    """Names and values, for whoever filters or routes without reading the payload."""

    def pack(self) -> Packed:
        """As paho wants them."""
        packed = Packed(PacketTypes.PUBLISH)
        if self.content_type:
            packed.ContentType = self.content_type
        if self.expiry_s is not None:
            packed.MessageExpiryInterval = self.expiry_s
        if self.user:
            packed.UserProperty = list(self.user)
        return packed


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a message is acknowledged by: its packet identifier means another one in each connection."""

    connection: int
    mid: int
    """0 for QoS 0, which nobody acknowledges."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The broker has a message of QoS 1 that was sent, or will not have it, and why: for the queue of whoever sent it."""

    mid: int
    refused: str = ""


class Broker:
    """The only owner of the one connection to the MQTT broker: it connects, connects again for ever, and subscribes anew each time.

    The callbacks run in the network thread, some even under a lock of paho's, and `on_refused` in that of `publish`, too: they must
    only put what they get into a queue, and take no lock that is held around a call of this class. One that raises is logged.
    """

    def __init__(
        self,
        config: Mqtt,
        client_id: str,
        password: str | None = None,
        will: tuple[str, bytes | str] | None = None,
        on_message: OnMessage = lambda topic, payload, retained: None,
        on_state: OnState = lambda connected, why: None,
        on_published: OnPublished = lambda mid: None,
        on_refused: OnRefused = lambda mid, why: None,
        on_refusal: OnRefusal | None = None,
        on_delivery: OnDelivery | None = None,
        most_unacknowledged: int | None = None,
    ) -> None:
        """`will` is the (topic, payload) that the broker publishes, retained, when this program is lost. Refusals are logged by default.

        With `on_delivery`, which is called instead of `on_message`, messages are acknowledged by hand; in MQTT 5 the broker sends no more
        than `most_unacknowledged` ahead (its Receive Maximum, section 3.1.2.11.3).

        Raises ConfigError where the host can have no such name, or the files of TLS cannot be used.
        """
        self._config = config
        self._address = (config.host, config.port or (8883 if config.tls else 1883))
        self._on_message = on_message
        self._on_state = on_state
        self._on_published = on_published
        self._on_refused = on_refused
        self._on_refusal = on_refusal or _log_refusal
        self._on_delivery = on_delivery
        self._most_unacknowledged = most_unacknowledged
        self._told: set[str] = set()
        self._filters: dict[str, int] = {}
        self._phase: _Phase = "away"
        self._begun = False
        self._lock = threading.Lock()
        self._asked: dict[int, str] = {}
        self._answered: dict[int, ReasonCode] = {}
        self._connects = self._turned_away = 0
        self.received = 0
        """Messages handed on."""
        self.refused = 0
        """Messages that came and were too large, or under a topic that is no text."""
        self.dropped = 0
        """Messages that were to be published and could be neither sent nor queued."""
        check_address(*self._address)
        self._client = _make_client(config, client_id, password)
        self._flight = Flight(self._client, _INFLIGHT[config.version])
        self._hang_ups = 0
        self._speak("3.1.1" if config.version == "3.1.1" else "5")
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        self._wire()

    def _wire(self) -> None:
        client = self._client
        # A caller's fault must not end the network thread, which paho would not notice: is_connected() stays true.
        client.suppress_exceptions = True
        client.manual_ack_set(self._on_delivery is not None)
        client.on_log = self._log
        client.on_pre_connect = self._asking
        client.on_socket_open = _send_at_once
        client.on_connect = self._connected
        client.on_connect_fail = self._unreachable
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._take
        client.on_publish = self._published

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection, and not lost it since."""
        return self._phase == "connected"

    @property
    def version(self) -> str:
        """Of the protocol, in this connection or the next attempt."""
        return "5" if self._client.protocol == MQTTProtocolVersion.MQTTv5 else "3.1.1"

    @property
    def most_inflight(self) -> int:
        """Messages of QoS 1 at a time that both sides allow; what is more waits in memory."""
        return self._flight.most

    @property
    def reconnects(self) -> int:
        """How often the connection came back."""
        return max(self._connects - 1, 0)

    def start(self) -> None:
        """Begins to connect, and returns at once. Called again it brings back a network thread that has died, else does nothing."""
        if not self._begun:
            self._begun = True
            # Without an expiry the session ends with the connection (MQTT 5 section 3.1.2.11.2): what came meanwhile would be stale.
            properties = _connecting(self._most_unacknowledged) if self.version == "5" else None
            self._client.connect_async(*self._address, keepalive=self._config.keepalive_s, clean_start=True, properties=properties)
        self._client.loop_start()

    def stop(self) -> None:
        """Gives messages of QoS 1 that wait a few seconds to leave, then disconnects so that the broker keeps the will to itself."""
        # loop_stop() returns once all is acknowledged or the connection lost, but has no limit of its own.
        leaving = threading.Thread(target=self._client.loop_stop, name="mqtt-farewell", daemon=True)
        leaving.start()
        leaving.join(_FAREWELL_S)
        self._client.disconnect()
        leaving.join(_FAREWELL_S)
        self._phase, self._begun = "away", False

    def subscribe(self, topic_filter: str, qos: int = 1, group: str = "") -> None:
        """Now and after each connect, until `unsubscribe`. Again with the same QoS it does nothing. Raises ValueError for no filter.

        With a `group` each message goes to one of all that subscribe so: a shared subscription (MQTT 5 section 4.8.2).
        """
        check_filter(topic_filter)
        shared = _shared(topic_filter, group)
        if self._filters.get(shared) == qos:
            return
        self._filters[shared] = qos
        if self.connected:
            self._ask(shared, qos)

    def unsubscribe(self, topic_filter: str, group: str = "") -> None:
        """A filter that is not subscribed to is left alone."""
        shared = _shared(topic_filter, group)
        if self._filters.pop(shared, None) is not None and self.connected:
            self._client.unsubscribe(shared)

    def publish(
        self, topic: str, payload: bytes | str, qos: int = 0, retain: bool = False, properties: Properties | None = None
    ) -> int | None:
        """The mid that, for QoS 1, `on_published` or `on_refused` will name, maybe before this returns; None where it was dropped.

        Without a connection QoS 0 is dropped and QoS 1 queued, in memory only. What is larger than the broker allows is not sent; for
        QoS 1 its mid is below 0. Raises ValueError for a topic with a wildcard.
        """
        if qos == 0 and not self.connected:
            return self._drop()
        data = payload.encode() if isinstance(payload, str) else payload
        packed = properties.pack() if properties else None
        if self.connected and self._flight.is_too_large(topic, data, packed):
            return self._turn_away() if qos else self._drop()
        info = self._client.publish(topic, data, qos, retain, packed)
        queued = info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and qos > 0
        return info.mid if queued or info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else self._drop()

    def acknowledge(self, receipt: Receipt) -> None:
        """Let the broker forget a message. In the order in which they came (standard section 4.6), by any thread.

        Nothing where the connection that it came by is lost: the broker has given it up, or sends it again.
        """
        if receipt.mid and self.connected and receipt.connection == self._connects:
            self._client.ack(receipt.mid, 1)

    def _drop(self) -> int | None:
        with self._lock:
            self.dropped += 1
        return None

    def _turn_away(self) -> int:
        with self._lock:
            self._turned_away += 1
            mid = -self._turned_away
        self._refuse(mid, self._flight.too_large)
        return mid

    def _refuse(self, mid: int, why: str) -> None:
        self._on_refused(mid, why)
        self._tell(f"the broker refused a message: {why}")

    def _tell(self, words: str) -> None:
        if words not in self._told and len(self._told) < _TOLD:
            self._told.add(words)
            self._on_refusal(words)

    def _ask(self, topic_filter: str, qos: int) -> None:
        _, mid = self._client.subscribe(topic_filter, qos)
        if mid is not None:
            with self._lock:
                self._asked[mid] = topic_filter
            self._settle(mid)

    def _settle(self, mid: int) -> None:
        """Joins the filter with its answer, which another thread may bring before `_ask` knows what it asked."""
        with self._lock:
            if mid not in self._asked or mid not in self._answered:
                return
            topic_filter, answer = self._asked.pop(mid), self._answered.pop(mid)
        if answer.is_failure:
            self._tell(f"the broker refused to subscribe to {topic_filter}: {_in_words(answer)}")

    def _speak(self, version: Literal["3.1.1", "5"]) -> None:
        # paho changes it so itself where a broker refuses 3.1.1. With another client what waits, and its mids, would be lost.
        self._client._protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311

    def _try_another_version(self, is_silent: bool) -> None:
        """Where the broker does not answer: mostly 5, now and then 3.1.1, until one has worked."""
        if self._config.version == "auto" and not self._connects:
            self._hang_ups += 1
            self._speak("3.1.1" if self.version == "5" and (is_silent or self._hang_ups % _HANG_UPS == 0) else "5")

    # What follows runs in paho's network thread, or in stop().

    def _asking(self, client: Client, userdata: Any) -> None:
        self._phase = "asking"
        self._flight.close()

    def _connected(self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Packed | None) -> None:
        if reason.is_failure:
            self._refused(reason)
            return
        with self._lock:
            self._asked.clear()
            self._answered.clear()
        self._told.clear()
        refused = self._flight.begin(properties)
        self._phase = "connected"
        self._connects += 1
        for topic_filter, qos in self._filters.copy().items():
            self._ask(topic_filter, qos)
        # After what is subscribed to: somebody may answer at once.
        self._flight.open()
        self._on_state(True, f"connected to {self._config.address} in MQTT {self.version}")
        # Only now: what is refused before a connection would be offered again in it.
        for mid, why in refused.items():
            self._refuse(mid, why)

    def _refused(self, reason: ReasonCode) -> None:
        self._phase = "refused"
        words = _in_words(reason)
        if self._config.version == "auto" and str(reason) == _TOO_NEW and self.version == "5":
            self._speak("3.1.1")
            words = "it knows no MQTT 5, so the next attempt is in 3.1.1"
        self._on_state(False, f"the broker refused the connection: {words}")

    def _unreachable(self, client: Client, userdata: Any) -> None:
        # paho calls it while it handles the error, and hands over nothing.
        self._phase = "away"
        self._on_state(False, f"cannot connect to {self._config.address}: {sys.exc_info()[1] or 'no reason given'}")

    def _disconnected(self, client: Client, userdata: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Packed | None) -> None:
        last, self._phase = self._phase, "away"
        if last == "connected" and reason.is_failure and str(reason) != _SILENCE:
            self._flight.end()
        if last == "connected" and reason.is_failure and not flags.is_disconnect_packet_from_server:
            self._on_state(False, f"lost {self._config.address}, which said no reason: it, or the network, failed, or {_TWIN}")
        elif last == "connected":
            self._on_state(False, f"disconnected from {self._config.address}: {_in_words(reason)}")
        elif last == "asking":
            is_silent = str(reason) == _SILENCE
            self._try_another_version(is_silent)
            what = f"gave no answer in {self._config.keepalive_s} s" if is_silent else "hung up without an answer"
            self._on_state(False, f"{self._config.address} {what}; check port, tls and the client certificate")

    def _subscribed(self, client: Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Packed | None) -> None:
        if reasons:
            with self._lock:
                self._answered[mid] = reasons[0]
            self._settle(mid)

    def _take(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        receipt = Receipt(self._connects, message.mid if message.qos else 0)
        topic = _topic_of(message)
        if topic is None or len(message.payload) > self._config.largest_kb * 1024:
            self.refused += 1
            self.acknowledge(receipt)
            return
        self.received += 1
        if self._on_delivery:
            self._on_delivery(topic, bytes(message.payload), receipt)
        else:
            self._on_message(topic, bytes(message.payload), message.retain)

    def _published(self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Packed | None) -> None:
        if not self._flight.holds(mid):
            # QoS 0, which only went into the socket.
            return
        self._flight.answered()
        if reason.is_failure:
            self._refuse(mid, _in_words(reason))
        else:
            self._on_published(mid)

    def _log(self, client: Client, userdata: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR and text.startswith("Caught exception"):
            structlog.get_logger().error("mqtt_callback_failed", said=text)


def _make_client(config: Mqtt, client_id: str, password: str | None) -> Client:
    """A client of 3.1.1, whose sessions are clean, that has not connected yet."""
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True, protocol=MQTTProtocolVersion.MQTTv311)
    client.max_inflight_messages_set(_INFLIGHT[config.version])
    client.max_queued_messages_set(_QUEUED)
    # paho doubles the first wait without a jitter of its own, so both ends of it are drawn. It takes fractions, though its types deny it.
    shortest_s, longest_s = Backoff(client_id, 2.0).next_s(), Backoff(client_id, 40.0, 40.0).next_s()
    client.reconnect_delay_set(shortest_s, longest_s)  # type: ignore[arg-type]
    if config.user:
        client.username_pw_set(config.user, password)
    context = tls_context(config)
    if context is not None:
        client.tls_set_context(context)
    return client


def _connecting(most_unacknowledged: int | None) -> Packed | None:
    """Without an expiry of the session, which so ends with the connection."""
    if most_unacknowledged is None:
        return None
    packed = Packed(PacketTypes.CONNECT)
    packed.ReceiveMaximum = most_unacknowledged
    return packed


def _shared(topic_filter: str, group: str) -> str:
    return f"$share/{group}/{topic_filter}" if group else topic_filter


def _topic_of(message: MQTTMessage) -> str | None:
    """None where it is no text."""
    try:
        topic: str = message.topic
    except UnicodeDecodeError:
        return None
    return topic


def _send_at_once(client: Client, userdata: Any, connection: Any) -> None:
    # Else the second of two small messages waits for the acknowledgement of the first, which the other side holds back for 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _in_words(reason: ReasonCode) -> str:
    hint = _HINTS.get(str(reason))
    return f"{reason}; {hint}" if hint else str(reason)


def _log_refusal(words: str) -> None:
    structlog.get_logger().warning("refused by the broker", why=words)
