"""Who opened a case, who is responsible for it: asked for by a centre, decided by the sender (invariant 9)."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events, partners, planning
from raypost.archive.database import Transaction
from raypost.archive.tables import CaseRow, MessageRow, OpeningRow, RestoreRow, TransferRow
from raypost.errors import NotNowError, UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import MessageKind
from raypost.transfer.control import Opened, Take, Taken
from raypost.transfer.responsibility import decide_take


def open_case(tx: Transaction, case: CaseRow, now: datetime, who: str) -> bool:
    """Note that a person here opened a case, and tell its sender; return whether a partner is told."""
    own = partners.own_site(tx)
    _note_opening(tx, case.id, own.site_id, who, now)
    transfer = _incoming(tx, case)
    events.record(tx, now, EventKind.OPENED, case_id=case.id, transfer=transfer, who=who, site=own.name)
    if transfer is None:
        return False
    return planning.add_note(tx, transfer, MessageKind.OPENED, now, _said(who, now)) is not None


def ask_to_take(tx: Transaction, case: CaseRow, now: datetime, who: str) -> str | None:
    """Ask the sender for the responsibility for a case; only its signed answer gives it.

    Returns:
        Name of the site that has it already; None when it was asked for.

    Raises:
        UsageError: The case comes from no partner.
        NotNowError: The partner's version does not know the question.
    """
    transfer = _incoming(tx, case)
    if transfer is None:
        raise UsageError("the case was made here: there is nobody to take it from")
    if case.responsible_site_id is not None:
        return partners.site_name(tx, case.responsible_site_id)
    if planning.add_note(tx, transfer, MessageKind.TAKE, now, _said(who, now)) is None:
        raise NotNowError("the sender's version of Raypost does not know this message", do="Telephone the sender.")
    events.record(tx, now, EventKind.TAKE_ASKED, transfer=transfer, who=who)
    return None


def take_opened(tx: Transaction, transfer: TransferRow, message: Opened, now: datetime) -> None:
    """Note, at the sender, that a person at the partner opened the study; answered by `taken`."""
    if transfer.case_id is not None:
        _note_opening(tx, transfer.case_id, transfer.partner_id, message.who, message.at)
    events.record(tx, now, EventKind.OPENED, transfer=transfer, who=message.who, opened_at=message.at.isoformat())
    answer(tx, transfer, now)


def take_request(tx: Transaction, transfer: TransferRow, message: Take, now: datetime) -> None:
    """Decide, at the sender, on a centre's request; every centre of the case is told when the answer is new.

    The rows must be locked by `transfers.lock_with_case`.
    """
    case = tx.get_one(CaseRow, transfer.case_id)
    others = _centres(tx, case.id)
    withdrawn = {one.partner_id for one in others if one.state == "recalled"}
    restored_at = tx.scalar(sa.select(sa.func.max(RestoreRow.restored_at)))
    forgotten = restored_at is not None and case.opened_at <= restored_at
    decision = decide_take(transfer.partner_id, case.responsible_site_id, withdrawn, may_have_forgotten=forgotten)
    level = Level.ALARM if decision is None and forgotten else Level.NOTICE  # people must agree who has the case
    events.record(tx, now, EventKind.TAKE_ASKED, level=level, transfer=transfer, who=message.who)
    if decision is None or not decision.is_new:
        answer(tx, transfer, now)
        return
    case.responsible_site_id, case.responsible_at = decision.responsible, now
    name = partners.site_name(tx, decision.responsible)
    events.record(tx, now, EventKind.TAKE_DECIDED, level=Level.NOTICE, transfer=transfer, to=name, who=message.who)
    tx.flush()
    for one in others:
        if one.state != "recalled":
            answer(tx, one, now)


def release(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Have nobody responsible for a case any more, when it was recalled from the centre that took it.

    The rows must be locked by `transfers.lock_with_case`.
    """
    case = None if transfer.case_id is None else tx.get(CaseRow, transfer.case_id)
    if case is not None and case.responsible_site_id == transfer.partner_id:
        case.responsible_site_id = case.responsible_at = None
        tx.flush()
        for one in _centres(tx, case.id):
            if one.state != "recalled":
                answer(tx, one, now)


def answer(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Tell a centre who is responsible and which of its messages arrived; one such message at a time."""
    is_under_way = tx.scalar(
        sa.select(MessageRow.id)
        .where(
            MessageRow.transfer_id == transfer.id,
            planning.OUT,
            MessageRow.kind == MessageKind.TAKEN.value,
            MessageRow.state == "planned",
        )
        .limit(1)
    )
    if is_under_way is None:  # a planned one says, when it is packed, what is so then
        planning.add_note(tx, transfer, MessageKind.TAKEN, now)


def take_answer(tx: Transaction, transfer: TransferRow, message: Taken, now: datetime) -> None:
    """Note, at a centre, who is responsible as the sender decided."""
    known = {one.fingerprint: one for one in partners.all_partners(tx)}
    centre = known.get(message.responsible)
    known_before = transfer.announced or {}
    is_old = message.head.number < int(known_before.get("taken", 0))
    if is_old or (not message.responsible and not known_before.get("responsible_name")):
        return
    said = {"taken": message.head.number, "responsible_name": message.responsible_name}
    transfer.announced = (transfer.announced or {}) | said | {"responsible": centre.site_id if centre else None}
    events.record(
        tx,
        now,
        EventKind.TAKE_DECIDED,
        level=Level.NOTICE,
        transfer=transfer,
        to=centre.name if centre else message.responsible_name or "nobody",
        is_us=centre is not None and centre.is_self,
    )
    apply_answer(tx, transfer, now)


def apply_answer(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Put what the sender decided onto the case, once there is one."""
    said = transfer.announced or {}
    if transfer.case_id is None or "responsible" not in said:
        return
    responsible = said["responsible"]
    case = tx.get_one(CaseRow, transfer.case_id, with_for_update={"key_share": True})
    if case.responsible_site_id != responsible:
        case.responsible_site_id, case.responsible_at = responsible, now if responsible is not None else None


def opened_by(tx: Transaction, case_id: int) -> list[str]:
    """Return the persons who opened a case at this site, each once, in order."""
    own = partners.own_site(tx)
    query = sa.select(OpeningRow.who).where(OpeningRow.case_id == case_id, OpeningRow.site_id == own.site_id)
    return list(dict.fromkeys(tx.scalars(query.order_by(OpeningRow.id))))


def _note_opening(tx: Transaction, case_id: int, site_id: int, who: str, at: datetime) -> None:
    values = {"case_id": case_id, "site_id": site_id, "who": who, "opened_at": at}
    tx.execute(insert(OpeningRow).values(values).on_conflict_do_nothing())


def _incoming(tx: Transaction, case: CaseRow) -> TransferRow | None:
    """Return the latest transfer by which a case came, locked."""
    return tx.scalar(
        sa.select(TransferRow)
        .where(TransferRow.case_id == case.id, TransferRow.direction == "in", TransferRow.state != "withdrawn")
        .order_by(TransferRow.id.desc())
        .limit(1)
        .with_for_update(key_share=True)
    )


def _centres(tx: Transaction, case_id: int) -> list[TransferRow]:
    """Return the latest transfer of a case to each centre."""
    rows = tx.scalars(
        sa.select(TransferRow)
        .where(TransferRow.case_id == case_id, TransferRow.direction == "out")
        .order_by(TransferRow.id)
    )
    return list({row.partner_id: row for row in rows}.values())


def _said(who: str, now: datetime) -> dict[str, str]:
    return {"who": who, "at": now.isoformat()}
