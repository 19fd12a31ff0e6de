"""What the syslog receiver does not have yet: the audit trail itself, behind a cursor. In order, nothing lost.

The cursor moves after the receiver has a message, so whoever dies in between sends some again: they carry the same
sequence numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import AuditRow, AuditStateRow
from raypost.errors import RaypostError, SecurityError, UsageError
from raypost.model.audit import EventKind, Level

RETRY_FIRST_S = 2.0
RETRY_MAX_S = 300.0
PAUSE_S = 2.0
"""Between two connections: what comes meanwhile goes together."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message for the receiver."""

    sequence: int
    at: datetime
    outcome: int
    message: str


def is_due(tx: Transaction, now: datetime) -> bool:
    """Say whether it is time to send."""
    return bool(tx.scalar(sa.select(sa.exists().where(AuditStateRow.send_due <= now))))


def unsent(tx: Transaction, now: datetime, limit: int) -> list[Unsent]:
    """Return the oldest messages that the receiver does not have; none before their time."""
    state = tx.get(AuditStateRow, 1)
    if state is None or state.send_due is None or state.send_due > now:
        return []
    query = sa.select(AuditRow).where(AuditRow.sequence > state.sent_sequence).order_by(AuditRow.sequence).limit(limit)
    return [Unsent(row.sequence, row.at, row.outcome, row.message) for row in tx.scalars(query)]


def note_sent(tx: Transaction, sequence: int, now: datetime) -> None:
    """Note that the receiver has everything up to a sequence number; an event when it did not answer before."""
    state = tx.get_one(AuditStateRow, 1, with_for_update=True)
    state.sent_sequence = max(state.sent_sequence, sequence)
    state.send_due = now + timedelta(seconds=PAUSE_S) if state.sent_sequence < state.sequence else None
    if state.failures:
        state.failures = 0
        events.record(tx, now, EventKind.SYSLOG_REACHED)


def note_failed(tx: Transaction, error: RaypostError, now: datetime) -> None:
    """Note that the receiver took nothing; it is told once, tried again later and later.

    A certificate that is not right, or not there, is a person's matter: an alarm.
    """
    state = tx.get_one(AuditStateRow, 1, with_for_update=True)
    pause_s = min(RETRY_FIRST_S * 2 ** min(state.failures, 10), RETRY_MAX_S)
    state.send_due = now + timedelta(seconds=pause_s)
    state.failures += 1
    if state.failures == 1:
        level = Level.ALARM if isinstance(error, SecurityError | UsageError) else Level.NOTICE
        events.record(tx, now, EventKind.SYSLOG_UNREACHABLE, level=level, code=error.code, what=error.what)
