"""The address book: sites, their certificates and addresses; DICOM nodes in the house."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import DicomNodeRow, PartnerRow, SiteRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.model.identifiers import is_ae_title, is_site_name
from raypost.model.site import Partner


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM node to send on to."""

    node_id: int
    name: str
    ae_title: str
    host: str
    port: int


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
    tx.add(
        PartnerRow(
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
    )
    events.record(tx, now, EventKind.PARTNER_CHANGED, site_id=site_id, change="added", name=partner.name, who=who)
    return Partner(
        site_id,
        partner.name,
        partner.display_name,
        partner.ae_stem,
        partner.address,
        partner.fingerprint,
        partner.is_self,
    )


def remove_partner(tx: Transaction, name: str, *, now: datetime, who: str) -> Partner:
    """Retire a partner: nothing is sent to it and nothing accepted from it any more.

    Raises:
        UsageError: No such partner, or it is this site itself.
    """
    partner = partner_named(tx, name)
    if partner.is_self:
        raise UsageError("a site cannot remove itself")
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
    return [_partner(row, site) for row, site in tx.execute(query)]


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


def add_node(tx: Transaction, node: Node, *, now: datetime, who: str) -> Node:
    """Add a DICOM node or replace it.

    Raises:
        UsageError: Name, AE title or port cannot be right.
    """
    if not is_site_name(node.name) or not is_ae_title(node.ae_title) or not 0 < node.port < 65536 or not node.host:
        raise UsageError("a node needs a name (a-z 0-9 -), an AE title (A-Z 0-9 _ - .), a host and a port")
    _retire_node(tx, node.name, now, who)
    row = DicomNodeRow(
        name=node.name, ae_title=node.ae_title, host=node.host, port=node.port, added_at=now, added_by=who
    )
    tx.add(row)
    tx.flush()
    events.record(tx, now, EventKind.NODE_CHANGED, change="added", name=node.name, who=who)
    return _node(row)


def remove_node(tx: Transaction, name: str, *, now: datetime, who: str) -> Node:
    """Retire a DICOM node.

    Raises:
        UsageError: There is none.
    """
    node = node_named(tx, name)
    _retire_node(tx, name, now, who)
    events.record(tx, now, EventKind.NODE_CHANGED, change="removed", name=name, who=who)
    return node


def all_nodes(tx: Transaction) -> list[Node]:
    """Return every DICOM node in force, by name."""
    query = sa.select(DicomNodeRow).where(DicomNodeRow.retired_at.is_(None)).order_by(DicomNodeRow.name)
    return [_node(row) for row in tx.scalars(query)]


def node_named(tx: Transaction, name: str) -> Node:
    """Return a DICOM node by name.

    Raises:
        UsageError: There is none.
    """
    for node in all_nodes(tx):
        if node.name == name:
            return node
    raise UsageError(f"there is no DICOM node {name!r}", do="`raypost node list` shows the names.")


def _retire(tx: Transaction, site_id: int, now: datetime, who: str) -> None:
    tx.execute(
        sa.update(PartnerRow)
        .where(PartnerRow.site_id == site_id, PartnerRow.retired_at.is_(None))
        .values(retired_at=now, retired_by=who)
    )


def _retire_node(tx: Transaction, name: str, now: datetime, who: str) -> None:
    tx.execute(
        sa.update(DicomNodeRow)
        .where(DicomNodeRow.name == name, DicomNodeRow.retired_at.is_(None))
        .values(retired_at=now, retired_by=who)
    )


def _partner(row: PartnerRow, site: SiteRow) -> Partner:
    return Partner(site.id, site.name, row.display_name, row.ae_stem, row.address, row.fingerprint, site.is_self)


def _node(row: DicomNodeRow) -> Node:
    return Node(row.id, row.name, row.ae_title, row.host, row.port)
