"""The `[log]` table in; structlog set up for the whole process out: JSON lines on standard error, or text for people."""

from __future__ import annotations

import logging
import sys

import structlog

from .config import Log


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
