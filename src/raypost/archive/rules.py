"""Routing rules as rows: a change retires a row and adds a new one, with who, when and why."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import dicom_nodes, events, partners
from raypost.archive.database import Transaction
from raypost.archive.tables import RuleRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.model.rules import Rule, RuleAction
from raypost.model.transfer import Priority

RULES_MAX = 1000


def add_rule(tx: Transaction, rule: Rule, *, now: datetime, who: str, why: str = "") -> Rule:
    """Add a rule.

    Raises:
        UsageError: Its target does not exist, its name is taken, or there are too many.
    """
    rules = all_rules(tx)
    if len(rules) >= RULES_MAX:
        raise UsageError(f"there are {RULES_MAX} rules already")
    if tx.scalar(sa.select(RuleRow.id).where(RuleRow.rule_key == rule.rule_key)):
        raise UsageError(f"the rule name {rule.rule_key!r} is or was in use", do="Choose another name.")
    if rule.action in (RuleAction.SEND, RuleAction.REROUTE):
        for name in (rule.target, rule.partner):
            if name and partners.partner_named(tx, name).is_self:
                raise UsageError("a rule cannot send to this site itself")
    else:
        dicom_nodes.node_named(tx, rule.target)
    begin, end = rule.hours or (None, None)
    tx.add(
        RuleRow(
            rule_key=rule.rule_key,
            action=rule.action.value,
            target=rule.target,
            priority=rule.priority.value,
            origin=rule.origin,
            calling_ae_title=rule.calling_ae_title,
            called_ae_title=rule.called_ae_title,
            modality=rule.modality,
            study_description=rule.study_description,
            body_part=rule.body_part,
            partner=rule.partner,
            deadline_s=rule.deadline_s,
            hours_from=begin,
            hours_until=end,
            added_at=now,
            added_by=who,
            why=why,
        )
    )
    events.record(tx, now, EventKind.RULE_CHANGED, change="added", rule=rule.rule_key, who=who)
    return rule


def remove_rule(tx: Transaction, rule_key: str, *, now: datetime, who: str) -> Rule:
    """Retire a rule.

    Raises:
        UsageError: There is none.
    """
    for rule in all_rules(tx):
        if rule.rule_key == rule_key:
            tx.execute(sa.update(RuleRow).where(RuleRow.rule_key == rule_key).values(retired_at=now, retired_by=who))
            events.record(tx, now, EventKind.RULE_CHANGED, change="removed", rule=rule_key, who=who)
            return rule
    raise UsageError(f"there is no rule {rule_key!r}", do="`raypost rule list` shows the names.")


def all_rules(tx: Transaction) -> list[Rule]:
    """Return the rules in force, oldest first."""
    query = sa.select(RuleRow).where(RuleRow.retired_at.is_(None)).order_by(RuleRow.id)
    return [
        Rule(
            row.rule_key,
            RuleAction(row.action),
            row.target,
            Priority(row.priority),
            row.origin,
            row.calling_ae_title,
            row.called_ae_title,
            row.modality,
            row.study_description,
            row.body_part,
            (row.hours_from, row.hours_until) if row.hours_from is not None and row.hours_until is not None else None,
            row.partner,
            row.deadline_s,
        )
        for row in tx.scalars(query)
    ]
