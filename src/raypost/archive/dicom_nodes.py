"""DICOM nodes in the house, as rows: a change retires a row and adds a new one; what waits for a node goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import DicomNodeRow, ForwardRow
from raypost.archive.targets import refuse_while_named
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.identifiers import is_ae_title, is_site_name


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM node to send on to."""

    node_id: int
    name: str
    ae_title: str
    host: str
    port: int


def add_node(tx: Transaction, node: Node, *, now: datetime, who: str) -> Node:
    """Add a DICOM node or replace it; what waits for the one it replaces is sent to the new one.

    Raises:
        UsageError: Name, AE title or port cannot be right.
    """
    if not is_site_name(node.name) or not is_ae_title(node.ae_title) or not 0 < node.port < 65536 or not node.host:
        raise UsageError("a node needs a name (a-z 0-9 -), an AE title (A-Z 0-9 _ - .), a host and a port")
    retired = _retire(tx, node.name, now, who)
    row = DicomNodeRow(
        name=node.name, ae_title=node.ae_title, host=node.host, port=node.port, added_at=now, added_by=who
    )
    tx.add(row)
    tx.flush()
    events.record(tx, now, EventKind.NODE_CHANGED, change="added", name=node.name, who=who)
    for node_id in retired:
        settle_retired(tx, node_id, now)
    return _node(row)


def remove_node(tx: Transaction, name: str, *, now: datetime, who: str) -> Node:
    """Retire a DICOM node; what waits for it is refused, and a person is told how much that was.

    Raises:
        UsageError: There is none, or a rule names it.
    """
    node = node_named(tx, name)
    refuse_while_named(tx, name, is_node=True)
    _retire(tx, name, now, who)
    events.record(tx, now, EventKind.NODE_CHANGED, change="removed", name=name, who=who)
    settle_retired(tx, node.node_id, now)
    return node


def all_nodes(tx: Transaction) -> list[Node]:
    """Return every DICOM node in force, by name."""
    query = sa.select(DicomNodeRow).where(DicomNodeRow.retired_at.is_(None)).order_by(DicomNodeRow.name)
    return [_node(row) for row in tx.scalars(query)]


def node_named(tx: Transaction, name: str) -> Node:
    """Return a DICOM node by name.

    Raises:
        UsageError: There is none.
    """
    for node in all_nodes(tx):
        if node.name == name:
            return node
    raise UsageError(f"there is no DICOM node {name!r}", do="`raypost node list` shows the names.")


def node_in_force(tx: Transaction, node_id: int) -> Node | None:
    """Return a node unless it was removed or replaced."""
    row = tx.get(DicomNodeRow, node_id)
    return _node(row) if row is not None and row.retired_at is None else None


def settle_retired(tx: Transaction, node_id: int, now: datetime) -> None:
    """Decide on what still waits for a retired node: it goes to its successor of the same name, or is refused; ALARM.

    Also called when such an instance comes to be sent: it may have been ordered in the moment of the change.
    """
    row = tx.get(DicomNodeRow, node_id)
    if row is None or row.retired_at is None:
        return
    # FOR SHARE: a successor that is being retired at this moment is waited for, and looked at as it is then
    successor = tx.scalar(
        sa.select(DicomNodeRow.id)
        .where(DicomNodeRow.name == row.name, DicomNodeRow.retired_at.is_(None))
        .with_for_update(read=True)
    )
    waiting = sa.and_(ForwardRow.node_id == node_id, ForwardRow.state == "waiting")
    if successor is not None:
        there = sa.select(ForwardRow.instance_id).where(ForwardRow.node_id == successor)
        moved = tx.execute(
            sa.update(ForwardRow)
            .where(waiting, ForwardRow.instance_id.not_in(there))
            .values(node_id=successor, tries=0, due=now)
            .returning(ForwardRow.id)
            .execution_options(synchronize_session=False)
        ).all()
        if moved:
            enqueue(tx, "forward", once=f"forward:{successor}", node_id=successor)
    said = f"{row.name} was replaced, and the new one has it already" if successor else f"{row.name} was removed"
    refused = tx.execute(
        sa.update(ForwardRow)
        .where(waiting)
        .values(state="refused", said=said, due=None)
        .returning(ForwardRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    if refused and successor is None:
        events.record(
            tx,
            now,
            EventKind.FORWARD_REFUSED,
            level=Level.ALARM,
            node=row.name,
            instances=len(refused),
            said=f"{said} while images waited for it: they are not sent there",
        )


def _retire(tx: Transaction, name: str, now: datetime, who: str) -> list[int]:
    """Retire the node of this name; return the numbers of its rows."""
    return list(
        tx.scalars(
            sa.update(DicomNodeRow)
            .where(DicomNodeRow.name == name, DicomNodeRow.retired_at.is_(None))
            .values(retired_at=now, retired_by=who)
            .returning(DicomNodeRow.id)
        )
    )


def _node(row: DicomNodeRow) -> Node:
    return Node(row.id, row.name, row.ae_title, row.host, row.port)
