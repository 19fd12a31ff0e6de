"""How partners, relays and scanners stand: what a person looks at before a patient needs them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive import partners, scanners
from raypost.archive.database import Transaction
from raypost.archive.tables import ContactRow, RelayRow, TransferRow

OPEN_WORDS = ("announced", "streaming", "closed", "expected", "arriving")


def look(tx: Transaction) -> dict[str, Any]:
    """Return the shape that `raypost status --json` prints."""
    contacts = {row.site_id: row for row in tx.scalars(sa.select(ContactRow))}
    return {
        "partners": [
            _partner(one.name, one.display_name, contacts.get(one.site_id))
            for one in partners.all_partners(tx)
            if not one.is_self
        ],
        "relays": [
            _relay(row)
            for row in tx.scalars(sa.select(RelayRow).where(RelayRow.position.is_not(None)).order_by(RelayRow.position))
        ],
        "scanners": scanners.all_scanners(tx),
        "transfers_open": _open(tx),
        "transfers_told": _told(tx),
    }


def _partner(name: str, display_name: str, row: ContactRow | None) -> dict[str, Any]:
    capabilities = row.capabilities if row and row.capabilities else {}
    return {
        "name": name,
        "display_name": display_name,
        "state": row.state if row else "unknown",
        "last_heard_at": _text(row.heard_at) if row else None,
        "clock_offset_s": row.clock_offset_s if row else None,
        "clock_uncertainty_s": row.clock_uncertainty_s if row else None,
        "round_trip_s": round(row.round_trip_s, 2) if row and row.round_trip_s is not None else None,
        "software": capabilities.get("software"),
        "kinds": capabilities.get("kinds"),
        "audit_head": capabilities.get("audit_head") or None,
    }


def _relay(row: RelayRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state,
        "since": _text(row.changed_at),
        "size_max_bytes": row.size_max_bytes,
        "rate_bytes_per_s": round(row.rate_bytes_per_s) if row.rate_bytes_per_s is not None else None,
        "said": row.said,
    }


def _open(tx: Transaction) -> int:
    query = sa.select(sa.func.count()).select_from(TransferRow).where(TransferRow.state.in_(OPEN_WORDS))
    return int(tx.scalar(query) or 0)


def _told(tx: Transaction) -> int:
    """Count open transfers of which a person was told that nothing moves."""
    query = (
        sa.select(sa.func.count())
        .select_from(TransferRow)
        .where(TransferRow.state.in_((*OPEN_WORDS, "unconfirmed", "incomplete")), TransferRow.told_at.is_not(None))
    )
    return int(tx.scalar(query) or 0)


def _text(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
