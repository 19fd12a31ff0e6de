"""Logging: one line a station and item, JSON unless a person reads along; never patient data, never DICOM UIDs."""

from __future__ import annotations

import logging
import sys

import structlog

QUIET = ("procrastinate", "pynetdicom", "pydicom", "imapclient", "alembic", "mail.log", "asyncio", "sqlalchemy")


def configure(process_name: str, *, is_verbose: bool = False) -> None:
    """Send log lines to standard error.

    Args:
        process_name: Which process of the site speaks.
    """
    level = logging.INFO if is_verbose else logging.WARNING
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # asked anew: it may be redirected later
    )
    structlog.contextvars.bind_contextvars(process=process_name)
