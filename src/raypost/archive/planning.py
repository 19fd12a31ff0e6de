"""Which messages a transfer still has to send: planned once, planned again, given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from raypost.archive import contacts, relays
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import MessageRow, RestoreRow, TransferRow
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import failover, hello, pacing
from raypost.transfer.notes import NOTES, Note, NoteLimits, note_due_s

LOOK_AGAIN = timedelta(seconds=2)
"""A planned message that no job packed after so long is asked for again by the sweep."""
BULK = (MessageKind.PARCEL.value, MessageKind.MANIFEST.value)
NOTE_WORDS = tuple(sorted(kind.value for kind in NOTES))
IN_HAND = ("planned", "queued", "sending")
CANCELLED = "given up, as the transfer was"
REFUSED_BY = "refused_by"
"""In a message's body: which relays refused it for good."""
OUT = sa.and_(MessageRow.direction == "out", MessageRow.copy == 0)
"""The messages themselves, without their copies for other relays."""
UNHEARD_FROM = sa.func.greatest(MessageRow.accepted_at, MessageRow.unseen_at)
"""Since when nothing was heard of a message that the relay took: one that was seen and is not any more begins anew."""


def add_message(
    tx: Transaction,
    transfer: TransferRow,
    kind: MessageKind,
    number: int,
    now: datetime,
    body: dict[str, Any] | None = None,
    *,
    by_all: bool = False,
    is_read_first: bool = False,
) -> int:
    """Plan an outgoing message once; return its number in the table, or of the one that was there.

    What an emergency waits for is planned once more for each further relay of the partner.

    Args:
        is_read_first: A parcel with something of what makes the study readable.
    """
    priority = Priority(transfer.priority)
    by_relays: list[str] = []
    if by_all or failover.goes_by_all(kind, number, priority):
        by_relays = [one.name for one in failover.in_order(relays.of_partner(tx, transfer.partner_id))]
    values = [
        {
            "transfer_id": transfer.id,
            "partner_id": transfer.partner_id,
            "direction": "out",
            "kind": kind.value,
            "number": number,
            "copy": copy,
            "relay": by_relays[copy] if by_relays else "",
            "state": "planned",
            "planned_at": now,
            "body": body,
            "priority_rank": pacing.message_rank(kind, priority, is_read_first=is_read_first),
        }
        for copy in range(max(1, len(by_relays)))
    ]
    tx.execute(insert(MessageRow).on_conflict_do_nothing(), values)
    return tx.scalars(
        sa.select(MessageRow.id).where(
            MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind == kind.value, MessageRow.number == number
        )
    ).one()


def add_note(
    tx: Transaction, transfer: TransferRow, kind: MessageKind, now: datetime, body: dict[str, Any] | None = None
) -> int | None:
    """Plan the next small message of its kind; return its number, None when the partner would not understand it."""
    if not hello.may_send(kind, contacts.kinds_known(tx, transfer.partner_id)):
        return None
    number = next_number(tx, transfer, kind)
    add_message(tx, transfer, kind, number, now, body)
    wake_pack(tx, transfer)
    return number


def next_number(tx: Transaction, transfer: TransferRow, kind: MessageKind) -> int:
    """Return the number after the highest that was ever given, also before a restore from a backup."""
    last = tx.scalar(
        sa.select(sa.func.max(MessageRow.number)).where(
            MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind == kind.value
        )
    )
    restores = tx.scalar(sa.select(sa.func.count()).select_from(RestoreRow)) or 0
    return max(int(last or 0), restores * hello.NUMBERS_A_RESTORE) + 1


def wake_pack(tx: Transaction, transfer: TransferRow) -> None:
    """Queue the packing of a transfer's messages."""
    rank = Priority(transfer.priority).rank
    enqueue(tx, "pack", once=f"pack:{transfer.id}", unless_running=True, rank=rank, transfer_id=transfer.id)


def send_again(
    tx: Transaction,
    transfer: TransferRow,
    now: datetime,
    *,
    numbers: frozenset[int] | None = None,
    states: tuple[str, ...] = ("accepted",),
    kinds: tuple[str, ...] = BULK,
) -> int:
    """Plan parcels and manifest once more; return how many.

    All in these states, but what the partner saw, or only the parcels with these numbers; by another relay than before,
    where there is one. What relays refused for good, what was given up with the transfer, and what the partner saw only
    goes again with `states` that name "refused".
    """
    is_ordered = "refused" in states
    chosen = [MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind.in_(kinds)]
    is_cancelled = sa.and_(MessageRow.state == "replaced", MessageRow.said == CANCELLED)
    in_states = MessageRow.state.in_(states)
    chosen.append(sa.or_(in_states, is_cancelled) if is_ordered else in_states)
    if numbers is not None:
        chosen += [MessageRow.kind == MessageKind.PARCEL.value, MessageRow.number.in_(numbers)]
    elif not is_ordered:
        chosen.append(~MessageRow.is_seen)
    return plan_again(tx, transfer, chosen, now, forgets_refusals=is_ordered)


def repeat_manifest(tx: Transaction, transfer: TransferRow, now: datetime) -> int:
    """Plan the manifest once more, with its copies: its answer names what is missing; return how many, 0 or 1."""
    chosen = [MessageRow.transfer_id == transfer.id, MessageRow.direction == "out"]
    chosen += [MessageRow.kind == MessageKind.MANIFEST.value, MessageRow.state == "accepted"]
    return plan_again(tx, transfer, chosen, now)


def repeat_notes(tx: Transaction, transfer: TransferRow, limits: NoteLimits, now: datetime) -> int:
    """Plan small messages once more whose time has come, with their copies; return how many."""
    due = []
    for row in _unheard_notes(tx, transfer):
        at_s = note_due_s(_note(row, transfer), transfer.transfer_key, limits)
        if at_s is not None and at_s <= now.timestamp():
            due.append((row.kind, row.number))
    if not due:
        return 0
    same = sa.tuple_(MessageRow.kind, MessageRow.number).in_(due)
    chosen = [MessageRow.transfer_id == transfer.id, MessageRow.direction == "out", same]
    return plan_again(tx, transfer, [*chosen, MessageRow.state == "accepted"], now)


def unheard_notes(tx: Transaction, transfer: TransferRow) -> tuple[Note, ...]:
    """Return the small messages that the relay took and that the other side did not hear."""
    return tuple(_note(row, transfer) for row in _unheard_notes(tx, transfer))


def _unheard_notes(tx: Transaction, transfer: TransferRow) -> list[MessageRow]:
    return list(
        tx.scalars(
            sa.select(MessageRow).where(
                MessageRow.transfer_id == transfer.id,
                OUT,
                MessageRow.state == "accepted",
                MessageRow.kind.in_(NOTE_WORDS),
            )
        )
    )


def _note(row: MessageRow, transfer: TransferRow) -> Note:
    accepted_at = row.accepted_at or row.planned_at
    return Note(accepted_at.timestamp(), row.attempt, Priority(transfer.priority))


def move_unheard(tx: Transaction, transfer: TransferRow, now: datetime) -> set[str]:
    """Plan what a relay took and nobody speaks of once more, for another relay; return which relays that were.

    What went by all relays at once has nowhere else to go.
    """
    chosen = [MessageRow.transfer_id == transfer.id, OUT, MessageRow.state == "accepted", MessageRow.kind.in_(BULK)]
    chosen += [~MessageRow.is_seen, ~went_by_all()]
    names = set(tx.scalars(sa.select(MessageRow.relay).where(*chosen).distinct()))
    plan_again(tx, transfer, chosen, now)
    return names - {""}


def went_by_all() -> sa.ColumnElement[bool]:
    """Say of a message whether copies of it went by other relays at the same time."""
    copy = aliased(MessageRow)
    return sa.exists().where(
        copy.transfer_id == MessageRow.transfer_id,
        copy.direction == "out",
        copy.kind == MessageRow.kind,
        copy.number == MessageRow.number,
        copy.copy > 0,
        copy.accepted_at >= MessageRow.planned_at,  # not by an earlier attempt
    )


def plan_again(
    tx: Transaction,
    transfer: TransferRow,
    chosen: list[sa.ColumnElement[bool]],
    now: datetime,
    *,
    keeps_tries: bool = False,
    forgets_refusals: bool = False,
) -> int:
    """Plan outgoing messages once more; return how many, copies not counted. The transfer's row must be locked.

    Args:
        keeps_tries: They only change the relay: tries in vain go on being counted.
        forgets_refusals: Relays that refused them are asked again.
    """
    values: dict[str, Any] = {
        "state": "planned",
        "attempt": MessageRow.attempt + 1,
        "due": None,
        "message_file": "",
        "planned_at": now,
        "is_seen": False,
        "unseen_at": None,
    }
    if not keeps_tries:
        values["tries"] = 0
    if forgets_refusals:
        is_object = sa.func.jsonb_typeof(MessageRow.body) == "object"  # it may be JSON's null
        without = MessageRow.body.op("-")(sa.cast(REFUSED_BY, sa.Text))
        values["body"] = sa.case((is_object, without), else_=MessageRow.body)
    rows = tx.execute(
        sa.update(MessageRow)
        .where(*chosen)
        .values(values)
        .returning(MessageRow.copy)
        .execution_options(synchronize_session="fetch")
    ).all()
    if rows:
        wake_pack(tx, transfer)
    return sum(row.copy == 0 for row in rows)


def cancel(tx: Transaction, transfer: TransferRow, kinds: tuple[str, ...] = BULK) -> list[str]:
    """Give up what was not sent yet, after a recall or when another centre gets the study.

    Returns:
        Names of sealed files in the spool, to be discarded after the commit.
    """
    chosen = sa.and_(
        MessageRow.transfer_id == transfer.id,
        MessageRow.direction == "out",
        MessageRow.kind.in_(kinds),
        MessageRow.state.in_(("planned", "queued", "accepted")),
    )
    files = tx.scalars(sa.select(MessageRow.message_file).where(chosen, MessageRow.message_file != "")).all()
    tx.execute(sa.update(MessageRow).where(chosen).values(state="replaced", due=None, message_file="", said=CANCELLED))
    return list(files)


def parcels_filed_here(tx: Transaction, transfer_id: int) -> int:
    """Count the parcels of an incoming transfer whose instances are in the archive."""
    query = sa.select(sa.func.count()).where(
        MessageRow.transfer_id == transfer_id,
        MessageRow.direction == "in",
        MessageRow.kind == "parcel",
        MessageRow.state == "filed",
    )
    return int(tx.scalar(query) or 0)
