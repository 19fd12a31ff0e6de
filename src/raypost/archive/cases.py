"""Patients, cases, series and instances: an instance is filed once, whatever comes twice; versions and conflicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_short_key
from raypost.archive.tables import CaseRow, InstanceRow, PatientRow, SeriesRow
from raypost.model.audit import EventKind, Level
from raypost.model.study import InstanceFacts

VERSIONS_MAX = 100
"""So many versions of one instance are kept; a peer that sends more has a fault, and the newest is refused."""


class Filing(Enum):
    """What filing an instance found."""

    NEW = "new"
    DUPLICATE = "duplicate"
    NEW_VERSION = "new version"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class FiledInstance:
    """Where an instance is in the archive; of a duplicate, the one that was there."""

    instance_id: int
    case_id: int
    sha256: str
    filing: Filing


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instance comes from.

    Attributes:
        site_id: The site that made it and whose patient numbers it carries.
        calling_ae_title: Empty for what came by mail.
    """

    site_id: int
    is_test: bool = False
    calling_ae_title: str = ""
    called_ae_title: str = ""


def file_instance(tx: Transaction, facts: InstanceFacts, origin: Origin, now: datetime) -> FiledInstance:
    """File one instance whose blob is on disk already.

    Equal content: a duplicate, silent. The same pixels under other attributes: a new version, with a notice. Other
    pixels under the same SOP Instance UID: a conflict, both kept, with an alarm.
    """
    case = _case(tx, facts, origin, now)
    known = tx.execute(
        sa.select(
            InstanceRow.id,
            InstanceRow.content_sha256,
            InstanceRow.pixel_sha256,
            InstanceRow.sha256,
            InstanceRow.version,
        )
        .where(InstanceRow.case_id == case.id, InstanceRow.sop_instance_uid == facts.sop_instance_uid)
        .order_by(InstanceRow.version)
    ).all()
    for one in known:
        if one.content_sha256 == facts.content_sha256:
            return FiledInstance(one.id, case.id, one.sha256, Filing.DUPLICATE)
    filing = Filing.NEW
    if known:
        same_pixels = all(one.pixel_sha256 == facts.pixel_sha256 for one in known)
        filing = Filing.NEW_VERSION if same_pixels else Filing.CONFLICT
    series_id = _series_id(tx, case.id, facts)
    row = InstanceRow(
        case_id=case.id,
        series_id=series_id,
        sop_instance_uid=facts.sop_instance_uid,
        sop_class_uid=facts.sop_class_uid,
        transfer_syntax_uid=facts.transfer_syntax_uid,
        instance_number=facts.instance_number,
        image_type=facts.image_type,
        sha256=facts.file_sha256,
        content_sha256=facts.content_sha256,
        pixel_sha256=facts.pixel_sha256,
        size_bytes=facts.size_bytes,
        raw_size_bytes=facts.raw_size_bytes,
        kept_because=facts.kept_because,
        version=len(known) + 1,
        standing="conflict" if filing is Filing.CONFLICT else "current",
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        received_at=now,
    )
    tx.add(row)
    tx.flush()
    _note_versions(tx, filing, row, [one.id for one in known], now)
    case.last_arrival_at = now
    return FiledInstance(row.id, case.id, row.sha256, filing)


def _note_versions(tx: Transaction, filing: Filing, row: InstanceRow, others: list[int], now: datetime) -> None:
    if filing is Filing.NEW_VERSION:
        tx.execute(sa.update(InstanceRow).where(InstanceRow.id.in_(others)).values(standing="superseded"))
        events.record(tx, now, EventKind.NEW_VERSION, level=Level.NOTICE, case_id=row.case_id, version=row.version)
    elif filing is Filing.CONFLICT:
        tx.execute(sa.update(InstanceRow).where(InstanceRow.id.in_(others)).values(standing="conflict"))
        events.record(tx, now, EventKind.CONFLICT, level=Level.ALARM, case_id=row.case_id, version=row.version)


def note_routed(tx: Transaction, instance_id: int, now: datetime) -> None:
    """Note that nothing needs to be decided about an instance: a person did."""
    tx.execute(
        sa.update(InstanceRow)
        .where(InstanceRow.id == instance_id, InstanceRow.routed_at.is_(None))
        .values(routed_at=now)
    )


def note_release(tx: Transaction, case_ids: Iterable[int], now: datetime) -> None:
    """Remember that the modality released the association over which these cases came."""
    tx.execute(sa.update(CaseRow).where(CaseRow.id.in_(list(case_ids))).values(released_at=now))


def unrouted(tx: Transaction, case_id: int, limit: int) -> list[tuple[InstanceRow, SeriesRow]]:
    """Return instances of a case that no rule has looked at, with their series, oldest first."""
    query = (
        sa.select(InstanceRow, SeriesRow)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(InstanceRow.case_id == case_id, InstanceRow.routed_at.is_(None))
        .order_by(InstanceRow.id)
        .limit(limit)
    )
    return [(instance, series) for instance, series in tx.execute(query)]


def instances_of_case(tx: Transaction, case_id: int) -> list[InstanceRow]:
    """Return every version that is shown or in conflict, in the order of series and instance numbers."""
    query = (
        sa.select(InstanceRow)
        .where(InstanceRow.case_id == case_id, InstanceRow.standing != "superseded")
        .order_by(InstanceRow.series_id, InstanceRow.instance_number.nulls_last(), InstanceRow.id)
    )
    return list(tx.scalars(query))


def instances_by_id(tx: Transaction, instance_ids: list[int]) -> list[InstanceRow]:
    """Return these instances, in the order in which they came."""
    return list(tx.scalars(sa.select(InstanceRow).where(InstanceRow.id.in_(instance_ids)).order_by(InstanceRow.id)))


def _case(tx: Transaction, facts: InstanceFacts, origin: Origin, now: datetime) -> CaseRow:
    """Return the case, made when it is new, with its row locked: instances of one case are filed one after another."""
    find = (
        sa.select(CaseRow)
        .where(
            CaseRow.origin_site_id == origin.site_id,
            CaseRow.study_instance_uid == facts.study_instance_uid,
            CaseRow.is_test == origin.is_test,
        )
        .with_for_update(key_share=True)
    )
    case = tx.scalar(find)
    if case is not None:
        return case
    tx.execute(
        insert(CaseRow)
        .values(
            study_key=new_short_key(),
            origin_site_id=origin.site_id,
            study_instance_uid=facts.study_instance_uid,
            patient_id=_patient_id(tx, facts, origin),
            study_date=facts.study_date,
            study_time=facts.study_time,
            study_description=facts.study_description,
            accession_number=facts.accession_number,
            is_test=origin.is_test,
            opened_at=now,
            last_arrival_at=now,
        )
        .on_conflict_do_nothing()
    )
    return tx.scalars(find).one()


def _patient_id(tx: Transaction, facts: InstanceFacts, origin: Origin) -> int:
    same = {
        "issuing_site_id": origin.site_id,
        "issuer_of_patient_id": facts.issuer_of_patient_id,
        "patient_id": facts.patient_id,
    }
    values = {"patient_name": facts.patient_name, "birth_date": facts.patient_birth_date, "sex": facts.patient_sex}
    return tx.scalars(
        insert(PatientRow)
        .values(**same, **values)
        .on_conflict_do_update(index_elements=list(same), set_=values)
        .returning(PatientRow.id)
    ).one()


def _series_id(tx: Transaction, case_id: int, facts: InstanceFacts) -> int:
    find = sa.select(SeriesRow.id).where(
        SeriesRow.case_id == case_id, SeriesRow.series_instance_uid == facts.series_instance_uid
    )
    series_id = tx.scalar(find)
    if series_id is None:
        tx.execute(
            insert(SeriesRow)
            .values(
                case_id=case_id,
                series_instance_uid=facts.series_instance_uid,
                modality=facts.modality,
                series_number=facts.series_number,
                series_description=facts.series_description,
                body_part=facts.body_part_examined,
            )
            .on_conflict_do_nothing()
        )
        series_id = tx.scalars(find).one()
    return series_id
