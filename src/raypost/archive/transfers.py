"""Transfers as rows: opened, filled, sent again; what they wait for is decided in `archive/rearm.py`.

Rows are locked in one order, or two jobs wait for each other: an incoming transfer (its case may not exist yet), then
the case, then outgoing transfers by their numbers, then messages. So an outgoing transfer that is locked already is
too late for its case: see `lock_with_case`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import cases, events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_transfer_key
from raypost.archive.planning import add_note
from raypost.archive.tables import CaseRow, InstanceRow, MessageRow, TransferItemRow, TransferRow
from raypost.errors import RemoteProtocolError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import receiver, sender
from raypost.transfer.control import Head
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
        sa.select(TransferRow)
        .where(mine, TransferRow.state.in_(("announced", "streaming")))
        .with_for_update(key_share=True)
    )
    if streaming is not None and _item_count(tx, streaming.id) >= ITEMS_MAX:
        _close(tx, streaming, now)
        streaming = None
    if streaming is not None:
        if priority.rank > Priority(streaming.priority).rank:
            raise_priority(tx, streaming, priority, now)
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
        state=SenderState.ANNOUNCED.value,
        opened_at=now,
        progress_at=now,
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
    add_note(tx, row, MessageKind.ANNOUNCE, now)
    return row


def raise_priority(tx: Transaction, transfer: TransferRow, priority: Priority, now: datetime) -> None:
    """Make a transfer more urgent, with everything of it that has not left; the partner is told by an announcement."""
    raised = priority.rank - Priority(transfer.priority).rank
    transfer.priority = priority.value
    tx.execute(
        sa.update(MessageRow)
        .where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "out",
            MessageRow.state.in_(("planned", "queued")),
        )
        .values(priority_rank=MessageRow.priority_rank + raised)
    )
    add_note(tx, transfer, MessageKind.ANNOUNCE, now)


def _item_count(tx: Transaction, transfer_id: int) -> int:
    return tx.scalar(sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer_id)) or 0


def _close(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Close a transfer that holds as much as one manifest may name; the rest of the study goes as a supplement."""
    transfer.state = sender.fire(SenderState(transfer.state), SenderEvent.SETTLED).value
    transfer.closed_at, transfer.due = now, now
    events.record(tx, now, EventKind.TRANSFER_CLOSED, transfer=transfer)


def open_incoming(tx: Transaction, head: Head, site_id: int, now: datetime) -> TransferRow:
    """Return the incoming transfer that a message of a partner belongs to, locked; made when its first one arrives.

    It rings then, when it is an emergency: whichever of its messages overtook the others. A supplement does not ring.
    """
    find = (
        sa.select(TransferRow)
        .where(
            TransferRow.direction == "in",
            TransferRow.partner_id == site_id,
            TransferRow.transfer_key == head.transfer_key,
        )
        .with_for_update(key_share=True)
    )
    row = tx.scalar(find)
    if row is not None:
        if head.priority.rank > Priority(row.priority).rank:
            row.priority = head.priority.value
            _ring(tx, row, head.kind, now)
        return row
    added = tx.execute(
        insert(TransferRow)
        .values(
            transfer_key=head.transfer_key,
            direction="in",
            partner_id=site_id,
            study_instance_uid="",
            supplement=0,
            priority=head.priority.value,
            is_test=head.is_test,
            ordered_by="partner",
            state=ReceiverState.EXPECTED.value,
            opened_at=now,
            last_arrival_at=now,
            patience_from=now,
            announced={},
        )
        .on_conflict_do_nothing()
        .returning(TransferRow.id)
    ).first()
    row = tx.scalars(find).one()
    if added is not None:
        events.record(tx, now, EventKind.TRANSFER_OPENED, transfer=row, direction="in", priority=head.priority.value)
    return row


def name_study(
    tx: Transaction, transfer: TransferRow, study_instance_uid: str, supplement: int, kind: MessageKind, now: datetime
) -> None:
    """Note which study an incoming transfer is about; said by its announcement, parcels and manifest alike.

    Raises:
        RemoteProtocolError: Another message said something else.
    """
    if not transfer.study_instance_uid:
        transfer.study_instance_uid, transfer.supplement = study_instance_uid, supplement
        _ring(tx, transfer, kind, now)
    elif (transfer.study_instance_uid, transfer.supplement) != (study_instance_uid, supplement):
        raise RemoteProtocolError("a message says other things of its transfer than an earlier one")


def _ring(tx: Transaction, transfer: TransferRow, kind: MessageKind, now: datetime) -> None:
    if transfer.state == ReceiverState.WITHDRAWN.value:
        return
    rings = transfer.priority == Priority.EMERGENCY.value and not transfer.is_test and transfer.supplement == 0
    events.record(
        tx,
        now,
        EventKind.ANNOUNCED,
        level=Level.ALARM if rings else Level.NOTICE,
        transfer=transfer,
        priority=transfer.priority,
        supplement=transfer.supplement,
        by=kind.value,
    )


def is_withdrawn(tx: Transaction, transfer_key: str, site_id: int) -> bool:
    """Say whether an incoming transfer of a partner was recalled."""
    state = tx.scalar(
        sa.select(TransferRow.state).where(
            TransferRow.direction == "in", TransferRow.partner_id == site_id, TransferRow.transfer_key == transfer_key
        )
    )
    return state == ReceiverState.WITHDRAWN.value


def find_outgoing(tx: Transaction, transfer_key: str, site_id: int, *, with_case: bool = False) -> TransferRow | None:
    """Return our transfer that a partner's receipt speaks of, locked; only the partner it went to may speak of it.

    Args:
        with_case: Its case is locked as well, and before it.
    """
    mine = (
        TransferRow.direction == "out",
        TransferRow.partner_id == site_id,
        TransferRow.transfer_key == transfer_key,
    )
    if with_case:
        found = tx.scalar(sa.select(TransferRow.id).where(*mine))
        return None if found is None else lock_with_case(tx, found)
    return tx.scalar(sa.select(TransferRow).where(*mine).with_for_update(key_share=True))


def lock(tx: Transaction, transfer_id: int) -> TransferRow | None:
    """Return a transfer with its row locked; the first lock that anybody takes in a transaction about it alone."""
    return tx.get(TransferRow, transfer_id, with_for_update={"key_share": True})


def lock_with_case(tx: Transaction, transfer_id: int) -> TransferRow | None:
    """Return a transfer with its row locked; for an outgoing one its case and all that go out of it are locked first.

    For whoever changes the case because of a transfer, or another transfer of the same case. No transfer may be locked.
    """
    case_id = tx.scalar(
        sa.select(TransferRow.case_id).where(TransferRow.id == transfer_id, TransferRow.direction == "out")
    )
    if case_id is not None:
        lock_case(tx, case_id)
        lock_outgoing(tx, case_id)
    return lock(tx, transfer_id)


def lock_outgoing(tx: Transaction, case_id: int) -> None:
    """Lock all outgoing transfers of a case in their order, for whoever changes several; the case must be locked."""
    mine = sa.and_(TransferRow.case_id == case_id, TransferRow.direction == "out")
    tx.execute(sa.select(TransferRow.id).where(mine).order_by(TransferRow.id).with_for_update(key_share=True)).all()


def lock_case(tx: Transaction, case_id: int) -> CaseRow:
    """Return a case with its row locked; before any outgoing transfer of it."""
    return tx.get_one(CaseRow, case_id, with_for_update={"key_share": True})


def add_items(tx: Transaction, transfer: TransferRow, instances: list[InstanceRow], now: datetime) -> None:
    """Put instances into an outgoing transfer, each once."""
    ranks = cases.reading_ranks(tx, instances)
    values = [
        {
            "transfer_id": transfer.id,
            "sha256": one.sha256,
            "size_bytes": one.size_bytes,
            "sop_instance_uid": one.sop_instance_uid,
            "instance_id": one.id,
            "state": "waiting",
            "added_at": now,
            "reading_rank": ranks[one.id],
        }
        for one in instances
    ]
    was_idle = transfer.state == SenderState.STREAMING.value and not _is_outstanding(tx, transfer.id)
    added = set(
        tx.scalars(insert(TransferItemRow).on_conflict_do_nothing().returning(TransferItemRow.instance_id), values)
    )
    if added and was_idle:
        transfer.progress_at = now  # nothing was expected of the partner until now
    arrivals = [one.received_at for one in instances if one.id in added]
    transfer.last_arrival_at = max([transfer.last_arrival_at, *arrivals])


def _is_outstanding(tx: Transaction, transfer_id: int) -> bool:
    unfiled = sa.exists().where(
        MessageRow.transfer_id == transfer_id,
        MessageRow.direction == "out",
        MessageRow.kind == "parcel",
        MessageRow.state.in_(("planned", "queued", "sending", "accepted", "refused")),
    )
    waiting = sa.exists().where(TransferItemRow.transfer_id == transfer_id, TransferItemRow.state == "waiting")
    return bool(tx.scalar(sa.select(sa.or_(unfiled, waiting))))


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


def note_arrival(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Note that a message of an incoming transfer came, also one seen before."""
    transfer.last_arrival_at = now
    transfer.reminders = 0
    before = ReceiverState(transfer.state)
    transfer.state = receiver.fire(before, ReceiverEvent.MORE_CAME).value
    if before is ReceiverState.INCOMPLETE:
        transfer.finished_at = None
