"""How far a transfer is, in the same words at both sites; when it will be finished, as far as that can be told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from raypost.archive.database import Transaction
from raypost.archive.tables import MessageRow, ParcelEntryRow, TransferItemRow, TransferRow

MEASURED_FROM_S = 2.0
"""Nothing is predicted from less than this."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Instances and parcels of one transfer.

    Attributes:
        instances: So many are known of here.
        total: How many there are; None before the manifest: nobody knows.
        sent: In parcels that the relay took; the receiver cannot know.
        arrived: At the receiver; the sender knows what receipts said.
        filed: In the receiver's archive.
        refused: Kept in the receiver's quarantine, or not sendable.
        parcels: By state.
        predicted_finish_at: None while it cannot be told.
    """

    instances: int
    total: int | None
    sent: int | None
    arrived: int | None
    filed: int
    refused: int
    parcels: dict[str, int]
    predicted_finish_at: datetime | None

    @property
    def missing(self) -> int | None:
        """Return how many are still to be filed; None before the manifest."""
        return None if self.total is None else max(0, self.total - self.filed - self.refused)

    def as_json(self) -> dict[str, Any]:
        """Return the shape that --json prints."""
        finish = self.predicted_finish_at
        return {
            "instances": self.instances,
            "total": self.total,
            "sent": self.sent,
            "arrived": self.arrived,
            "filed": self.filed,
            "refused": self.refused,
            "missing": self.missing,
            "parcels": self.parcels,
            "predicted_finish_at": finish.isoformat(timespec="seconds") if finish else None,
        }


def of_transfer(tx: Transaction, transfer: TransferRow, now: datetime) -> Progress:
    """Count one transfer."""
    items = {
        state: (count, int(size or 0))
        for state, count, size in tx.execute(
            sa.select(TransferItemRow.state, sa.func.count(), sa.func.sum(TransferItemRow.size_bytes))
            .where(TransferItemRow.transfer_id == transfer.id)
            .group_by(TransferItemRow.state)
        )
    }
    instances = sum(count for count, _ in items.values())
    refused = items.get("refused", (0, 0))[0]
    parcels = _parcels(tx, transfer)
    if transfer.direction == "in":
        filed = items.get("filed", (0, 0))[0]
        arrived = filed + items.get("arrived", (0, 0))[0]
        return Progress(instances, transfer.manifest_instances, None, arrived, filed, refused, parcels, None)
    named = items.get("filed", (0, 0))[0]
    filed = max(named, min(transfer.instances_there, instances))
    total = instances if transfer.closed_at is not None else None
    sent = _sent(tx, transfer)
    finish = None if total is None else _predict(transfer, items, filed, instances, now)
    return Progress(instances, total, sent, max(filed, transfer.instances_there), filed, refused, parcels, finish)


def predicted_finish_at(tx: Transaction, transfer: TransferRow, now: datetime) -> datetime | None:
    """Return when an outgoing transfer will be complete if it goes on like this; None while that cannot be told."""
    return of_transfer(tx, transfer, now).predicted_finish_at


def _predict(
    transfer: TransferRow, items: dict[str, tuple[int, int]], filed: int, instances: int, now: datetime
) -> datetime | None:
    """Go on from what is filed until now: the mean since the transfer began."""
    passed_s = (now - transfer.opened_at).total_seconds()
    if not filed or filed >= instances or passed_s < MEASURED_FROM_S or transfer.finished_at is not None:
        return None
    return now + timedelta(seconds=passed_s / filed * (instances - filed))


def _sent(tx: Transaction, transfer: TransferRow) -> int:
    """Count the instances of which the last byte left with a mail that the relay took."""
    last = sa.and_(
        ParcelEntryRow.offset_bytes + ParcelEntryRow.length_bytes == TransferItemRow.size_bytes,
        MessageRow.state.in_(("accepted", "filed")),
    )
    query = (
        sa.select(sa.func.count(sa.distinct(TransferItemRow.id)))
        .join(ParcelEntryRow, ParcelEntryRow.item_id == TransferItemRow.id)
        .join(MessageRow, MessageRow.id == ParcelEntryRow.message_id)
        .where(TransferItemRow.transfer_id == transfer.id, MessageRow.direction == "out", last)
    )
    return int(tx.scalar(query) or 0)


def _parcels(tx: Transaction, transfer: TransferRow) -> dict[str, int]:
    query = (
        sa.select(MessageRow.state, sa.func.count())
        .where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == transfer.direction,
            MessageRow.kind == "parcel",
            MessageRow.copy == 0,
        )
        .group_by(MessageRow.state)
        .order_by(MessageRow.state)
    )
    return {state: int(count) for state, count in tx.execute(query)}
