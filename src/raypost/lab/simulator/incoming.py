"""The books of incoming transfers, as `archive/arrivals.py` and `archive/rearm.py` keep them in tables."""

from __future__ import annotations

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.planned import add_message, add_note, next_number, repeat_notes, unheard_notes
from raypost.lab.simulator.rows import Incoming
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import receipts, receiver, taking
from raypost.transfer.control import Announce, Manifest, Parcel, Recall, Redirect, Taken
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverState
from raypost.transfer.taking import ItemState

FromSender = Announce | Parcel | Manifest | Taken | Recall | Redirect


def open_incoming(
    desk: Desk, partner: str, transfer_key: str, study: str, supplement: int, priority: Priority, state: ReceiverState
) -> Incoming:
    """Return the incoming transfer of this key from this site, made when its first message arrives."""
    found = desk.ledger.incoming.get((partner, transfer_key))
    if found is None:
        now_s = desk.now()
        found = Incoming(transfer_key, study, supplement, partner, priority, now_s, now_s, state)
        desk.ledger.incoming[partner, transfer_key] = found
        desk.note("expected" if state is ReceiverState.EXPECTED else "arriving", found)
    found.study = found.study or study
    return found


def take(desk: Desk, transfer: Incoming, message: FromSender) -> None:
    """Take in a verified message of the sender's."""
    match message:
        case Parcel():
            _take_parcel(desk, transfer, message)
        case Manifest():
            _take_manifest(desk, transfer, message)
        case Announce() | Taken() | Recall() | Redirect():
            _take_note(desk, transfer, message)
    rearm_incoming(desk, transfer)


def note_seen(desk: Desk, transfer: Incoming) -> None:
    """Note that parcels of a transfer were seen in a mailbox; its sender hears of it."""
    transfer.news += 1
    rearm_incoming(desk, transfer)


def _note_arrival(desk: Desk, transfer: Incoming) -> None:
    transfer.last_arrival_s = desk.now()
    transfer.reminders = 0
    if transfer.state in (ReceiverState.EXPECTED, ReceiverState.INCOMPLETE):
        transfer.state = receiver.fire(transfer.state, ReceiverEvent.MORE_CAME)


def _take_note(desk: Desk, transfer: Incoming, message: Announce | Taken | Recall | Redirect) -> None:
    kind, number = message.head.kind, message.head.number
    is_new = number not in transfer.heard.setdefault(kind, set())
    transfer.heard[kind].add(number)
    transfer.news += 1
    if not is_new:
        transfer.doubles += 1
        desk.note("heard again", transfer, kind=kind.value)
    match message:
        case Announce():
            if is_new:
                desk.note("announced", transfer)
        case Taken():
            if number > transfer.responsible_number:
                transfer.responsible, transfer.responsible_number = message.responsible, number
            for row in transfer.messages:
                if row.number in message.heard.get(row.kind, frozenset()):
                    row.state = MessageState.FILED
        case Redirect():
            transfer.state = receiver.fire(transfer.state, ReceiverEvent.REDIRECTED)
            if is_new:
                desk.note("redirected", transfer)
        case Recall():
            transfer.state = receiver.fire(transfer.state, ReceiverEvent.RECALLED)
            if is_new:
                for parcel, state in transfer.parcels.items():
                    if state is MessageState.VERIFIED:
                        transfer.parcels[parcel] = MessageState.REPLACED
                desk.note("withdrawn", transfer)
                add_note(desk, transfer, MessageKind.RECALLED)


def say_word(desk: Desk, transfer: Incoming, kind: MessageKind) -> None:
    """Tell the sender that a person opened the study, or asks for the case."""
    add_note(desk, transfer, kind)
    desk.note(kind.value, transfer)
    rearm_incoming(desk, transfer)


def _take_parcel(desk: Desk, transfer: Incoming, parcel: Parcel) -> None:
    number = parcel.head.number
    news = taking.take_parcel(transfer.state, parcel.entries, is_known=number in transfer.parcels, items=transfer.items)
    _note_arrival(desk, transfer)
    if news.is_dropped or news.is_double:
        transfer.news += 1
        transfer.doubles += 1
        desk.note("dropped" if news.is_dropped else "duplicate", transfer, parcel=number)
        return
    for entry in parcel.entries:
        sha256 = entry.instance.sha256
        if transfer.items.setdefault(sha256, ItemState.LISTED) is ItemState.FILED or entry.is_whole:
            continue
        ranges = transfer.ranges.setdefault(sha256, [])
        ranges.append((entry.offset_bytes, entry.length_bytes))
        if taking.bytes_covered(ranges) >= entry.instance.size_bytes:
            transfer.items[sha256] = ItemState.ARRIVED
    for sha256 in news.arrives:
        transfer.items[sha256] = ItemState.ARRIVED
    transfer.parcels[number] = MessageState.VERIFIED
    transfer.arrived_s.setdefault(number, desk.now())
    transfer.entries[number] = parcel.entries
    desk.wake_file(transfer, number)


def _take_manifest(desk: Desk, transfer: Incoming, manifest: Manifest) -> None:
    transfer.news += 1
    _note_arrival(desk, transfer)
    transfer.heard.setdefault(MessageKind.MANIFEST, set()).add(manifest.head.number)
    if manifest.head.number <= transfer.manifest_number:
        transfer.doubles += 1
        desk.note("heard again", transfer, kind=MessageKind.MANIFEST.value)
        return
    transfer.manifest_number, transfer.manifest_parcels = manifest.head.number, manifest.parcels
    transfer.manifest_s = desk.now()
    transfer.manifest = frozenset(one.sha256 for one in manifest.instances)
    for one in manifest.instances:
        transfer.items.setdefault(one.sha256, ItemState.LISTED)
    done = (ItemState.FILED, ItemState.REFUSED)
    transfer.lacking = {sha256 for sha256 in transfer.manifest if transfer.items[sha256] not in done}
    desk.note("manifest", transfer, parcels=manifest.parcels)


def file_parcel(desk: Desk, transfer: Incoming, number: int) -> None:
    """File what a verified parcel brought; the receipt is written from the same commit."""
    if transfer.parcels.get(number) is not MessageState.VERIFIED:
        return
    for entry in transfer.entries[number]:
        sha256 = entry.instance.sha256
        if transfer.items[sha256] is ItemState.ARRIVED:
            transfer.items[sha256] = ItemState.FILED
            transfer.lacking.discard(sha256)
            desk.ledger.archive.add((transfer.partner, sha256))
            filing = (transfer.transfer_key, sha256)
            desk.ledger.filings[filing] = desk.ledger.filings.get(filing, 0) + 1
    transfer.parcels[number] = MessageState.FILED
    transfer.news += 1
    desk.note("filed", transfer, parcel=number)
    rearm_incoming(desk, transfer)


def receiver_facts(transfer: Incoming, seen: frozenset[int]) -> ReceiverFacts:
    """Count what the receiver's machine wants to know."""
    manifest = None if transfer.manifest_parcels is None else (transfer.manifest_parcels, transfer.manifest_s)
    verified = sum(state is MessageState.VERIFIED for state in transfer.parcels.values())
    return ReceiverFacts(
        state=transfer.state,
        seed=transfer.transfer_key,
        priority=transfer.priority,
        is_all_filed=bool(transfer.manifest) and not transfer.lacking,
        in_hand=verified + len(seen - transfer.parcels.keys()),
        news=transfer.news,
        has_first_filed=not transfer.receipted_parcels and verified < len(transfer.parcels),
        gap_since_s=receipts.gap_since_s(transfer.arrived_s, seen, manifest),
        opened_s=transfer.opened_s,
        last_arrival_s=transfer.last_arrival_s,
        last_receipt_s=transfer.last_receipt_s,
        reminders=transfer.reminders,
        is_told=transfer.told_s is not None,
        notes=unheard_notes(transfer) if transfer.messages else (),
        doubles=transfer.doubles,
        asked_s=transfer.asked_s,
    )


def rearm_incoming(desk: Desk, transfer: Incoming) -> None:
    """Decide what an incoming transfer waits for; the end of every transaction about it."""
    now_s = desk.now()
    if desk.was_set_back:
        transfer.heal(now_s)
    seen = desk.seen(transfer)
    step = receiver.next_step(receiver_facts(transfer, seen), desk.times.limits.receiver, now_s)
    if step.event is not None:
        transfer.state = receiver.fire(transfer.state, step.event)
        desk.note(step.event.value, transfer)
    if step.write_receipt:
        transfer.receipts = next_number(desk, transfer, MessageKind.RECEIPT)
        transfer.receipts_written += 1
        desk.note("receipt", transfer, number=transfer.receipts, asks=step.asks)
        transfer.news, transfer.doubles, transfer.last_receipt_s = 0, 0, now_s
        transfer.receipted_parcels = sum(state is MessageState.FILED for state in transfer.parcels.values())
        transfer.reminders = transfer.reminders + 1 if step.is_reminder else 0
        if step.asks:
            transfer.asked_s = now_s
        for row in transfer.messages:  # a receipt that did not leave yet says less than this one
            if row.kind is MessageKind.RECEIPT and row.state in (MessageState.PLANNED, MessageState.QUEUED):
                row.state = MessageState.REPLACED
        transfer.messages = [row for row in transfer.messages if row.state is not MessageState.REPLACED]
        body = {"asks": step.asks}
        add_message(desk, transfer, MessageKind.RECEIPT, transfer.receipts, by_all=step.by_all, body=body)
        desk.wake_pack(transfer)
    if step.repeat_notes:
        repeat_notes(desk, transfer)
    if step.tell or step.event is ReceiverEvent.WENT_SILENT:
        transfer.told_s = now_s
        desk.note("told", transfer, why="something is missing")
    desk.arm(transfer, step.due_s)
