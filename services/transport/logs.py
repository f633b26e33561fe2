"""One line per event on standard error, the same shape in every service."""

import logging
import sys

import structlog


def configure_logs(level: str = "INFO") -> None:
    """Send structlog's events to standard error as `level event key=value` lines.

    Raises:
        ValueError: the level is not one of logging's names.

    """
    numeric_level = logging.getLevelNamesMapping().get(level.upper())
    if numeric_level is None:
        raise ValueError(f"MOODFOOD_LOG_LEVEL is {level!r}; use DEBUG, INFO, WARNING or ERROR")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
