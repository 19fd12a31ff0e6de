"""The events that have no audit message yet, with what their messages name: sites, studies, patients, transfers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypost.archive import partners
from raypost.archive.database import Transaction
from raypost.archive.tables import AuditDueRow, CaseRow, EventRow, PartnerRow, PatientRow, SiteRow, TransferRow
from raypost.model.audit import EventKind, Level
from raypost.model.audit_values import MERGED, AuditedEvent, Party, StudyIdentity

SUMMED = frozenset({"bytes", "stored_bytes", "instances"})
"""Fields of merged events that are added up."""
LEFT_OUT = frozenset({"kept_because"})
"""Fields of merged events that say nothing for all of them."""


@dataclass(frozen=True, slots=True)
class CountedEvent:
    """An event, or several in a row of one kind and study, with what they have in common."""

    event: EventRow
    fields: dict[str, Any]
    count: int


def is_due(tx: Transaction) -> bool:
    """Say whether an event has no audit message yet."""
    return bool(tx.scalar(sa.select(sa.exists().select_from(AuditDueRow))))


def due_events(tx: Transaction, limit: int) -> list[CountedEvent]:
    """Take the oldest events that wait for an audit message; they do not wait any more when the transaction commits."""
    chosen = sa.select(AuditDueRow.event_id).order_by(AuditDueRow.event_id).limit(limit)
    taken = tx.scalars(sa.delete(AuditDueRow).where(AuditDueRow.event_id.in_(chosen)).returning(AuditDueRow.event_id))
    found = tx.scalars(sa.select(EventRow).where(EventRow.id.in_(taken.all())).order_by(EventRow.id))
    return [_merged(list(run)) for _, run in itertools.groupby(found, key=_likeness)]


def _likeness(row: EventRow) -> Any:
    """Return what events have in common that one message tells; an event of another kind is alone."""
    if row.kind not in {one.value for one in MERGED}:
        return row.id
    told = sorted((name, repr(value)) for name, value in row.fields.items() if name not in SUMMED | LEFT_OUT)
    return row.kind, row.level, row.case_id, row.transfer_id, row.partner_id, told


def _merged(run: list[EventRow]) -> CountedEvent:
    first = run[0]
    fields = dict(first.fields)
    if len(run) > 1:
        fields = {name: value for name, value in fields.items() if name not in SUMMED | LEFT_OUT}
        for name in sorted(SUMMED):
            values = [row.fields[name] for row in run if isinstance(row.fields.get(name), int)]
            fields |= {name: sum(values)} if values else {}
    return CountedEvent(first, fields, len(run))


def audited(tx: Transaction, counted: list[CountedEvent]) -> Iterator[tuple[AuditedEvent, int | None]]:
    """Yield each event as its audit message needs it, and the number of its case."""
    if not counted:
        return
    own = partners.own_site(tx)
    own_party = Party(own.name, own.display_name, own.address)
    sites = _sites(tx, {one.event.partner_id for one in counted} - {None})
    transfers = _transfers(tx, {one.event.transfer_id for one in counted} - {None})
    cases = {one.event.case_id for one in counted} | {row.case_id for row in transfers.values()}
    studies = _studies(tx, cases - {None})
    for one in counted:
        row = one.event
        transfer = transfers.get(row.transfer_id) if row.transfer_id is not None else None
        case_id = row.case_id if row.case_id is not None else transfer.case_id if transfer is not None else None
        made = AuditedEvent(
            number=row.id,
            count=one.count,
            at=row.at,
            kind=EventKind(row.kind),
            level=Level(row.level),
            fields=one.fields,
            own=own_party,
            partner=sites.get(row.partner_id) if row.partner_id is not None else None,
            study=studies.get(case_id) if case_id is not None else None,
        )
        if transfer is not None:
            made = dataclasses.replace(made, transfer_key=transfer.transfer_key, direction=transfer.direction)
        yield made, case_id


def _sites(tx: Transaction, site_ids: set[Any]) -> dict[int, Party]:
    """Return sites as they are now, or were last: a removed partner is named, too."""
    query = (
        sa.select(SiteRow.id, SiteRow.name, PartnerRow.display_name, PartnerRow.address)
        .join(PartnerRow, PartnerRow.site_id == SiteRow.id)
        .where(SiteRow.id.in_(site_ids))
        .order_by(PartnerRow.id)
    )
    return {row[0]: Party(row[1], row[2], row[3]) for row in tx.execute(query)}


def _transfers(tx: Transaction, transfer_ids: set[Any]) -> dict[int, TransferRow]:
    return {row.id: row for row in tx.scalars(sa.select(TransferRow).where(TransferRow.id.in_(transfer_ids)))}


def _studies(tx: Transaction, case_ids: set[Any]) -> dict[int, StudyIdentity]:
    query = (
        sa.select(CaseRow, PatientRow)
        .join(PatientRow, PatientRow.id == CaseRow.patient_id)
        .where(CaseRow.id.in_(case_ids))
    )
    return {
        case.id: StudyIdentity(
            case.study_key,
            case.study_instance_uid,
            case.accession_number,
            patient.patient_id,
            patient.issuer_of_patient_id,
            patient.patient_name,
        )
        for case, patient in tx.execute(query)
    }
