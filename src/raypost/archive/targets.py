"""What rules and called AE titles name: a partner or node is not removed while a rule names it, and what names one that
is gone all the same (an import, older data) is told once per case instead of being passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import CaseRow, EventRow, PartnerRow, RuleRow, SiteRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.rules import RuleAction
from raypost.model.site import AE_SUFFIXES

NAMED_MAX = 10
"""So many rules are named in one error."""


def refuse_while_named(tx: Transaction, name: str, *, is_node: bool) -> None:
    """Refuse that a partner or DICOM node goes away while a rule sends to it: its images would stay here unnoticed.

    Raises:
        UsageError: A rule names it; the text says which.
    """
    names_node = RuleRow.action == RuleAction.FORWARD.value
    found = tx.scalars(
        sa.select(RuleRow.rule_key)
        .where(
            RuleRow.retired_at.is_(None),
            names_node if is_node else ~names_node,
            RuleRow.target == name if is_node else sa.or_(RuleRow.target == name, RuleRow.partner == name),
        )
        .order_by(RuleRow.id)
    ).all()
    if found:
        more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        raise UsageError(
            f"{name} is still named by {len(found)} of the rules: {', '.join(found[:NAMED_MAX])}{more}",
            do="Remove those rules first: `raypost rule remove RULE`.",
        )


def retired_partner_titled(tx: Transaction, called_ae_title: str) -> str | None:
    """Return the name of the site that was removed and to which this AE title belonged last; None for any other."""
    stems = {called_ae_title, *(called_ae_title.removesuffix(end) for end in AE_SUFFIXES)}
    return tx.scalar(
        sa.select(SiteRow.name)
        .join(PartnerRow, PartnerRow.site_id == SiteRow.id)
        .where(PartnerRow.ae_stem.in_(stems), PartnerRow.retired_at.is_not(None), ~SiteRow.is_self)
        .order_by(PartnerRow.id.desc())
        .limit(1)
    )


def is_told(tx: Transaction, case_id: int, because: str, target: str) -> bool:
    """Say whether it rang already that a name leads nowhere for a case; the words are those of `tell_of_lost`."""
    known = sa.select(EventRow.id).where(
        EventRow.kind == EventKind.RULE_WITHOUT_TARGET.value,
        EventRow.case_id == case_id,
        EventRow.fields["because"].astext == because,
        EventRow.fields["target"].astext == target,
    )
    return tx.scalar(known.limit(1)) is not None


def tell_of_lost(tx: Transaction, case: CaseRow, lost: Iterable[tuple[str, str]], now: datetime) -> None:
    """Ring once per case for each name that leads nowhere; the case must be locked, or it may ring twice.

    Args:
        lost: Pairs of what names it (rule:KEY or ae:TITLE) and the name of the missing partner or node.
    """
    for because, target in sorted(set(lost)):
        if not is_told(tx, case.id, because, target):
            events.record(
                tx,
                now,
                EventKind.RULE_WITHOUT_TARGET,
                level=Level.ALARM,
                case_id=case.id,
                because=because,
                target=target,
            )
