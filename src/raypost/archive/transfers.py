"""Transfers as rows: opened, filled, sent again; what they wait for is decided in `archive/rearm.py`."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_transfer_key
from raypost.archive.queue import enqueue
from raypost.archive.tables import CaseRow, InstanceRow, MessageRow, TransferItemRow, TransferRow
from raypost.model.audit import EventKind
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import receiver, sender
from raypost.transfer.receiver import ReceiverEvent, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderState

ITEMS_MAX = 3_000
"""Instances of one transfer, give or take one batch: their manifest and receipt fit into a mail of 1 MB."""


def open_outgoing(
    tx: Transaction, *, case: CaseRow, site_id: int, priority: Priority, ordered_by: str, now: datetime
) -> TransferRow:
    """Return the streaming transfer of a case to a partner; a closed one before it makes the new one a supplement.

    The case's row must be locked: one transfer of a case to a partner streams at a time.
    """
    mine = sa.and_(TransferRow.case_id == case.id, TransferRow.partner_id == site_id, TransferRow.direction == "out")
    streaming = tx.scalar(
        sa.select(TransferRow).where(mine, TransferRow.state == "streaming").with_for_update(key_share=True)
    )
    if streaming is not None and _item_count(tx, streaming.id) >= ITEMS_MAX:
        _close(tx, streaming, now)
        streaming = None
    if streaming is not None:
        if priority.rank > Priority(streaming.priority).rank:
            streaming.priority = priority.value
        return streaming
    before = tx.scalar(sa.select(sa.func.count()).where(mine)) or 0
    row = TransferRow(
        transfer_key=new_transfer_key(),
        direction="out",
        partner_id=site_id,
        case_id=case.id,
        study_instance_uid=case.study_instance_uid,
        supplement=before,
        priority=priority.value,
        is_test=case.is_test,
        ordered_by=ordered_by,
        state=SenderState.STREAMING.value,
        opened_at=now,
        # Not now: the modality may have released the association already, and then the shorter time counts.
        last_arrival_at=max(case.last_arrival_at, case.released_at or case.last_arrival_at),
        patience_from=now,
    )
    tx.add(row)
    tx.flush()
    events.record(
        tx,
        now,
        EventKind.TRANSFER_OPENED,
        transfer=row,
        direction="out",
        priority=priority.value,
        supplement=before,
        ordered_by=ordered_by,
    )
    return row


def _item_count(tx: Transaction, transfer_id: int) -> int:
    return tx.scalar(sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer_id)) or 0


def _close(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Close a transfer that holds as much as one manifest may name; the rest of the study goes as a supplement."""
    transfer.state = sender.fire(SenderState.STREAMING, SenderEvent.SETTLED).value
    transfer.closed_at, transfer.due = now, now
    events.record(tx, now, EventKind.TRANSFER_CLOSED, transfer=transfer)


def open_incoming(
    tx: Transaction,
    *,
    transfer_key: str,
    site_id: int,
    study_instance_uid: str,
    supplement: int,
    priority: Priority,
    is_test: bool,
    now: datetime,
) -> TransferRow:
    """Return the incoming transfer of this key from this site, locked, made when its first message arrives."""
    find = (
        sa.select(TransferRow)
        .where(
            TransferRow.direction == "in", TransferRow.partner_id == site_id, TransferRow.transfer_key == transfer_key
        )
        .with_for_update(key_share=True)
    )
    row = tx.scalar(find)
    if row is not None:
        return row
    added = tx.execute(
        insert(TransferRow)
        .values(
            transfer_key=transfer_key,
            direction="in",
            partner_id=site_id,
            study_instance_uid=study_instance_uid,
            supplement=supplement,
            priority=priority.value,
            is_test=is_test,
            ordered_by="partner",
            state=ReceiverState.ARRIVING.value,
            opened_at=now,
            last_arrival_at=now,
            patience_from=now,
        )
        .on_conflict_do_nothing()
        .returning(TransferRow.id)
    ).first()
    row = tx.scalars(find).one()
    if added is not None:
        events.record(
            tx,
            now,
            EventKind.TRANSFER_OPENED,
            transfer=row,
            direction="in",
            priority=priority.value,
            supplement=supplement,
        )
    return row


def find_outgoing(tx: Transaction, transfer_key: str, site_id: int) -> TransferRow | None:
    """Return our transfer that a partner's receipt speaks of, locked; only the partner it went to may speak of it."""
    return tx.scalar(
        sa.select(TransferRow)
        .where(
            TransferRow.direction == "out", TransferRow.partner_id == site_id, TransferRow.transfer_key == transfer_key
        )
        .with_for_update(key_share=True)
    )


def lock(tx: Transaction, transfer_id: int) -> TransferRow | None:
    """Return a transfer with its row locked; the first lock that anybody takes in a transaction about it."""
    return tx.get(TransferRow, transfer_id, with_for_update={"key_share": True})


def lock_case(tx: Transaction, case_id: int) -> CaseRow:
    """Return a case with its row locked."""
    return tx.get_one(CaseRow, case_id, with_for_update={"key_share": True})


def add_items(tx: Transaction, transfer: TransferRow, instances: list[InstanceRow], now: datetime) -> None:
    """Put instances into an outgoing transfer, each once."""
    values = [
        {
            "transfer_id": transfer.id,
            "sha256": one.sha256,
            "size_bytes": one.size_bytes,
            "sop_instance_uid": one.sop_instance_uid,
            "instance_id": one.id,
            "state": "waiting",
            "added_at": now,
        }
        for one in instances
    ]
    added = set(
        tx.scalars(insert(TransferItemRow).on_conflict_do_nothing().returning(TransferItemRow.instance_id), values)
    )
    arrivals = [one.received_at for one in instances if one.id in added]
    transfer.last_arrival_at = max([transfer.last_arrival_at, *arrivals])


def sent_already(tx: Transaction, case_id: int, instance_ids: list[int]) -> set[tuple[int, int]]:
    """Return which of these instances are in an outgoing transfer of the case already, each with the partner's site.

    A person may have sent an instance before the rules looked at it.
    """
    query = (
        sa.select(TransferItemRow.instance_id, TransferRow.partner_id)
        .join(TransferRow, TransferRow.id == TransferItemRow.transfer_id)
        .where(
            TransferRow.case_id == case_id,
            TransferRow.direction == "out",
            TransferItemRow.instance_id.in_(instance_ids),
        )
    )
    return {(instance_id, site_id) for instance_id, site_id in tx.execute(query) if instance_id is not None}


def send_again(
    tx: Transaction,
    transfer: TransferRow,
    now: datetime,
    *,
    numbers: frozenset[int] | None = None,
    everything: bool = False,
) -> int:
    """Plan messages once more: all unconfirmed ones, or only the parcels with these numbers; return how many.

    Args:
        everything: Also those that are filed or were refused.
    """
    states = ("accepted", "filed", "refused") if everything else ("accepted",)
    chosen = [
        MessageRow.transfer_id == transfer.id,
        MessageRow.direction == "out",
        MessageRow.state.in_(states),
        MessageRow.kind != MessageKind.RECEIPT.value,
    ]
    if numbers is not None:
        chosen += [MessageRow.kind == MessageKind.PARCEL.value, MessageRow.number.in_(numbers)]
    rows = tx.execute(
        sa.update(MessageRow)
        .where(*chosen)
        .values(state="planned", attempt=MessageRow.attempt + 1, tries=0, due=None, message_file="", planned_at=now)
        .returning(MessageRow.id)
    ).all()
    if rows:
        wake_pack(tx, transfer)
    return len(rows)


def wake_pack(tx: Transaction, transfer: TransferRow) -> None:
    """Queue the packing of a transfer's messages."""
    rank = Priority(transfer.priority).rank
    enqueue(tx, "pack", once=f"pack:{transfer.id}", unless_running=True, rank=rank, transfer_id=transfer.id)


def note_arrival(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Note that a message of an incoming transfer came, also one seen before."""
    transfer.last_arrival_at = now
    transfer.reminders = 0
    if transfer.state == ReceiverState.INCOMPLETE.value:
        transfer.state = receiver.fire(ReceiverState.INCOMPLETE, ReceiverEvent.MORE_CAME).value
        transfer.finished_at = None


def add_message(tx: Transaction, transfer: TransferRow, kind: MessageKind, number: int, now: datetime) -> int:
    """Plan an outgoing message once; return its number in the table, or of the one that was there."""
    rank = Priority(transfer.priority).rank
    tx.execute(
        insert(MessageRow)
        .values(
            transfer_id=transfer.id,
            direction="out",
            kind=kind.value,
            number=number,
            state="planned",
            planned_at=now,
            priority_rank=rank if kind is MessageKind.PARCEL else rank + 1,  # small and telling: before the bulk
        )
        .on_conflict_do_nothing()
    )
    return tx.scalars(
        sa.select(MessageRow.id).where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "out",
            MessageRow.kind == kind.value,
            MessageRow.number == number,
        )
    ).one()
