"""The one place that decides what a transfer waits for: rows in, a step of the pure machines, rows out."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from raypost.archive import events, transfers
from raypost.archive.database import Transaction
from raypost.archive.tables import CaseRow, MessageRow, TransferItemRow, TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind
from raypost.transfer import receiver, sender
from raypost.transfer.limits import Limits
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverLimits, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderLimits, SenderState

IN_HAND = ("planned", "queued", "sending")


def order_again(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime, who: str) -> int:
    """Send everything that no receipt names once more; return how many messages.

    Raises:
        UsageError: The transfer is an incoming one.
    """
    if transfer.direction != "out":
        raise UsageError("only the sender can send again")
    transfer.state = sender.fire(SenderState(transfer.state), SenderEvent.ORDERED_AGAIN).value
    transfer.rounds, transfer.patience_from, transfer.finished_at = 0, now, None
    count = transfers.send_again(tx, transfer, now, everything=True)
    events.record(tx, now, EventKind.SENT_AGAIN, transfer=transfer, messages=count, who=who)
    rearm(tx, transfer, limits, now)
    return count


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
        transfers.add_message(tx, transfer, MessageKind.MANIFEST, 1, now)
    if step.send_again:
        transfer.rounds += 1
        count = transfers.send_again(tx, transfer, now)
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
        transfers.wake_pack(tx, transfer)


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
        transfers.add_message(tx, transfer, MessageKind.RECEIPT, transfer.receipts, now)
        events.record(
            tx,
            now,
            EventKind.RECEIPT_WRITTEN,
            transfer=transfer,
            number=transfer.receipts,
            asks_again=step.is_reminder,
            is_final=transfer.state == "complete",
        )
        transfers.wake_pack(tx, transfer)
    transfer.due = _instant(step.due_s)


def _fire_receiver(tx: Transaction, transfer: TransferRow, event: ReceiverEvent, now: datetime) -> None:
    transfer.state = receiver.fire(ReceiverState(transfer.state), event).value
    kind, level = EventKind.TRANSFER_COMPLETE, Level.INFO
    if event is ReceiverEvent.WENT_SILENT:
        kind, level = EventKind.TRANSFER_INCOMPLETE, Level.ALARM
    transfer.finished_at = now
    events.record(tx, now, kind, level=level, transfer=transfer)


def _instant(posix_s: float | None) -> datetime | None:
    return None if posix_s is None else datetime.fromtimestamp(posix_s, UTC)
