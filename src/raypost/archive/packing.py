"""The next message of a transfer to be packed: instances into parcels at the link's pace, small messages first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from raypost.archive import contacts
from raypost.archive.database import Transaction
from raypost.archive.planning import BULK, IN_HAND, LOOK_AGAIN, OUT, REFUSED_BY, UNHEARD_FROM, add_message
from raypost.archive.tables import CaseRow, MessageRow, ParcelEntryRow, TransferItemRow, TransferRow
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind
from raypost.transfer import pacing
from raypost.transfer.pacing import PacingLimits, Waiting
from raypost.transfer.reading_order import is_read_first

PLAN_ITEMS_MAX = 600
"""So many waiting instances are looked at for one parcel; more than fit into any."""
STALE_MAX = 200


@dataclass(frozen=True, slots=True)
class PlannedMessage:
    """A message to be packed. `attempt` guards against packing an older one than was asked for.

    Attributes:
        copy: 0 for the message itself.
        relay: Copies: by which it goes. Otherwise by which it went before; empty the first time.
        refused_by: Relays that refused it for good.
        was_offered: That relay took it, or was asked to.
    """

    message_row: int
    transfer_id: int
    partner_site_id: int
    kind: MessageKind
    number: int
    attempt: int
    copy: int = 0
    relay: str = ""
    refused_by: frozenset[str] = frozenset()
    was_offered: bool = False


def plan_parcels(
    tx: Transaction,
    transfer: TransferRow,
    limits: PacingLimits,
    payload_max_bytes: int,
    now: datetime,
    link_bytes_per_s: float | None = None,
) -> int:
    """Put waiting instances into parcels as far as the pace allows; return how many parcels were planned.

    Args:
        link_bytes_per_s: What our link to the relay was measured to carry; the partner's counts beside it.
    """
    path_bytes_per_s = contacts.path_bytes_per_s(tx, transfer.partner_id)
    rates = [one for one in (link_bytes_per_s, path_bytes_per_s) if one]
    planned = 0
    while planned < limits.in_hand_max:
        rows = tx.scalars(
            sa.select(TransferItemRow)
            .where(TransferItemRow.transfer_id == transfer.id, TransferItemRow.state == "waiting")
            .order_by(TransferItemRow.packed_bytes.desc(), TransferItemRow.reading_rank, TransferItemRow.id)
            .limit(PLAN_ITEMS_MAX)
        ).all()
        if not rows:
            break
        before, in_hand = parcel_counts(tx, transfer.id)
        size_max_bytes = pacing.parcel_size_max(
            before, limits, payload_max_bytes, min(rates, default=None), rows[0].size_bytes
        )
        waiting = [
            Waiting(ManifestEntry(row.sha256, row.size_bytes, row.sop_instance_uid), row.packed_bytes) for row in rows
        ]
        if not pacing.parcel_goes_now(
            waiting_bytes=sum(one.rest_bytes for one in waiting),
            parcels_before=before,
            in_hand=in_hand,
            oldest_wait_s=(now - min(row.added_at for row in rows)).total_seconds(),
            size_max_bytes=size_max_bytes,
            is_closed=transfer.state == "closed" or _is_released(tx, transfer),
            limits=limits,
            under_way_bytes=_under_way_bytes(tx, transfer.id, limits, now) if path_bytes_per_s else 0,
            path_bytes_per_s=path_bytes_per_s,
        ):
            break
        entries = pacing.fill_parcel(waiting, size_max_bytes, limits.instances_max)
        ranks = {row.sha256: row.reading_rank for row in rows}
        is_first = any(is_read_first(ranks[entry.instance.sha256]) for entry in entries)
        message_row = add_message(tx, transfer, MessageKind.PARCEL, before + 1, now, is_read_first=is_first)
        _fill(tx, message_row, rows, entries)
        planned += 1
    return planned


def _fill(tx: Transaction, message_row: int, rows: Sequence[TransferItemRow], entries: Sequence[ParcelEntry]) -> None:
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


def _under_way_bytes(tx: Transaction, transfer_id: int, limits: PacingLimits, now: datetime) -> int:
    """Return how much of a transfer is in hand, seen by the partner, or was taken by the relay a moment ago."""
    carried = (
        sa.select(sa.func.coalesce(sa.func.sum(ParcelEntryRow.length_bytes), 0) * 11 / 8)
        .where(ParcelEntryRow.message_id == MessageRow.id)
        .scalar_subquery()
    )
    lately = now - timedelta(seconds=limits.unheard_s)
    is_recent = sa.and_(MessageRow.state == "accepted", sa.or_(MessageRow.is_seen, UNHEARD_FROM > lately))
    query = sa.select(sa.func.sum(sa.case((MessageRow.size_bytes > 0, MessageRow.size_bytes), else_=carried))).where(
        MessageRow.transfer_id == transfer_id,
        OUT,
        MessageRow.kind == MessageKind.PARCEL.value,
        sa.or_(MessageRow.state.in_(IN_HAND), is_recent),
    )
    return int(tx.scalar(query) or 0)


def _is_released(tx: Transaction, transfer: TransferRow) -> bool:
    """Say whether the modality let go after its last instance: then the rest need not wait for more."""
    case = tx.get(CaseRow, transfer.case_id)
    return case is not None and case.released_at is not None and case.released_at >= transfer.last_arrival_at


def parcel_counts(tx: Transaction, transfer_id: int) -> tuple[int, int]:
    """Return (highest parcel number, parcels and manifests in hand) of a transfer."""
    row = tx.execute(
        sa.select(
            sa.func.coalesce(sa.func.max(MessageRow.number).filter(MessageRow.kind == "parcel"), 0),
            sa.func.count().filter(MessageRow.state.in_(IN_HAND), MessageRow.kind.in_(BULK)),
        ).where(MessageRow.transfer_id == transfer_id, OUT)
    ).one()
    return int(row[0]), int(row[1])


_SMALL_FIRST = sa.case((MessageRow.kind == "manifest", 2), (MessageRow.kind == "parcel", 1), else_=0)


def next_planned(tx: Transaction, transfer_id: int, now: datetime) -> PlannedMessage | None:
    """Return the next message to pack, small ones first; the manifest comes after the last parcel is planned."""
    row = tx.scalar(
        sa.select(MessageRow)
        .where(
            MessageRow.transfer_id == transfer_id,
            MessageRow.direction == "out",
            MessageRow.state == "planned",
            sa.or_(MessageRow.due.is_(None), MessageRow.due <= now),
            sa.or_(MessageRow.kind != "manifest", ~_has_waiting(MessageRow.transfer_id)),
        )
        .order_by(_SMALL_FIRST, MessageRow.number, MessageRow.copy)
        .limit(1)
    )
    if row is None:
        return None
    return PlannedMessage(
        row.id,
        transfer_id,
        row.partner_id,
        MessageKind(row.kind),
        row.number,
        row.attempt,
        row.copy,
        row.relay,
        frozenset((row.body or {}).get(REFUSED_BY, ())),
        row.accepted_at is not None or row.tries > 0,
    )


def _has_waiting(transfer_id: Any) -> sa.ColumnElement[bool]:
    return sa.exists().where(TransferItemRow.transfer_id == transfer_id, TransferItemRow.state == "waiting")


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
    """Note that a message is packed and sealed; False when it was planned anew or sent meanwhile.

    One that was offered in vain before may go at once: its pause was before this.
    """
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
            due=sa.case((MessageRow.tries > 0, now), else_=now + LOOK_AGAIN),
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


def note_unroutable(tx: Transaction, transfer: TransferRow, due: datetime) -> None:
    """Let everything of a transfer wait whose partner is reached by none of our relays."""
    tx.execute(
        sa.update(MessageRow)
        .where(MessageRow.transfer_id == transfer.id, MessageRow.direction == "out", MessageRow.state == "planned")
        .values(due=due)
        .execution_options(synchronize_session="fetch")
    )


def drop_copy(tx: Transaction, planned: PlannedMessage) -> None:
    """Give up a copy for a relay that cannot be used: the message itself goes by another."""
    tx.execute(
        sa.update(MessageRow)
        .where(MessageRow.id == planned.message_row, MessageRow.state == "planned", MessageRow.copy > 0)
        .values(state="replaced", due=None)
        .execution_options(synchronize_session="fetch")
    )


def stale_planned(tx: Transaction, now: datetime) -> list[int]:
    """Return transfers with messages that were planned a while ago and never packed; the longest waiting first.

    A manifest that waits for instances to be packed is not meant: its transfer is looked at for those.
    """
    return list(
        tx.scalars(
            sa.select(MessageRow.transfer_id)
            .where(
                MessageRow.state == "planned",
                MessageRow.direction == "out",
                MessageRow.transfer_id.is_not(None),
                sa.func.coalesce(MessageRow.due, MessageRow.planned_at + LOOK_AGAIN) <= now,
                sa.or_(MessageRow.kind != "manifest", ~_has_waiting(MessageRow.transfer_id)),
            )
            .group_by(MessageRow.transfer_id)
            .order_by(sa.func.min(MessageRow.planned_at))
            .limit(STALE_MAX)
        )
    )
