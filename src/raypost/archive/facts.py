"""What the pure machines decide on, read from the rows of one transfer."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import contacts, listed, relays, rerouting
from raypost.archive.database import Transaction
from raypost.archive.planning import BULK, IN_HAND, OUT, UNHEARD_FROM, unheard_notes, went_by_all
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
    unheard_since, unheard_by = _unheard(tx, transfer, len(reached)) if is_open and it.unconfirmed else (None, set())
    usable = [one for one in reached if one.state is not RelayState.AWAY]
    suspects = {one.name for one in usable if one.state is RelayState.SUSPECT}
    return SenderFacts(
        state=state,
        seed=transfer.transfer_key,
        priority=Priority(transfer.priority),
        last_arrival_s=min(transfer.last_arrival_at.timestamp(), now_s),
        released_s=min(case.released_at.timestamp(), now_s) if case.released_at else None,
        items_waiting=waiting,
        in_hand=it.in_hand,
        unconfirmed=it.unconfirmed,
        seen=it.seen,
        refused=it.refused,
        parcels=it.parcels,
        has_manifest=it.manifests > 0,
        rounds=transfer.rounds,
        patience_from_s=min(transfer.patience_from.timestamp(), now_s),
        progress_s=min((transfer.progress_at or transfer.opened_at).timestamp(), now_s),
        unheard_since_s=min(unheard_since.timestamp(), now_s) if unheard_since else None,
        notes=unheard_notes(tx, transfer),
        round_trip_s=contacts.round_trip_s(tx, transfer.partner_id) if is_open else None,
        relays_usable=len({one.name for one in usable} | unheard_by),
        switches=transfer.switches,
        switched_s=min(transfer.switched_at.timestamp(), now_s) if transfer.switched_at else None,
        is_told=transfer.told_at is not None,
        reroute_after_s=rerouting.deadline_s(tx, transfer) if is_open else None,
        unheard_by_suspect=bool(unheard_by & suspects) and len(suspects) < len(usable),
    )


def _unheard(tx: Transaction, transfer: TransferRow, relay_count: int) -> tuple[datetime | None, set[str]]:
    """Return when a relay took the oldest message that nothing was heard of, and which relays took such messages.

    What went by all relays at once proves nothing about one of them.
    """
    chosen = [MessageRow.transfer_id == transfer.id, OUT, MessageRow.state == "accepted", _BULK, ~MessageRow.is_seen]
    if relay_count > 1:
        chosen.append(~went_by_all())
    rows = tx.execute(sa.select(MessageRow.relay, sa.func.min(UNHEARD_FROM)).where(*chosen).group_by("relay"))
    found = {relay: at for relay, at in rows if at is not None}
    return min(found.values(), default=None), set(found)


_BULK = MessageRow.kind.in_(BULK)
_OUT_COUNTS = sa.select(
    sa.func.count().filter(_BULK, MessageRow.state.in_(IN_HAND)).label("in_hand"),
    sa.func.count().filter(_BULK, MessageRow.state == "accepted", ~MessageRow.is_seen).label("unconfirmed"),
    sa.func.count().filter(_BULK, MessageRow.state == "accepted", MessageRow.is_seen).label("seen"),
    sa.func.count().filter(_BULK, MessageRow.state == "refused").label("refused"),
    sa.func.coalesce(sa.func.max(MessageRow.number).filter(MessageRow.kind == "parcel"), 0).label("parcels"),
    sa.func.count().filter(MessageRow.kind == "manifest").label("manifests"),
).where(MessageRow.transfer_id == sa.bindparam("transfer_id"), OUT)


def receiver_facts(tx: Transaction, transfer: TransferRow, now: datetime) -> ReceiverFacts:
    """Return what the next step of an incoming transfer depends on."""
    now_s = now.timestamp()
    parcels = tx.execute(_IN_PARCELS, {"transfer_id": transfer.id}).all()
    filed = sum(row.state == "filed" for row in parcels)
    arrived = {row.number: row.planned_at.timestamp() for row in parcels}
    manifest = None
    if transfer.manifest_parcels is not None:
        manifest = (transfer.manifest_parcels, (transfer.closed_at or transfer.last_arrival_at).timestamp())
    seen = listed.parcels_seen(tx, transfer, now)
    gap_since_s = receipts.gap_since_s(arrived, seen, manifest)
    return ReceiverFacts(
        state=ReceiverState(transfer.state),
        seed=transfer.transfer_key,
        priority=Priority(transfer.priority),
        is_all_filed=_is_all_filed(tx, transfer),
        in_hand=sum(row.state == "verified" for row in parcels),
        news=transfer.news,
        has_first_filed=filed > 0 and transfer.receipted_parcels == 0,
        gap_since_s=None if gap_since_s is None else min(gap_since_s, now_s),
        opened_s=min(transfer.opened_at.timestamp(), now_s),
        last_arrival_s=min(transfer.last_arrival_at.timestamp(), now_s),
        last_receipt_s=min(transfer.last_receipt_at.timestamp(), now_s) if transfer.last_receipt_at else None,
        reminders=transfer.reminders,
        is_told=transfer.told_at is not None,
        notes=unheard_notes(tx, transfer),
        doubles=transfer.doubles,
        asked_s=min(transfer.asked_at.timestamp(), now_s) if transfer.asked_at else None,
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


def _count_items(tx: Transaction, transfer_id: int, state: str) -> int:
    query = sa.select(sa.func.count()).where(TransferItemRow.transfer_id == transfer_id, TransferItemRow.state == state)
    return int(tx.scalar(query) or 0)
