"""The books of outgoing transfers, as `archive/planning.py` and `archive/rearm.py` keep them in tables."""

from __future__ import annotations

from collections.abc import Iterable

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.rows import CaseRow, Incoming, MessageRow, Outgoing, WaitingRow
from raypost.model.manifest import ManifestEntry
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import failover, hello, pacing, sender
from raypost.transfer.failover import RelayState
from raypost.transfer.notes import Note, note_due_s
from raypost.transfer.pacing import Waiting
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderState

ENTRY_OVERHEAD_BYTES = 500


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
    rank, now_s = pacing.message_rank(kind, transfer.priority, reading_rank), desk.now()
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
            at_s = note_due_s(_note(row), transfer.transfer_key, limits)
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
        _note(row) for row in transfer.messages if row.copy == 0 and row.state is MessageState.ACCEPTED and row.is_note
    )


def _note(row: MessageRow) -> Note:
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

    What goes by a suspect for want of a better one waits like any other, or it would be sent to and fro.
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


def take_apart(desk: Desk, transfer: Outgoing, row: MessageRow) -> None:
    """Take a parcel apart that a relay found too large: its instances go in smaller ones."""
    relay = desk.ledger.relays[row.relay]
    kept, rest = pacing.cut_smaller(row.entries, payload_size_max(relay.mail_size_max_bytes))
    waiting = {one.item.sha256: one for one in transfer.waiting}
    for again in rest:
        sha256 = again.instance.sha256
        if sha256 in waiting:
            waiting[sha256].packed_bytes = min(waiting[sha256].packed_bytes, again.offset_bytes)
        else:
            rank = transfer.ranks[sha256]
            transfer.waiting.append(WaitingRow(again.instance, rank, 0, desk.now(), again.offset_bytes))
    transfer.waiting.sort(key=_reading_order)
    row.entries = tuple(kept)
    plan_again(desk, transfer, [row])


def cancel(transfer: Outgoing) -> None:
    """Give up what was not sent yet, after a recall or when another centre gets the study."""
    for row in transfer.messages:
        is_pointless = row.is_bulk or row.kind is MessageKind.ANNOUNCE
        if is_pointless and (row.is_in_hand or row.state is MessageState.ACCEPTED):
            row.state = MessageState.REPLACED
    transfer.shed()
    transfer.waiting.clear()


def plan_parcels(desk: Desk, transfer: Outgoing) -> None:
    """Put waiting instances into parcels as far as the pace allows."""
    limits, now_s = desk.times.pacing, desk.now()
    if not transfer.waiting:
        return
    relay = failover.choose(desk.relays_of(transfer.partner))
    row = desk.ledger.relays.get(relay or "")
    path_bytes_per_s = desk.ledger.contacts[transfer.partner].path_bytes_per_s
    payload_max_bytes = payload_size_max(row.mail_size_max_bytes if row else None)
    for _ in range(limits.in_hand_max):
        if not transfer.waiting:
            return
        waiting = transfer.waiting
        in_hand = under_way_bytes = 0
        before = transfer.parcels
        for one in transfer.live:
            if one.is_bulk and one.copy == 0:
                in_hand += one.is_in_hand
                is_recent = one.is_seen or now_s - (one.accepted_s or now_s) < limits.unheard_s
                if one.is_in_hand or (one.state is MessageState.ACCEPTED and is_recent):
                    under_way_bytes += one.size_bytes or sum(entry.length_bytes for entry in one.entries) * 11 // 8
        if in_hand >= limits.in_hand_max:
            return
        rates = [one for one in (row.rate_bytes_per_s if row else None, path_bytes_per_s) if one]
        size_max_bytes = pacing.parcel_size_max(
            before, limits, payload_max_bytes, min(rates, default=None), waiting[0].item.size_bytes
        )
        is_released = transfer.released_s is not None and transfer.released_s >= transfer.last_arrival_s
        if not pacing.parcel_goes_now(
            waiting_bytes=sum(item.item.size_bytes - item.packed_bytes for item in waiting),
            oldest_wait_s=now_s - min(item.added_s for item in waiting),
            parcels_before=before,
            in_hand=in_hand,
            is_closed=transfer.state is SenderState.CLOSED or is_released,
            size_max_bytes=size_max_bytes,
            limits=limits,
            under_way_bytes=under_way_bytes,
            path_bytes_per_s=path_bytes_per_s,
        ):
            return
        candidates = [Waiting(item.item, item.packed_bytes) for item in waiting[: limits.instances_max]]
        entries = tuple(pacing.fill_parcel(candidates, size_max_bytes, limits.instances_max))
        add_message(
            desk, transfer, MessageKind.PARCEL, before + 1, reading_rank=waiting[0].reading_rank, entries=entries
        )
        for item, entry in zip(waiting, entries, strict=False):
            item.packed_bytes = entry.offset_bytes + entry.length_bytes
        transfer.waiting = [item for item in waiting if item.packed_bytes < item.item.size_bytes]


def payload_size_max(mail_size_max_bytes: int | None) -> int:
    """Return how many bytes of instances fit into a mail; armour makes 66 bytes of 48."""
    return 1 << 40 if mail_size_max_bytes is None else max(1, (mail_size_max_bytes - 8_000) * 48 // 66)


def _reading_order(one: WaitingRow) -> tuple[bool, int, int]:
    return (one.packed_bytes == 0, one.reading_rank, one.serial)


def add_items(transfer: Outgoing, items: Iterable[tuple[ManifestEntry, int]], now_s: float) -> None:
    """Put instances into an outgoing transfer, each once."""
    for item, reading_rank in items:
        if item.sha256 not in transfer.items:
            transfer.waiting.append(WaitingRow(item, reading_rank, len(transfer.items), now_s))
            transfer.items[item.sha256] = item
            transfer.ranks[item.sha256] = reading_rank
    transfer.waiting.sort(key=_reading_order)
    transfer.last_arrival_s = now_s


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


def next_centre(desk: Desk, case: CaseRow, partner: str) -> str | None:
    """Return the centre that a case goes to when a partner is silent; None when every one was tried.

    What comes later of a case follows what came before: nobody reads half a study.
    """
    if partner in case.goes_to:
        return case.goes_to[partner]
    tried = {partner, *case.goes_to, *(one.partner for one in case.transfers)}
    return next((name for name in desk.ledger.contacts if name not in tried), None)


def sender_facts(desk: Desk, transfer: Outgoing) -> SenderFacts:
    """Count what the sender's machine wants to know."""
    in_hand = unconfirmed = seen = refused = 0
    unheard_since_s: float | None = None
    by_suspect = False
    went_by: set[str] = set()
    notes: list[Note] = []
    for row in transfer.live:
        if row.copy:
            continue
        state = row.state
        if row.is_bulk:
            if state is MessageState.ACCEPTED and row.is_seen:
                seen += 1
            elif state is MessageState.ACCEPTED:
                unconfirmed += 1
                accepted_s = row.accepted_s or 0.0
                if not row.is_by_all:  # that nothing is heard of it says nothing of one relay
                    unheard_since_s = accepted_s if unheard_since_s is None else min(unheard_since_s, accepted_s)
                    by_suspect = by_suspect or went_by_suspect(desk, row)
                    went_by.add(row.relay)
            elif row.is_in_hand:
                in_hand += 1
                if state is MessageState.SENDING and not row.is_by_all:
                    sent_by_s = should_be_sent_s(desk, row)
                    unheard_since_s = sent_by_s if unheard_since_s is None else min(unheard_since_s, sent_by_s)
                    by_suspect = by_suspect or (sent_by_s < desk.now() and went_by_suspect(desk, row))
                    went_by.add(row.relay)
            elif state is MessageState.REFUSED:
                refused += 1
        elif row.is_note and state is MessageState.ACCEPTED:
            notes.append(_note(row))
    contact = desk.ledger.contacts[transfer.partner]
    usable = [one for one in desk.relays_of(transfer.partner) if one.state is not RelayState.AWAY]
    case = desk.ledger.cases[transfer.study]
    may_go_elsewhere = transfer.reroute_after_s is not None and next_centre(desk, case, transfer.partner) is not None
    return SenderFacts(
        state=transfer.state,
        seed=transfer.transfer_key,
        priority=transfer.priority,
        last_arrival_s=transfer.last_arrival_s,
        released_s=transfer.released_s,
        items_waiting=len(transfer.waiting),
        in_hand=in_hand,
        unconfirmed=unconfirmed,
        refused=refused,
        parcels=transfer.parcels,
        has_manifest=transfer.has_manifest,
        rounds=transfer.rounds,
        patience_from_s=transfer.patience_from_s,
        progress_s=desk.now() if transfer.progress_s is None else transfer.progress_s,
        unheard_since_s=unheard_since_s,
        notes=tuple(notes),
        round_trip_s=contact.round_trip_s,
        relays_usable=len({one.name for one in usable} | went_by),
        switches=transfer.switches,
        switched_s=transfer.switched_s,
        is_told=transfer.told_s is not None,
        reroute_after_s=transfer.reroute_after_s if may_go_elsewhere else None,
        seen=seen,
        unheard_by_suspect=by_suspect and any(one.state is RelayState.WELL for one in usable),
    )


def rearm_outgoing(desk: Desk, transfer: Outgoing) -> None:
    """Decide what an outgoing transfer waits for; the end of every transaction about it."""
    now_s = desk.now()
    facts = sender_facts(desk, transfer)
    if not facts.is_outstanding:
        transfer.progress_s = None
    elif transfer.progress_s is None:
        transfer.progress_s = now_s
    step = sender.next_step(facts, desk.times.limits.sender, now_s)
    if step.event is not None:
        transfer.state = sender.fire(transfer.state, step.event)
        if step.event is not SenderEvent.REROUTED:
            desk.note(step.event.value, transfer)
        if step.event is SenderEvent.GAVE_UP:
            transfer.finished_s = now_s
    if step.write_manifest:
        add_message(desk, transfer, MessageKind.MANIFEST, next_number(desk, transfer, MessageKind.MANIFEST))
    if step.send_again:
        transfer.rounds += 1
        desk.note("sent again", transfer, messages=send_again(desk, transfer), round=transfer.rounds)
    if step.repeat_manifest:
        transfer.rounds += 1
        plan_again(desk, transfer, [row for row in transfer.messages if row.kind is MessageKind.MANIFEST])
        desk.note("manifest again", transfer, round=transfer.rounds)
    if step.repeat_notes:
        repeat_notes(desk, transfer)
    if step.switch_relay:
        left = move_unheard(desk, transfer, only_by_suspects=facts.unheard_by_suspect)
        desk.note("moved to another relay", transfer, left=",".join(sorted(left)))
        if not facts.unheard_by_suspect:
            transfer.switches, transfer.switched_s = transfer.switches + 1, now_s
            desk.suspect(left)
    if step.tell:
        transfer.told_s = now_s
        desk.note("told", transfer, why="nothing moves")
    if step.reroute:
        cancel(transfer)
        transfer.finished_s = now_s
    desk.arm(transfer, step.due_s)
    if step.reroute:
        desk.note("rerouted", transfer)
    if step.plan or step.write_manifest:
        desk.wake_pack(transfer)
