"""Outgoing messages as rows, planned to filed; what each one says is composed from the tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import CaseRow, MessageRow, ParcelEntryRow, TransferItemRow, TransferRow
from raypost.archive.transfers import add_message, wake_pack
from raypost.model.audit import EventKind
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import pacing
from raypost.transfer.control import Head, Manifest, Message, Parcel, Receipt
from raypost.transfer.pacing import PacingLimits, Waiting

LOOK_AGAIN = timedelta(seconds=2)
"""A sealed message that no session took after so long is offered again by the sweep."""

PLAN_ITEMS_MAX = 600
"""So many waiting instances are looked at for one parcel; more than fit into any."""


@dataclass(frozen=True, slots=True)
class PlannedMessage:
    """A message to be packed. `attempt` guards against packing an older one than was asked for."""

    message_row: int
    transfer_id: int
    kind: MessageKind
    number: int
    attempt: int


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A sealed message in somebody's hand for submission."""

    message_row: int
    transfer_id: int
    kind: MessageKind
    number: int
    partner_site_id: int
    relay: str
    message_file: str
    size_bytes: int
    tries: int


def plan_parcels(
    tx: Transaction, transfer: TransferRow, limits: PacingLimits, payload_max_bytes: int, now: datetime
) -> int:
    """Put waiting instances into parcels as far as the pace allows; return how many parcels were planned."""
    planned = 0
    while planned < limits.in_hand_max:
        rows = tx.scalars(
            sa.select(TransferItemRow)
            .where(TransferItemRow.transfer_id == transfer.id, TransferItemRow.state == "waiting")
            .order_by(TransferItemRow.packed_bytes.desc(), TransferItemRow.id)
            .limit(PLAN_ITEMS_MAX)
        ).all()
        if not rows:
            break
        before, in_hand = _parcel_counts(tx, transfer.id)
        size_max_bytes = pacing.parcel_size_max(before, limits, payload_max_bytes)
        waiting = [
            Waiting(ManifestEntry(row.sha256, row.size_bytes, row.sop_instance_uid), row.packed_bytes) for row in rows
        ]
        if not pacing.parcel_goes_now(
            waiting_bytes=sum(one.rest_bytes for one in waiting),
            parcels_before=before,
            in_hand=in_hand,
            oldest_wait_s=(now - min(row.added_at for row in rows)).total_seconds(),
            size_max_bytes=size_max_bytes,
            is_closed=transfer.state != "streaming" or _is_released(tx, transfer),
            limits=limits,
        ):
            break
        entries = pacing.fill_parcel(waiting, size_max_bytes, limits.instances_max)
        message_row = add_message(tx, transfer, MessageKind.PARCEL, before + 1, now)
        by_hash = {row.sha256: row for row in rows}
        for entry in entries:
            item = by_hash[entry.instance.sha256]
            item.packed_bytes = entry.offset_bytes + entry.length_bytes
            if item.packed_bytes == item.size_bytes:
                item.state = "packed"
            tx.add(
                ParcelEntryRow(
                    message_id=message_row,
                    item_id=item.id,
                    offset_bytes=entry.offset_bytes,
                    length_bytes=entry.length_bytes,
                )
            )
        tx.flush()
        planned += 1
    return planned


def _is_released(tx: Transaction, transfer: TransferRow) -> bool:
    """Say whether the modality let go after its last instance: then the rest need not wait for more."""
    case = tx.get(CaseRow, transfer.case_id)
    return case is not None and case.released_at is not None and case.released_at >= transfer.last_arrival_at


def _parcel_counts(tx: Transaction, transfer_id: int) -> tuple[int, int]:
    """Return (highest parcel number, messages in hand) of a transfer."""
    row = tx.execute(
        sa.select(
            sa.func.coalesce(sa.func.max(MessageRow.number).filter(MessageRow.kind == "parcel"), 0),
            sa.func.count().filter(MessageRow.state.in_(("planned", "queued", "sending"))),
        ).where(MessageRow.transfer_id == transfer_id, MessageRow.direction == "out")
    ).one()
    return int(row[0]), int(row[1])


def next_planned(tx: Transaction, transfer_id: int) -> PlannedMessage | None:
    """Return the next message to pack; the manifest comes after the last parcel is planned."""
    row = tx.scalar(
        sa.select(MessageRow)
        .where(
            MessageRow.transfer_id == transfer_id,
            MessageRow.direction == "out",
            MessageRow.state == "planned",
            sa.or_(MessageRow.kind != "manifest", ~_has_waiting(transfer_id)),
        )
        .order_by(
            sa.case((MessageRow.kind == "receipt", 0), (MessageRow.kind == "parcel", 1), else_=2), MessageRow.number
        )
        .limit(1)
    )
    if row is None:
        return None
    return PlannedMessage(row.id, row.transfer_id, MessageKind(row.kind), row.number, row.attempt)


def _has_waiting(transfer_id: int) -> sa.ColumnElement[bool]:
    return sa.exists().where(TransferItemRow.transfer_id == transfer_id, TransferItemRow.state == "waiting")


def compose(tx: Transaction, planned: PlannedMessage, *, sender: str, recipient: str, now: datetime) -> Message:
    """Say what a planned message says, from what is committed now.

    Args:
        sender: Fingerprint of this site.
        recipient: Fingerprint of the partner.
    """
    transfer = tx.get_one(TransferRow, planned.transfer_id)
    head = Head(
        transfer.transfer_key,
        planned.kind,
        planned.number,
        sender,
        recipient,
        Priority(transfer.priority),
        transfer.is_test,
        now,
    )
    match planned.kind:
        case MessageKind.PARCEL:
            entries = tuple(
                ParcelEntry(
                    ManifestEntry(item.sha256, item.size_bytes, item.sop_instance_uid),
                    row.offset_bytes,
                    row.length_bytes,
                )
                for row, item in tx.execute(
                    sa.select(ParcelEntryRow, TransferItemRow)
                    .join(TransferItemRow, TransferItemRow.id == ParcelEntryRow.item_id)
                    .where(ParcelEntryRow.message_id == planned.message_row)
                    .order_by(ParcelEntryRow.id)
                )
            )
            return Parcel(head, transfer.study_instance_uid, transfer.supplement, entries)
        case MessageKind.MANIFEST:
            items = tx.scalars(
                sa.select(TransferItemRow)
                .where(TransferItemRow.transfer_id == transfer.id)
                .order_by(TransferItemRow.id)
            ).all()
            listed = tuple(ManifestEntry(item.sha256, item.size_bytes, item.sop_instance_uid) for item in items)
            return Manifest(
                head, transfer.study_instance_uid, transfer.supplement, _parcel_counts(tx, transfer.id)[0], listed
            )
        case MessageKind.RECEIPT:
            return _receipt(tx, transfer, head)


def _receipt(tx: Transaction, transfer: TransferRow, head: Head) -> Receipt:
    parcels = {
        row.number: row.state
        for row in tx.execute(
            sa.select(MessageRow.number, MessageRow.state).where(
                MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.kind == "parcel"
            )
        )
    }
    by_state: dict[str, set[str]] = {"filed": set(), "refused": set()}
    for sha256, state in tx.execute(
        sa.select(TransferItemRow.sha256, TransferItemRow.state).where(
            TransferItemRow.transfer_id == transfer.id, TransferItemRow.state.in_(("filed", "refused"))
        )
    ):
        by_state[state].add(sha256)
    is_final = transfer.state == "complete"
    last = max([transfer.manifest_parcels or 0, *parcels])
    asks = not is_final and transfer.reminders > 0  # only after a quiet spell: what is late may still be on its way
    return Receipt(
        head,
        parcels_filed=frozenset(number for number, state in parcels.items() if state == "filed"),
        parcels_missing=frozenset(range(1, last + 1)) - set(parcels) if asks else frozenset(),
        instances_filed=len(by_state["filed"]),
        filed=frozenset(by_state["filed"]) if is_final else frozenset(),
        refused=frozenset(by_state["refused"]),
        is_final=is_final,
    )


def note_queued(
    tx: Transaction,
    planned: PlannedMessage,
    *,
    relay: str,
    message_file: str,
    message_id: str,
    size_bytes: int,
    now: datetime,
) -> bool:
    """Note that a message is packed and sealed; False when it was planned anew or sent meanwhile."""
    found = tx.execute(
        sa.update(MessageRow)
        .where(
            MessageRow.id == planned.message_row, MessageRow.state == "planned", MessageRow.attempt == planned.attempt
        )
        .values(
            state="queued",
            relay=relay,
            message_file=message_file,
            message_id=message_id,
            size_bytes=size_bytes,
            queued_at=now,
            due=now + LOOK_AGAIN,
        )
        .returning(MessageRow.id)
    ).first()
    return found is not None


def note_unsealable(tx: Transaction, planned: PlannedMessage, said: str) -> None:
    """Note that a message cannot be sealed for its recipient."""
    tx.execute(
        sa.update(MessageRow)
        .where(MessageRow.id == planned.message_row, MessageRow.state == "planned")
        .values(state="refused", said=said[:500], due=None)
    )


def release_slot(tx: Transaction, slot: str) -> None:
    """Take back what a dead session of this slot had in hand; its holder holds the slot now."""
    tx.execute(
        sa.update(MessageRow)
        .where(MessageRow.state == "sending", MessageRow.slot == slot)
        .values(state="queued", slot=None)
    )


def claim(tx: Transaction, relay: str, slot: str, now: datetime) -> QueuedMessage | None:
    """Take the most urgent message that is ready for a relay."""
    row = tx.scalar(
        sa.select(MessageRow)
        .where(
            MessageRow.state == "queued",
            MessageRow.relay == relay,
            sa.or_(MessageRow.tries == 0, MessageRow.due.is_(None), MessageRow.due <= now),
        )
        .order_by(MessageRow.priority_rank.desc(), MessageRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
    if row is None:
        return None
    row.state, row.slot = "sending", slot
    partner_site_id = tx.scalars(sa.select(TransferRow.partner_id).where(TransferRow.id == row.transfer_id)).one()
    return QueuedMessage(
        row.id,
        row.transfer_id,
        MessageKind(row.kind),
        row.number,
        partner_site_id,
        row.relay,
        row.message_file,
        row.size_bytes,
        row.tries,
    )


def note_accepted(tx: Transaction, message: QueuedMessage, slot: str, now: datetime) -> bool:
    """Note that the relay took the mail; False when somebody else noted something about it meanwhile."""
    row = _mine(tx, message, slot)
    if row is None:
        return False
    row.state, row.slot, row.accepted_at, row.due, row.message_file = "accepted", None, now, None, ""
    transfer = tx.get_one(TransferRow, row.transfer_id)
    transfer.patience_from = max(transfer.patience_from, now)
    return True


def note_deferred(tx: Transaction, message: QueuedMessage, slot: str, said: str, due: datetime) -> None:
    """Put a message back for a later try."""
    row = _mine(tx, message, slot)
    if row is not None:
        row.state, row.slot, row.tries, row.due, row.said = "queued", None, row.tries + 1, due, said[:500]


def note_lost_file(tx: Transaction, message: QueuedMessage, slot: str, now: datetime) -> None:
    """Have a message packed once more because its sealed file is gone, as after a restore from a backup."""
    row = _mine(tx, message, slot)
    if row is not None:
        row.state, row.slot, row.attempt, row.message_file, row.planned_at = "planned", None, row.attempt + 1, "", now
        transfer = tx.get_one(TransferRow, row.transfer_id)
        wake_pack(tx, transfer)


def note_refused(tx: Transaction, message: QueuedMessage, slot: str, said: str) -> None:
    """Note that the relay refused a message for good."""
    row = _mine(tx, message, slot)
    if row is not None:
        row.state, row.slot, row.due, row.said, row.message_file = "refused", None, None, said[:500], ""


def note_too_large(tx: Transaction, message: QueuedMessage, slot: str, now: datetime) -> bool:
    """Take a parcel apart so that its instances go in smaller ones; False for what cannot be made smaller."""
    row = _mine(tx, message, slot)
    if row is None:
        return True
    if message.kind is not MessageKind.PARCEL:
        return False
    entries = tx.execute(
        sa.select(ParcelEntryRow.item_id, ParcelEntryRow.offset_bytes).where(ParcelEntryRow.message_id == row.id)
    ).all()
    for item_id, offset_bytes in entries:
        item = tx.get_one(TransferItemRow, item_id)
        item.state, item.packed_bytes = "waiting", min(item.packed_bytes, offset_bytes)
    row.state, row.slot, row.due, row.message_file = "replaced", None, None, ""
    transfer = tx.get_one(TransferRow, row.transfer_id)
    events.record(tx, now, EventKind.SENDING_DEFERRED, transfer=transfer, number=row.number, why="too large")
    return True


def _mine(tx: Transaction, message: QueuedMessage, slot: str) -> MessageRow | None:
    """Return the message while this slot still holds it; its transfer's row must be locked."""
    row = tx.get(MessageRow, message.message_row, with_for_update={"key_share": True})
    return row if row is not None and row.state == "sending" and row.slot == slot else None


def wake_dispatch(tx: Transaction, relay: str, slots: int) -> None:
    """Queue the sessions of a relay."""
    for slot in range(slots):
        lock = f"dispatch:{relay}:{slot}"
        enqueue(tx, "dispatch", once=lock, unless_running=True, rank=100, relay=relay, slot=slot)


def due_relays(tx: Transaction, now: datetime) -> list[str]:
    """Return relays that have messages whose time has come."""
    return list(
        tx.scalars(
            sa.select(MessageRow.relay)
            .where(MessageRow.state.in_(("queued", "sending")), MessageRow.due <= now)
            .distinct()
        )
    )


def stale_planned(tx: Transaction, now: datetime) -> list[int]:
    """Return transfers with messages that were planned a while ago and never packed."""
    return list(
        tx.scalars(
            sa.select(MessageRow.transfer_id)
            .where(MessageRow.state == "planned", MessageRow.planned_at < now - LOOK_AGAIN)
            .distinct()
            .limit(200)
        )
    )


def has_ready(tx: Transaction, relay: str, now: datetime) -> bool:
    """Say whether a relay has a message that could go now."""
    return (
        tx.scalar(
            sa.select(MessageRow.id)
            .where(
                MessageRow.state == "queued",
                MessageRow.relay == relay,
                sa.or_(MessageRow.tries == 0, MessageRow.due.is_(None), MessageRow.due <= now),
            )
            .limit(1)
        )
        is not None
    )


def transfer_of_message_id(tx: Transaction, message_id: str) -> tuple[int, int] | None:
    """Return (transfer, message row) of a mail that bounced."""
    if not message_id:
        return None
    row = tx.execute(
        sa.select(MessageRow.transfer_id, MessageRow.id).where(MessageRow.message_id == message_id)
    ).first()
    return (row[0], row[1]) if row else None
