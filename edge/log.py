"""The `[log]` table in; structlog set up for the whole process out: JSON lines on standard error, or text for people."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from .config import Log


class _Deaf:
    """Standard error while somebody hears it: a log that is full, or that nobody reads any more, must not end what it tells of."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_log(wanted: Log) -> None:
    """Standard output stays free for data."""
    last = structlog.processors.JSONRenderer() if wanted.json_lines else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, wanted.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Deaf())),
    )
