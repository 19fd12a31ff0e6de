"""Mails as fetched, what could not be used, what is sent on, and what happened."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base, Xid8, identity, one_of


class CollectedRow(Base):
    """A mail as fetched from a relay, before it is opened.

    state: fetched ▸ opened | quarantined | ignored. `removed_at` says that we are done with it at the relay: it is gone
    there, or it cannot be fetched and stays. The token is a hint, unsigned, as it stands outside.
    """

    __tablename__ = "rp_collected"
    id: Mapped[int] = identity()
    relay: Mapped[str]
    uid_validity: Mapped[int]
    imap_uid: Mapped[int]
    state: Mapped[str]
    priority_rank: Mapped[int] = mapped_column(default=0)
    mail_file: Mapped[str] = mapped_column(comment="name in the spool; empty when the mail was too large to fetch")
    size_bytes: Mapped[int]
    token: Mapped[str] = mapped_column(default="", server_default="", comment="of a parcel's mail")
    token_number: Mapped[int] = mapped_column(default=0, server_default="0")
    relay_time: Mapped[datetime | None] = mapped_column(comment="when the relay says it took the mail: INTERNALDATE")
    fetched_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    due: Mapped[datetime | None]
    __table_args__ = (
        sa.UniqueConstraint("relay", "uid_validity", "imap_uid"),
        one_of("state", "fetched", "opened", "quarantined", "ignored"),
        sa.Index("ix_rp_collected_due", "due", postgresql_where=sa.text("due is not null")),
        sa.Index("ix_rp_collected_token", "token", postgresql_where=sa.text("state = 'fetched' and token <> ''")),
    )


class ListedParcelRow(Base):
    """A parcel's mail that waits in our mailbox, by its unsigned token: its sender need not send it again."""

    __tablename__ = "rp_listed_parcel"
    relay: Mapped[str] = mapped_column(primary_key=True)
    uid_validity: Mapped[int] = mapped_column(primary_key=True)
    imap_uid: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    listed_at: Mapped[datetime]


class QuarantineRow(Base):
    """Something that could not be used, kept apart for a person."""

    __tablename__ = "rp_quarantine"
    id: Mapped[int] = identity()
    quarantine_key: Mapped[str] = mapped_column(unique=True)
    source: Mapped[str] = mapped_column(comment="dicom or mail")
    code: Mapped[str]
    what: Mapped[str]
    origin: Mapped[str] = mapped_column(comment="AE title and host, or relay")
    quarantine_file: Mapped[str]
    size_bytes: Mapped[int]
    put_at: Mapped[datetime]
    transfer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_transfer.id"))


class ForwardRow(Base):
    """A filed instance that is to be sent on to a DICOM node. state: waiting ▸ sent | refused."""

    __tablename__ = "rp_forward"
    id: Mapped[int] = identity()
    instance_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_instance.id", ondelete="CASCADE"))
    node_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_dicom_node.id"))
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)
    due: Mapped[datetime | None]
    said: Mapped[str] = mapped_column(default="")
    ordered_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    __table_args__ = (
        sa.UniqueConstraint("instance_id", "node_id"),
        one_of("state", "waiting", "sent", "refused"),
        sa.Index("ix_rp_forward_due", "due", postgresql_where=sa.text("due is not null")),
    )


class EventRow(Base):
    """What happened, in one order; readers follow (xid, id) below the oldest open transaction, so none is missed."""

    __tablename__ = "rp_event"
    id: Mapped[int] = identity()
    xid: Mapped[str] = mapped_column(Xid8(), server_default=sa.text("pg_current_xact_id()"))
    at: Mapped[datetime]
    kind: Mapped[str]
    level: Mapped[str]
    case_id: Mapped[int | None]
    transfer_id: Mapped[int | None] = mapped_column(index=True)
    partner_id: Mapped[int | None]
    partner_clock_offset_s: Mapped[float | None]
    partner_clock_uncertainty_s: Mapped[float | None]
    fields: Mapped[dict[str, Any]]
    __table_args__ = (sa.Index("ix_rp_event_xid", "xid", "id"),)
