"""Logs: one line for each event on standard error, in the same form in every service."""

import logging
import sys

import structlog


def configure_logs(level: str = "INFO") -> None:
    """Send structlog's events of a level and above to standard error as `timestamp level event key=value` lines."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
