"""A study that is sent again is an order: more urgent than before, or once more because it did not arrive.

What a modality sends a second time is nothing new for the archive, and the person who sends it means something by it.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import damage, events, planning, transfers
from raypost.archive.database import Transaction
from raypost.archive.rearm import order_again, rearm
from raypost.archive.tables import CaseRow, InstanceRow, MessageRow, ParcelEntryRow, TransferItemRow, TransferRow
from raypost.model.audit import EventKind
from raypost.model.transfer import Priority
from raypost.transfer.limits import Limits
from raypost.transfer.sender import OPEN, SenderState


@dataclass(frozen=True, slots=True)
class Order:
    """That instances of a case go to a partner.

    Attributes:
        ordered_by: rule:KEY, ae:TITLE or person:NAME.
    """

    site_id: int
    priority: Priority
    ordered_by: str


@dataclass(slots=True)
class _Holder:
    """A transfer that has some of the instances already: by its partner's word filed there, or on their way."""

    transfer: TransferRow
    filed: set[int] = field(default_factory=set)
    unfiled: set[int] = field(default_factory=set)


def note_sent_again(tx: Transaction, case_id: int, instance_id: int) -> bool:
    """Note that an instance came again to the same AE title; True when the rules look at it again.

    They do when it did not arrive: its transfer is unconfirmed, or it or its parcel was refused.
    """
    item = (
        sa.select(TransferItemRow.id)
        .join(TransferRow, TransferRow.id == TransferItemRow.transfer_id)
        .where(
            TransferRow.case_id == case_id,
            TransferRow.direction == "out",
            TransferItemRow.instance_id == instance_id,
            TransferItemRow.state != "filed",
        )
    )
    unconfirmed = item.where(
        sa.or_(TransferRow.state == SenderState.UNCONFIRMED.value, TransferItemRow.state == "refused")
    ).exists()
    refused = (
        item.join(ParcelEntryRow, ParcelEntryRow.item_id == TransferItemRow.id)
        .join(MessageRow, MessageRow.id == ParcelEntryRow.message_id)
        .where(MessageRow.direction == "out", MessageRow.state == "refused")
        .exists()
    )
    found = tx.execute(
        sa.update(InstanceRow)
        .where(InstanceRow.id == instance_id, InstanceRow.routed_at.is_not(None), sa.or_(unconfirmed, refused))
        .values(routed_at=None)
        .returning(InstanceRow.id)
        .execution_options(synchronize_session="fetch")
    ).first()
    return found is not None


def order_anew(
    tx: Transaction, case: CaseRow, order: Order, instance_ids: Set[int], limits: Limits, now: datetime
) -> set[int]:
    """Do what an order means for instances that were sent to its partner before; return those that need a new transfer.

    What is on its way gets the higher priority and has its refused mails sent again. What is unconfirmed is sent again.
    What was delivered is announced with the higher priority, so that it rings. Everything else is the caller's to send:
    what this partner never got, refused, or what was recalled. The case's row must be locked.
    """
    holders = _holders(tx, case, order.site_id, instance_ids, now)
    left = set(instance_ids)
    touched: list[TransferRow] = []
    # In this order: what is there or on its way need not be sent again because another transfer has it, too.
    for holder in holders:
        if mine := holder.filed & left:
            left -= mine
            touched.append(holder.transfer)
    for is_open in (True, False):
        for holder in holders:
            mine = holder.unfiled & left
            if mine and (SenderState(holder.transfer.state) in OPEN) is is_open:
                left -= mine
                touched.append(holder.transfer)
                _send_on(tx, holder.transfer, order, limits, now)
    if touched:
        first = _first(tx, case, order.site_id)
        for transfer in {one.id: one for one in [*touched, *([first] if first is not None else [])]}.values():
            _raise(tx, transfer, order, limits, now)
    return left


def _holders(tx: Transaction, case: CaseRow, site_id: int, instance_ids: Set[int], now: datetime) -> list[_Holder]:
    """Return the transfers to a partner that have instances in a form that counts, locked, oldest first."""
    mine = sa.and_(TransferRow.case_id == case.id, TransferRow.partner_id == site_id, TransferRow.direction == "out")
    held = sa.and_(TransferItemRow.transfer_id == TransferRow.id, TransferItemRow.instance_id.in_(instance_ids))
    rows = tx.execute(
        sa.select(TransferRow.id, TransferItemRow.instance_id).join(TransferItemRow, held).where(mine)
    ).all()
    found: list[_Holder] = []
    for transfer_id in sorted({row.id for row in rows}):
        transfer = transfers.lock(tx, transfer_id)
        if transfer is None or transfer.state == SenderState.RECALLED.value:
            continue
        if SenderState(transfer.state) in OPEN:  # its file may be mended by now: what comes again is kept anew
            damage.put_back(tx, transfer, now, instance_ids)
        holder = _Holder(transfer)
        items = sa.select(TransferItemRow.instance_id, TransferItemRow.state).where(
            TransferItemRow.transfer_id == transfer_id,
            TransferItemRow.instance_id.in_(instance_ids),
            TransferItemRow.state != "refused",
        )
        for instance_id, state in tx.execute(items):
            if instance_id is not None:
                (holder.filed if state == "filed" else holder.unfiled).add(instance_id)
        found.append(holder)
    return found


def _send_on(tx: Transaction, transfer: TransferRow, order: Order, limits: Limits, now: datetime) -> None:
    """Have sent again what did not arrive."""
    state = SenderState(transfer.state)
    is_addressed = not order.ordered_by.startswith("rule:")
    if state is SenderState.UNCONFIRMED or (state is SenderState.REROUTED and is_addressed):
        order_again(tx, transfer, limits, now, order.ordered_by)
    elif state in OPEN:
        count = planning.send_again(tx, transfer, now, states=("refused",))
        if count:
            events.record(tx, now, EventKind.SENT_AGAIN, transfer=transfer, messages=count, who=order.ordered_by)
        rearm(tx, transfer, limits, now)


def _first(tx: Transaction, case: CaseRow, site_id: int) -> TransferRow | None:
    """Return the first transfer of the case to the partner, locked: its announcement is the one that rings."""
    return tx.scalar(
        sa.select(TransferRow)
        .where(
            TransferRow.case_id == case.id,
            TransferRow.partner_id == site_id,
            TransferRow.direction == "out",
            TransferRow.supplement == 0,
            TransferRow.state.not_in((SenderState.REROUTED.value, SenderState.RECALLED.value)),
        )
        .with_for_update(key_share=True)
    )


def _raise(tx: Transaction, transfer: TransferRow, order: Order, limits: Limits, now: datetime) -> None:
    if order.priority.rank <= Priority(transfer.priority).rank:
        return
    if SenderState(transfer.state) in (SenderState.REROUTED, SenderState.RECALLED):
        return
    transfers.raise_priority(tx, transfer, order.priority, now)
    _hurry_packing(tx, transfer)
    events.record(
        tx, now, EventKind.ANNOUNCED, transfer=transfer, priority=order.priority.value, ordered_by=order.ordered_by
    )
    rearm(tx, transfer, limits, now)


def _hurry_packing(tx: Transaction, transfer: TransferRow) -> None:
    """Let a packing job that waits already go before those of less urgent transfers."""
    tx.execute(
        sa.text(
            "update procrastinate_jobs set priority = :rank"
            " where queueing_lock = :lock and status = 'todo' and priority < :rank"
        ),
        {"rank": Priority(transfer.priority).rank, "lock": f"pack:{transfer.id}"},
    )
