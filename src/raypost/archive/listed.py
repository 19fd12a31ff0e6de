"""Parcels that wait in our mailboxes, by their unsigned tokens: receipts name them, so that they are not sent again.

A token is a hint. Whoever forges one, which a relay alone can, delays a parcel that he could as well have thrown away;
the sender's patience with it is bounded like with any other, and a person is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import CollectedRow, ListedParcelRow, MessageRow, TransferRow
from raypost.model.transfer import Priority
from raypost.transfer.receiver import ReceiverState

LISTED_LASTS = timedelta(seconds=90)
"""What a session has not seen again for so long is gone, or its relay is away."""
OPEN_WORDS = (ReceiverState.EXPECTED.value, ReceiverState.ARRIVING.value, ReceiverState.INCOMPLETE.value)


@dataclass(frozen=True, slots=True)
class WaitingParcel:
    """A parcel's mail as listed: where it lies, and what its token says."""

    imap_uid: int
    token: str
    number: int


def note_waiting(
    tx: Transaction, relay: str, uid_validity: int, waiting: Sequence[WaitingParcel], now: datetime
) -> frozenset[int]:
    """Note parcels that wait at a relay; the senders hear of those that are new with the next receipt.

    Args:
        waiting: At most some hundred.

    Returns:
        The IMAP UIDs of those that belong to a transfer that is open here; of others nothing is noted.
    """
    transfers = _open_transfers(tx, {one.token for one in waiting})
    ours = [one for one in waiting if one.token in transfers]
    if not ours:
        return frozenset()
    known = set(
        tx.scalars(
            sa.select(ListedParcelRow.imap_uid).where(
                ListedParcelRow.relay == relay, ListedParcelRow.uid_validity == uid_validity
            )
        )
    )
    new = insert(ListedParcelRow)
    values = [
        {
            "relay": relay,
            "uid_validity": uid_validity,
            "imap_uid": one.imap_uid,
            "transfer_id": transfers[one.token][0],
            "number": one.number,
            "listed_at": now,
        }
        for one in ours
    ]
    keys = ["relay", "uid_validity", "imap_uid"]
    tx.execute(new.on_conflict_do_update(index_elements=keys, set_={"listed_at": new.excluded.listed_at}), values)
    _tell_senders(tx, sorted({transfers[one.token] for one in ours if one.imap_uid not in known}))
    return frozenset(one.imap_uid for one in ours)


def _open_transfers(tx: Transaction, tokens: set[str]) -> dict[str, tuple[int, str]]:
    """Return number and priority of the open incoming transfers of these tokens."""
    rows = tx.execute(
        sa.select(TransferRow.transfer_key, TransferRow.id, TransferRow.priority).where(
            TransferRow.direction == "in", TransferRow.transfer_key.in_(tokens), TransferRow.state.in_(OPEN_WORDS)
        )
    )
    return {row.transfer_key: (row.id, row.priority) for row in rows}


def _tell_senders(tx: Transaction, transfers: Iterable[tuple[int, str]]) -> None:
    for transfer_id, priority in transfers:
        tx.execute(sa.update(TransferRow).where(TransferRow.id == transfer_id).values(news=TransferRow.news + 1))
        rank = Priority(priority).rank
        enqueue(tx, "check", once=f"check:{transfer_id}", rank=rank, transfer_id=transfer_id)


def note_gone(tx: Transaction, relay: str, uid_validity: int, imap_uid: int) -> None:
    """Note that a mail does not wait any more: it was fetched, or cannot be."""
    tx.execute(
        sa.delete(ListedParcelRow).where(
            ListedParcelRow.relay == relay,
            ListedParcelRow.uid_validity == uid_validity,
            ListedParcelRow.imap_uid == imap_uid,
        )
    )


def parcels_seen(tx: Transaction, transfer: TransferRow, now: datetime) -> frozenset[int]:
    """Return the parcels of an incoming transfer that wait in our mailboxes, or were fetched and not opened yet."""
    listed = sa.select(ListedParcelRow.number).where(
        ListedParcelRow.transfer_id == transfer.id, ListedParcelRow.listed_at > now - LISTED_LASTS
    )
    fetched = sa.select(CollectedRow.token_number).where(
        CollectedRow.token == transfer.transfer_key, CollectedRow.token != "", CollectedRow.state == "fetched"
    )
    arrived = sa.select(MessageRow.number).where(
        MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.kind == "parcel"
    )
    return frozenset(tx.scalars(listed.union(fetched))) - frozenset(tx.scalars(arrived))


def forget_stale(tx: Transaction, now: datetime) -> None:
    """Remove rows of mails that nobody has seen for long."""
    tx.execute(sa.delete(ListedParcelRow).where(ListedParcelRow.listed_at < now - 2 * LISTED_LASTS))
