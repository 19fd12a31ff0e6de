"""Logging: one line a station and item, JSON unless a person reads along; never patient data, never DICOM UIDs."""

from __future__ import annotations

import logging
import sys
import traceback

import structlog

QUIET = ("procrastinate", "pynetdicom", "pydicom", "imapclient", "alembic", "mail.log", "asyncio", "sqlalchemy")
CHAIN_MAX = 8
"""So many exceptions of a chain are logged."""
FRAMES_MAX = 40
"""So many frames of each, the innermost ones."""


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
            types_and_places,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # asked anew: it may be redirected later
    )
    structlog.contextvars.bind_contextvars(process=process_name)


def types_and_places(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put an exception into a log line without its words: those of a library may quote a patient's name.

    PostgreSQL does, where a key exists already. What remains is each type of the chain and where it was raised.
    """
    given = line.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    told: list[str] = []
    while error is not None and len(told) < CHAIN_MAX:
        frames = traceback.format_tb(error.__traceback__, -FRAMES_MAX)
        told.append(f"{type(error).__module__}.{type(error).__qualname__}\n{''.join(frames)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if told:
        line["exception"] = "because of ".join(told)
    return line
