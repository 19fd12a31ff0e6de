"""The network: sites, their mailboxes and signs of life, DICOM nodes, rules, relays."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base, identity, one_of


class SiteRow(Base):
    """A site of the network, for good: whatever changes about it stands in rp_partner."""

    __tablename__ = "rp_site"
    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(unique=True)
    is_self: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (sa.Index("uq_rp_site_self", "is_self", unique=True, postgresql_where=sa.text("is_self")),)


class PartnerRow(Base):
    """Address and certificate of a site, this one's included. A change retires the row and adds a new one."""

    __tablename__ = "rp_partner"
    id: Mapped[int] = identity()
    site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    display_name: Mapped[str]
    ae_stem: Mapped[str]
    address: Mapped[str]
    fingerprint: Mapped[str]
    certificate: Mapped[str]
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    why: Mapped[str] = mapped_column(default="")
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    __table_args__ = (
        sa.Index("uq_rp_partner_site_id", "site_id", unique=True, postgresql_where=sa.text("retired_at is null")),
        sa.Index(
            "uq_rp_partner_fingerprint", "fingerprint", unique=True, postgresql_where=sa.text("retired_at is null")
        ),
        sa.Index("uq_rp_partner_ae_stem", "ae_stem", unique=True, postgresql_where=sa.text("retired_at is null")),
    )


class MailboxRow(Base):
    """Where a site's mail goes, a mailbox on each relay it has one on; the first is tried first."""

    __tablename__ = "rp_mailbox"
    id: Mapped[int] = identity()
    partner_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_partner.id", ondelete="CASCADE"))
    relay: Mapped[str]
    address: Mapped[str]
    __table_args__ = (sa.UniqueConstraint("partner_id", "relay"),)


class ContactRow(Base):
    """What the signs of life (hello) of a partner say; times of ours beside times of its.

    state: unknown (nothing heard yet), fresh, silent (two in a row are missing).
    """

    __tablename__ = "rp_contact"
    site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"), primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(default="unknown")
    due: Mapped[datetime | None]
    hellos_written: Mapped[int] = mapped_column(default=0)
    written_at: Mapped[datetime | None]
    heard_number: Mapped[int] = mapped_column(default=0, comment="number of its last hello")
    heard_at: Mapped[datetime | None] = mapped_column(comment="our time at which anything of it was verified last")
    hello_heard_at: Mapped[datetime | None] = mapped_column(comment="our time at which its last hello was verified")
    heard_written_at: Mapped[datetime | None] = mapped_column(comment="its time at which it wrote it")
    changed_at: Mapped[datetime | None]
    clock_offset_s: Mapped[float | None] = mapped_column(comment="its clock minus ours")
    clock_uncertainty_s: Mapped[float | None]
    measured_at: Mapped[datetime | None]
    round_trip_s: Mapped[float | None] = mapped_column(comment="smoothed: relay took it until a receipt names it")
    restored_at: Mapped[datetime | None] = mapped_column(comment="instant of the backup it was restored from last")
    restores_heard: Mapped[int] = mapped_column(default=0, server_default="0", comment="of so many its hellos told")
    capabilities: Mapped[dict[str, Any]] = mapped_column(default=dict, comment="versions, kinds, sizes, software")
    __table_args__ = (
        one_of("state", "unknown", "fresh", "silent"),
        sa.Index("ix_rp_contact_due", "due", postgresql_where=sa.text("due is not null")),
    )


class DicomNodeRow(Base):
    """DICOM nodes in the house to which filed studies are sent on."""

    __tablename__ = "rp_dicom_node"
    id: Mapped[int] = identity()
    name: Mapped[str]
    ae_title: Mapped[str]
    host: Mapped[str]
    port: Mapped[int]
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    __table_args__ = (
        sa.Index("uq_rp_dicom_node_name", "name", unique=True, postgresql_where=sa.text("retired_at is null")),
    )


class RuleRow(Base):
    """Routing rules: what goes to whom, how urgent. A change retires the row and adds a new one."""

    __tablename__ = "rp_rule"
    id: Mapped[int] = identity()
    rule_key: Mapped[str] = mapped_column(unique=True)
    action: Mapped[str]
    target: Mapped[str]
    priority: Mapped[str]
    origin: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    modality: Mapped[str]
    study_description: Mapped[str]
    body_part: Mapped[str]
    partner: Mapped[str] = mapped_column(default="", server_default="", comment="reroute: the centre that is silent")
    deadline_s: Mapped[float | None] = mapped_column(comment="reroute: after so long without progress")
    hours_from: Mapped[time | None] = mapped_column(sa.Time())
    hours_until: Mapped[time | None] = mapped_column(sa.Time())
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    why: Mapped[str] = mapped_column(default="")
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    __table_args__ = (
        one_of("action", "send", "forward", "reroute"),
        one_of("priority", "emergency", "urgent", "routine"),
    )


class RelayRow(Base):
    """What was learned about a relay.

    state: well, away (does not let us in), suspect (took mails of which nothing was heard again).
    """

    __tablename__ = "rp_relay"
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int | None] = mapped_column(comment="place among our relays; null: no account there any more")
    size_max_bytes: Mapped[int | None] = mapped_column(comment="from its EHLO keyword SIZE (RFC 1870)")
    learned_size_max_bytes: Mapped[int | None] = mapped_column(comment="from a refusal, below what it announces")
    learned_at: Mapped[datetime | None]
    is_reachable: Mapped[bool] = mapped_column(default=True)
    state: Mapped[str] = mapped_column(default="well", server_default="well")
    failures: Mapped[int] = mapped_column(default=0, server_default="0", comment="in a row")
    due: Mapped[datetime | None] = mapped_column(comment="when it is tried again")
    rate_bytes_per_s: Mapped[float | None] = mapped_column(comment="smoothed, of large mails")
    fetch_rate_bytes_per_s: Mapped[float | None] = mapped_column(comment="the same when mails are fetched")
    changed_at: Mapped[datetime]
    said: Mapped[str] = mapped_column(default="")
    __table_args__ = (one_of("state", "well", "away", "suspect"),)


class RestoreRow(Base):
    """A restore from a backup: what happened between the two instants is not known here."""

    __tablename__ = "rp_restore"
    id: Mapped[int] = identity()
    backup_at: Mapped[datetime]
    restored_at: Mapped[datetime]


class ScannerRow(Base):
    """When a modality last sent something: a scanner that fell silent is found before a patient needs it."""

    __tablename__ = "rp_scanner"
    ae_title: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(default="")
    last_image_at: Mapped[datetime]
    told_at: Mapped[datetime | None]
