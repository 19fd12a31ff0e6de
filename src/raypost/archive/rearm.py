"""The one place that decides what a transfer waits for: rows in, a step of the pure machines, rows out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from raypost.archive import events, planning, progress, relays, rerouting
from raypost.archive.database import Transaction
from raypost.archive.facts import receiver_facts, sender_facts
from raypost.archive.tables import TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import receiver, sender
from raypost.transfer.limits import Limits
from raypost.transfer.receiver import ReceiverEvent, ReceiverState, ReceiverStep
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderState, SenderStep

ROUNDED_UP = timedelta(milliseconds=1)


def order_again(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime, who: str) -> int:
    """Send everything once more because a person orders it; return how many messages.

    Raises:
        UsageError: The transfer is an incoming one, or was recalled.
    """
    if transfer.direction != "out":
        raise UsageError("only the sender can send again")
    if transfer.state == SenderState.RECALLED.value:
        raise UsageError("the transfer was recalled", do="Send the study anew if it is right after all.")
    transfer.state = sender.fire(SenderState(transfer.state), SenderEvent.ORDERED_AGAIN).value
    transfer.rounds, transfer.patience_from, transfer.finished_at = 0, now, None
    transfer.progress_at, transfer.told_at, transfer.switches = now, None, 0
    transfer.receipts_floor = transfer.receipts
    count = planning.send_again(tx, transfer, now, states=("accepted", "filed", "refused"))
    events.record(tx, now, EventKind.SENT_AGAIN, transfer=transfer, messages=count, who=who)
    rearm(tx, transfer, limits, now)
    return count


def rearm(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> bool:
    """The one place that decides what a transfer waits for; called at the end of every transition, row locked.

    Returns:
        True when a rule for a silent centre has its time: that is for `send_elsewhere`, which needs the case as well.
        The transfer is due at once, so that the check, which does it, need not be asked for.
    """
    tx.flush()
    if transfer.direction == "out":
        return _rearm_outgoing(tx, transfer, limits, now)
    _rearm_incoming(tx, transfer, limits, now)
    return False


def send_elsewhere(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> list[str]:
    """Do what a rule for a silent centre says, if it is still so, and tell of rules whose target is gone.

    The rows must be locked by `transfers.lock_with_case`. What the transfers wait for then is decided here, too.

    Returns:
        Names of sealed files in the spool, to be discarded after the commit.
    """
    tx.flush()
    needless = []
    if _next_step(tx, transfer, limits, now)[1].reroute:
        rerouting.tell_of_lost(tx, transfer, now)
        if _next_step(tx, transfer, limits, now)[1].reroute:  # it is not the time of one that is there for that
            rerouted = rerouting.by_rule(tx, transfer, now)
            if rerouted is not None:
                needless = rerouted.needless
                rearm(tx, rerouted.onward, limits, now)
    rearm(tx, transfer, limits, now)
    return needless


def _next_step(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> tuple[SenderFacts, SenderStep]:
    facts = sender_facts(tx, transfer, now)
    return facts, sender.next_step(facts, limits.sender, now.timestamp())


def _rearm_outgoing(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> bool:
    facts, step = _next_step(tx, transfer, limits, now)
    if step.reroute:
        transfer.due = now
        return True
    if step.event is not None:
        _fire_sender(tx, transfer, facts, step.event, now)
    if step.tell:
        _tell(tx, transfer, facts, now)
    if step.write_manifest:
        planning.add_message(tx, transfer, MessageKind.MANIFEST, 1, now)
    if step.send_again:
        _send_again(tx, transfer, now)
    if step.repeat_manifest:
        transfer.rounds += 1
        count = planning.repeat_manifest(tx, transfer, now)
        events.record(tx, now, EventKind.SENT_AGAIN, transfer=transfer, messages=count, round=transfer.rounds)
    if step.repeat_notes:
        planning.repeat_notes(tx, transfer, limits.sender.notes, now)
    if step.switch_relay:
        _switch_relay(tx, transfer, facts, limits, now)
    if facts.relays_usable > 1 and transfer.late_at is None and transfer.state == SenderState.CLOSED.value:
        _note_late(tx, transfer, limits, now)
    transfer.due = _instant(step.due_s)
    if step.plan or step.write_manifest:
        planning.wake_pack(tx, transfer)
    return False


def _fire_sender(tx: Transaction, transfer: TransferRow, facts: SenderFacts, event: SenderEvent, now: datetime) -> None:
    transfer.state = sender.fire(facts.state, event).value
    if event is SenderEvent.SETTLED:
        transfer.closed_at = now
        events.record(tx, now, EventKind.TRANSFER_CLOSED, transfer=transfer)
    elif event is SenderEvent.GAVE_UP:
        transfer.finished_at = transfer.told_at = now
        events.record(
            tx,
            now,
            EventKind.TRANSFER_UNCONFIRMED,
            level=Level.ALARM,
            transfer=transfer,
            refused=facts.refused,
            unconfirmed=facts.unconfirmed,
        )


def _tell(tx: Transaction, transfer: TransferRow, facts: SenderFacts, now: datetime) -> None:
    """Tell a person that nothing moves: at the partner, or already here."""
    transfer.told_at = now
    if transfer.state == SenderState.UNCONFIRMED.value:
        return  # that was an alarm of its own
    kind = EventKind.TRANSFER_STALLED if facts.in_hand or facts.items_waiting else EventKind.TRANSFER_SILENT
    events.record(
        tx,
        now,
        kind,
        level=Level.ALARM,
        transfer=transfer,
        silent_s=round(now.timestamp() - facts.progress_s),
        in_hand=facts.in_hand,
        unconfirmed=facts.unconfirmed,
        refused=facts.refused,
    )


def _send_again(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    transfer.rounds += 1
    count = planning.send_again(tx, transfer, now)
    events.record(
        tx,
        now,
        EventKind.SENT_AGAIN,
        level=Level.NOTICE,
        transfer=transfer,
        messages=count,
        round=transfer.rounds,
    )


def _switch_relay(tx: Transaction, transfer: TransferRow, facts: SenderFacts, limits: Limits, now: datetime) -> None:
    names = planning.move_unheard(tx, transfer, now)
    if not facts.unheard_by_suspect:  # that another transfer found the relay out is no silence of this one's
        transfer.switches, transfer.switched_at = transfer.switches + 1, now
    relays.suspect(tx, names, limits.relays, now)
    for name in sorted(names):
        events.record(tx, now, EventKind.MESSAGE_MOVED, level=Level.NOTICE, transfer=transfer, relay=name, why="silent")


def _note_late(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> None:
    """Have an emergency that will miss its deadline go by all relays at once, before it has missed it."""
    if transfer.priority != Priority.EMERGENCY.value:
        return
    finish_at = progress.predicted_finish_at(tx, transfer, now)
    if finish_at is not None and (finish_at - transfer.opened_at).total_seconds() > limits.sender.deadline_emergency_s:
        transfer.late_at = now
        finish = finish_at.isoformat(timespec="seconds")
        events.record(tx, now, EventKind.TRANSFER_LATE, level=Level.NOTICE, transfer=transfer, predicted=finish)


def _rearm_incoming(tx: Transaction, transfer: TransferRow, limits: Limits, now: datetime) -> None:
    facts = receiver_facts(tx, transfer, now)
    step = receiver.next_step(facts, limits.receiver, now.timestamp())
    if step.event is not None:
        _fire_receiver(tx, transfer, step.event, now)
    if step.tell:
        transfer.told_at = now
        events.record(tx, now, EventKind.ANNOUNCED_ONLY, level=Level.ALARM, transfer=transfer)
    if step.write_receipt:
        _write_receipt(tx, transfer, step, now)
    if step.repeat_notes:
        planning.repeat_notes(tx, transfer, limits.receiver.notes, now)
    transfer.due = _instant(step.due_s)


def _write_receipt(tx: Transaction, transfer: TransferRow, step: ReceiverStep, now: datetime) -> None:
    transfer.receipts = max(transfer.receipts + 1, planning.next_number(tx, transfer, MessageKind.RECEIPT))
    transfer.news, transfer.last_receipt_at = 0, now
    transfer.reminders = transfer.reminders + 1 if step.is_reminder else 0
    transfer.doubles = 0
    if step.asks:
        transfer.asked_at = now
    transfer.receipted_parcels = planning.parcels_filed_here(tx, transfer.id)
    planning.add_message(
        tx, transfer, MessageKind.RECEIPT, transfer.receipts, now, {"asks": step.asks}, by_all=step.by_all
    )
    events.record(
        tx,
        now,
        EventKind.RECEIPT_WRITTEN,
        transfer=transfer,
        number=transfer.receipts,
        asks_again=step.asks,
        is_final=transfer.state == ReceiverState.COMPLETE.value,
    )
    planning.wake_pack(tx, transfer)


def _fire_receiver(tx: Transaction, transfer: TransferRow, event: ReceiverEvent, now: datetime) -> None:
    transfer.state = receiver.fire(ReceiverState(transfer.state), event).value
    kind, level = EventKind.TRANSFER_COMPLETE, Level.INFO
    if event is ReceiverEvent.WENT_SILENT:
        kind, level = EventKind.TRANSFER_INCOMPLETE, Level.ALARM
        transfer.told_at = now
    transfer.finished_at = now
    events.record(tx, now, kind, level=level, transfer=transfer)


def _instant(posix_s: float | None) -> datetime | None:
    """Return a due instant, rounded up: looked at a microsecond early, nothing would be due yet, again and again."""
    return None if posix_s is None else datetime.fromtimestamp(posix_s, UTC) + ROUNDED_UP
