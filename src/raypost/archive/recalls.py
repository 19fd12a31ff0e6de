"""Sent in error: what is not filed is dropped, what is filed is hidden, never erased; the answer says what was done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import orm

from raypost.archive import events, openings, planning
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import (
    CaseRow,
    DicomNodeRow,
    ForwardRow,
    InstanceRow,
    MessageRow,
    PatientRow,
    SeriesRow,
    TransferItemRow,
    TransferRow,
)
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind
from raypost.transfer import receiver, sender
from raypost.transfer.control import Recall, Recalled
from raypost.transfer.receiver import ReceiverEvent, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderState


def recall(tx: Transaction, transfer: TransferRow, now: datetime, *, who: str, why: str) -> list[str]:
    """Take a transfer back, at its sender; before anything arrived this withdraws the announcement.

    The rows must be locked by `transfers.lock_with_case`; the transfer is to be rearmed by the caller.

    Returns:
        Names of sealed files in the spool, to be discarded after the commit.

    Raises:
        UsageError: It is an incoming transfer, or was recalled before.
    """
    if transfer.direction != "out":
        raise UsageError("only the sender can recall a transfer")
    if not why.strip():
        raise UsageError("a recall needs a reason: it is what the people at the other side read")
    state = SenderState(transfer.state)
    if state is SenderState.RECALLED:
        raise UsageError("the transfer was recalled before")
    transfer.state = sender.fire(state, SenderEvent.RECALLED).value
    transfer.why, transfer.finished_at = why, now
    needless = planning.cancel(tx, transfer)
    planning.cancel(tx, transfer, (MessageKind.ANNOUNCE.value,))
    planning.add_note(tx, transfer, MessageKind.RECALL, now, {"who": who, "why": why})
    openings.release(tx, transfer, now)
    events.record(tx, now, EventKind.TRANSFER_RECALLED, level=Level.NOTICE, transfer=transfer, who=who)
    return needless


def take_recall(tx: Transaction, transfer: TransferRow, message: Recall, now: datetime) -> None:
    """Honour a recall, at the receiver: hide what is filed, drop what still comes, answer."""
    transfer.state = receiver.fire(ReceiverState(transfer.state), ReceiverEvent.RECALLED).value
    transfer.why, transfer.finished_at = message.why, now
    tx.execute(
        sa.update(MessageRow)
        .where(MessageRow.transfer_id == transfer.id, MessageRow.direction == "in", MessageRow.state == "verified")
        .values(state="replaced")
    )
    tx.flush()
    forwarded_to = _forwarded_to(tx, transfer)
    hidden = _hide(tx, transfer, message.why, now)
    who = openings.opened_by(tx, transfer.case_id) if transfer.case_id is not None else []
    events.record(
        tx,
        now,
        EventKind.RECALL_HONOURED,
        level=Level.ALARM if who or forwarded_to else Level.NOTICE,
        transfer=transfer,
        instances=hidden,
        opened=len(who),
        forwarded_to=", ".join(forwarded_to),
    )
    if forwarded_to:
        enqueue(tx, "reject", once=f"reject:{transfer.id}", transfer_id=transfer.id)
    said = {"instances_filed": hidden, "opened_by": who, "forwarded_to": forwarded_to, "at": now.isoformat()}
    planning.add_note(tx, transfer, MessageKind.RECALLED, now, said)


@dataclass(frozen=True, slots=True)
class ToReject:
    """What a rejection note says.

    Attributes:
        study: Words of `dicom.rejection_note.RejectedStudy`, without the reason.
        instances: Series, class and instance UIDs of the images that nodes were sent.
        nodes: Their names.
    """

    transfer_key: str
    is_test: bool
    why: str
    recalled_at: datetime
    study: dict[str, str]
    instances: list[tuple[str, str, str]]
    nodes: list[str]


def to_reject(tx: Transaction, transfer_id: int) -> ToReject | None:
    """Return what nodes in the house must be told after a recall; None when they were sent nothing."""
    transfer = tx.get_one(TransferRow, transfer_id)
    nodes = _forwarded_to(tx, transfer)
    if not nodes or transfer.case_id is None or transfer.state != ReceiverState.WITHDRAWN.value:
        return None
    case = tx.get_one(CaseRow, transfer.case_id)
    patient = tx.get_one(PatientRow, case.patient_id)
    sent = sa.select(ForwardRow.instance_id).where(ForwardRow.state == "sent")
    instances = tx.execute(
        sa.select(SeriesRow.series_instance_uid, InstanceRow.sop_class_uid, InstanceRow.sop_instance_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(InstanceRow.id.in_(_mine(transfer)), InstanceRow.id.in_(sent))
        .order_by(InstanceRow.id)
    ).all()
    study = {
        "study_instance_uid": case.study_instance_uid,
        "patient_name": patient.patient_name,
        "patient_id": patient.patient_id,
        "issuer_of_patient_id": patient.issuer_of_patient_id,
        "birth_date": patient.birth_date,
        "sex": patient.sex,
        "study_date": case.study_date,
        "study_time": case.study_time,
        "accession_number": case.accession_number,
    }
    recalled_at = transfer.finished_at or transfer.opened_at
    listed = [(row[0], row[1], row[2]) for row in instances]
    return ToReject(transfer.transfer_key, transfer.is_test, transfer.why, recalled_at, study, listed, nodes)


def hide_note(tx: Transaction, case_id: int, now: datetime) -> None:
    """Keep a case that holds nothing but rejection notes out of the lists."""
    others = sa.select(InstanceRow.id).join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
    if tx.scalar(others.where(InstanceRow.case_id == case_id, SeriesRow.modality != "KO").limit(1)) is None:
        case = tx.get_one(CaseRow, case_id, with_for_update={"key_share": True})
        case.hidden_at, case.hidden_because = now, "rejection note"


def show_again(tx: Transaction, case_id: int, instance_ids: list[int]) -> None:
    """Show what was recalled once and was sent anew now."""
    shown = tx.execute(
        sa.update(InstanceRow)
        .where(InstanceRow.id.in_(instance_ids), InstanceRow.standing == "withdrawn")
        .values(standing="current")
        .returning(InstanceRow.id)
    ).all()
    if shown:
        case = tx.get_one(CaseRow, case_id, with_for_update={"key_share": True})
        case.hidden_at, case.hidden_because = None, ""


def take_answer(tx: Transaction, transfer: TransferRow, message: Recalled, now: datetime) -> None:
    """Note, at the sender, what became of the images until the recall arrived."""
    events.record(
        tx,
        now,
        EventKind.RECALL_ANSWERED,
        level=Level.ALARM if message.opened_by or message.forwarded_to else Level.NOTICE,
        transfer=transfer,
        instances=message.instances_filed,
        opened_by=", ".join(message.opened_by),
        forwarded_to=", ".join(message.forwarded_to),
    )
    openings.answer(tx, transfer, now)


def _mine(transfer: TransferRow) -> sa.Select[int | None]:
    """Return the instances that came by this transfer and by no other that is still good."""
    other = orm.aliased(TransferItemRow)
    elsewhere = (
        sa.select(other.instance_id)
        .join(TransferRow, TransferRow.id == other.transfer_id)
        .where(
            TransferRow.case_id == transfer.case_id,
            TransferRow.id != transfer.id,
            TransferRow.state != ReceiverState.WITHDRAWN.value,
            other.instance_id.is_not(None),
        )
    )
    return sa.select(TransferItemRow.instance_id).where(
        TransferItemRow.transfer_id == transfer.id,
        TransferItemRow.instance_id.is_not(None),
        TransferItemRow.instance_id.not_in(elsewhere),
    )


def _hide(tx: Transaction, transfer: TransferRow, why: str, now: datetime) -> int:
    """Hide what came by the transfer alone; the case, when nothing of it is left. Waiting forwards are given up."""
    if transfer.case_id is None:
        return 0
    instances = list(tx.scalars(_mine(transfer)))
    tx.execute(sa.update(InstanceRow).where(InstanceRow.id.in_(instances)).values(standing="withdrawn"))
    tx.execute(
        sa.update(ForwardRow)
        .where(ForwardRow.instance_id.in_(instances), ForwardRow.state == "waiting")
        .values(state="refused", due=None, said="recalled by its sender")
    )
    case = tx.get_one(CaseRow, transfer.case_id, with_for_update={"key_share": True})
    left = tx.scalar(
        sa.select(sa.func.count()).where(InstanceRow.case_id == case.id, InstanceRow.standing != "withdrawn")
    )
    if not left:
        case.hidden_at, case.hidden_because = now, why
    return len(instances)


def _forwarded_to(tx: Transaction, transfer: TransferRow) -> list[str]:
    if transfer.case_id is None:
        return []
    query = (
        sa.select(DicomNodeRow.name)
        .join(ForwardRow, ForwardRow.node_id == DicomNodeRow.id)
        .where(ForwardRow.instance_id.in_(_mine(transfer)), ForwardRow.state == "sent")
        .distinct()
        .order_by(DicomNodeRow.name)
    )
    return list(tx.scalars(query))
