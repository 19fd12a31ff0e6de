"""The books of cases at the site they come from: opened, added to, taken, rerouted, recalled, confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.outgoing import rearm_outgoing
from raypost.lab.simulator.parcels import add_items
from raypost.lab.simulator.planned import add_note, cancel, plan_again, send_again
from raypost.lab.simulator.rows import CaseRow, MessageRow, Outgoing
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import hello, pacing, receipts, responsibility, sender
from raypost.transfer.control import Opened, Recalled, Receipt, Take
from raypost.transfer.sender import OPEN, Doubt, SenderEvent, SenderState


def open_outgoing(
    desk: Desk, case: CaseRow, partner: str, transfer_key: str, priority: Priority, reroute_after_s: float | None
) -> Outgoing:
    """Open a transfer of a case to a partner and announce it; a later one is a supplement."""
    now_s = desk.now()
    before = sum(one.partner == partner for one in case.transfers)
    transfer = Outgoing(
        transfer_key,
        case.study,
        before,
        partner,
        priority,
        opened_s=now_s,
        last_arrival_s=now_s,
        patience_from_s=now_s,
        reroute_after_s=reroute_after_s,
    )
    case.transfers.append(transfer)
    desk.ledger.outgoing[transfer_key] = transfer
    desk.note("opened", transfer)
    add_note(desk, transfer, MessageKind.ANNOUNCE)
    return transfer


def add_instances(desk: Desk, transfer: Outgoing, items: Iterable[tuple[ManifestEntry, int]]) -> None:
    """Put instances that just came from the modality into a transfer."""
    add_items(transfer, items, desk.now())
    rearm_outgoing(desk, transfer)


def take_receipt(desk: Desk, transfer: Outgoing, receipt: Receipt) -> None:
    """Take in what the partner says it has."""
    number = receipt.head.number
    is_latest = number > max(transfer.receipts_seen, default=0)
    if number in transfer.receipts_seen:
        return
    transfer.receipts_seen.add(number)
    if hello.is_of_before_restore(number, desk.ledger.contacts[transfer.partner].restores_heard):
        desk.note("receipt of before a restore", transfer, number=number)
        return
    now_s = desk.now()
    transfer.last_receipt_s = now_s
    originals = [row for row in transfer.messages if row.copy == 0]
    news = receipts.read_receipt(
        receipt,
        parcels={row.number: row.state for row in originals if row.kind is MessageKind.PARCEL},
        notes={(row.kind, row.number): row.state for row in originals if row.kind is not MessageKind.PARCEL},
        seen_before=transfer.parcels_seen,
        just_sent=_just_sent(desk, transfer, originals),
    )
    transfer.parcels_seen = set(news.seen) if news.confirmed else transfer.parcels_seen | news.seen
    measured_s: list[float] = []
    for row in originals:
        if row.kind is MessageKind.PARCEL and is_latest and row.is_seen != (row.number in news.seen):
            _note_seen(desk, row, row.number in news.seen, measured_s)
    for row in transfer.messages:
        is_parcel = row.kind is MessageKind.PARCEL
        if (is_parcel and row.number in news.confirmed) or (row.kind, row.number) in news.heard:
            _note_filed(desk, row, measured_s)
    if measured_s:  # one receipt is one sample, however many parcels it names
        contact = desk.ledger.contacts[transfer.partner]
        contact.round_trip_s = pacing.smoothed_round_trip_s(contact.round_trip_s, fmean(measured_s))
    transfer.shed()
    if news.is_progress:
        desk.note("progress", transfer)
        transfer.rounds = transfer.switches = 0
        transfer.patience_from_s = now_s
        transfer.told_s = None
        if transfer.progress_s is not None:
            transfer.progress_s = now_s
    desk.note("receipted", transfer, number=number, filed=len(receipt.parcels_filed), final=receipt.is_final)
    if receipt.is_final:
        _take_final(desk, transfer, receipt)
    elif news.ask_again and transfer.state not in (SenderState.REROUTED, SenderState.RECALLED):
        if transfer.state not in OPEN:
            transfer.state = sender.fire(transfer.state, SenderEvent.ORDERED_AGAIN)
            transfer.finished_s = None
        count = send_again(desk, transfer, numbers=news.ask_again, states=receipts.RESENDABLE)
        desk.note("asked for", transfer, messages=count)
    rearm_outgoing(desk, transfer)


def _note_filed(desk: Desk, row: MessageRow, measured_s: list[float]) -> None:
    if row.state is MessageState.ACCEPTED:
        _measure(desk, row, measured_s)
    row.state, row.due_s = MessageState.FILED, None


def _just_sent(desk: Desk, transfer: Outgoing, rows: list[MessageRow]) -> set[int]:
    since_s = desk.now() - (desk.ledger.contacts[transfer.partner].round_trip_s or 0.0)
    return {
        row.number
        for row in rows
        if row.kind is MessageKind.PARCEL and row.state is MessageState.ACCEPTED and (row.accepted_s or 0.0) > since_s
    }


def _note_seen(desk: Desk, row: MessageRow, is_seen: bool, measured_s: list[float]) -> None:
    if is_seen and row.state is MessageState.ACCEPTED:
        _measure(desk, row, measured_s)
    if row.state is MessageState.ACCEPTED and not is_seen:
        row.accepted_s = desk.now()
    row.is_seen = is_seen


def _measure(desk: Desk, row: MessageRow, measured_s: list[float]) -> None:
    """Learn from a first attempt how long it took until the partner was heard of it, and that its relay is well."""
    desk.proved(row.relay)
    if row.attempt == 1 and row.copy == 0 and row.accepted_s is not None and not row.is_seen:
        measured_s.append(desk.now() - row.accepted_s)


def _take_final(desk: Desk, transfer: Outgoing, receipt: Receipt) -> None:
    verdict = receipts.judge_final(receipt, frozenset(transfer.items))
    transfer.filed_there |= verdict.filed
    if transfer.state in (SenderState.ANNOUNCED, SenderState.STREAMING):
        return  # a receipt cannot close what is still open; the manifest will be answered
    if verdict.is_delivered:
        before = transfer.state
        transfer.state = sender.fire(transfer.state, SenderEvent.RECEIPT_COMPLETE)
        for row in transfer.messages:
            if row.is_bulk and row.state is not MessageState.REPLACED:
                row.state, row.due_s = MessageState.FILED, None
        transfer.shed()
        if transfer.state is not before:
            transfer.finished_s = desk.now()
            desk.note("delivered", transfer)
        elif transfer.state is not SenderState.DELIVERED:
            desk.note("late receipt", transfer)
    elif transfer.state is SenderState.CLOSED and verdict.unnamed:
        carriers = [
            row
            for row in transfer.messages
            if row.copy == 0
            and row.kind is MessageKind.PARCEL
            and row.state in receipts.RESENDABLE
            and any(entry.instance.sha256 in verdict.unnamed for entry in row.entries)
        ]
        plan_again(desk, transfer, carriers)


def take_word(desk: Desk, case: CaseRow, transfer: Outgoing, message: Opened | Take | Recalled) -> None:
    """Take in that a person opened the study, asks for the case, or what became of a recall; answer it."""
    kind, number = message.head.kind, message.head.number
    is_new = number not in transfer.heard.setdefault(kind, set())
    transfer.heard[kind].add(number)
    if is_new:
        desk.note(kind.value, transfer)
    if isinstance(message, Take):
        withdrawn = {one.partner for one in case.transfers if one.state is SenderState.RECALLED}
        decision = responsibility.decide_take(
            _site_number(transfer.partner),
            None if case.responsible is None else _site_number(case.responsible),
            {_site_number(name) for name in withdrawn},
            may_have_forgotten=case.is_of_before_restore,
        )
        if decision is not None and decision.is_new:
            case.responsible = transfer.partner
            desk.note("responsible", transfer, centre=transfer.partner)
            for one in latest_by_partner(case).values():
                if one is not transfer:
                    add_note(desk, one, MessageKind.TAKEN)
                    rearm_outgoing(desk, one)
    add_note(desk, transfer, MessageKind.TAKEN)
    rearm_outgoing(desk, transfer)


def _site_number(name: str) -> int:
    return int(name.rpartition("-")[2])


def latest_by_partner(case: CaseRow) -> dict[str, Outgoing]:
    """Return the latest transfer of a case to each partner."""
    return {one.partner: one for one in case.transfers}


def reroute(desk: Desk, case: CaseRow, transfer: Outgoing, instead: Outgoing) -> None:
    """Send what a silent centre was to get to another one; the first one is told."""
    case.goes_to[transfer.partner] = instead.partner
    for one in case.transfers:
        if one.partner == transfer.partner:
            add_items(instead, [(item, one.ranks[sha256]) for sha256, item in one.items.items()], desk.now())
    rearm_outgoing(desk, instead)
    add_note(desk, transfer, MessageKind.REDIRECT, to_name=instead.partner)
    rearm_outgoing(desk, transfer)


def release(desk: Desk, case: CaseRow) -> None:
    """Note that the modality let go of its association."""
    for transfer in case.transfers:
        if transfer.state in OPEN:
            transfer.released_s = desk.now()
            rearm_outgoing(desk, transfer)


def recall(desk: Desk, case: CaseRow, partner: str) -> None:
    """Take everything of a case back from a partner."""
    for transfer in case.transfers:
        if transfer.partner == partner:
            transfer.state = sender.fire(transfer.state, SenderEvent.RECALLED)
            cancel(transfer)
            transfer.finished_s = desk.now()
            desk.note("recalled", transfer)
            add_note(desk, transfer, MessageKind.RECALL)
            rearm_outgoing(desk, transfer)


def send_after_restore(desk: Desk, transfer: Outgoing, doubt: Doubt | None) -> None:
    """Offer a partner that was restored from a backup what it may have lost, cheaply: its receipts name the rest."""
    match doubt:
        case Doubt.MANIFEST:
            transfer.state = sender.fire(transfer.state, SenderEvent.ORDERED_AGAIN)
            transfer.rounds, transfer.patience_from_s, transfer.finished_s = 0, desk.now(), None
            kind = MessageKind.MANIFEST
        case Doubt.RECALL:
            kind = MessageKind.RECALL
        case None:
            return
    plan_again(desk, transfer, [r for r in transfer.messages if r.kind is kind and r.state is MessageState.FILED])
    desk.note("offered after a restore", transfer, by=kind.value)
    rearm_outgoing(desk, transfer)


def order_again(desk: Desk, transfer: Outgoing) -> None:
    """Send everything that no receipt names once more, by a person's order."""
    if (transfer.state, SenderEvent.ORDERED_AGAIN) not in sender.TRANSITIONS:
        return
    transfer.state = sender.fire(transfer.state, SenderEvent.ORDERED_AGAIN)
    transfer.rounds, transfer.patience_from_s, transfer.finished_s = 0, desk.now(), None
    states = frozenset({MessageState.ACCEPTED, MessageState.REFUSED})
    send_again(desk, transfer, states=states)
    desk.note("ordered again", transfer)
    rearm_outgoing(desk, transfer)
