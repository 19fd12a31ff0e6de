"""What an outgoing transfer waits for: rows in, a step of the sender's machine, rows out; as `archive/rearm.py`."""

from __future__ import annotations

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.planned import (
    add_message,
    cancel,
    move_unheard,
    next_number,
    note_of,
    plan_again,
    repeat_notes,
    send_again,
    should_be_sent_s,
    went_by_suspect,
)
from raypost.lab.simulator.rows import CaseRow, Outgoing
from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer import sender
from raypost.transfer.failover import RelayState
from raypost.transfer.notes import Note
from raypost.transfer.sender import SenderEvent, SenderFacts


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
            notes.append(note_of(row))
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
    if desk.was_set_back:
        transfer.heal(now_s)
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
