"""A site's sources and findings in; the retained messages by which Home Assistant finds them over MQTT out.

Source: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from kernels.findings import Finding, in_words

from .live import State
from .technical import FINDINGS

DISCOVERY_PREFIX = "homeassistant"

Component = dict[str, Any]

_ONLINE = "{{ 'online' if value_json is defined and value_json.state == 'online' else 'offline' }}"
_IS_ON = "{% if value_json is defined %}{{ 'OFF' if value_json.state == 'cleared' else 'ON' }}{% endif %}"
"""An empty payload, by which a retained state is taken back, gives an empty text, which Home Assistant passes over."""
_VITALS_EXPIRE_S = 30


def discovery(
    prefix: str,
    site: str,
    findings: Sequence[Finding],
    sources: Iterable[str],
    discovery_prefix: str = DISCOVERY_PREFIX,
    monitor: str = "",
) -> Iterator[tuple[str, str]]:
    """Topic and payload of a device for each source, to be retained: its findings and technical alerts, heart rate and state.

    `findings` are those of the bundle; those that never alert are left out. `monitor` is the topic that tells whether the
    monitor is there, that of the site where it is left out. Names and ids stay the same from start to start.
    """
    for source in sources:
        device = _Device(prefix, site, source, monitor or f"{prefix}/{site}/status")
        yield device.topic(discovery_prefix), json.dumps(device.payload(findings), separators=(",", ":"))


def removal(prefix: str, site: str, source: str, discovery_prefix: str = DISCOVERY_PREFIX) -> tuple[str, str]:
    """The same for a source that is there no more: Home Assistant forgets it. To be retained, which empties the topic."""
    return _Device(prefix, site, source, "").topic(discovery_prefix), ""


@dataclass(frozen=True, slots=True)
class _Device:
    """One source, as Home Assistant has devices."""

    prefix: str
    site: str
    source: str
    monitor: str

    @property
    def id(self) -> str:
        """Of the letters that a discovery topic may hold, and another for every other source, whatever its dots and bars."""
        digest = hashlib.sha256(f"{self.prefix}\0{self.site}\0{self.source}".encode()).hexdigest()[:8]
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"cardiogloss_{self.site}_{self.source}_{digest}")

    @property
    def root(self) -> str:
        return f"{self.prefix}/{self.site}/{self.source}"

    def topic(self, discovery_prefix: str) -> str:
        return f"{discovery_prefix}/device/{self.id}/config"

    def payload(self, findings: Sequence[Finding]) -> dict[str, Any]:
        alerting = [finding for finding in findings if finding.priority != "none"]
        components = {finding.name: self._finding(finding) for finding in alerting}
        components |= {finding.name: self._technical(finding) for finding in FINDINGS}
        # No finding has a bar in its name.
        components |= {"heart-rate": self._heart_rate(), "source-status": self._status()}
        release = _version()
        return {
            "device": {
                "identifiers": [self.id],
                "name": f"{self.site} {self.source}",
                "manufacturer": "cardiogloss",
                "model": "ECG monitor",
                "sw_version": release,
            },
            "origin": {"name": "cardiogloss", "sw_version": release},
            "availability": [self._site_available, {"topic": f"{self.root}/status", "value_template": _ONLINE}],
            "availability_mode": "all",
            "qos": 1,
            "components": {name: {**component, "unique_id": f"{self.id}_{name}"} for name, component in components.items()},
        }

    @property
    def _site_available(self) -> Component:
        return {"topic": self.monitor, "value_template": _ONLINE}

    def _finding(self, finding: Finding) -> Component:
        topic = f"{self.root}/alert/{finding.name}"
        return {
            "platform": "binary_sensor",
            "name": _capital(in_words(finding.name)),
            "device_class": "problem",
            "state_topic": topic,
            "value_template": _IS_ON,
            "json_attributes_topic": topic,
        }

    def _technical(self, finding: Finding) -> Component:
        """It may say why a source is away, so it must be there when the source is not."""
        return self._finding(finding) | {"entity_category": "diagnostic", "availability": [self._site_available]}

    def _heart_rate(self) -> Component:
        return {
            "platform": "sensor",
            "name": "Heart rate",
            "icon": "mdi:heart-pulse",
            "state_topic": f"{self.root}/vitals",
            "value_template": "{{ value_json.heart_rate_bpm }}",
            "unit_of_measurement": "bpm",
            "state_class": "measurement",
            "suggested_display_precision": 0,
            "expire_after": _VITALS_EXPIRE_S,
            "qos": 0,
        }

    def _status(self) -> Component:
        topic = f"{self.root}/status"
        return {
            "platform": "sensor",
            "name": "Status",
            "device_class": "enum",
            "options": list(get_args(State)),
            "entity_category": "diagnostic",
            "state_topic": topic,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topic,
            "availability": [self._site_available],
        }


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _version() -> str:
    try:
        return version("cardiogloss")
    except PackageNotFoundError:
        return ""
