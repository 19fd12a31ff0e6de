"""What is known of each partner: signs of life, clock, round trip, what it understands."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.database import Transaction
from raypost.archive.tables import ContactRow
from raypost.transfer import pacing

HEARD_EVERY = timedelta(seconds=5)


def row_of(tx: Transaction, site_id: int) -> ContactRow:
    """Return the row of a partner, locked; made when it is new."""
    made: dict[str, Any] = {"site_id": site_id, "state": "unknown", "hellos_written": 0, "heard_number": 0}
    tx.execute(insert(ContactRow).values(**made, capabilities={}).on_conflict_do_nothing())
    return tx.get_one(ContactRow, site_id, with_for_update={"key_share": True})


def kinds_known(tx: Transaction, site_id: int) -> tuple[str, ...] | None:
    """Return which kinds of messages a partner said it understands; None while it said nothing."""
    kinds = _capability(tx, site_id, "kinds")
    return None if kinds is None else tuple(kinds)


def round_trip_s(tx: Transaction, site_id: int) -> float | None:
    """Return the smoothed time from "the relay took it" to the receipt that speaks of it; None before the first."""
    return tx.scalar(sa.select(ContactRow.round_trip_s).where(ContactRow.site_id == site_id))


def note_round_trip(tx: Transaction, site_id: int, seconds: float) -> None:
    """Take in one measured round trip."""
    row = row_of(tx, site_id)
    row.round_trip_s = pacing.smoothed_round_trip_s(row.round_trip_s, seconds)


def path_bytes_per_s(tx: Transaction, site_id: int) -> float | None:
    """Return what the partner's line carries when it fetches mails, by its hello; None while it said nothing of it."""
    return float(_capability(tx, site_id, "fetch_rate") or 0) or None


def mail_size_max_bytes(tx: Transaction, site_id: int) -> int | None:
    """Return the largest mail that the partner fetches, by its hello; None while it said nothing of it."""
    return int(_capability(tx, site_id, "mail_size_max") or 0) or None


def _capability(tx: Transaction, site_id: int, name: str) -> Any:
    found = tx.scalar(sa.select(ContactRow.capabilities).where(ContactRow.site_id == site_id))
    return (found or {}).get(name)


def keys_known(tx: Transaction, site_id: int) -> tuple[str, ...] | None:
    """Return which of our keys a partner holds, by its last hello; None while it said nothing of them."""
    keys = _capability(tx, site_id, "your_keys")
    return tuple(keys) if keys else None


def restores_heard(tx: Transaction, site_id: int) -> int:
    """Return of how many restores from a backup the partner's hellos told."""
    return tx.scalar(sa.select(ContactRow.restores_heard).where(ContactRow.site_id == site_id)) or 0


def clock_of(tx: Transaction, site_id: int | None) -> tuple[float | None, float | None]:
    """Return (offset, uncertainty) of a partner's clock in seconds, as measured last."""
    row = tx.execute(
        sa.select(ContactRow.clock_offset_s, ContactRow.clock_uncertainty_s).where(ContactRow.site_id == site_id)
    ).first()
    return (row[0], row[1]) if row else (None, None)


def note_heard(tx: Transaction, site_id: int, now: datetime) -> None:
    """Note that something signed by a partner was verified: as good a sign of life as a hello.

    At most once in a few seconds, so that the parcels of a study do not queue for one row.
    """
    row_missing = tx.get(ContactRow, site_id) is None
    if row_missing:
        row_of(tx, site_id)
    tx.execute(
        sa.update(ContactRow)
        .where(
            ContactRow.site_id == site_id,
            sa.or_(ContactRow.heard_at.is_(None), ContactRow.heard_at < now - HEARD_EVERY),
        )
        .values(heard_at=now)
    )
