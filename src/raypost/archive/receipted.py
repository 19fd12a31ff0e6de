"""What a receipt changes: parcels confirmed, small messages heard, things asked for again, delivered (invariant 3)."""

from __future__ import annotations

from datetime import datetime, timedelta
from statistics import fmean

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import contacts, damage, events, planning, relays
from raypost.archive.database import Transaction
from raypost.archive.planning import NOTE_WORDS, OUT
from raypost.archive.tables import MessageRow, TransferItemRow, TransferRow
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer import hello, receipts
from raypost.transfer.control import Numbers, Receipt
from raypost.transfer.receipts import ReceiptNews
from raypost.transfer.sender import SenderEvent, SenderState, fire

UNFILED = tuple(sorted(state.value for state in receipts.UNFILED))
UNSENT = ("planned", "queued", "accepted", "refused")


def note_known(tx: Transaction, transfer: TransferRow, kind: MessageKind, number: int, now: datetime) -> bool:
    """Write down that a message of the other side came; False when it came before (invariant 10)."""
    added = tx.execute(
        insert(MessageRow)
        .values(
            transfer_id=transfer.id,
            partner_id=transfer.partner_id,
            direction="in",
            kind=kind.value,
            number=number,
            state="filed",
            planned_at=now,
            filed_at=now,
        )
        .on_conflict_do_nothing()
        .returning(MessageRow.id)
    ).first()
    return added is not None


def take_receipt(tx: Transaction, transfer: TransferRow, receipt: Receipt, now: datetime) -> list[str]:
    """Take in what the partner says it has. Only a final receipt naming every instance by hash means delivered.

    Returns:
        Names of sealed files in the spool that need not be sent any more, to be discarded after the commit.
    """
    number = receipt.head.number
    if not note_known(tx, transfer, MessageKind.RECEIPT, number, now):
        events.record(tx, now, EventKind.DUPLICATE, transfer=transfer, number=number, message="receipt")
        return []
    if hello.is_of_before_restore(number, contacts.restores_heard(tx, transfer.partner_id)):
        events.record(tx, now, EventKind.RECEIPT_OUTDATED, transfer=transfer, number=number)
        return []
    news = receipts.read_receipt(
        receipt,
        parcels=_parcels(tx, transfer),
        notes=_notes(tx, transfer),
        seen_before=transfer.parcels_seen,
        just_sent=_just_sent(tx, transfer, now),
    )
    _note_seen(tx, transfer, news, now, is_latest=number > transfer.receipts)
    needless = _confirm(tx, transfer, news, now)
    needless += note_heard(tx, transfer, _by_kind(news), now)
    if news.is_progress:
        transfer.patience_from, transfer.rounds, transfer.progress_at = now, 0, now
        transfer.told_at, transfer.switches = None, 0
    transfer.last_receipt_at, transfer.receipts = now, max(transfer.receipts, number)
    transfer.instances_there = max(transfer.instances_there, receipt.instances_filed)
    _note_times(transfer, receipt, now)
    events.record(
        tx,
        now,
        EventKind.RECEIPTED,
        transfer=transfer,
        number=number,
        parcels=len(receipt.parcels_filed),
        instances=receipt.instances_filed,
        is_final=receipt.is_final,
        refused=len(receipt.refused),
        audit_head=receipt.audit_head,
    )
    if receipt.is_final and number > transfer.receipts_floor:
        needless += _take_final(tx, transfer, receipt, now)
    elif news.ask_again:
        _send_asked(tx, transfer, news, now)
    return needless


def _parcels(tx: Transaction, transfer: TransferRow) -> dict[int, MessageState]:
    rows = tx.execute(
        sa.select(MessageRow.number, MessageRow.state)
        .where(MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind == "parcel")
        .with_for_update(key_share=True)
    )
    return {number: MessageState(state) for number, state in rows}


def _notes(tx: Transaction, transfer: TransferRow) -> dict[tuple[MessageKind, int], MessageState]:
    rows = tx.execute(
        sa.select(MessageRow.kind, MessageRow.number, MessageRow.state).where(
            MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind.in_(NOTE_WORDS)
        )
    )
    return {(MessageKind(kind), number): MessageState(state) for kind, number, state in rows}


def _just_sent(tx: Transaction, transfer: TransferRow, now: datetime) -> list[int]:
    """Return the parcels that the relay accepted less than a round trip ago: a receipt that asks for one crossed it."""
    since = now - timedelta(seconds=contacts.round_trip_s(tx, transfer.partner_id) or 0.0)
    chosen = sa.select(MessageRow.number).where(
        MessageRow.transfer_id == transfer.id,
        OUT,
        MessageRow.kind == "parcel",
        MessageRow.state == "accepted",
        MessageRow.accepted_at > since,
    )
    return list(tx.scalars(chosen))


def _note_seen(tx: Transaction, transfer: TransferRow, news: ReceiptNews, now: datetime, *, is_latest: bool) -> None:
    """Note what the partner has or will fetch, and has not filed: it is not sent again, and its relay is well."""
    before = frozenset() if news.confirmed else frozenset(transfer.parcels_seen)
    if (after := sorted(news.seen | before)) != transfer.parcels_seen:
        transfer.parcels_seen = after
    if not is_latest:
        return
    mine = [MessageRow.transfer_id == transfer.id, MessageRow.direction == "out", MessageRow.kind == "parcel"]
    mine.append(MessageRow.state == "accepted")
    seen = MessageRow.number.in_(news.seen)
    _learn(tx, transfer, [*mine, seen, ~MessageRow.is_seen], now)
    tx.execute(sa.update(MessageRow).where(*mine, seen, ~MessageRow.is_seen).values(is_seen=True))
    tx.execute(sa.update(MessageRow).where(*mine, ~seen, MessageRow.is_seen).values(is_seen=False, unseen_at=now))


def _learn(tx: Transaction, transfer: TransferRow, chosen: list[sa.ColumnElement[bool]], now: datetime) -> None:
    """Learn from parcels that the partner speaks of for the first time: how long that took, which relay is well."""
    query = sa.select(
        MessageRow.number, MessageRow.copy, MessageRow.relay, MessageRow.accepted_at, MessageRow.attempt
    ).where(*chosen, MessageRow.accepted_at.is_not(None))
    by_number: dict[int, set[str]] = {}
    measured_s = []
    for row in tx.execute(query):
        by_number.setdefault(row.number, set()).add(row.relay)
        if row.copy == 0 and row.attempt == 1:
            measured_s.append((now - row.accepted_at).total_seconds())
    if measured_s:  # one receipt is one sample, however many parcels it names
        contacts.note_round_trip(tx, transfer.partner_id, fmean(measured_s))
    for name in sorted({name for names in by_number.values() if len(names) == 1 for name in names} - {""}):
        relays.proved(tx, name, now)


def _confirm(tx: Transaction, transfer: TransferRow, news: ReceiptNews, now: datetime) -> list[str]:
    """Note what is filed at the partner, copies included; learn how long that took and by which relay."""
    if not news.confirmed:
        return []
    chosen = [
        MessageRow.transfer_id == transfer.id,
        MessageRow.direction == "out",
        MessageRow.kind == "parcel",
        MessageRow.number.in_(news.confirmed),
        MessageRow.state.in_(UNSENT),
    ]
    _learn(tx, transfer, [*chosen, ~MessageRow.is_seen], now)
    return _filed(tx, chosen, now)


def _by_kind(news: ReceiptNews) -> Numbers:
    found: dict[MessageKind, set[int]] = {}
    for kind, number in news.heard:
        found.setdefault(kind, set()).add(number)
    return {kind: frozenset(numbers) for kind, numbers in found.items()}


def note_heard(tx: Transaction, transfer: TransferRow, heard: Numbers, now: datetime) -> list[str]:
    """Note which of our small messages the other side heard: they are not repeated any more.

    Returns:
        Names of sealed files, of copies that have not left, to be discarded after the commit.
    """
    needless: list[str] = []
    for kind, numbers in heard.items():
        chosen = [
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "out",
            MessageRow.kind == kind.value,
            MessageRow.number.in_(numbers),
            MessageRow.state.in_(UNSENT),
        ]
        needless += _filed(tx, chosen, now)
    return needless


def _filed(tx: Transaction, chosen: list[sa.ColumnElement[bool]], now: datetime) -> list[str]:
    """Note messages as filed at the partner; return the sealed files of those that had not left."""
    files = tx.scalars(sa.select(MessageRow.message_file).where(*chosen, MessageRow.message_file != "")).all()
    tx.execute(
        sa.update(MessageRow)
        .where(*chosen)
        .values(state="filed", filed_at=now, due=None, message_file="")
        .execution_options(synchronize_session="fetch")
    )
    return list(files)


def _note_times(transfer: TransferRow, receipt: Receipt, now: datetime) -> None:
    times = dict(transfer.partner_times or {})
    for name in ("first_arrival_at", "last_filed_at"):
        if (at := getattr(receipt, name)) is not None:
            times[name] = at.isoformat()
    times["receipt_written_at"], times["receipt_heard_at"] = receipt.head.written_at.isoformat(), now.isoformat()
    transfer.partner_times = times


def _send_asked(tx: Transaction, transfer: TransferRow, news: ReceiptNews, now: datetime) -> None:
    """Send what the partner asks for; what was delivered or given up begins anew: the partner lost something."""
    state = SenderState(transfer.state)
    if state in (SenderState.DELIVERED, SenderState.UNCONFIRMED):
        transfer.state, transfer.finished_at = fire(state, SenderEvent.ORDERED_AGAIN).value, None
        transfer.rounds, transfer.progress_at, transfer.patience_from = 0, now, now
        transfer.receipts_floor = transfer.receipts
    elif state in (SenderState.REROUTED, SenderState.RECALLED):
        return
    count = planning.send_again(tx, transfer, now, numbers=news.ask_again, states=("accepted", "filed"))
    if count:
        events.record(
            tx,
            now,
            EventKind.SENT_AGAIN,
            level=Level.NOTICE,
            transfer=transfer,
            messages=count,
            why="asked for by the partner",
        )


def _take_final(tx: Transaction, transfer: TransferRow, receipt: Receipt, now: datetime) -> list[str]:
    state = SenderState(transfer.state)
    items = {
        item.sha256: item
        for item in tx.scalars(sa.select(TransferItemRow).where(TransferItemRow.transfer_id == transfer.id))
    }
    verdict = receipts.judge_final(receipt, frozenset(items))
    for sha256 in verdict.filed:
        items[sha256].state = "filed"
    for sha256 in verdict.refused:
        items[sha256].state = "refused"
    if state in (SenderState.ANNOUNCED, SenderState.STREAMING):
        return []  # a receipt cannot close what is still open; the manifest will be answered
    if verdict.is_delivered:
        return _deliver(tx, transfer, state, len(items), now)
    if state is SenderState.CLOSED and verdict.unnamed <= (left_out := damage.left_out(items)):
        transfer.state, transfer.finished_at = fire(state, SenderEvent.GAVE_UP).value, now
        transfer.told_at = now
        events.record(
            tx,
            now,
            EventKind.TRANSFER_UNCONFIRMED,
            level=Level.ALARM,
            transfer=transfer,
            refused_by_partner=len(verdict.refused),
            left_out=len(left_out),
        )
    return []


def _deliver(tx: Transaction, transfer: TransferRow, state: SenderState, instances: int, now: datetime) -> list[str]:
    mine = [
        MessageRow.transfer_id == transfer.id,
        MessageRow.direction == "out",
        MessageRow.kind.in_(("parcel", "manifest")),
    ]
    _filed(tx, [*mine, MessageRow.state == "sending"], now)  # who has it in hand discards the file
    needless = _filed(tx, [*mine, MessageRow.state.not_in(("replaced", "sending"))], now)
    after = fire(state, SenderEvent.RECEIPT_COMPLETE)
    if after is SenderState.DELIVERED and state is not SenderState.DELIVERED:
        transfer.finished_at = now
        events.record(tx, now, EventKind.TRANSFER_DELIVERED, transfer=transfer, instances=instances)
    elif after in (SenderState.REROUTED, SenderState.RECALLED):
        events.record(tx, now, EventKind.LATE_RECEIPT, level=Level.NOTICE, transfer=transfer, instances=instances)
    transfer.state = after.value
    return needless
