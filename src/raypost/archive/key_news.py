"""Keys as people and partners hear of them: warned of before they end, told of when they were renewed."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.dialects.postgresql import insert

from raypost.archive import contacts, events, partners
from raypost.archive.database import Transaction
from raypost.archive.tables import KeyWarningRow
from raypost.model.audit import EventKind, Level
from raypost.model.site import Partner

WARNED_DAYS = (0, 7, 30, 60)
"""A person is told when fewer days are left, each once."""
ALARM_DAYS = 7
REFUSED_EVERY = timedelta(days=1)
"""A partner whose hellos all bring a bad certificate rings no more often."""


def warn(tx: Transaction, site: Partner, usable_until: datetime | None, now: datetime) -> None:
    """Tell a person that the certificate of a site ends, when it is time; forget it when it was renewed."""
    left = None if usable_until is None else usable_until - now
    due = next((days for days in WARNED_DAYS if left is not None and left <= timedelta(days=days)), None)
    row = tx.get(KeyWarningRow, site.fingerprint, with_for_update=True)
    if due is None or usable_until is None:
        if row is not None:
            tx.delete(row)
        return
    if row is not None and row.days_left <= due:
        return
    if row is None:  # hellos to two partners may look at this site's own key at once: one of them tells
        made = insert(KeyWarningRow).values(fingerprint=site.fingerprint, days_left=due, told_at=now)
        if tx.scalar(made.on_conflict_do_nothing().returning(KeyWarningRow.fingerprint)) is None:
            return
    else:
        row.days_left, row.told_at = due, now
    events.record(
        tx,
        now,
        EventKind.KEY_ENDS,
        level=Level.ALARM if due <= ALARM_DAYS else Level.NOTICE,
        site_id=site.site_id,
        name=site.name,
        is_own=site.is_self,
        until=usable_until.isoformat(timespec="seconds"),
    )


def note_renewed(
    tx: Transaction, site: Partner, certificate: str, usable_until: datetime | None, now: datetime, *, who: str
) -> None:
    """Keep the renewed certificate of a site, this one's or a partner's; the fingerprint is the same."""
    partners.add_partner(tx, site, certificate, now=now, who=who, why="its keys were renewed")
    events.record(
        tx,
        now,
        EventKind.KEYS_RENEWED,
        level=Level.NOTICE,
        site_id=site.site_id,
        name=site.name,
        is_own=site.is_self,
        until=usable_until.isoformat(timespec="seconds") if usable_until else None,
        who=who,
    )


def note_revoked(tx: Transaction, site: Partner, now: datetime, *, who: str, why: str) -> None:
    """Keep in mind that a key was revoked; the key ring has it already."""
    events.record(
        tx, now, EventKind.KEY_REVOKED, level=Level.ALARM, site_id=site.site_id, name=site.name, who=who, why=why
    )


def note_refused(tx: Transaction, site: Partner, why: str, now: datetime) -> None:
    """Tell a person of a certificate in a hello that is none of this partner, or none at all; at most once a day."""
    row = contacts.row_of(tx, site.site_id)
    told = (row.capabilities or {}).get("keys_refused_at")
    if told and abs(now - datetime.fromisoformat(told)) < REFUSED_EVERY:
        return
    row.capabilities = {**(row.capabilities or {}), "keys_refused_at": now.isoformat()}
    events.record(tx, now, EventKind.KEYS_REFUSED, level=Level.ALARM, site_id=site.site_id, name=site.name, why=why)
