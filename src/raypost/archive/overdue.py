"""What somebody must look at now: due transfers, lost jobs, and which files nothing needs any more."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from raypost.archive.database import Transaction
from raypost.archive.tables import CollectedRow, InstanceRow, MessageRow, TransferItemRow, TransferRow

LOOK_AGAIN = timedelta(seconds=15)


def due_transfers(tx: Transaction, now: datetime, limit: int) -> list[int]:
    """Return transfers whose time has come; their due moves on, so that a lost check is asked for again."""
    rows = tx.scalars(
        sa.select(TransferRow)
        .where(TransferRow.due <= now)
        .order_by(TransferRow.due)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for row in rows:
        row.due = now + LOOK_AGAIN
    return [row.id for row in rows]


def is_anything_due(tx: Transaction, now: datetime) -> bool:
    """Say whether the sweep would find anything; one statement, since mostly it would not."""
    return bool(tx.scalar(_ANYTHING_DUE, {"now": now}))


_ANYTHING_DUE = sa.text("""
select exists (select from rp_transfer where due <= :now)
    or exists (select from rp_message where state in ('planned', 'queued', 'sending', 'verified')
               and coalesce(due, planned_at + interval '2 seconds') <= :now)
    or exists (select from rp_collected where due <= :now)
    or exists (select from rp_forward where due <= :now)
    or exists (select from rp_instance where routed_at is null)
    or exists (select from rp_relay where due <= :now)
    or exists (select from rp_contact where due <= :now)
    or (select count(*) from rp_partner where retired_at is null)
        > (select count(*) + 1 from rp_contact where due is not null)
""")


def streaming_of_case(tx: Transaction, case_id: int) -> list[int]:
    """Return the outgoing transfers of a case that more may come for, in the order in which they are locked."""
    return list(
        tx.scalars(
            sa.select(TransferRow.id)
            .where(
                TransferRow.case_id == case_id,
                TransferRow.direction == "out",
                TransferRow.state.in_(("announced", "streaming")),
            )
            .order_by(TransferRow.id)
        )
    )


def cases_unrouted(tx: Transaction, limit: int) -> list[int]:
    """Return cases with instances that no rule looked at yet: the rest of a burst, or their job was lost."""
    unrouted = sa.select(InstanceRow.case_id).where(InstanceRow.routed_at.is_(None))
    return list(tx.scalars(unrouted.distinct().limit(limit)))


def parcels_unfiled_since(tx: Transaction, before: datetime, limit: int) -> list[int]:
    """Return verified parcels that were not filed for a while: their job was lost."""
    return list(
        tx.scalars(
            sa.select(MessageRow.id).where(MessageRow.state == "verified", MessageRow.planned_at < before).limit(limit)
        )
    )


def files_in_use(tx: Transaction) -> set[str]:
    """Return the names in the spool that rows still need: sealed messages, mails, and instances coming in slices."""
    sealed = tx.scalars(sa.select(MessageRow.message_file).where(MessageRow.message_file != ""))
    mails = tx.scalars(sa.select(CollectedRow.mail_file).where(CollectedRow.mail_file != ""))
    incoming = tx.execute(
        sa.select(TransferRow.transfer_key, TransferItemRow.sha256)
        .join(TransferItemRow, TransferItemRow.transfer_id == TransferRow.id)
        .where(TransferRow.direction == "in", TransferItemRow.state == "listed")
    )
    return {*sealed, *mails, *(f"assembly/{transfer_key}-{sha256}" for transfer_key, sha256 in incoming)}
