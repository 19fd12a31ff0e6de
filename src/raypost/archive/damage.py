"""Images whose file is missing or damaged here: left out of their transfer, the others go, a person is told.

An item that cannot be sent is `refused` with less than its size packed; one that the partner refused is packed whole.
A manifest that has left may be at the partner and is never contradicted: what it names stays named, and the transfer
ends unconfirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.blobs import BlobStore
from raypost.archive.database import Transaction
from raypost.archive.tables import MessageRow, ParcelEntryRow, TransferItemRow, TransferRow
from raypost.errors import IntegrityError
from raypost.model.audit import EventKind, Level
from raypost.transfer.control import Message, Parcel

NAMED_MAX = 20
"""So many instances are named by number in one event; their count is always there."""

IS_LEFT_OUT = sa.and_(TransferItemRow.state == "refused", TransferItemRow.packed_bytes < TransferItemRow.size_bytes)
"""Of an outgoing transfer: its file is damaged here, so that no manifest names it."""


def damaged_in(blobs: BlobStore, message: Message) -> frozenset[str]:
    """Return the hashes of those files of a parcel that are not what they were (invariant 5); of others, nothing.

    Raises:
        NotNowError: A file cannot be read at this moment.
    """
    if not isinstance(message, Parcel):
        return frozenset()
    found = set()
    for sha256 in {entry.instance.sha256 for entry in message.entries}:
        try:
            blobs.verify(sha256)
        except IntegrityError:
            found.add(sha256)
    return frozenset(found)


def leave_out(
    tx: Transaction, transfer: TransferRow, message_row: int, attempt: int, damaged: Set[str], now: datetime
) -> bool:
    """Take a planned parcel apart: what is damaged is refused, the rest goes in another parcel; ALARM.

    The transfer's row must be locked; its next step is the caller's to decide (`rearm`).

    Args:
        attempt: The one that was planned; a parcel planned anew meanwhile is left alone.
        damaged: Hashes of the files that cannot be sent.

    Returns:
        False when the parcel was sent or planned anew meanwhile: nothing was changed.
    """
    row = tx.get(MessageRow, message_row, with_for_update={"key_share": True})
    if row is None or row.state != "planned" or row.attempt != attempt:
        return False
    row.state, row.due, row.said = "replaced", None, "an image file is damaged here"
    if row.copy:  # the parcel itself was sealed while the file was good: only this way by another relay ends
        return True
    may_unname = _take_manifest_back(tx, transfer.id, now)
    _drop_copies(tx, row)
    entries = tx.execute(
        sa.select(ParcelEntryRow.item_id, ParcelEntryRow.offset_bytes).where(ParcelEntryRow.message_id == row.id)
    ).all()
    told = []
    for item_id, offset_bytes in entries:
        item = tx.get_one(TransferItemRow, item_id)
        if item.sha256 not in damaged:
            item.state, item.packed_bytes = "waiting", min(item.packed_bytes, offset_bytes)
        elif item.state == "filed":
            told.append(item.instance_id)  # the partner has it: only the file here needs mending
        elif item.state != "refused":
            told.append(item.instance_id)
            item.state = "refused"
            item.packed_bytes = 0 if may_unname else item.size_bytes
    if told:
        _tell(tx, transfer, row, told, now)
    tx.flush()
    return True


def put_back(tx: Transaction, transfer: TransferRow, now: datetime, instance_ids: Set[int] | None = None) -> int:
    """Have what was left out of a transfer sent after all, its file having been mended; return how many instances.

    Nothing is put back once a manifest without it has left: then it goes in a supplement.

    Args:
        instance_ids: Only these; None for all.
    """
    if _manifest_left(tx, transfer.id):
        return 0
    chosen = [TransferItemRow.transfer_id == transfer.id, IS_LEFT_OUT]
    if instance_ids is not None:
        chosen.append(TransferItemRow.instance_id.in_(instance_ids))
    rows = tx.execute(
        sa.update(TransferItemRow)
        .where(*chosen)
        .values(state="waiting", packed_bytes=0)
        .returning(TransferItemRow.id)
        .execution_options(synchronize_session="fetch")
    ).all()
    if rows:
        _take_manifest_back(tx, transfer.id, now)
    return len(rows)


def left_out(items: Mapping[str, TransferItemRow]) -> frozenset[str]:
    """Return which of a transfer's items cannot be sent because their files are damaged here; both by hash."""
    return frozenset(
        sha256 for sha256, one in items.items() if one.state == "refused" and one.packed_bytes < one.size_bytes
    )


def count_left_out(tx: Transaction, transfer_id: int) -> int:
    """Count the instances of a transfer that cannot be sent because their files are damaged here."""
    query = sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer_id, IS_LEFT_OUT)
    return tx.scalar(query) or 0


def _drop_copies(tx: Transaction, row: MessageRow) -> None:
    """Have the copies of a parcel for other relays not packed either: they would carry the same."""
    tx.execute(
        sa.update(MessageRow)
        .where(
            MessageRow.transfer_id == row.transfer_id,
            MessageRow.direction == "out",
            MessageRow.kind == row.kind,
            MessageRow.number == row.number,
            MessageRow.copy > 0,
            MessageRow.state == "planned",
        )
        .values(state="replaced", due=None, said=row.said)
        .execution_options(synchronize_session="fetch")
    )


def _manifest(transfer_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(MessageRow.transfer_id == transfer_id, MessageRow.direction == "out", MessageRow.kind == "manifest")


def _manifest_left(tx: Transaction, transfer_id: int) -> bool:
    """Say whether a manifest of the transfer may be at the partner."""
    left = sa.or_(
        MessageRow.accepted_at.is_not(None),
        MessageRow.tries > 0,
        MessageRow.state.in_(("sending", "accepted", "filed")),
    )
    return tx.scalar(sa.select(MessageRow.id).where(_manifest(transfer_id), left).limit(1)) is not None


def _take_manifest_back(tx: Transaction, transfer_id: int, now: datetime) -> bool:
    """Have a manifest that is sealed and did not leave written anew; False when one left."""
    sealed = sa.select(MessageRow).where(_manifest(transfer_id), MessageRow.state == "queued")
    rows = tx.scalars(sealed.with_for_update(key_share=True)).all()
    if _manifest_left(tx, transfer_id):
        return False
    for row in rows:
        row.state, row.due, row.message_file = "planned", None, ""
        row.attempt, row.planned_at = row.attempt + 1, now
    tx.flush()
    return True


def _tell(tx: Transaction, transfer: TransferRow, row: MessageRow, told: list[int | None], now: datetime) -> None:
    numbers = sorted({one for one in told if one is not None})
    events.record(
        tx,
        now,
        EventKind.SENDING_REFUSED,
        level=Level.ALARM,
        transfer=transfer,
        message=row.kind,
        number=row.number,
        code=IntegrityError.code,
        instances=len(numbers),
        instance_numbers=", ".join(map(str, numbers[:NAMED_MAX])),
        said="the file of an image is missing or damaged on this disk; it is not sent, the others are",
    )
