"""What was learned about the mail relays: their SIZE, whether they answer."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import RelayRow
from raypost.model.audit import EventKind, Level


def size_max_bytes(tx: Transaction, relay: str) -> int | None:
    """Return the largest mail the relay takes, None when it was never asked or names no limit."""
    return tx.scalar(sa.select(RelayRow.size_max_bytes).where(RelayRow.name == relay))


def note_reached(tx: Transaction, relay: str, limit_bytes: int | None, now: datetime) -> None:
    """Note a successful log-in and the SIZE that the relay announced."""
    row = _row(tx, relay, now)
    if limit_bytes is not None:
        row.size_max_bytes = limit_bytes
    if not row.is_reachable:
        row.is_reachable, row.changed_at, row.said = True, now, ""
        events.record(tx, now, EventKind.RELAY_REACHED, relay=relay)


def note_unreachable(tx: Transaction, relay: str, code: str, said: str, now: datetime) -> None:
    """Note that the relay does not let us in; an event when that is news."""
    row = _row(tx, relay, now)
    if row.is_reachable or row.said != said[:500]:
        row.is_reachable, row.changed_at, row.said = False, now, said[:500]
        events.record(tx, now, EventKind.RELAY_UNREACHABLE, level=Level.NOTICE, relay=relay, code=code, said=said[:200])


def note_size_limit(tx: Transaction, relay: str, limit_bytes: int, now: datetime) -> None:
    """Note a limit that was learned by a refusal."""
    row = _row(tx, relay, now)
    row.size_max_bytes = min(limit_bytes, row.size_max_bytes or limit_bytes)


def _row(tx: Transaction, relay: str, now: datetime) -> RelayRow:
    tx.execute(insert(RelayRow).values(name=relay, changed_at=now).on_conflict_do_nothing())
    return tx.get_one(RelayRow, relay, with_for_update={"key_share": True})
