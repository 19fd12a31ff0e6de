"""The study goes to the next centre: by rule, when a centre stays silent, or because a person orders it.

The first centre is told; a late receipt of it is good news; who is responsible for the case is decided apart from it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events, partners, planning, rules, transfers
from raypost.archive.database import Transaction
from raypost.archive.tables import InstanceRow, RuleRow, TransferItemRow, TransferRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.rules import Rule, RuleAction, reroute_rule
from raypost.model.site import Partner
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import sender
from raypost.transfer.sender import OPEN, SenderEvent, SenderState

HOPS_MAX = 8
"""So many centres in a row are tried by rules for one study."""


def deadline_s(tx: Transaction, transfer: TransferRow) -> float | None:
    """Return after how long without progress a rule sends the study elsewhere; None while no rule does."""
    rule = _rule(tx, transfer)
    return rule.deadline_s if rule is not None else None


def by_rule(tx: Transaction, transfer: TransferRow, now: datetime) -> TransferRow | None:
    """Send the study to the next centre as a rule says; return the new transfer, None when no rule does any more."""
    rule = _rule(tx, transfer)
    if rule is None:
        return None
    return reroute(
        tx, transfer, partners.partner_named(tx, rule.target), now, who=f"rule:{rule.rule_key}", why="silent"
    )


def reroute(
    tx: Transaction, transfer: TransferRow, target: Partner, now: datetime, *, who: str, why: str
) -> TransferRow:
    """Send the whole study of a transfer to another centre and tell the first one; return the new transfer.

    Both rows are to be rearmed by the caller.

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
    case = transfers.lock_case(tx, transfer.case_id)
    transfer.state = sender.fire(state, SenderEvent.REROUTED).value
    transfer.finished_at, transfer.why = now, why
    planning.cancel(tx, transfer)
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
    return onward


def _rule(tx: Transaction, transfer: TransferRow) -> Rule | None:
    """Return the rule for a silent centre whose target was not tried for this study yet."""
    if transfer.is_test or not tx.scalar(
        sa.select(RuleRow.id).where(RuleRow.action == RuleAction.REROUTE.value, RuleRow.retired_at.is_(None)).limit(1)
    ):
        return None
    partner = partners.site_name(tx, transfer.partner_id)
    rule = reroute_rule(rules.all_rules(tx), partner, Priority(transfer.priority))
    if rule is None:
        return None
    tried = set(
        tx.scalars(
            sa.select(TransferRow.partner_id).where(
                TransferRow.case_id == transfer.case_id, TransferRow.direction == "out"
            )
        )
    )
    target = next((one for one in partners.all_partners(tx) if one.name == rule.target), None)
    if target is None or target.site_id in tried or len(tried) > HOPS_MAX:
        return None
    return rule
