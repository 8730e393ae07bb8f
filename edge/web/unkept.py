"""The alerts of a daemon whose disk takes no history in; the last of them, from memory, out."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..gallery import Gallery
from ..message import Message


class Unkept(Gallery):
    """In the place of a `History` that cannot be opened, which must not keep anybody from being watched. Any thread may use it."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = problem
        """Why, in words."""

    def day(self, now_s: float, hours: float, source: str | None = None) -> Message:
        """As `History` has it, with the alerts since the daemon began, and `why` nothing else is there."""
        begin_s = now_s - hours * 3600
        alerts = [alert for alert in self.newest_first() if source in (None, alert["source"]) and alert["time"] >= begin_s]
        return {"from": begin_s, "to": now_s, "step_s": 300, "sources": {}, "alerts": alerts, "why": self.problem}

    def catch_up(self, messages: Iterable[Message], going_on: Collection[str] | None = None) -> None:
        """Nothing is kept for longer than the daemon runs."""

    @property
    def counts(self) -> dict[str, int]:
        """Alerts that are held."""
        return {"alerts": len(self.newest_first())}

    def close(self) -> None:
        """There is nothing to let go of."""
