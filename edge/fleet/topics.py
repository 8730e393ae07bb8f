"""Prefix, site and gateway in; the topics of its windows and of their answers out."""

from __future__ import annotations

import re

from kernels.findings import ConfigError

GROUP = "scorers"
"""Whose members share the windows."""

_WINDOW, _RESULT = "fleet/window", "fleet/result"
_LEVEL = re.compile(r"[^/+#\0]+")


def check_gateway(name: str) -> None:
    """Raises ConfigError where it can be no level of a topic."""
    if not _LEVEL.fullmatch(name):
        raise ConfigError(f"mqtt.client_id: {name} becomes a level of topics where the engine is remote; leave / + and # out of it")


def window_topic(prefix: str, site: str, gateway: str) -> str:
    """Where a gateway publishes its windows."""
    return f"{prefix}/{site}/{_WINDOW}/{gateway}"


def result_topic(prefix: str, site: str, gateway: str) -> str:
    """Where it hears what became of them."""
    return f"{prefix}/{site}/{_RESULT}/{gateway}"


def windows_of(prefix: str, site: str) -> str:
    """The filter of all windows of a site, or with `+` of all sites."""
    return f"{prefix}/{site}/{_WINDOW}/+"


def answer_topic(topic: str) -> str | None:
    """From the topic of a window, and nothing that stands in it: so it never leads to where the gateway itself may not publish."""
    head, found, gateway = topic.rpartition(f"/{_WINDOW}/")
    return f"{head}/{_RESULT}/{gateway}" if found else None
