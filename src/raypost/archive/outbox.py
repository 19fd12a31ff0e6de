"""Sealed messages in the hands of those who submit them: claimed, accepted, put back, moved, refused, cut smaller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.planning import BULK, CANCELLED, REFUSED_BY, wake_pack
from raypost.archive.queue import enqueue
from raypost.archive.tables import MessageRow, ParcelEntryRow, RelayRow, TransferItemRow, TransferRow
from raypost.model.audit import EventKind
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind
from raypost.transfer import pacing
from raypost.transfer.failover import RelayState

ENDED = ("rerouted", "recalled")
"""Transfers in these states send no images any more."""


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A sealed message in somebody's hand for submission.

    Attributes:
        transfer_id: None for a sign of life.
        tries: How often it was offered in vain before.
        copy: 0 for the message itself; otherwise the same by another relay.
        refused_by: Relays that refused it for good.
    """

    message_row: int
    transfer_id: int | None
    kind: MessageKind
    number: int
    partner_site_id: int
    relay: str
    message_file: str
    size_bytes: int
    tries: int
    copy: int = 0
    refused_by: frozenset[str] = frozenset()

    @property
    def is_dispensable(self) -> bool:
        """Say whether nothing is missing when this mail is given up: a copy, or a sign of life."""
        return self.copy > 0 or self.transfer_id is None


def release_slot(tx: Transaction, slot: str) -> None:
    """Take back what a dead session of this slot had in hand; its holder holds the slot now."""
    mine = sa.and_(MessageRow.state == "sending", MessageRow.slot == slot)
    ended = sa.select(TransferRow.id).where(TransferRow.state.in_(ENDED), TransferRow.direction == "out")
    tx.execute(
        sa.update(MessageRow)
        .where(mine, MessageRow.kind.in_(BULK), MessageRow.transfer_id.in_(ended))
        .values(state="replaced", slot=None, due=None, message_file="", said=CANCELLED)
    )
    tx.execute(sa.update(MessageRow).where(mine).values(state="queued", slot=None))


def claim(tx: Transaction, relay: str, slot: str, now: datetime) -> QueuedMessage | None:
    """Take the most urgent message that is ready for a relay."""
    row = tx.scalar(
        sa.select(MessageRow)
        .where(*_ready(relay, now))
        .order_by(MessageRow.priority_rank.desc(), MessageRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
    if row is None:
        return None
    row.state, row.slot = "sending", slot
    return QueuedMessage(
        row.id,
        row.transfer_id,
        MessageKind(row.kind),
        row.number,
        row.partner_id,
        row.relay,
        row.message_file,
        row.size_bytes,
        row.tries,
        row.copy,
        frozenset((row.body or {}).get(REFUSED_BY, ())),
    )


def note_accepted(tx: Transaction, message: QueuedMessage, slot: str, now: datetime) -> bool:
    """Note that the relay took the mail; False when somebody else noted something about it meanwhile.

    A sign of life is done with that: nobody waits for an answer to it.
    """
    row = _mine(tx, message, slot)
    if row is None:
        return False
    row.state, row.slot, row.accepted_at, row.due, row.message_file = "accepted", None, now, None, ""
    if row.transfer_id is None:
        row.state = "filed"
    elif row.copy == 0 and row.kind in BULK:  # a repeated announcement must not put the manifest's turn off
        transfer = tx.get_one(TransferRow, row.transfer_id)
        transfer.patience_from = now
    return True


def note_deferred(tx: Transaction, message: QueuedMessage, slot: str, said: str, due: datetime) -> bool:
    """Put a message back for a later try; False when it is not wanted any more and its file can go."""
    row = _mine(tx, message, slot)
    if row is None:
        return False
    if _is_ended(tx, row):
        _give_up(row, CANCELLED)
        return False
    row.state, row.slot, row.tries, row.due, row.said = "queued", None, row.tries + 1, due, said[:500]
    return True


def note_moved(
    tx: Transaction,
    message: QueuedMessage,
    slot: str,
    said: str,
    now: datetime,
    *,
    pause_s: float = 0.0,
    is_refused: bool = False,
) -> None:
    """Have a message that this relay does not take packed for another one; its transfer's row must be locked.

    Args:
        pause_s: Not before so long.
        is_refused: The relay refused it for good and is not asked again.
    """
    row = _mine(tx, message, slot)
    if row is None or row.transfer_id is None:
        return
    if _is_ended(tx, row):
        _give_up(row, CANCELLED)
        return
    row.state, row.slot, row.message_file, row.planned_at = "planned", None, "", now
    row.attempt, row.tries, row.said = row.attempt + 1, row.tries + 1, said[:500]
    row.due = now + timedelta(seconds=pause_s) if pause_s > 0 else None
    if is_refused:
        row.body = {**(row.body or {}), REFUSED_BY: sorted({*message.refused_by, message.relay})}
    wake_pack(tx, tx.get_one(TransferRow, row.transfer_id))


def note_lost_file(tx: Transaction, message: QueuedMessage, slot: str, now: datetime) -> None:
    """Have a message packed once more because its sealed file is gone, as after a restore from a backup."""
    row = _mine(tx, message, slot)
    if row is None:
        return
    if row.transfer_id is None:
        _give_up(row, "")  # the next sign of life takes its place
        return
    row.state, row.slot, row.attempt, row.message_file, row.planned_at = "planned", None, row.attempt + 1, "", now
    row.due = None
    wake_pack(tx, tx.get_one(TransferRow, row.transfer_id))


def note_refused(tx: Transaction, message: QueuedMessage, slot: str, said: str) -> bool:
    """Note that a message is refused for good; False when somebody else noted something about it meanwhile."""
    row = _mine(tx, message, slot)
    if row is None:
        return False
    row.state, row.slot, row.due, row.said, row.message_file = "refused", None, None, said[:500], ""
    return True


def drop(tx: Transaction, message: QueuedMessage, slot: str, said: str) -> None:
    """Give up a copy or a sign of life that the relay does not take: nobody misses it."""
    row = _mine(tx, message, slot)
    if row is not None:
        _give_up(row, said)


def note_too_large(
    tx: Transaction, message: QueuedMessage, slot: str, now: datetime, payload_max_bytes: int | None
) -> bool:
    """Cut a parcel smaller; False for what cannot be made smaller.

    Args:
        payload_max_bytes: What a parcel may hold; None: nothing at all. One that holds no more than that would come
            back the same, again and again.
    """
    row = _mine(tx, message, slot)
    if row is None:
        return True
    if message.kind is not MessageKind.PARCEL or row.transfer_id is None or message.copy:
        return False
    transfer = tx.get_one(TransferRow, row.transfer_id)
    if payload_max_bytes is None or not cut_smaller(tx, transfer, row, payload_max_bytes, now):
        return False
    events.record(
        tx, now, EventKind.SENDING_DEFERRED, transfer=transfer, number=row.number, relay=row.relay, why="too large"
    )
    return True


def cut_smaller(tx: Transaction, transfer: TransferRow, parcel: MessageRow, size_max_bytes: int, now: datetime) -> bool:
    """Let a parcel keep what fits, and its number; the rest waits for other parcels. False when all of it fits already.

    Copies for other relays that are sealed already go as they are: they carry more, and the receiver files nothing
    twice.

    Args:
        size_max_bytes: Payload of the parcel from now on.
    """
    rows = tx.execute(
        sa.select(ParcelEntryRow, TransferItemRow)
        .join(TransferItemRow, TransferItemRow.id == ParcelEntryRow.item_id)
        .where(ParcelEntryRow.message_id == parcel.id)
        .order_by(ParcelEntryRow.id)
    ).all()
    if sum(entry.length_bytes for entry, _ in rows) <= size_max_bytes:
        return False
    entries = [
        ParcelEntry(
            ManifestEntry(item.sha256, item.size_bytes, item.sop_instance_uid), entry.offset_bytes, entry.length_bytes
        )
        for entry, item in rows
    ]
    kept, rest = pacing.cut_smaller(entries, size_max_bytes)
    lengths = {(one.instance.sha256, one.offset_bytes): one.length_bytes for one in kept}
    waits_from = {one.instance.sha256: one.offset_bytes for one in reversed(rest)}
    for entry, item in rows:
        if (item.sha256, entry.offset_bytes) in lengths:
            entry.length_bytes = lengths[item.sha256, entry.offset_bytes]
        else:
            tx.delete(entry)
        if item.sha256 in waits_from and item.state in ("waiting", "packed"):
            item.state, item.packed_bytes = "waiting", min(item.packed_bytes, waits_from[item.sha256])
    parcel.state, parcel.slot, parcel.due, parcel.message_file = "planned", None, None, ""
    parcel.attempt, parcel.planned_at, parcel.size_bytes = parcel.attempt + 1, now, 0
    tx.flush()
    wake_pack(tx, transfer)
    return True


def _mine(tx: Transaction, message: QueuedMessage, slot: str) -> MessageRow | None:
    """Return the message while this slot still holds it; its transfer's row must be locked."""
    row = tx.get(MessageRow, message.message_row, with_for_update={"key_share": True})
    return row if row is not None and row.state == "sending" and row.slot == slot else None


def _is_ended(tx: Transaction, row: MessageRow) -> bool:
    """Say whether the transfer was given up while its images were in somebody's hand."""
    if row.transfer_id is None or row.kind not in BULK:
        return False
    return tx.get_one(TransferRow, row.transfer_id).state in ENDED


def _give_up(row: MessageRow, said: str) -> None:
    row.state, row.slot, row.due, row.message_file, row.said = "replaced", None, None, "", said[:500]


def wake_dispatch(tx: Transaction, relay: str, slots: int) -> None:
    """Queue the sessions of a relay."""
    for slot in range(slots):
        lock = f"dispatch:{relay}:{slot}"
        enqueue(tx, "dispatch", once=lock, unless_running=True, rank=100, relay=relay, slot=slot)


def due_relays(tx: Transaction, now: datetime) -> list[str]:
    """Return relays that have messages whose time has come; those that are away are tried for their own sake."""
    is_away = sa.exists().where(RelayRow.name == MessageRow.relay, RelayRow.state == RelayState.AWAY.value)
    return list(
        tx.scalars(
            sa.select(MessageRow.relay)
            .where(MessageRow.state.in_(("queued", "sending")), MessageRow.due <= now, ~is_away)
            .distinct()
        )
    )


def has_ready(tx: Transaction, relay: str, now: datetime) -> bool:
    """Say whether a relay has a message that could go now."""
    return tx.scalar(sa.select(MessageRow.id).where(*_ready(relay, now)).limit(1)) is not None


def is_sending(tx: Transaction, relay: str, slot: str) -> bool:
    """Say whether another session of a relay than this one has a message in hand."""
    others = [MessageRow.state == "sending", MessageRow.relay == relay, MessageRow.slot != slot]
    return tx.scalar(sa.select(MessageRow.id).where(*others).limit(1)) is not None


def _ready(relay: str, now: datetime) -> list[sa.ColumnElement[bool]]:
    is_time = sa.or_(MessageRow.tries == 0, MessageRow.due.is_(None), MessageRow.due <= now)
    return [MessageRow.state == "queued", MessageRow.relay == relay, is_time]


def transfer_of_message_id(tx: Transaction, message_id: str) -> tuple[int | None, int] | None:
    """Return (transfer, message row) of a mail that bounced."""
    if not message_id:
        return None
    row = tx.execute(
        sa.select(MessageRow.transfer_id, MessageRow.id).where(MessageRow.message_id == message_id)
    ).first()
    return (row[0], row[1]) if row else None
