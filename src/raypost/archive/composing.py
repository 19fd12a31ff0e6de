"""What a planned message says, from what is committed now: repeated as often as it is packed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive import audit_chain, listed, partners
from raypost.archive.damage import IS_LEFT_OUT
from raypost.archive.database import Transaction
from raypost.archive.packing import PlannedMessage, parcel_counts
from raypost.archive.planning import NOTE_WORDS, OUT
from raypost.archive.tables import (
    CaseRow,
    MessageRow,
    ParcelEntryRow,
    PatientRow,
    SeriesRow,
    TransferItemRow,
    TransferRow,
)
from raypost.errors import LocalProtocolError
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer import receipts
from raypost.transfer.control import (
    Announce,
    Correct,
    Head,
    Identity,
    Manifest,
    Message,
    Opened,
    Parcel,
    Recall,
    Recalled,
    Receipt,
    Redirect,
    Take,
    Taken,
)
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.wire import identity_of


def compose(tx: Transaction, planned: PlannedMessage, *, sender: str, recipient: str, now: datetime) -> Message:
    """Say what a planned message says, from what is committed now.

    Args:
        sender: Fingerprint of this site.
        recipient: Fingerprint of the partner.
    """
    transfer = tx.get_one(TransferRow, planned.transfer_id)
    head = Head(
        transfer.transfer_key,
        planned.kind,
        planned.number,
        sender,
        recipient,
        Priority(transfer.priority),
        transfer.is_test,
        now,
    )
    match planned.kind:
        case MessageKind.ANNOUNCE:
            return _announce(tx, transfer, head)
        case MessageKind.PARCEL:
            return _parcel(tx, transfer, head)
        case MessageKind.MANIFEST:
            return _manifest(tx, transfer, head)
        case MessageKind.RECEIPT:
            return _receipt(tx, transfer, head)
        case MessageKind.TAKEN:
            return _taken(tx, transfer, head)
        case _:
            body = tx.get_one(MessageRow, planned.message_row).body or {}
            return _note(head, body)


def identity_of_case(tx: Transaction, case: CaseRow) -> Identity:
    """Return whose study a case is, and its order."""
    patient = tx.get_one(PatientRow, case.patient_id)
    return Identity(
        patient.patient_name,
        patient.patient_id,
        patient.issuer_of_patient_id,
        patient.birth_date,
        patient.sex,
        case.accession_number,
    )


def heard_notes(tx: Transaction, transfer_id: int) -> dict[MessageKind, frozenset[int]]:
    """Return which small messages of the other side arrived, by kind."""
    found: dict[MessageKind, set[int]] = {}
    rows = tx.execute(
        sa.select(MessageRow.kind, MessageRow.number).where(
            MessageRow.transfer_id == transfer_id, MessageRow.direction == "in", MessageRow.kind.in_(NOTE_WORDS)
        )
    )
    for kind, number in rows:
        found.setdefault(MessageKind(kind), set()).add(number)
    return {kind: frozenset(numbers) for kind, numbers in found.items()}


def _announce(tx: Transaction, transfer: TransferRow, head: Head) -> Announce:
    case = tx.get_one(CaseRow, transfer.case_id)
    series = tx.scalar(sa.select(SeriesRow).where(SeriesRow.case_id == case.id).order_by(SeriesRow.id).limit(1))
    instances = tx.scalar(
        sa.select(sa.func.count()).select_from(TransferItemRow).where(TransferItemRow.transfer_id == transfer.id)
    )
    return Announce(
        head,
        transfer.study_instance_uid,
        transfer.supplement,
        identity_of_case(tx, case),
        case.study_description,
        series.modality if series else "",
        series.body_part if series else "",
        int(instances or 0),
    )


def _parcel(tx: Transaction, transfer: TransferRow, head: Head) -> Parcel:
    """Compose a parcel; a copy for another relay says what the parcel itself says."""
    message_row = (
        sa.select(MessageRow.id)
        .where(MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind == "parcel")
        .where(MessageRow.number == head.number)
        .scalar_subquery()
    )
    entries = tuple(
        ParcelEntry(
            ManifestEntry(item.sha256, item.size_bytes, item.sop_instance_uid), row.offset_bytes, row.length_bytes
        )
        for row, item in tx.execute(
            sa.select(ParcelEntryRow, TransferItemRow)
            .join(TransferItemRow, TransferItemRow.id == ParcelEntryRow.item_id)
            .where(ParcelEntryRow.message_id == message_row)
            .order_by(ParcelEntryRow.id)
        )
    )
    return Parcel(head, transfer.study_instance_uid, transfer.supplement, entries)


def _manifest(tx: Transaction, transfer: TransferRow, head: Head) -> Manifest:
    items = tx.scalars(
        sa.select(TransferItemRow)
        .where(TransferItemRow.transfer_id == transfer.id, ~IS_LEFT_OUT)
        .order_by(TransferItemRow.id)
    ).all()
    listed = tuple(ManifestEntry(item.sha256, item.size_bytes, item.sop_instance_uid) for item in items)
    return Manifest(head, transfer.study_instance_uid, transfer.supplement, parcel_counts(tx, transfer.id)[0], listed)


def _receipt(tx: Transaction, transfer: TransferRow, head: Head) -> Receipt:
    parcels = {
        row.number: MessageState(row.state)
        for row in tx.execute(
            sa.select(MessageRow.number, MessageRow.state).where(
                MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.kind == "parcel"
            )
        )
    }
    by_state: dict[str, set[str]] = {"filed": set(), "refused": set()}
    for sha256, state in tx.execute(
        sa.select(TransferItemRow.sha256, TransferItemRow.state).where(
            TransferItemRow.transfer_id == transfer.id, TransferItemRow.state.in_(("filed", "refused"))
        )
    ):
        by_state[state].add(sha256)
    body = tx.scalar(
        sa.select(MessageRow.body).where(
            MessageRow.transfer_id == transfer.id, OUT, MessageRow.kind == "receipt", MessageRow.number == head.number
        )
    )
    last_filed_at = tx.scalar(
        sa.select(sa.func.max(MessageRow.filed_at)).where(
            MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.kind == "parcel"
        )
    )
    written = receipts.write_receipt(
        head,
        state=ReceiverState(transfer.state),
        parcels=parcels,
        manifest_parcels=transfer.manifest_parcels,
        filed=frozenset(by_state["filed"]),
        refused=frozenset(by_state["refused"]),
        heard=heard_notes(tx, transfer.id),
        asks=bool((body or {}).get("asks")),
        seen=listed.parcels_seen(tx, transfer, head.written_at),
        first_arrival_at=transfer.opened_at,
        last_filed_at=last_filed_at,
    )
    return replace(written, audit_head=audit_chain.head_text(tx))


def _taken(tx: Transaction, transfer: TransferRow, head: Head) -> Taken:
    case = tx.get_one(CaseRow, transfer.case_id)
    centre = None if case.responsible_site_id is None else partners.partner_by_id(tx, case.responsible_site_id)
    return Taken(
        head,
        centre.fingerprint if centre else "",
        centre.display_name if centre else "",
        case.responsible_at,
        heard_notes(tx, transfer.id),
    )


def _note(head: Head, body: dict[str, Any]) -> Message:
    """Compose a small message from what stands on its row."""
    match head.kind:
        case MessageKind.OPENED:
            return Opened(head, body["who"], datetime.fromisoformat(body["at"]))
        case MessageKind.TAKE:
            return Take(head, body["who"], datetime.fromisoformat(body["at"]))
        case MessageKind.RECALL:
            return Recall(head, body["who"], body["why"])
        case MessageKind.RECALLED:
            opened_by, forwarded_to = tuple(body["opened_by"]), tuple(body["forwarded_to"])
            at = datetime.fromisoformat(body["at"])
            return Recalled(head, body["instances_filed"], opened_by, forwarded_to, at)
        case MessageKind.REDIRECT:
            return Redirect(head, body["to_name"], body["why"])
        case MessageKind.CORRECT:
            before, after = identity_of(body["before"]), identity_of(body["after"])
            return Correct(head, body["correction_key"], body["who"], body["why"], before, after)
        case _:
            raise LocalProtocolError(f"{head.kind.value} has no row to be composed from")
