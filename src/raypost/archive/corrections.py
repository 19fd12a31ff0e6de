"""Identity or order data of a case, corrected by its sender: old and new are kept; images are never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events, planning
from raypost.archive.composing import identity_of_case
from raypost.archive.database import Transaction
from raypost.archive.keys import new_transfer_key
from raypost.archive.tables import CaseRow, CorrectionRow, MessageRow, PatientRow, SiteRow, TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind
from raypost.transfer.control import Correct, Identity
from raypost.transfer.wire import identity_json, identity_of


def correct(
    tx: Transaction, case: CaseRow, changes: Mapping[str, str], now: datetime, *, who: str, why: str
) -> list[str]:
    """Correct a case that was made here, and tell every partner that has it; return the partners' names.

    Args:
        changes: Names of entries of an identity (`control.Identity`) to their new values.

    Raises:
        UsageError: The case is not ours, nothing changes, or there is no reason.
    """
    if not tx.scalar(sa.select(SiteRow.is_self).where(SiteRow.id == case.origin_site_id)):
        raise UsageError("only the site that made a study can correct it", do="Telephone the sender.")
    if not why.strip():
        raise UsageError("a correction needs a reason")
    before = identity_of_case(tx, case)
    after = replace(before, **dict(changes))
    if after == before:
        raise UsageError("nothing would change")
    correction_key = new_transfer_key()
    _apply(tx, case, correction_key, before, after, who, why, now)
    said = {"correction_key": correction_key, "who": who, "why": why}
    said_both: dict[str, Any] = said | {"before": identity_json(before), "after": identity_json(after)}
    told = []
    for transfer in _latest_transfers(tx, case.id):
        if planning.add_note(tx, transfer, MessageKind.CORRECT, now, said_both) is not None:
            told.append(tx.scalars(sa.select(SiteRow.name).where(SiteRow.id == transfer.partner_id)).one())
    events.record(tx, now, EventKind.CORRECTED, level=Level.NOTICE, case_id=case.id, who=who, partners=len(told))
    return sorted(told)


def take_correction(tx: Transaction, transfer: TransferRow, message: Correct, now: datetime) -> None:
    """Take in a partner's correction; it waits on its message until there is a case."""
    row = tx.scalars(
        sa.select(MessageRow).where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "in",
            MessageRow.kind == MessageKind.CORRECT.value,
            MessageRow.number == message.head.number,
        )
    ).one()
    row.body = {
        "correction_key": message.correction_key,
        "who": message.who,
        "why": message.why,
        "before": identity_json(message.before),
        "after": identity_json(message.after),
    }
    tx.flush()
    events.record(tx, now, EventKind.CORRECTED, level=Level.ALARM, transfer=transfer, who=message.who)
    apply_waiting(tx, transfer, now)


def apply_waiting(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Apply corrections that came before the case they correct, each once and in order."""
    if transfer.case_id is None:
        return
    rows = tx.scalars(
        sa.select(MessageRow)
        .where(
            MessageRow.transfer_id == transfer.id,
            MessageRow.direction == "in",
            MessageRow.kind == MessageKind.CORRECT.value,
        )
        .order_by(MessageRow.number)
    ).all()
    if not rows:
        return
    case = tx.get_one(CaseRow, transfer.case_id, with_for_update={"key_share": True})
    for row in rows:
        said = row.body or {}
        before, after = identity_of(said["before"]), identity_of(said["after"])
        _apply(tx, case, said["correction_key"], before, after, said["who"], said["why"], now)
        _identify(tx, case, after)  # the highest number has the last word, in whatever order they came


def of_case(tx: Transaction, case_id: int) -> list[dict[str, Any]]:
    """Return the corrections of a case, oldest first, old and new side by side."""
    rows = tx.scalars(sa.select(CorrectionRow).where(CorrectionRow.case_id == case_id).order_by(CorrectionRow.id))
    return [
        {
            "corrected_at": row.corrected_at.isoformat(timespec="milliseconds"),
            "who": row.who,
            "why": row.why,
            "before": row.before,
            "after": row.after,
        }
        for row in rows
    ]


def _apply(
    tx: Transaction,
    case: CaseRow,
    correction_key: str,
    before: Identity,
    after: Identity,
    who: str,
    why: str,
    now: datetime,
) -> None:
    added = tx.execute(
        insert(CorrectionRow)
        .values(
            case_id=case.id,
            correction_key=correction_key,
            corrected_at=now,
            who=who,
            why=why,
            before=identity_json(before),
            after=identity_json(after),
        )
        .on_conflict_do_nothing()
        .returning(CorrectionRow.id)
    ).first()
    if added is not None:
        _identify(tx, case, after)


def _identify(tx: Transaction, case: CaseRow, after: Identity) -> None:
    """Say whose study a case is from now on."""
    same = {one.name: getattr(after, one.name) for one in fields(Identity) if one.name != "accession_number"}
    same_patient = same | {"issuing_site_id": case.origin_site_id}
    tx.execute(insert(PatientRow).values(**same_patient).on_conflict_do_nothing())
    case.patient_id = tx.scalars(sa.select(PatientRow.id).filter_by(**same_patient)).one()
    case.accession_number = after.accession_number


def _latest_transfers(tx: Transaction, case_id: int) -> list[TransferRow]:
    rows = tx.scalars(
        sa.select(TransferRow)
        .where(TransferRow.case_id == case_id, TransferRow.direction == "out", TransferRow.state != "recalled")
        .order_by(TransferRow.id)
    )
    return list({row.partner_id: row for row in rows}.values())
