"""Transfers as rows: opened, filled, driven by the pure machines of `transfer/`; every change ends in `rearm`."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_transfer_key
from raypost.archive.queue import enqueue
from raypost.archive.tables import CaseRow, CollectedRow, InstanceRow, MessageRow, TransferItemRow, TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import receiver, sender
from raypost.transfer.limits import Limits
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverLimits, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderLimits, SenderState

IN_HAND = ("planned", "queued", "sending")


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
        last_arrival_at=now,
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


def order_again(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime, who: str) -> int:
    """Send everything that no receipt names once more; return how many messages.

    Raises:
        UsageError: The transfer is an incoming one.
    """
    if transfer.direction != "out":
        raise UsageError("only the sender can send again")
    transfer.state = sender.fire(SenderState(transfer.state), SenderEvent.ORDERED_AGAIN).value
    transfer.rounds, transfer.patience_from, transfer.finished_at = 0, now, None
    count = send_again(tx, transfer, now, everything=True)
    events.record(tx, now, EventKind.SENT_AGAIN, transfer=transfer, messages=count, who=who)
    rearm(tx, transfer, limits, now)
    return count


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


def rearm(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> None:
    """The one place that decides what a transfer waits for; called at the end of every transition, row locked."""
    tx.flush()
    if transfer.direction == "out":
        _rearm_outgoing(tx, transfer, limits.sender, now)
    else:
        _rearm_incoming(tx, transfer, limits.receiver, now)


def _rearm_outgoing(tx: Transaction, transfer: TransferRow, limits: SenderLimits, now: datetime) -> None:
    facts = _sender_facts(tx, transfer)
    step = sender.next_step(facts, limits, now.timestamp())
    if step.event is not None:
        transfer.state = sender.fire(facts.state, step.event).value
        if step.event is SenderEvent.SETTLED:
            transfer.closed_at = now
            events.record(tx, now, EventKind.TRANSFER_CLOSED, transfer=transfer)
        elif step.event is SenderEvent.GAVE_UP:
            transfer.finished_at = now
            events.record(
                tx,
                now,
                EventKind.TRANSFER_UNCONFIRMED,
                level=Level.ALARM,
                transfer=transfer,
                refused=facts.refused,
                unconfirmed=facts.unconfirmed,
            )
    if step.write_manifest:
        add_message(tx, transfer, MessageKind.MANIFEST, 1, now)
    if step.send_again:
        transfer.rounds += 1
        count = send_again(tx, transfer, now)
        events.record(
            tx,
            now,
            EventKind.SENT_AGAIN,
            level=Level.NOTICE,
            transfer=transfer,
            messages=count,
            round=transfer.rounds,
        )
    transfer.due = _instant(step.due_s)
    if step.plan or step.write_manifest:
        wake_pack(tx, transfer)


def _sender_facts(tx: Transaction, transfer: TransferRow) -> SenderFacts:
    counts = {
        (row.state, row.is_manifest): row.how_many
        for row in tx.execute(
            sa.select(
                MessageRow.state,
                (MessageRow.kind == "manifest").label("is_manifest"),
                sa.func.count().label("how_many"),
            )
            .where(MessageRow.transfer_id == transfer.id, MessageRow.direction == "out")
            .group_by(sa.text("1, 2"))
        )
    }
    by_state: dict[str, int] = {}
    for (state, _), count in counts.items():
        by_state[state] = by_state.get(state, 0) + count
    waiting = (
        tx.scalar(
            sa.select(sa.func.count()).where(
                TransferItemRow.transfer_id == transfer.id, TransferItemRow.state == "waiting"
            )
        )
        or 0
    )
    case = tx.get_one(CaseRow, transfer.case_id)
    return SenderFacts(
        state=SenderState(transfer.state),
        last_arrival_s=transfer.last_arrival_at.timestamp(),
        released_s=case.released_at.timestamp() if case.released_at else None,
        items_waiting=waiting,
        in_hand=sum(by_state.get(state, 0) for state in IN_HAND),
        unconfirmed=by_state.get("accepted", 0),
        refused=by_state.get("refused", 0),
        has_manifest=any(is_manifest for _, is_manifest in counts),
        rounds=transfer.rounds,
        patience_from_s=transfer.patience_from.timestamp(),
    )


def _rearm_incoming(tx: Transaction, transfer: TransferRow, limits: ReceiverLimits, now: datetime) -> None:
    is_all_filed = False
    if transfer.manifest_instances is not None:
        done = (
            tx.scalar(
                sa.select(sa.func.count()).where(
                    TransferItemRow.transfer_id == transfer.id,
                    TransferItemRow.in_manifest,
                    TransferItemRow.state.in_(("filed", "refused")),
                )
            )
            or 0
        )
        is_all_filed = done == transfer.manifest_instances
    in_hand = (
        tx.scalar(
            sa.select(sa.func.count()).where(
                MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.state == "verified"
            )
        )
        or 0
    )
    facts = ReceiverFacts(
        state=ReceiverState(transfer.state),
        is_all_filed=is_all_filed,
        in_hand=in_hand,
        news=transfer.news,
        last_arrival_s=transfer.last_arrival_at.timestamp(),
        reminders=transfer.reminders,
        last_receipt_s=transfer.last_receipt_at.timestamp() if transfer.last_receipt_at else None,
    )
    step = receiver.next_step(facts, limits, now.timestamp())
    if step.event is not None:
        _fire_receiver(tx, transfer, step.event, now)
    if step.write_receipt:
        transfer.receipts += 1
        transfer.news, transfer.last_receipt_at = 0, now
        transfer.reminders = transfer.reminders + 1 if step.is_reminder else 0
        add_message(tx, transfer, MessageKind.RECEIPT, transfer.receipts, now)
        events.record(
            tx,
            now,
            EventKind.RECEIPT_WRITTEN,
            transfer=transfer,
            number=transfer.receipts,
            asks_again=step.is_reminder,
            is_final=transfer.state == "complete",
        )
        wake_pack(tx, transfer)
    transfer.due = _instant(step.due_s)


def _fire_receiver(tx: Transaction, transfer: TransferRow, event: ReceiverEvent, now: datetime) -> None:
    transfer.state = receiver.fire(ReceiverState(transfer.state), event).value
    kind, level = EventKind.TRANSFER_COMPLETE, Level.INFO
    if event is ReceiverEvent.WENT_SILENT:
        kind, level = EventKind.TRANSFER_INCOMPLETE, Level.ALARM
    transfer.finished_at = now
    events.record(tx, now, kind, level=level, transfer=transfer)


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
""")


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
        row.due = _instant(now.timestamp() + 15)
    return [row.id for row in rows]


def _instant(posix_s: float | None) -> datetime | None:
    return None if posix_s is None else datetime.fromtimestamp(posix_s, UTC)


def streaming_of_case(tx: Transaction, case_id: int) -> list[int]:
    """Return the outgoing transfers of a case that are still open."""
    return list(
        tx.scalars(
            sa.select(TransferRow.id).where(
                TransferRow.case_id == case_id, TransferRow.direction == "out", TransferRow.state == "streaming"
            )
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
