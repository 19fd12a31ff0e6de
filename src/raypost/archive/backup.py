"""What a restore from a backup means for the rows: what was under way begins anew, and when it was is kept."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import (
    CollectedRow,
    ContactRow,
    EventRow,
    ListedParcelRow,
    MessageRow,
    ParcelEntryRow,
    RestoreRow,
    TransferItemRow,
    TransferRow,
)
from raypost.model.audit import EventKind, Level

HELLOS_A_RESTORE = 1_000_000
"""Nearly two years of signs of life, one a minute: no backup in use is older."""


def last_restore(tx: Transaction) -> tuple[datetime, datetime] | None:
    """Return (backup_at, restored_at) of the last restore: what was committed between the two is not known here.

    None when this site was never restored.
    """
    row = tx.execute(
        sa.select(RestoreRow.backup_at, RestoreRow.restored_at).order_by(RestoreRow.id.desc()).limit(1)
    ).first()
    return (row[0], row[1]) if row else None


def note_restored(tx: Transaction, backup_at: datetime, now: datetime, *, damaged: int) -> None:
    """Bring freshly loaded rows into a state in which the site can go on.

    Files in the spool are not in a backup, but quarantine: whatever rows say of them is taken back. Sealed messages
    stay `queued`: who comes to send one finds its file gone and has it packed again (`outbox.note_lost_file`).

    Args:
        damaged: Images that could not be restored; for the event.
    """
    tx.execute(sa.text("set local statement_timeout = 0"))  # years of events are many
    tx.execute(sa.text("delete from procrastinate_workers"))  # their jobs are orphans now, and rescued at the start
    _begin_event_epoch(tx)
    tx.execute(sa.update(MessageRow).where(MessageRow.state == "sending").values(state="queued", slot=None, due=now))
    # Were they known, the collector would delete them at the relay, where they may still be.
    tx.execute(sa.delete(CollectedRow).where(CollectedRow.state == "fetched"))
    tx.execute(sa.delete(ListedParcelRow))
    _forget_slices(tx)
    tx.execute(sa.update(TransferRow).where(TransferRow.due > now).values(due=now))
    tx.add(RestoreRow(backup_at=backup_at, restored_at=now))
    # Far above what was given after the backup, so that a partner does not take the next ones for doubles.
    tx.execute(sa.update(ContactRow).values(hellos_written=ContactRow.hellos_written + HELLOS_A_RESTORE))
    events.record(
        tx,
        now,
        EventKind.RESTORED,
        level=Level.ALARM if damaged else Level.NOTICE,
        backup_at=backup_at.isoformat(timespec="seconds"),
        damaged=damaged,
    )


def _begin_event_epoch(tx: Transaction) -> None:
    """Put the old events before everything that happens from now on.

    Readers follow the transaction number, and that is another server's: it may be far ahead of this one's, and then
    what is new would sort before what is old, and what is old would count as not committed yet.
    """
    tx.execute(sa.update(EventRow).values(xid=sa.text("'0'::xid8")))


def _forget_slices(tx: Transaction) -> None:
    """Forget the parcels that brought slices of instances that are not complete: the slices lay in the spool."""
    carriers = (
        sa.select(ParcelEntryRow.message_id)
        .join(TransferItemRow, TransferItemRow.id == ParcelEntryRow.item_id)
        .join(TransferRow, TransferRow.id == TransferItemRow.transfer_id)
        .where(TransferRow.direction == "in", TransferItemRow.state == "listed")
    )
    tx.execute(sa.delete(MessageRow).where(MessageRow.direction == "in", MessageRow.id.in_(carriers)))
