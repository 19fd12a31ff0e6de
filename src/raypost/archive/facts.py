"""What the pure machines decide on, read from the rows of one transfer."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import contacts, relays, rerouting
from raypost.archive.database import Transaction
from raypost.archive.planning import BULK, IN_HAND, OUT, unheard_notes
from raypost.archive.tables import CaseRow, MessageRow, TransferItemRow, TransferRow
from raypost.model.transfer import Priority
from raypost.transfer import receipts
from raypost.transfer.failover import RelayState
from raypost.transfer.receiver import ReceiverFacts, ReceiverState
from raypost.transfer.sender import OPEN, SenderFacts, SenderState


def sender_facts(tx: Transaction, transfer: TransferRow, now: datetime) -> SenderFacts:
    """Return what the next step of an outgoing transfer depends on.

    Instants that lie ahead of the clock, because it was set back, count as now.
    """
    it = tx.execute(_OUT_COUNTS, {"transfer_id": transfer.id}).one()
    case = tx.get_one(CaseRow, transfer.case_id)
    state, now_s = SenderState(transfer.state), now.timestamp()
    is_open = state in OPEN
    reached = relays.of_partner(tx, transfer.partner_id) if is_open else []
    waiting = _count_items(tx, transfer.id, "waiting") if is_open else 0
    return SenderFacts(
        state=state,
        seed=transfer.transfer_key,
        priority=Priority(transfer.priority),
        last_arrival_s=min(transfer.last_arrival_at.timestamp(), now_s),
        released_s=min(case.released_at.timestamp(), now_s) if case.released_at else None,
        items_waiting=waiting,
        in_hand=it.in_hand,
        unconfirmed=it.unconfirmed,
        refused=it.refused,
        parcels=it.parcels,
        has_manifest=it.manifests > 0,
        rounds=transfer.rounds,
        patience_from_s=min(transfer.patience_from.timestamp(), now_s),
        progress_s=min((transfer.progress_at or transfer.opened_at).timestamp(), now_s),
        unheard_since_s=min(it.unheard_since.timestamp(), now_s) if it.unheard_since else None,
        notes=unheard_notes(tx, transfer),
        round_trip_s=contacts.round_trip_s(tx, transfer.partner_id) if is_open else None,
        relays_usable=sum(one.state is not RelayState.AWAY for one in reached),
        switches=transfer.switches,
        switched_s=min(transfer.switched_at.timestamp(), now_s) if transfer.switched_at else None,
        is_told=transfer.told_at is not None,
        reroute_after_s=rerouting.deadline_s(tx, transfer) if is_open else None,
    )


_BULK = MessageRow.kind.in_(BULK)
_OUT_COUNTS = sa.select(
    sa.func.count().filter(_BULK, MessageRow.state.in_(IN_HAND)).label("in_hand"),
    sa.func.count().filter(_BULK, MessageRow.state == "accepted").label("unconfirmed"),
    sa.func.count().filter(_BULK, MessageRow.state == "refused").label("refused"),
    sa.func.coalesce(sa.func.max(MessageRow.number).filter(MessageRow.kind == "parcel"), 0).label("parcels"),
    sa.func.count().filter(MessageRow.kind == "manifest").label("manifests"),
    sa.func.min(MessageRow.accepted_at).filter(_BULK, MessageRow.state == "accepted").label("unheard_since"),
).where(MessageRow.transfer_id == sa.bindparam("transfer_id"), OUT)


def receiver_facts(tx: Transaction, transfer: TransferRow, now: datetime) -> ReceiverFacts:
    """Return what the next step of an incoming transfer depends on."""
    now_s = now.timestamp()
    parcels = tx.execute(_IN_PARCELS, {"transfer_id": transfer.id}).all()
    filed = sum(row.state == "filed" for row in parcels)
    return ReceiverFacts(
        state=ReceiverState(transfer.state),
        seed=transfer.transfer_key,
        priority=Priority(transfer.priority),
        is_all_filed=_is_all_filed(tx, transfer),
        in_hand=sum(row.state == "verified" for row in parcels),
        news=transfer.news,
        has_first_filed=filed > 0 and transfer.receipted_parcels == 0,
        gap_since_s=_gap_since_s({row.number: row.planned_at.timestamp() for row in parcels}, now_s),
        opened_s=min(transfer.opened_at.timestamp(), now_s),
        last_arrival_s=min(transfer.last_arrival_at.timestamp(), now_s),
        last_receipt_s=min(transfer.last_receipt_at.timestamp(), now_s) if transfer.last_receipt_at else None,
        reminders=transfer.reminders,
        is_told=transfer.told_at is not None,
        notes=unheard_notes(tx, transfer),
    )


_IN_PARCELS = sa.select(MessageRow.number, MessageRow.state, MessageRow.planned_at).where(
    MessageRow.transfer_id == sa.bindparam("transfer_id"), MessageRow.direction == "in", MessageRow.kind == "parcel"
)


def _is_all_filed(tx: Transaction, transfer: TransferRow) -> bool:
    if transfer.manifest_instances is None:
        return False
    done = tx.scalar(
        sa.select(sa.func.count()).where(
            TransferItemRow.transfer_id == transfer.id,
            TransferItemRow.in_manifest,
            TransferItemRow.state.in_(("filed", "refused")),
        )
    )
    return done == transfer.manifest_instances


def _gap_since_s(arrived: dict[int, float], now_s: float) -> float | None:
    """Return when the first parcel came that overtook one that is missing."""
    if len(arrived) == max(arrived, default=0):
        return None
    first_missing = min(receipts.missing_parcels(frozenset(arrived), None))
    return min(now_s, min(at_s for number, at_s in arrived.items() if number > first_missing))


def _count_items(tx: Transaction, transfer_id: int, state: str) -> int:
    query = sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer_id, TransferItemRow.state == state)
    return int(tx.scalar(query) or 0)
