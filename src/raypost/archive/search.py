"""Find studies, transfers and quarantined objects; the shapes that the command line and later the pages show."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive import corrections, events
from raypost.archive.database import Transaction
from raypost.archive.tables import (
    CaseRow,
    InstanceRow,
    MessageRow,
    OpeningRow,
    PatientRow,
    QuarantineRow,
    SeriesRow,
    SiteRow,
    TransferItemRow,
    TransferRow,
)
from raypost.errors import UsageError

LIST_MAX = 1000

Shape = dict[str, Any]


def studies(tx: Transaction, *, limit: int = 50, text: str = "", with_withdrawn: bool = False) -> list[Shape]:
    """Return the newest studies; `text` is looked for in patient name, patient ID, accession number and description.

    Args:
        with_withdrawn: Also those that their sender recalled.
    """
    query = (
        sa.select(CaseRow, PatientRow, SiteRow.name, sa.func.count(InstanceRow.id), sa.func.sum(InstanceRow.size_bytes))
        .join(PatientRow, PatientRow.id == CaseRow.patient_id)
        .join(SiteRow, SiteRow.id == CaseRow.origin_site_id)
        .outerjoin(InstanceRow, InstanceRow.case_id == CaseRow.id)
        .group_by(CaseRow.id, PatientRow.id, SiteRow.name)
        .order_by(CaseRow.last_arrival_at.desc())
        .limit(min(limit, LIST_MAX))
    )
    if not with_withdrawn:
        query = query.where(CaseRow.hidden_at.is_(None))
    if text:
        pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = query.where(
            sa.or_(
                PatientRow.patient_name.ilike(pattern),
                PatientRow.patient_id.ilike(pattern),
                CaseRow.study_description.ilike(pattern),
                CaseRow.accession_number.ilike(pattern),
            )
        )
    return [_study(case, patient, origin, count, size) for case, patient, origin, count, size in tx.execute(query)]


def study(tx: Transaction, study_key: str) -> Shape:
    """Return one study with its series and transfers.

    Raises:
        UsageError: There is none with this key.
    """
    case = case_by_key(tx, study_key)
    patient = tx.get_one(PatientRow, case.patient_id)
    origin = tx.scalars(sa.select(SiteRow.name).where(SiteRow.id == case.origin_site_id)).one()
    totals = tx.execute(
        sa.select(sa.func.count(), sa.func.sum(InstanceRow.size_bytes)).where(InstanceRow.case_id == case.id)
    ).one()
    series = tx.execute(
        sa.select(SeriesRow, sa.func.count(InstanceRow.id))
        .outerjoin(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .where(SeriesRow.case_id == case.id)
        .group_by(SeriesRow.id)
        .order_by(SeriesRow.series_number.nulls_last(), SeriesRow.id)
    ).all()
    shape = _study(case, patient, origin, totals[0], totals[1])
    shape["series"] = [
        {
            "series_instance_uid": row.series_instance_uid,
            "number": row.series_number,
            "modality": row.modality,
            "description": row.series_description,
            "instances": count,
        }
        for row, count in series
    ]
    shape["transfers"] = transfers(tx, case_id=case.id)
    shape["corrections"] = corrections.of_case(tx, case.id)
    shape["opened_by"] = _openings(tx, case.id)
    shape["responsible"] = (
        None
        if case.responsible_site_id is None
        else tx.scalars(sa.select(SiteRow.name).where(SiteRow.id == case.responsible_site_id)).one()
    )
    return shape


def _openings(tx: Transaction, case_id: int) -> list[Shape]:
    rows = tx.execute(
        sa.select(OpeningRow.who, OpeningRow.opened_at, SiteRow.name)
        .join(SiteRow, SiteRow.id == OpeningRow.site_id)
        .where(OpeningRow.case_id == case_id)
        .order_by(OpeningRow.opened_at)
    )
    return [{"who": who, "site": site, "opened_at": _text(at)} for who, at, site in rows]


def case_by_key(tx: Transaction, study_key: str) -> CaseRow:
    """Return the case of a study key.

    Raises:
        UsageError: There is none.
    """
    case = tx.scalar(sa.select(CaseRow).where(CaseRow.study_key == study_key))
    if case is None:
        raise UsageError(f"there is no study {study_key!r} here", do="`raypost study list` shows the keys.")
    return case


def transfers(tx: Transaction, *, limit: int = 50, case_id: int | None = None) -> list[Shape]:
    """Return the newest transfers, both directions."""
    query = (
        sa.select(TransferRow, SiteRow.name, CaseRow.study_key)
        .join(SiteRow, SiteRow.id == TransferRow.partner_id)
        .outerjoin(CaseRow, CaseRow.id == TransferRow.case_id)
        .order_by(TransferRow.id.desc())
        .limit(min(limit, LIST_MAX))
    )
    if case_id is not None:
        query = query.where(TransferRow.case_id == case_id)
    rows = tx.execute(query).all()
    counts = _item_counts(tx, [row[0].id for row in rows])
    return [_transfer(row, name, study_key, counts.get(row.id, {})) for row, name, study_key in rows]


def transfer(tx: Transaction, transfer_key: str) -> Shape:
    """Return one transfer with its messages and events.

    Raises:
        UsageError: There is none with this key.
    """
    row = transfer_by_key(tx, transfer_key)
    name = tx.scalars(sa.select(SiteRow.name).where(SiteRow.id == row.partner_id)).one()
    study_key = tx.scalar(sa.select(CaseRow.study_key).where(CaseRow.id == row.case_id))
    shape = _transfer(row, name, study_key, _item_counts(tx, [row.id]).get(row.id, {}))
    shape["messages"] = [
        {
            "direction": one.direction,
            "kind": one.kind,
            "number": one.number,
            "state": one.state,
            "attempt": one.attempt,
            "size_bytes": one.size_bytes,
            "relay": one.relay,
            "planned_at": _text(one.planned_at),
            "queued_at": _text(one.queued_at),
            "accepted_at": _text(one.accepted_at),
            "filed_at": _text(one.filed_at),
            "said": one.said,
        }
        for one in tx.scalars(sa.select(MessageRow).where(MessageRow.transfer_id == row.id).order_by(MessageRow.id))
    ]
    shape["events"] = [
        {"at": _text(one.at), "kind": one.kind.value, "level": one.level.value, "fields": dict(one.fields)}
        for one in events.of_transfer(tx, row.id)
    ]
    return shape


def transfer_by_key(tx: Transaction, transfer_key: str) -> TransferRow:
    """Return a transfer; of the two of a transfer to oneself the outgoing one.

    Raises:
        UsageError: There is none.
    """
    row = tx.scalar(
        sa.select(TransferRow)
        .where(TransferRow.transfer_key == transfer_key)
        .order_by(TransferRow.direction.desc())
        .limit(1)
    )
    if row is None:
        raise UsageError(f"there is no transfer {transfer_key!r} here", do="`raypost transfer list` shows the keys.")
    return row


def quarantined(tx: Transaction, limit: int = 100) -> list[Shape]:
    """Return what is in quarantine, newest first."""
    rows = tx.scalars(sa.select(QuarantineRow).order_by(QuarantineRow.id.desc()).limit(min(limit, LIST_MAX)))
    return [
        {
            "quarantine_key": row.quarantine_key,
            "source": row.source,
            "code": row.code,
            "what": row.what,
            "origin": row.origin,
            "size_bytes": row.size_bytes,
            "put_at": _text(row.put_at),
            "file": row.quarantine_file,
        }
        for row in rows
    ]


def _study(case: CaseRow, patient: PatientRow, origin: str, count: int, size_bytes: int | None) -> Shape:
    return {
        "study_key": case.study_key,
        "origin": origin,
        "study_instance_uid": case.study_instance_uid,
        "patient_id": patient.patient_id,
        "patient_name": patient.patient_name,
        "birth_date": patient.birth_date,
        "sex": patient.sex,
        "study_date": case.study_date,
        "study_time": case.study_time,
        "description": case.study_description,
        "accession_number": case.accession_number,
        "test": case.is_test,
        "instances": count,
        "stored_bytes": int(size_bytes or 0),
        "last_arrival_at": _text(case.last_arrival_at),
        "hidden_because": case.hidden_because if case.hidden_at else None,
    }


def _transfer(row: TransferRow, partner: str, study_key: str | None, counts: dict[str, int]) -> Shape:
    return {
        "transfer_key": row.transfer_key,
        "direction": row.direction,
        "partner": partner,
        "study_key": study_key,
        "supplement": row.supplement,
        "priority": row.priority,
        "test": row.is_test,
        "state": row.state,
        "ordered_by": row.ordered_by,
        "instances": sum(counts.values()),
        "instances_filed": max(counts.get("filed", 0), min(row.instances_there, sum(counts.values()))),
        "instances_refused": counts.get("refused", 0),
        "manifest_instances": row.manifest_instances,
        "opened_at": _text(row.opened_at),
        "closed_at": _text(row.closed_at),
        "finished_at": _text(row.finished_at),
        "told_at": _text(row.told_at),
    }


def _item_counts(tx: Transaction, transfer_ids: list[int]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    query = (
        sa.select(TransferItemRow.transfer_id, TransferItemRow.state, sa.func.count())
        .where(TransferItemRow.transfer_id.in_(transfer_ids))
        .group_by(TransferItemRow.transfer_id, TransferItemRow.state)
    )
    for transfer_id, state, count in tx.execute(query):
        found.setdefault(transfer_id, {})[state] = count
    return found


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat(timespec="milliseconds") if instant else None
