"""What the daemon has to say in; said over a broker, with an outbox, or on standard output; what others ask of it out."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from functools import partial
from typing import TypeVar

import structlog
from pydantic import ValidationError

from kernels.findings import Finding

from .command import Command, Reply, command_id_of, read_command
from .config import Config, Mqtt, Source
from .contract import AlertState, Resend
from .delivery import Delivery
from .homeassistant import discovery
from .live import Dated
from .outbox import Outbox
from .publish import Publisher, StandardOutput
from .supervisor import Supervisor
from .transport.mqtt import Broker, OnMessage, Properties

_FAREWELL_S = 5.0
_DISK_S = 5.0
_DAY_S = 86400.0

_JSON = Properties("application/json")
_SOON = Properties("application/json", expiry_s=60)
"""For scores and vitals, which nobody wants late."""

T = TypeVar("T")

Obey = Callable[[str, Command], bool]
"""A source and a command for it; whether there is such a source."""

log = structlog.get_logger()


class Exchange:
    """Both ways between the daemon and those who listen to it. Without `[mqtt]` they only listen, on standard output."""

    def __init__(self, config: Config, model: str, supervisor: Supervisor, hear: OnMessage, obey: Obey) -> None:
        """`hear` takes what devices send; with another `model` a file is told anew.

        Raises ConfigError where the outbox or the files of TLS cannot be used, OSError where the disk is full.
        """
        self.model = model
        self._hear = hear
        self._obey = obey
        self._connected = threading.Event()
        self._was_connected = False
        self._filters: set[str] = set()
        self.output = StandardOutput()
        self._prefix, self._site, self._home = (config.mqtt or Mqtt()).prefix, config.site, config.homeassistant
        self._introduced: dict[str, str | None] = {}
        """What Home Assistant was told, by topic; None where it is to be told again."""
        self._introduced_for: object = None
        self._greetings = 0
        self.publisher = Publisher(self._prefix, config.site, self._send, config.share)
        self.broker: Broker | None = None
        self.outbox: Outbox | None = None
        self.delivery: Delivery | None = None
        if config.mqtt:
            kept = config.outbox
            self.outbox = Outbox(kept.file_of(config.name), int(kept.limit_mb * 1e6), kept.limit_days * _DAY_S)
            self.delivery = Delivery(self.outbox, supervisor, self.publisher.resent)
            self.broker = self._connect(config.mqtt, config.name, self.delivery)
            self.publisher.post = self.delivery.put
            self.delivery.start(self.broker.publish)

    def start(self, config: Config) -> None:
        """Begin to connect."""
        self.listen(config)
        if self.broker:
            self.broker.start()

    def stop(self, read: Iterable[str] = ()) -> None:
        """Say the end, once what waits has had its time to leave. `read` are sources whose files have been read to their ends."""
        if self.delivery:
            self.delivery.drain(_FAREWELL_S)
        self.publisher.tell_offline()
        if self.broker:
            self.broker.stop()
        if self.delivery:
            # Last of all: killed before this, a daemon reads the files again under the names that they had.
            for name in read:
                self.end_stream(name)
            self.delivery.close(0.0)
        self.output.close()

    def listen(self, config: Config) -> None:
        """Hear what the sources of this config send, and what is asked of the daemon, and nothing else."""
        if self.broker:
            wanted = {source.mqtt for source in config.mine if source.mqtt} | {*self.publisher.asked, *self._births}
            for gone in self._filters - wanted:
                self.broker.unsubscribe(gone)
            for topic_filter in wanted:
                self.broker.subscribe(topic_filter)
            self._filters = wanted

    @property
    def is_away(self) -> bool:
        """Whether there is a broker, and it cannot be reached."""
        return self.broker is not None and not self.broker.connected

    def greet(self) -> bool:
        """After each connect, and where Home Assistant begins anew, say that the daemon is there; whether it was so."""
        if not self._connected.is_set():
            return False
        self._connected.clear()
        self._introduced = dict.fromkeys(self._introduced)
        self._greetings += 1
        self.publisher.tell_online(*((self.outbox.name, self.outbox.last) if self.outbox else ()))
        return True

    def introduce(self, sources: Iterable[str], findings: Sequence[Finding]) -> None:
        """Have Home Assistant, if it is wished, know these sources and no others."""
        asked = tuple(sorted(sources)), tuple(findings), self._greetings
        if self._home.discovery and self.broker and self.broker.connected and asked != self._introduced_for:
            self._introduced_for = asked
            wanted = dict(discovery(self._prefix, self._site, findings, asked[0], self._home.prefix, self.publisher.will[0]))
            for topic in self._introduced.keys() | wanted.keys():
                if wanted.get(topic, "") != self._introduced.get(topic):
                    self._send(topic, wanted.get(topic, ""), 1, True)
            self._introduced = dict(wanted)

    def journal(self) -> dict[str, list[AlertState]]:
        """What was on at each source when the last daemon ended."""
        found: dict[str, list[AlertState]] = defaultdict(list)
        for topic, payload in self.outbox.states().items() if self.outbox else ():
            try:
                state = AlertState.model_validate_json(payload)
            except ValidationError as error:
                log.warning("what was kept of an alert cannot be read", topic=topic, why=str(error).splitlines()[0])
                continue
            if state.state == "cleared":
                continue
            if self.publisher.share.has(state.source):
                found[state.source].append(state)
            else:
                log.warning("what was on is left to the monitor that has the source now", source=state.source, finding=state.finding)
        return dict(found)

    def stream_of(self, source: Source, name: str, new: str) -> str:
        """`new`; but of a file one that follows from the file, and where a lost daemon had not read it to its end, the one from then."""
        if self.outbox is None or source.file is None or not source.file.is_file():
            return new
        found = source.file.stat()
        identity = f"{source.file} {found.st_size} {found.st_mtime_ns} {self.model}"
        # With the last number, as the same file may be read once more when all is over.
        of_file = f"{hashlib.sha256(identity.encode()).hexdigest()[:12]}.{self.outbox.last}"
        return self._ask(lambda outbox: outbox.begin_stream(name, identity, of_file), of_file)

    def end_stream(self, name: str) -> None:
        """What this source reads next is another stretch of time, if it is the same file. Does not wait."""
        if self.delivery:
            self.delivery.ask(partial(_end_stream, name))

    def forget_all_but(self, sources: Iterable[str]) -> None:
        """What was retained of the alerts of other sources goes, once they are cleared."""
        if self.delivery:
            self.delivery.ask(partial(_stale_states, f"{self._prefix}/{self._site}", frozenset(sources))).add_done_callback(self._forget)

    def _forget(self, stale: Future[list[str]]) -> None:
        for topic in stale.result():
            assert self.delivery is not None
            self.delivery.forget_state(topic)

    def counts(self) -> dict[str, int]:
        """What became of messages."""
        return {name: getattr(self.broker, name) for name in ("received", "refused", "dropped", "reconnects")} if self.broker else {}

    @property
    def _births(self) -> tuple[str, ...]:
        """Where Home Assistant says that it has begun."""
        return (f"{self._home.prefix}/status",) if self._home.discovery else ()

    def _ask(self, work: Callable[[Outbox], T], otherwise: T) -> T:
        """Of the outbox; `otherwise` where its disk does not answer."""
        assert self.delivery is not None
        try:
            return self.delivery.ask(work).result(_DISK_S)
        except StillWaiting:
            return otherwise

    def _connect(self, mqtt: Mqtt, name: str, delivery: Delivery) -> Broker:
        return Broker(
            mqtt,
            mqtt.client_id or f"cardiogloss-{name}",
            mqtt.password(),
            self.publisher.will,
            self._on_message,
            self._on_state,
            delivery.on_published,
            delivery.on_refused,
        )

    def _send(self, topic: str, payload: str, qos: int, retain: bool) -> None:
        if self.broker:
            self.broker.publish(topic, payload, qos, retain, _JSON if qos else _SOON)
        else:
            self.output.send(topic, payload, qos, retain)

    # What follows runs in the broker's thread.

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        source = self.publisher.commanded(topic)
        if topic == self.publisher.resend and not retained:
            self._resend(payload)
        elif topic in self._births:
            self._connected.set()
        elif source is None:
            self._hear(topic, payload, retained)
        elif not retained and self.publisher.share.has(source):
            self._command(source, payload)

    def _on_state(self, connected: bool, why: str) -> None:
        assert self.broker is not None and self.delivery is not None
        log.log(logging.INFO if connected else logging.WARNING, "broker " + ("connected" if connected else "lost"), why=why)
        if connected and not self._was_connected:
            self._connected.set()
            self.delivery.on_connected(self.broker.most_inflight)
        elif not connected:
            self.delivery.on_lost()
        self._was_connected = connected

    def _resend(self, payload: bytes) -> None:
        assert self.delivery is not None
        try:
            asked = Resend.model_validate_json(payload)
        except ValidationError as error:
            log.warning("not sent again", why=str(error).splitlines()[0])
        else:
            self.delivery.resend(asked.outbox, asked.after)

    def _command(self, source: str, payload: bytes) -> None:
        """Asked for now; a retained command is an old one."""
        why = f"no source {source} is watched, or too many commands for it wait"
        try:
            if self._obey(source, read_command(payload)):
                return
        except ValueError as error:
            why = str(error)
        log.warning("command not obeyed", source=source, why=why)
        now_s = time.time()
        self.publisher.tell(source, Dated(Reply(source, command_id_of(payload), False, why), now_s, now_s))


def _end_stream(name: str, outbox: Outbox) -> None:
    outbox.end_stream(name)


def _stale_states(root: str, sources: frozenset[str], outbox: Outbox) -> list[str]:
    """The topics of cleared alerts at sources that are not among these."""
    states = ((topic, topic.removeprefix(f"{root}/").split("/")[0], payload) for topic, payload in outbox.states().items())
    return [topic for topic, source, payload in states if source not in sources and json.loads(payload)["state"] == "cleared"]
