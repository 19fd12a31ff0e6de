"""Which messages a transfer still has to send, at either side; as `archive/planning.py` keeps them in a table."""

from __future__ import annotations

from collections.abc import Iterable

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.rows import Incoming, MessageRow, Outgoing
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import failover, hello, pacing
from raypost.transfer.failover import RelayState
from raypost.transfer.notes import Note, note_due_s


def next_number(desk: Desk, transfer: Outgoing | Incoming, kind: MessageKind) -> int:
    """Return the number after the highest that was ever given, also before a restore from a backup."""
    last = max((row.number for row in transfer.messages if row.kind is kind), default=0)
    if kind is MessageKind.RECEIPT and isinstance(transfer, Incoming):
        last = transfer.receipts  # a receipt that the relay took is of no interest any more, and has no row
    return max(last, desk.ledger.restores * hello.NUMBERS_A_RESTORE) + 1


def add_message(
    desk: Desk,
    transfer: Outgoing | Incoming,
    kind: MessageKind,
    number: int,
    *,
    by_all: bool = False,
    reading_rank: int = 0,
    **words: object,
) -> MessageRow:
    """Plan an outgoing message; what an emergency waits for once for each relay of the partner."""
    by_relays = [""]
    if by_all or failover.goes_by_all(kind, number, transfer.priority):
        by_relays = [one.name for one in failover.in_order(desk.relays_of(transfer.partner))]
    rank, now_s = pacing.message_rank(kind, transfer.priority, is_read_first=reading_rank == 0), desk.now()
    rows = [
        MessageRow(transfer, transfer.partner, kind, number, copy, rank, now_s, relay, **words)  # type: ignore[arg-type]
        for copy, relay in enumerate(by_relays)
    ]
    rows[0].is_by_all = len(rows) > 1
    transfer.messages += rows
    if isinstance(transfer, Outgoing):
        transfer.live += rows
        transfer.parcels += kind is MessageKind.PARCEL
        transfer.has_manifest = transfer.has_manifest or kind is MessageKind.MANIFEST
    return rows[0]


def add_note(desk: Desk, transfer: Outgoing | Incoming, kind: MessageKind, **body: object) -> None:
    """Plan the next small message of its kind."""
    add_message(desk, transfer, kind, next_number(desk, transfer, kind), body=body)
    desk.wake_pack(transfer)


def plan_again(desk: Desk, transfer: Outgoing | Incoming, rows: Iterable[MessageRow]) -> int:
    """Plan messages once more; return how many."""
    count = 0
    rows = list(rows)
    copied = {(row.kind, row.number) for row in rows if row.copy}
    for row in rows:
        row.is_by_all = row.is_by_all and (row.kind, row.number) in copied
        if isinstance(transfer, Outgoing) and row not in transfer.live:
            transfer.live.append(row)
        row.state, row.attempt, row.tries = MessageState.PLANNED, row.attempt + 1, 0
        row.due_s, row.planned_s, row.is_seen = None, desk.now(), False
        count += row.copy == 0
    if count:
        desk.wake_pack(transfer)
    return count


def send_again(
    desk: Desk,
    transfer: Outgoing,
    *,
    numbers: frozenset[int] | None = None,
    states: frozenset[MessageState] = frozenset({MessageState.ACCEPTED}),
) -> int:
    """Plan parcels and manifest once more: all in these states, or only the parcels with these numbers."""
    return plan_again(
        desk,
        transfer,
        [
            row
            for row in transfer.messages
            if row.copy == 0
            and row.is_bulk
            and row.state in states
            and not (numbers is None and row.is_seen)
            and (numbers is None or (row.kind is MessageKind.PARCEL and row.number in numbers))
        ],
    )


def repeat_notes(desk: Desk, transfer: Outgoing | Incoming) -> int:
    """Plan small messages once more whose time has come, with their copies."""
    limits, now_s = desk.times.limits.sender.notes, desk.now()
    due = set()
    for row in transfer.messages:
        if row.copy == 0 and row.is_note and row.state is MessageState.ACCEPTED:
            at_s = note_due_s(note_of(row), transfer.transfer_key, limits)
            if at_s is not None and at_s <= now_s:
                due.add((row.kind, row.number))
    return plan_again(
        desk,
        transfer,
        [r for r in transfer.messages if (r.kind, r.number) in due and r.state is MessageState.ACCEPTED],
    )


def unheard_notes(transfer: Outgoing | Incoming) -> tuple[Note, ...]:
    """Return the small messages that the relay took and that the other side did not hear."""
    return tuple(
        note_of(row)
        for row in transfer.messages
        if row.copy == 0 and row.state is MessageState.ACCEPTED and row.is_note
    )


def note_of(row: MessageRow) -> Note:
    """Return a small message as the pure functions see it."""
    transfer = row.transfer
    priority = transfer.priority if transfer is not None else Priority.ROUTINE
    return Note(row.accepted_s if row.accepted_s is not None else row.planned_s, row.attempt, priority)


def move_unheard(desk: Desk, transfer: Outgoing, *, only_by_suspects: bool) -> set[str]:
    """Plan what the relay took and nobody confirmed once more, for another relay; return the relays it went by.

    Args:
        only_by_suspects: Of this only what went by a relay before that became suspect.
    """
    rows = [
        row
        for row in transfer.messages
        if row.copy == 0
        and row.is_bulk
        and not row.is_seen
        and not row.is_by_all
        and (
            row.state is MessageState.ACCEPTED
            or (row.state is MessageState.SENDING and should_be_sent_s(desk, row) < desk.now())
        )
        and (not only_by_suspects or went_by_suspect(desk, row))
    ]
    names = {row.relay for row in rows}
    plan_again(desk, transfer, rows)
    return names


def should_be_sent_s(desk: Desk, row: MessageRow) -> float:
    """Return when a message that is being sent should be through."""
    rate = desk.ledger.relays[row.relay].rate_bytes_per_s
    return pacing.sent_by_s(row.sending_s or row.planned_s, row.size_bytes, rate)


def went_by_suspect(desk: Desk, row: MessageRow) -> bool:
    """Say whether a message went by a relay before that became suspect.

    What goes by a suspect for want of a better one waits like any other, or it would be sent back and forth.
    """
    facts = desk.ledger.relays[row.relay].facts
    went_s = row.accepted_s if row.state is MessageState.ACCEPTED else row.sending_s
    return facts.state is RelayState.SUSPECT and went_s is not None and went_s < facts.changed_s


def leave_relay(desk: Desk, relay: str) -> None:
    """Plan what is sealed for a relay that is away once more, for another one that the partner has."""
    transfers: list[Outgoing | Incoming] = [*desk.ledger.outgoing.values(), *desk.ledger.incoming.values()]
    for transfer in transfers:
        rows = [
            row
            for row in transfer.messages
            if row.relay == relay
            and row.copy == 0
            and (
                row.state is MessageState.QUEUED
                or (row.state is MessageState.SENDING and should_be_sent_s(desk, row) < desk.now())
            )
        ]
        if rows and failover.choose(desk.relays_of(transfer.partner), avoid=relay) not in (None, relay):
            plan_again(desk, transfer, rows)


def cancel(transfer: Outgoing) -> None:
    """Give up what was not sent yet, after a recall or when another centre gets the study."""
    for row in transfer.messages:
        is_pointless = row.is_bulk or row.kind is MessageKind.ANNOUNCE
        if is_pointless and (row.is_in_hand or row.state is MessageState.ACCEPTED):
            row.state = MessageState.REPLACED
    transfer.shed()
    transfer.waiting.clear()


def next_planned(transfer: Outgoing | Incoming) -> MessageRow | None:
    """Return the next message to pack, small ones first; the manifest comes after the last parcel is planned."""
    best: MessageRow | None = None
    best_order: tuple[int, int, int] | None = None
    for row in transfer.live if isinstance(transfer, Outgoing) else transfer.messages:
        if row.state is not MessageState.PLANNED:
            continue
        bulk = 0 if not row.is_bulk else 1 if row.kind is MessageKind.PARCEL else 2
        if bulk == 2 and isinstance(transfer, Outgoing) and transfer.waiting:
            continue
        order = (bulk, row.number, row.copy)
        if best_order is None or order < best_order:
            best, best_order = row, order
    return best


def relay_for(desk: Desk, row: MessageRow) -> str | None:
    """Return the relay by which a planned message goes."""
    known = desk.relays_of(row.partner)
    if row.kind is MessageKind.HELLO:  # by all relays in turn: one that swallows is found before a patient needs it
        return failover.choose(known, turn=row.number, is_late=True)
    is_away = any(one.name == row.relay and one.state is RelayState.AWAY for one in known)
    if row.relay and (row.copy or (row.is_by_all and not is_away)):
        return row.relay
    answers = row.transfer.came_by if row.kind is MessageKind.RECEIPT and isinstance(row.transfer, Incoming) else ""
    return failover.choose(known, avoid=row.relay, turn=row.number, prefer=answers)
