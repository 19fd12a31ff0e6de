"""Transfers and the messages they are made of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base, identity, one_of
from raypost.model.transfer import MessageKind

STATES_OUT = ("announced", "streaming", "closed", "delivered", "unconfirmed", "rerouted", "recalled")
STATES_IN = ("expected", "arriving", "complete", "incomplete", "redirected", "withdrawn")


class TransferRow(Base):
    """Instances of one case on their way to (out) or from (in) one partner."""

    __tablename__ = "rp_transfer"
    id: Mapped[int] = identity()
    transfer_key: Mapped[str]
    direction: Mapped[str]
    partner_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    case_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_case.id"), index=True)
    study_instance_uid: Mapped[str]
    supplement: Mapped[int] = mapped_column(comment="0: the first transfer of the case to this partner")
    priority: Mapped[str]
    is_test: Mapped[bool]
    ordered_by: Mapped[str] = mapped_column(comment="rule:KEY, ae:TITLE or person:NAME")
    state: Mapped[str]
    due: Mapped[datetime | None]
    rounds: Mapped[int] = mapped_column(default=0)
    reminders: Mapped[int] = mapped_column(default=0)
    news: Mapped[int] = mapped_column(default=0, comment="in: parcels filed or doubled since the last receipt")
    receipts: Mapped[int] = mapped_column(default=0, comment="number of the last receipt")
    manifest_parcels: Mapped[int | None]
    manifest_instances: Mapped[int | None]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    last_arrival_at: Mapped[datetime]
    patience_from: Mapped[datetime] = mapped_column(
        comment="later of: relay took the last mail, a receipt showed progress"
    )
    last_receipt_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    progress_at: Mapped[datetime | None] = mapped_column(comment="out: a receipt named something new")
    told_at: Mapped[datetime | None] = mapped_column(comment="a person was told that nothing moves")
    asked_at: Mapped[datetime | None] = mapped_column(comment="in: a receipt asked for something last")
    doubles: Mapped[int] = mapped_column(
        default=0, server_default="0", comment="in: doubled messages since the last receipt"
    )
    receipted_parcels: Mapped[int] = mapped_column(default=0, server_default="0", comment="in: named in receipts")
    receipts_floor: Mapped[int] = mapped_column(
        default=0, server_default="0", comment="out: receipts up to this number are older than a person's order"
    )
    instances_there: Mapped[int] = mapped_column(
        default=0, server_default="0", comment="out: filed at the partner, by its word"
    )
    parcels_seen: Mapped[list[int]] = mapped_column(
        default=list, server_default="[]", comment="out: that a receipt saw since the last one was confirmed"
    )
    switches: Mapped[int] = mapped_column(default=0, server_default="0")
    switched_at: Mapped[datetime | None] = mapped_column(comment="out: moved to another relay, as nothing was heard")
    late_at: Mapped[datetime | None] = mapped_column(comment="out: it will miss its deadline; goes by all relays")
    rerouted_to: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_transfer.id"), comment="the transfer instead")
    announced: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default="{}", comment="in: what the announcement said"
    )
    partner_times: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default="{}", comment="out: when the partner fetched and filed, by its clock"
    )
    why: Mapped[str] = mapped_column(default="", server_default="", comment="of a recall, redirect or reroute")
    __table_args__ = (
        sa.UniqueConstraint("direction", "partner_id", "transfer_key"),
        one_of("direction", "out", "in"),
        one_of("priority", "emergency", "urgent", "routine"),
        one_of("state", *STATES_OUT, *STATES_IN),
        sa.Index("ix_rp_transfer_due", "due", postgresql_where=sa.text("due is not null")),
    )


class TransferItemRow(Base):
    """An instance as one transfer holds it, by the hash of its file.

    state, out: waiting ▸ packed ▸ filed (named in a receipt) or refused; in: listed (by the manifest) ▸ arrived (its
    blob is here) ▸ filed or refused (in quarantine).
    """

    __tablename__ = "rp_transfer_item"
    id: Mapped[int] = identity()
    transfer_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer.id", ondelete="CASCADE"))
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    sop_instance_uid: Mapped[str]
    instance_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_instance.id"))
    packed_bytes: Mapped[int] = mapped_column(default=0)
    in_manifest: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str]
    added_at: Mapped[datetime]
    reading_rank: Mapped[int] = mapped_column(
        default=0, server_default="0", comment="out: what is read first is sent first"
    )
    __table_args__ = (
        sa.UniqueConstraint("transfer_id", "sha256"),
        one_of("state", "waiting", "packed", "listed", "arrived", "filed", "refused"),
        sa.Index("ix_rp_transfer_item_state", "transfer_id", "state"),
    )


class MessageRow(Base):
    """One message of the transfer protocol; see model.transfer.MessageState. A hello belongs to no transfer.

    Copy 0 is the message; others are the same message by another relay, so that a dead one costs an emergency no time.
    """

    __tablename__ = "rp_message"
    id: Mapped[int] = identity()
    transfer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_transfer.id", ondelete="CASCADE"))
    partner_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    direction: Mapped[str]
    kind: Mapped[str]
    number: Mapped[int]
    copy: Mapped[int] = mapped_column(default=0, server_default="0")
    state: Mapped[str]
    priority_rank: Mapped[int] = mapped_column(default=0)
    body: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), comment="what a small message says, where no table has it"
    )
    attempt: Mapped[int] = mapped_column(default=1, comment="each new sealing counts")
    tries: Mapped[int] = mapped_column(default=0, comment="submissions of this attempt")
    relay: Mapped[str] = mapped_column(default="")
    slot: Mapped[str | None] = mapped_column(comment="which SMTP session holds it while sending")
    message_id: Mapped[str] = mapped_column(default="")
    message_file: Mapped[str] = mapped_column(default="", comment="name in the spool")
    size_bytes: Mapped[int] = mapped_column(default=0, comment="of the whole mail")
    due: Mapped[datetime | None]
    planned_at: Mapped[datetime]
    queued_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]
    filed_at: Mapped[datetime | None]
    is_seen: Mapped[bool] = mapped_column(
        default=False, server_default="false", comment="out: the latest receipt says it is at the partner, unfiled"
    )
    unseen_at: Mapped[datetime | None] = mapped_column(comment="out: when a receipt did not say so any more")
    said: Mapped[str] = mapped_column(default="", comment="the relay's last words")
    __table_args__ = (
        sa.UniqueConstraint("transfer_id", "direction", "kind", "number", "copy"),
        sa.Index(
            "uq_rp_message_hello",
            "partner_id",
            "direction",
            "number",
            "copy",
            unique=True,
            postgresql_where=sa.text("transfer_id is null"),
        ),
        one_of("direction", "out", "in"),
        one_of("kind", *(kind.value for kind in MessageKind)),
        one_of("state", "planned", "queued", "sending", "accepted", "filed", "refused", "replaced", "verified"),
        sa.Index(
            "ix_rp_message_open",
            "state",
            "priority_rank",
            postgresql_where=sa.text("state in ('planned', 'queued', 'sending', 'verified')"),
        ),
        sa.Index("ix_rp_message_message_id", "message_id", postgresql_where=sa.text("message_id <> ''")),
    )


class ParcelEntryRow(Base):
    """What a parcel carries: an instance, or a slice of one."""

    __tablename__ = "rp_parcel_entry"
    id: Mapped[int] = identity()
    message_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_message.id", ondelete="CASCADE"), index=True)
    item_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer_item.id", ondelete="CASCADE"), index=True)
    offset_bytes: Mapped[int]
    length_bytes: Mapped[int]
    __table_args__ = (sa.UniqueConstraint("message_id", "item_id", "offset_bytes"),)
