"""The address book: sites, their certificates and addresses."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import MailboxRow, PartnerRow, SiteRow
from raypost.archive.targets import refuse_while_named
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.model.site import Mailbox, Partner


def add_partner(
    tx: Transaction, partner: Partner, certificate: str, *, now: datetime, who: str, why: str = ""
) -> Partner:
    """Add a site or replace what is known of it; return it with its number.

    Raises:
        UsageError: Its AE title or fingerprint belongs to another site.
    """
    for other in all_partners(tx):
        is_taken = other.fingerprint == partner.fingerprint or set(other.ae_titles()) & set(partner.ae_titles())
        if other.name != partner.name and is_taken:
            raise UsageError(f"{other.name} already has this fingerprint or one of the AE titles")
        if other.name == partner.name and other.is_self != partner.is_self:
            raise UsageError(f"{partner.name} is the name of this site itself")
    site_id = tx.scalar(sa.select(SiteRow.id).where(SiteRow.name == partner.name))
    if site_id is None:
        site = SiteRow(name=partner.name, is_self=partner.is_self)
        tx.add(site)
        tx.flush()
        site_id = site.id
    _retire(tx, site_id, now, who)
    row = PartnerRow(
        site_id=site_id,
        display_name=partner.display_name,
        ae_stem=partner.ae_stem,
        address=partner.address,
        fingerprint=partner.fingerprint,
        certificate=certificate,
        added_at=now,
        added_by=who,
        why=why,
    )
    tx.add(row)
    tx.flush()
    mailboxes = partner.mailboxes or (Mailbox("", partner.address),)
    tx.add_all(MailboxRow(partner_id=row.id, relay=one.relay, address=one.address) for one in mailboxes)
    tx.flush()
    events.record(tx, now, EventKind.PARTNER_CHANGED, site_id=site_id, change="added", name=partner.name, who=who)
    return Partner(
        site_id,
        partner.name,
        partner.display_name,
        partner.ae_stem,
        partner.address,
        partner.fingerprint,
        partner.is_self,
        mailboxes,
    )


def remove_partner(tx: Transaction, name: str, *, now: datetime, who: str) -> Partner:
    """Retire a partner: nothing is sent to it and nothing accepted from it any more.

    Raises:
        UsageError: No such partner, it is this site itself, or a rule names it.
    """
    partner = partner_named(tx, name)
    if partner.is_self:
        raise UsageError("a site cannot remove itself")
    refuse_while_named(tx, name, is_node=False)
    _retire(tx, partner.site_id, now, who)
    events.record(tx, now, EventKind.PARTNER_CHANGED, site_id=partner.site_id, change="removed", name=name, who=who)
    return partner


def all_partners(tx: Transaction) -> list[Partner]:
    """Return every site in force, this one included, by name."""
    query = (
        sa.select(PartnerRow, SiteRow)
        .join(SiteRow, SiteRow.id == PartnerRow.site_id)
        .where(PartnerRow.retired_at.is_(None))
        .order_by(SiteRow.name)
    )
    found = tx.execute(query).all()
    mailboxes: dict[int, list[Mailbox]] = {}
    rows = sa.select(MailboxRow).where(MailboxRow.partner_id.in_([row.id for row, _ in found])).order_by(MailboxRow.id)
    for one in tx.scalars(rows):
        mailboxes.setdefault(one.partner_id, []).append(Mailbox(one.relay, one.address))
    return [_partner(row, site, tuple(mailboxes.get(row.id, ()))) for row, site in found]


def certificate_of(tx: Transaction, site_id: int) -> str:
    """Return the certificate of a site in force as it was taken over last; empty when there is none."""
    query = sa.select(PartnerRow.certificate).where(PartnerRow.site_id == site_id, PartnerRow.retired_at.is_(None))
    return tx.scalar(query) or ""


def lock_in_force(tx: Transaction, site_id: int, fingerprint: str) -> Partner | None:
    """Return a site as it is now, so that nobody removes or replaces it meanwhile.

    Returns:
        None: it was removed, or has another key by now.
    """
    query = sa.select(PartnerRow.id).where(
        PartnerRow.site_id == site_id, PartnerRow.retired_at.is_(None), PartnerRow.fingerprint == fingerprint
    )
    return None if tx.scalar(query.with_for_update()) is None else partner_by_id(tx, site_id)


def own_site(tx: Transaction) -> Partner:
    """Return this site.

    Raises:
        UsageError: `raypost init` was not run.
    """
    found = [one for one in all_partners(tx) if one.is_self]
    if not found:
        raise UsageError("this site has no name and key yet", do="Run `raypost init` first.")
    return found[0]


def partner_named(tx: Transaction, name: str) -> Partner:
    """Return a site by name.

    Raises:
        UsageError: There is none.
    """
    for partner in all_partners(tx):
        if partner.name == name:
            return partner
    raise UsageError(f"there is no partner {name!r}", do="`raypost partner list` shows the names.")


def partner_by_id(tx: Transaction, site_id: int) -> Partner | None:
    """Return the site in force with this number, None when it was removed."""
    return next((one for one in all_partners(tx) if one.site_id == site_id), None)


def site_name(tx: Transaction, site_id: int) -> str:
    """Return a site's name, whether in force or not."""
    return tx.scalars(sa.select(SiteRow.name).where(SiteRow.id == site_id)).one()


def _retire(tx: Transaction, site_id: int, now: datetime, who: str) -> None:
    tx.execute(
        sa.update(PartnerRow)
        .where(PartnerRow.site_id == site_id, PartnerRow.retired_at.is_(None))
        .values(retired_at=now, retired_by=who)
    )


def _partner(row: PartnerRow, site: SiteRow, mailboxes: tuple[Mailbox, ...]) -> Partner:
    return Partner(
        site.id, site.name, row.display_name, row.ae_stem, row.address, row.fingerprint, site.is_self, mailboxes
    )
