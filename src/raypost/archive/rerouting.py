"""The study goes to the next centre: by rule, when a centre stays silent, or because a person orders it.

The first centre is told; a late receipt of it is good news; who is responsible for the case is decided apart from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events, partners, planning, rules, targets, transfers
from raypost.archive.database import Transaction
from raypost.archive.tables import CaseRow, InstanceRow, RuleRow, TransferItemRow, TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.rules import Rule, RuleAction, reroute_rules
from raypost.model.site import Partner
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import sender
from raypost.transfer.sender import OPEN, SenderEvent, SenderState

HOPS_MAX = 8
"""So many centres in a row are tried by rules for one study."""


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A study that goes elsewhere.

    Attributes:
        onward: The new transfer.
        needless: Names of sealed files in the spool, to be discarded after the commit.
    """

    onward: TransferRow
    needless: list[str]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the rules for a silent centre say.

    Attributes:
        rule: The one that counts, and its target; None when there is none, or that was tried for this study already.
        untold: Rules with less patience whose target is gone, of which nobody was told for this case yet.
    """

    rule: tuple[Rule, Partner] | None
    untold: list[Rule]


def deadline_s(tx: Transaction, transfer: TransferRow) -> float | None:
    """Return after how long without progress a rule sends the study elsewhere, or would if its target were there.

    None while no rule does. One whose target is gone counts until it was told (`tell_of_lost`).
    """
    choice = _choose(tx, transfer)
    found = [*choice.untold, *([choice.rule[0]] if choice.rule is not None else [])]
    return min((one.deadline_s for one in found if one.deadline_s is not None), default=None)


def tell_of_lost(tx: Transaction, transfer: TransferRow, now: datetime) -> None:
    """Ring for rules whose target is gone; they count no more for this case. The case must be locked."""
    untold = _choose(tx, transfer).untold
    if untold:
        case = tx.get_one(CaseRow, transfer.case_id)
        targets.tell_of_lost(tx, case, [(_because(one), one.target) for one in untold], now)


def by_rule(tx: Transaction, transfer: TransferRow, now: datetime) -> Rerouted | None:
    """Send the study to the next centre as a rule says; None when no rule does any more.

    The rows must be locked by `transfers.lock_with_case`; both transfers are to be rearmed by the caller.
    """
    choice = _choose(tx, transfer)
    if choice.rule is None:
        return None
    rule, target = choice.rule
    return reroute(tx, transfer, target, now, who=_because(rule), why="silent")


def reroute(tx: Transaction, transfer: TransferRow, target: Partner, now: datetime, *, who: str, why: str) -> Rerouted:
    """Send the whole study of a transfer to another centre and tell the first one.

    The rows must be locked by `transfers.lock_with_case`; both transfers are to be rearmed by the caller.

    Raises:
        UsageError: It is an incoming transfer, was recalled, or goes there already.
    """
    if transfer.direction != "out" or transfer.case_id is None:
        raise UsageError("only the sender can send a study elsewhere")
    if target.is_self or target.site_id == transfer.partner_id:
        raise UsageError("the study goes there already")
    state = SenderState(transfer.state)
    if state not in OPEN and state is not SenderState.UNCONFIRMED:
        raise UsageError(f"the transfer is {state.value}", do="Send the study to the other centre as a new transfer.")
    case = tx.get_one(CaseRow, transfer.case_id)
    transfer.state = sender.fire(state, SenderEvent.REROUTED).value
    transfer.finished_at, transfer.why = now, why
    needless = planning.cancel(tx, transfer)
    onward = transfers.open_outgoing(
        tx,
        case=case,
        site_id=target.site_id,
        priority=Priority(transfer.priority),
        ordered_by=f"reroute:{transfer.transfer_key}",
        now=now,
    )
    instances = tx.scalars(
        sa.select(InstanceRow)
        .join(TransferItemRow, TransferItemRow.instance_id == InstanceRow.id)
        .where(TransferItemRow.transfer_id == transfer.id)
        .order_by(TransferItemRow.id)
    ).all()
    transfers.add_items(tx, onward, list(instances), now)
    transfer.rerouted_to = onward.id
    planning.add_note(tx, transfer, MessageKind.REDIRECT, now, {"to_name": target.display_name, "why": why})
    events.record(
        tx,
        now,
        EventKind.TRANSFER_REROUTED,
        level=Level.ALARM if who.startswith("rule:") else Level.NOTICE,
        transfer=transfer,
        to=target.name,
        who=who,
        why=why,
        instances=len(instances),
    )
    return Rerouted(onward, needless)


def _choose(tx: Transaction, transfer: TransferRow) -> _Choice:
    """Look at the rules for a centre that may be silent; one whose target is gone is passed over."""
    if transfer.is_test or not tx.scalar(
        sa.select(RuleRow.id).where(RuleRow.action == RuleAction.REROUTE.value, RuleRow.retired_at.is_(None)).limit(1)
    ):
        return _Choice(None, [])
    silent = partners.site_name(tx, transfer.partner_id)
    there = {one.name: one for one in partners.all_partners(tx) if not one.is_self}
    fits = reroute_rules(rules.all_rules(tx), silent, Priority(transfer.priority))
    rule = next((one for one in fits if one.target in there), None)
    lost = fits if rule is None else fits[: fits.index(rule)]
    untold = [one for one in lost if not targets.is_told(tx, transfer.case_id or 0, _because(one), one.target)]
    if rule is None:
        return _Choice(None, untold)
    tried = set(
        tx.scalars(
            sa.select(TransferRow.partner_id).where(
                TransferRow.case_id == transfer.case_id, TransferRow.direction == "out"
            )
        )
    )
    target = there[rule.target]
    may = target.site_id not in tried and len(tried) <= HOPS_MAX
    return _Choice((rule, target) if may else None, untold)


def _because(rule: Rule) -> str:
    return f"rule:{rule.rule_key}"
