"""What people ask the audit trail: what happened to a study, and who saw a patient."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive.database import Transaction
from raypost.archive.tables import AuditRow, CaseRow
from raypost.model.audit import EventKind

LIST_MAX = 1000
Shape = dict[str, Any]

SEEN = {
    EventKind.OPENED: "opened",
    EventKind.STUDY_SHOWN: "looked at",
    EventKind.EXPORTED: "exported",
    EventKind.CORRECTED: "corrected",
    EventKind.FILED: "received",
    EventKind.TRANSFER_DELIVERED: "received",
    EventKind.LATE_RECEIPT: "received",
    EventKind.TRANSFER_UNCONFIRMED: "perhaps received",
    EventKind.FORWARDED: "received",
    EventKind.AUDIT_USED: "looked up in the audit trail",
}
"""By which events a person, a site or a node may have seen a study, in words."""


def entries(
    tx: Transaction, *, case_id: int | None = None, since: datetime | None = None, limit: int = 100
) -> list[Shape]:
    """Return the newest entries of the trail, the newest last.

    Args:
        case_id: Only those about this study.
        since: Only what happened at this instant or later.
    """
    query = sa.select(AuditRow).order_by(AuditRow.sequence.desc()).limit(min(limit, LIST_MAX))
    if case_id is not None:
        query = query.where(AuditRow.case_id == case_id)
    if since is not None:
        query = query.where(AuditRow.at >= since)
    rows = tx.scalars(query).all()[::-1]
    keys = _study_keys(tx, {row.case_id for row in rows})
    return [_entry(row, keys) for row in rows]


def who_saw(tx: Transaction, case: CaseRow, *, is_whole_patient: bool) -> list[Shape]:
    """Return who opened, got, exported or corrected a study, or looked it up; the oldest first.

    Args:
        is_whole_patient: All studies of the patient, as the same site knows him.
    """
    case_ids = [case.id]
    if is_whole_patient:
        case_ids = list(tx.scalars(sa.select(CaseRow.id).where(CaseRow.patient_id == case.patient_id)))
    kinds = [kind.value for kind in SEEN]
    query = (
        sa.select(
            AuditRow.kind,
            AuditRow.who,
            AuditRow.place,
            AuditRow.case_id,
            sa.func.min(AuditRow.at),
            sa.func.max(AuditRow.at),
            sa.func.count(),
            sa.func.min(AuditRow.sequence),
        )
        .where(AuditRow.case_id.in_(case_ids), AuditRow.kind.in_(kinds))
        .group_by(AuditRow.kind, AuditRow.who, AuditRow.place, AuditRow.case_id)
        .order_by(sa.func.min(AuditRow.sequence))
    )
    found = tx.execute(query).all()
    keys = _study_keys(tx, {row.case_id for row in found})
    return [
        {
            "what": SEEN[EventKind(kind)],
            "who": who,
            "place": place,
            "study_key": keys.get(case_id or 0, ""),
            "first_at": _text(first),
            "last_at": _text(last),
            "times": times,
            "sequence": sequence,
        }
        for kind, who, place, case_id, first, last, times, sequence in found
    ]


def as_line(row: AuditRow) -> Shape:
    """Return a row as `raypost audit export` writes it: everything that its hash is over, and the hash."""
    return {
        "sequence": row.sequence,
        "at": row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "kind": row.kind,
        "event_id": row.event_id,
        "events": row.events,
        "case_id": row.case_id,
        "outcome": row.outcome,
        "who": row.who,
        "place": row.place,
        "message": row.message,
        "hash": row.hash,
    }


def _entry(row: AuditRow, study_keys: dict[int, str]) -> Shape:
    return {
        "sequence": row.sequence,
        "at": _text(row.at),
        "kind": row.kind,
        "outcome": row.outcome,
        "who": row.who,
        "place": row.place,
        "study_key": study_keys.get(row.case_id) if row.case_id is not None else None,
        "events": row.events,
        "message": row.message,
    }


def _study_keys(tx: Transaction, case_ids: set[Any]) -> dict[int, str]:
    wanted = [one for one in case_ids if one is not None]
    query = sa.select(CaseRow.id, CaseRow.study_key).where(CaseRow.id.in_(wanted))
    return {row[0]: row[1] for row in tx.execute(query)}


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds")
