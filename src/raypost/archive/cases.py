"""Patients, cases, series and instances: an instance is filed once, whatever comes twice; versions and conflicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_short_key
from raypost.archive.tables import CaseRow, InstanceRow, PatientRow, SeriesRow
from raypost.errors import NotNowError
from raypost.model.audit import EventKind, Level
from raypost.model.study import InstanceFacts
from raypost.transfer.reading_order import is_localizer, reading_rank
from raypost.transfer.series_signs import ReadingFacts

BURST = timedelta(seconds=0.5)
"""Instances that follow each other so closely are routed together, by the sweep."""


class Filing(Enum):
    """What filing an instance found."""

    NEW = "new"
    DUPLICATE = "duplicate"
    NEW_VERSION = "new version"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class FiledInstance:
    """Where an instance is in the archive; of a duplicate, the one that was there.

    Attributes:
        is_in_burst: Another instance of the case came a moment before.
    """

    instance_id: int
    case_id: int
    sha256: str
    filing: Filing
    is_in_burst: bool = False


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
    """File one instance whose blob is on disk already; see `file_instances`."""
    return file_instances(tx, [facts], origin, now)[0]


def file_instances(tx: Transaction, listed: list[InstanceFacts], origin: Origin, now: datetime) -> list[FiledInstance]:
    """File instances of one study whose blobs are on disk already.

    Equal content: a duplicate, silent. The same pixels under other attributes: a new version, with a notice. Other
    pixels under the same SOP Instance UID: a conflict, both kept, with an alarm.

    Args:
        listed: All of the same study.
    """
    case = _case(tx, listed[0], origin, now)
    is_in_burst = case.opened_at != now and now - case.last_arrival_at < BURST
    known = _known(tx, case.id, [facts.sop_instance_uid for facts in listed])
    series: dict[str, int] = {}
    filed = []
    for facts in listed:
        others = known.setdefault(facts.sop_instance_uid, [])
        same = next((one for one in others if one.content_sha256 == facts.content_sha256), None)
        if same is not None:
            filed.append((same, Filing.DUPLICATE))
            continue
        if facts.series_instance_uid not in series:
            of_series = (one for one in listed if one.series_instance_uid == facts.series_instance_uid)
            images = (one for one in of_series if not is_localizer(one.image_type))
            series[facts.series_instance_uid] = _series_id(tx, case.id, next(images, facts))
        filing = Filing.NEW
        if others:
            same_pixels = all(one.pixel_sha256 == facts.pixel_sha256 for one in others)
            filing = Filing.NEW_VERSION if same_pixels else Filing.CONFLICT
        row = _instance(facts, case.id, series[facts.series_instance_uid], origin, now)
        row.version = len(others) + 1
        row.standing = "conflict" if filing is Filing.CONFLICT else "current"
        _note_versions(tx, filing, row, others, now)
        tx.add(row)
        others.append(row)
        filed.append((row, filing))
    tx.flush()
    case.last_arrival_at = now
    return [FiledInstance(row.id, case.id, row.sha256, filing, is_in_burst) for row, filing in filed]


def _known(tx: Transaction, case_id: int, sop_instance_uids: list[str]) -> dict[str, list[InstanceRow]]:
    """Return every version of these instances that is here, oldest first."""
    known: dict[str, list[InstanceRow]] = {}
    query = (
        sa.select(InstanceRow)
        .where(InstanceRow.case_id == case_id, InstanceRow.sop_instance_uid.in_(sop_instance_uids))
        .order_by(InstanceRow.version)
    )
    for row in tx.scalars(query):
        known.setdefault(row.sop_instance_uid, []).append(row)
    return known


def _instance(facts: InstanceFacts, case_id: int, series_id: int, origin: Origin, now: datetime) -> InstanceRow:
    return InstanceRow(
        case_id=case_id,
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
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        received_at=now,
    )


def _note_versions(tx: Transaction, filing: Filing, row: InstanceRow, others: list[InstanceRow], now: datetime) -> None:
    kinds = {
        Filing.NEW_VERSION: ("superseded", EventKind.NEW_VERSION, Level.NOTICE),
        Filing.CONFLICT: ("conflict", EventKind.CONFLICT, Level.ALARM),
    }
    if filing in kinds:
        standing, kind, level = kinds[filing]
        for other in others:
            other.standing = standing
        events.record(tx, now, kind, level=level, case_id=row.case_id, version=row.version)


def note_routed(tx: Transaction, instance_id: int, now: datetime) -> None:
    """Note that nothing needs to be decided about an instance: a person did."""
    tx.execute(
        sa.update(InstanceRow)
        .where(InstanceRow.id == instance_id, InstanceRow.routed_at.is_(None))
        .values(routed_at=now)
    )


def note_called_anew(tx: Transaction, instance_id: int, origin: Origin) -> bool:
    """Note that an instance that is here already was sent once more, to another AE title: that is a new order.

    Returns:
        True when the rules have to look at it again; False when it was sent to the same AE title as before.

    Raises:
        NotNowError: The rules did not look at the first order yet; the second must not take its place.
    """
    first = tx.get_one(InstanceRow, instance_id)
    if first.routed_at is None and first.called_ae_title != origin.called_ae_title:
        raise NotNowError("the same instance was sent to another AE title a moment ago, and that order comes first")
    found = tx.execute(
        sa.update(InstanceRow)
        .where(InstanceRow.id == instance_id, InstanceRow.called_ae_title != origin.called_ae_title)
        .values(calling_ae_title=origin.calling_ae_title, called_ae_title=origin.called_ae_title, routed_at=None)
        .returning(InstanceRow.id)
    ).first()
    return found is not None


def note_release(tx: Transaction, case_ids: Iterable[int], now: datetime) -> None:
    """Remember that the modality released the association over which these cases came.

    In their order: another association may bring some of the same.
    """
    for case_id in sorted(set(case_ids)):
        tx.execute(sa.update(CaseRow).where(CaseRow.id == case_id).values(released_at=now))


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


def reading_ranks(tx: Transaction, instances: Iterable[InstanceRow]) -> dict[int, int]:
    """Return by instance how soon it is sent, lower first; see `transfer/reading_order.py`."""
    listed = list(instances)
    query = sa.select(SeriesRow).where(SeriesRow.id.in_({one.series_id for one in listed}))
    series = {row.id: row for row in tx.scalars(query)}
    return {one.id: reading_rank(_reading_facts(one, series[one.series_id])) for one in listed}


def _reading_facts(instance: InstanceRow, series: SeriesRow) -> ReadingFacts:
    return ReadingFacts(
        modality=series.modality,
        sop_class_uid=instance.sop_class_uid,
        image_type=instance.image_type,
        series_description=series.series_description,
        body_part=series.body_part,
        slice_thickness_mm=series.slice_thickness_mm,
        convolution_kernel=series.convolution_kernel,
        contrast_agent=series.contrast_agent,
        instance_number=instance.instance_number,
    )


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
    """Return the patient, made when he is new; the same number under another name is somebody else."""
    same = {
        "issuing_site_id": origin.site_id,
        "issuer_of_patient_id": facts.issuer_of_patient_id,
        "patient_id": facts.patient_id,
        "patient_name": facts.patient_name,
        "birth_date": facts.patient_birth_date,
        "sex": facts.patient_sex,
    }
    tx.execute(insert(PatientRow).values(**same).on_conflict_do_nothing())
    return tx.scalars(sa.select(PatientRow.id).filter_by(**same)).one()


def _series_id(tx: Transaction, case_id: int, facts: InstanceFacts) -> int:
    """Return the series, made when it is new; how it was reconstructed is what its first image says, not a localiser.

    The case's row must be locked.
    """
    find = sa.select(SeriesRow).where(
        SeriesRow.case_id == case_id, SeriesRow.series_instance_uid == facts.series_instance_uid
    )
    series = tx.scalar(find)
    if series is None:
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
        series = tx.scalars(find).one()
    is_silent = series.slice_thickness_mm is None and not series.convolution_kernel and not series.contrast_agent
    if is_silent and not is_localizer(facts.image_type):
        series.slice_thickness_mm = facts.slice_thickness_mm
        series.convolution_kernel = facts.convolution_kernel
        series.contrast_agent = facts.contrast_agent
    return series.id
