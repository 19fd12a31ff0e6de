"""Filed instances on their way to DICOM nodes in the house."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.database import Transaction
from raypost.archive.dicom_nodes import Node
from raypost.archive.queue import enqueue
from raypost.archive.tables import ForwardRow, InstanceRow

BATCH_MAX = 200
LOOK_AGAIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ToForward:
    """An instance to be sent on."""

    forward_id: int
    case_id: int
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    tries: int


def order(tx: Transaction, instance_id: int, node: Node, now: datetime) -> bool:
    """Order that an instance goes to a node, once; True when it is new."""
    added = tx.execute(
        insert(ForwardRow)
        .values(instance_id=instance_id, node_id=node.node_id, state="waiting", ordered_at=now, due=now + LOOK_AGAIN)
        .on_conflict_do_nothing()
        .returning(ForwardRow.id)
    ).first()
    if added is not None:
        enqueue(tx, "forward", once=f"forward:{node.node_id}", node_id=node.node_id)
    return added is not None


def waiting(tx: Transaction, node_id: int, now: datetime) -> list[ToForward]:
    """Return the next instances for a node, oldest first."""
    rows = tx.execute(
        sa.select(
            ForwardRow.id,
            ForwardRow.tries,
            InstanceRow.case_id,
            InstanceRow.sha256,
            InstanceRow.sop_class_uid,
            InstanceRow.sop_instance_uid,
            InstanceRow.transfer_syntax_uid,
        )
        .join(InstanceRow, InstanceRow.id == ForwardRow.instance_id)
        .where(
            ForwardRow.node_id == node_id,
            ForwardRow.state == "waiting",
            sa.or_(ForwardRow.tries == 0, ForwardRow.due <= now),
        )
        .order_by(ForwardRow.id)
        .limit(BATCH_MAX)
    ).all()
    return [
        ToForward(
            row.id, row.case_id, row.sha256, row.sop_class_uid, row.sop_instance_uid, row.transfer_syntax_uid, row.tries
        )
        for row in rows
    ]


def note_sent(tx: Transaction, forward_id: int, node_id: int, now: datetime) -> None:
    """Note that the node confirmed an instance, unless it waits for another node by now."""
    row = tx.get_one(ForwardRow, forward_id, with_for_update=True)
    if row.node_id == node_id:
        row.state, row.sent_at, row.due = "sent", now, None


def note_refused(tx: Transaction, forward_id: int, node_id: int, said: str) -> bool:
    """Note that the node will not take an instance; False when it waits for another node by now."""
    row = _waiting_for(tx, forward_id, node_id)
    if row is not None:
        row.state, row.said, row.due = "refused", said[:500], None
    return row is not None


def note_deferred(tx: Transaction, forward_id: int, node_id: int, said: str, due: datetime) -> None:
    """Put an instance back for a later try, unless it waits for another node by now."""
    row = _waiting_for(tx, forward_id, node_id)
    if row is not None:
        row.tries, row.said, row.due = row.tries + 1, said[:500], due


def _waiting_for(tx: Transaction, forward_id: int, node_id: int) -> ForwardRow | None:
    """Return the row, locked, while it waits for this node: the node may have been replaced or removed meanwhile."""
    row = tx.get_one(ForwardRow, forward_id, with_for_update=True)
    return row if row.state == "waiting" and row.node_id == node_id else None


def due_nodes(tx: Transaction, now: datetime) -> list[int]:
    """Return nodes that have instances whose time has come; their due moves on."""
    rows = tx.execute(
        sa.update(ForwardRow)
        .where(ForwardRow.state == "waiting", ForwardRow.due <= now)
        .values(due=now + LOOK_AGAIN)
        .returning(ForwardRow.node_id)
    ).all()
    return sorted({row.node_id for row in rows})
