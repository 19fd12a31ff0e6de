"""What happened, in one order: written in the transaction of the change, read by people and live displays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive.database import Database, Transaction
from raypost.archive.tables import EventRow, TransferRow
from raypost.model.audit import EventKind, Level

PAGE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader stands: the transaction number and the row's number, in this order."""

    xid: str = "0"
    event_id: int = 0


@dataclass(frozen=True, slots=True)
class Happened:
    """One event as a reader gets it. Fields hold numbers and our own keys, never patient data."""

    position: Position
    at: datetime
    kind: EventKind
    level: Level
    case_id: int | None
    transfer_id: int | None
    site_id: int | None
    fields: Mapping[str, Any]


def record(
    tx: Transaction,
    now: datetime,
    kind: EventKind,
    *,
    level: Level = Level.INFO,
    transfer: TransferRow | None = None,
    case_id: int | None = None,
    site_id: int | None = None,
    **fields: int | float | str | bool | None,
) -> None:
    """Write an event in the caller's transaction; a trigger of the table wakes the readers when it commits.

    Args:
        transfer: What it is about; brings its case and partner with it.
        fields: Numbers and our own keys, never patient data.
    """
    if transfer is not None:
        case_id, site_id = transfer.case_id, transfer.partner_id
    row = {
        "at": now,
        "kind": kind.value,
        "level": level.value,
        "case_id": case_id,
        "transfer_id": transfer.id if transfer is not None else None,
        "partner_id": site_id,
        "fields": dict(fields),
    }
    tx.execute(sa.insert(EventRow).values(row))


def read_after(database: Database, position: Position, limit: int = PAGE_MAX) -> list[Happened]:
    """Return the events after a position, in an order in which none can appear later in between.

    Rows of transactions that are still open are left for the next call: numbers are given before the commit.
    """
    query = sa.text(
        "select xid::text as xid_text, id, at, kind, level, case_id, transfer_id, partner_id, fields from rp_event"
        " where (xid, id) > (cast(:xid as xid8), :event_id) and xid < pg_snapshot_xmin(pg_current_snapshot())"
        " order by rp_event.xid, id limit :limit"
    )
    with database.transaction() as tx:
        rows = tx.execute(query, {"xid": position.xid, "event_id": position.event_id, "limit": min(limit, PAGE_MAX)})
        return [_happened(row) for row in rows.all()]


def of_transfer(
    tx: Transaction, transfer_id: int, limit: int = PAGE_MAX, *, after: int | None = None
) -> list[Happened]:
    """Return a page of the events of one transfer, the newest last.

    Args:
        limit: At most so many, and never more than PAGE_MAX.
        after: The page behind the event of this number, 0 for the first page; None for the newest events.
    """
    chosen = {"transfer_id": transfer_id, "after": after or 0, "limit": min(limit, PAGE_MAX)}
    way = "desc" if after is None else "asc"
    query = sa.text(
        "select xid::text as xid_text, id, at, kind, level, case_id, transfer_id, partner_id, fields from rp_event"
        f" where transfer_id = :transfer_id and id > :after order by id {way} limit :limit"
    )
    page = [_happened(row) for row in tx.execute(query, chosen)]
    return page[::-1] if after is None else page


def all_of_transfer(tx: Transaction, transfer_id: int) -> Iterator[Happened]:
    """Go through every event of one transfer, the newest last, a page at a time."""
    page = of_transfer(tx, transfer_id, after=0)
    while page:
        yield from page
        page = of_transfer(tx, transfer_id, after=page[-1].position.event_id)


def count_of_transfer(tx: Transaction, transfer_id: int) -> int:
    """Return how many events one transfer has."""
    query = sa.select(sa.func.count()).select_from(EventRow).where(EventRow.transfer_id == transfer_id)
    return tx.scalar(query) or 0


def latest(tx: Transaction, limit: int = 100) -> list[Happened]:
    """Return the newest events, newest first."""
    query = sa.text(
        "select xid::text as xid_text, id, at, kind, level, case_id, transfer_id, partner_id, fields from rp_event"
        " order by id desc limit :limit"
    )
    return [_happened(row) for row in tx.execute(query, {"limit": min(limit, PAGE_MAX)})]


def _happened(row: Any) -> Happened:
    return Happened(Position(row[0], row[1]), row[2], EventKind(row[3]), Level(row[4]), row[5], row[6], row[7], row[8])
