"""The tables, commented. They are the truth; jobs and notifications are only wake-ups.

Words: a *case* is (origin site, study UID); a *patient* is (issuing site, issuer, patient ID): patients of different
sites are never merged. A *transfer* carries instances of one case to or from one partner; it is made of *messages*
(parcels, a manifest, receipts), each one mail. Every row that is not final has a `due` instant at which somebody
looks again.
"""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Xid8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction number."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in DDL."""
        return "xid8"


class Base(DeclarativeBase):
    """All tables of a site; names begin with rp_."""

    type_annotation_map = {
        datetime: sa.DateTime(timezone=True),
        dict[str, Any]: JSONB,
        str: sa.Text(),
        int: sa.BigInteger(),
    }
    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


def _identity() -> Any:
    return mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} in ({listed})", name=column)


class SiteRow(Base):
    """A site of the network, for good: whatever changes about it stands in rp_partner."""

    __tablename__ = "rp_site"
    id: Mapped[int] = _identity()
    name: Mapped[str] = mapped_column(unique=True)
    is_self: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (sa.Index("uq_rp_site_self", "is_self", unique=True, postgresql_where=sa.text("is_self")),)


class PartnerRow(Base):
    """Address and certificate of a site, this one's included. A change retires the row and adds a new one."""

    __tablename__ = "rp_partner"
    id: Mapped[int] = _identity()
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


class DicomNodeRow(Base):
    """DICOM nodes in the house to which filed studies are sent on."""

    __tablename__ = "rp_dicom_node"
    id: Mapped[int] = _identity()
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
    id: Mapped[int] = _identity()
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
    hours_from: Mapped[time | None] = mapped_column(sa.Time())
    hours_until: Mapped[time | None] = mapped_column(sa.Time())
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    why: Mapped[str] = mapped_column(default="")
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    __table_args__ = (_one_of("action", "send", "forward"), _one_of("priority", "emergency", "urgent", "routine"))


class PatientRow(Base):
    """A patient as one site names him; issuing_site_id is the site whose numbers these are."""

    __tablename__ = "rp_patient"
    id: Mapped[int] = _identity()
    issuing_site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    issuer_of_patient_id: Mapped[str]
    patient_id: Mapped[str]
    patient_name: Mapped[str]
    birth_date: Mapped[str]
    sex: Mapped[str]
    __table_args__ = (
        sa.Index(
            "uq_rp_patient",
            "issuing_site_id",
            "issuer_of_patient_id",
            "patient_id",
            "patient_name",
            "birth_date",
            "sex",
            unique=True,
        ),
    )


class CaseRow(Base):
    """A case: one study as one site made it. An instance from another site never enters it."""

    __tablename__ = "rp_case"
    id: Mapped[int] = _identity()
    study_key: Mapped[str] = mapped_column(unique=True)
    origin_site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    study_instance_uid: Mapped[str]
    patient_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_patient.id"))
    study_date: Mapped[str]
    study_time: Mapped[str]
    study_description: Mapped[str]
    accession_number: Mapped[str]
    is_test: Mapped[bool]
    opened_at: Mapped[datetime]
    last_arrival_at: Mapped[datetime]
    released_at: Mapped[datetime | None] = mapped_column(comment="the modality released its association")
    __table_args__ = (
        sa.UniqueConstraint("origin_site_id", "study_instance_uid", "is_test"),
        sa.Index("ix_rp_case_last_arrival_at", "last_arrival_at"),
    )


class SeriesRow(Base):
    """A series of a case."""

    __tablename__ = "rp_series"
    id: Mapped[int] = _identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"))
    series_instance_uid: Mapped[str]
    modality: Mapped[str]
    series_number: Mapped[int | None]
    series_description: Mapped[str]
    body_part: Mapped[str]
    __table_args__ = (sa.UniqueConstraint("case_id", "series_instance_uid"),)


class InstanceRow(Base):
    """One version of a SOP instance; its file is the blob named by sha256.

    standing: current (what is shown), superseded (same pixels, older attributes), conflict (other pixels under the same
    SOP Instance UID: both are kept, a person must look).
    """

    __tablename__ = "rp_instance"
    id: Mapped[int] = _identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"))
    series_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_series.id", ondelete="CASCADE"))
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    instance_number: Mapped[int | None]
    image_type: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True, comment="of the kept file; also the blob's name")
    content_sha256: Mapped[str]
    pixel_sha256: Mapped[str]
    size_bytes: Mapped[int]
    raw_size_bytes: Mapped[int]
    kept_because: Mapped[str] = mapped_column(comment="why the file kept its transfer syntax; empty: compressed")
    version: Mapped[int]
    standing: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    received_at: Mapped[datetime]
    routed_at: Mapped[datetime | None]
    __table_args__ = (
        sa.UniqueConstraint("case_id", "sop_instance_uid", "content_sha256"),
        _one_of("standing", "current", "superseded", "conflict"),
        sa.Index("ix_rp_instance_unrouted", "case_id", postgresql_where=sa.text("routed_at is null")),
    )


class TransferRow(Base):
    """Instances of one case on their way to (out) or from (in) one partner."""

    __tablename__ = "rp_transfer"
    id: Mapped[int] = _identity()
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
    __table_args__ = (
        sa.UniqueConstraint("direction", "partner_id", "transfer_key"),
        _one_of("direction", "out", "in"),
        _one_of("priority", "emergency", "urgent", "routine"),
        _one_of("state", "streaming", "closed", "delivered", "unconfirmed", "arriving", "complete", "incomplete"),
        sa.Index("ix_rp_transfer_due", "due", postgresql_where=sa.text("due is not null")),
    )


class TransferItemRow(Base):
    """An instance as one transfer holds it, by the hash of its file.

    state, out: waiting ▸ packed ▸ filed (named in a receipt) or refused; in: listed (by the manifest) ▸ arrived (its
    blob is here) ▸ filed or refused (in quarantine).
    """

    __tablename__ = "rp_transfer_item"
    id: Mapped[int] = _identity()
    transfer_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer.id", ondelete="CASCADE"))
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    sop_instance_uid: Mapped[str]
    instance_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rp_instance.id"))
    packed_bytes: Mapped[int] = mapped_column(default=0)
    in_manifest: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str]
    added_at: Mapped[datetime]
    __table_args__ = (
        sa.UniqueConstraint("transfer_id", "sha256"),
        _one_of("state", "waiting", "packed", "listed", "arrived", "filed", "refused"),
        sa.Index("ix_rp_transfer_item_state", "transfer_id", "state"),
    )


class MessageRow(Base):
    """One message of the transfer protocol: a parcel, the manifest, a receipt; see model.transfer.MessageState."""

    __tablename__ = "rp_message"
    id: Mapped[int] = _identity()
    transfer_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer.id", ondelete="CASCADE"))
    direction: Mapped[str]
    kind: Mapped[str]
    number: Mapped[int]
    state: Mapped[str]
    priority_rank: Mapped[int] = mapped_column(default=0)
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
    said: Mapped[str] = mapped_column(default="", comment="the relay's last words")
    __table_args__ = (
        sa.UniqueConstraint("transfer_id", "direction", "kind", "number"),
        _one_of("direction", "out", "in"),
        _one_of("kind", "parcel", "manifest", "receipt"),
        _one_of("state", "planned", "queued", "sending", "accepted", "filed", "refused", "replaced", "verified"),
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
    id: Mapped[int] = _identity()
    message_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_message.id", ondelete="CASCADE"), index=True)
    item_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_transfer_item.id", ondelete="CASCADE"), index=True)
    offset_bytes: Mapped[int]
    length_bytes: Mapped[int]
    __table_args__ = (sa.UniqueConstraint("message_id", "item_id", "offset_bytes"),)


class CollectedRow(Base):
    """A mail as fetched from a relay, before it is opened.

    state: fetched ▸ opened | quarantined | ignored. `removed_at` says that it is gone at the relay.
    """

    __tablename__ = "rp_collected"
    id: Mapped[int] = _identity()
    relay: Mapped[str]
    uid_validity: Mapped[int]
    imap_uid: Mapped[int]
    state: Mapped[str]
    priority_rank: Mapped[int] = mapped_column(default=0)
    mail_file: Mapped[str] = mapped_column(comment="name in the spool; empty when the mail was too large to fetch")
    size_bytes: Mapped[int]
    relay_time: Mapped[datetime | None] = mapped_column(comment="when the relay says it took the mail: INTERNALDATE")
    fetched_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    due: Mapped[datetime | None]
    __table_args__ = (
        sa.UniqueConstraint("relay", "uid_validity", "imap_uid"),
        _one_of("state", "fetched", "opened", "quarantined", "ignored"),
        sa.Index("ix_rp_collected_due", "due", postgresql_where=sa.text("due is not null")),
    )


class QuarantineRow(Base):
    """Something that could not be used, kept apart for a person."""

    __tablename__ = "rp_quarantine"
    id: Mapped[int] = _identity()
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
    id: Mapped[int] = _identity()
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
        _one_of("state", "waiting", "sent", "refused"),
        sa.Index("ix_rp_forward_due", "due", postgresql_where=sa.text("due is not null")),
    )


class RelayRow(Base):
    """What was learned about a relay."""

    __tablename__ = "rp_relay"
    name: Mapped[str] = mapped_column(primary_key=True)
    size_max_bytes: Mapped[int | None] = mapped_column(comment="from its EHLO keyword SIZE (RFC 1870)")
    is_reachable: Mapped[bool] = mapped_column(default=True)
    changed_at: Mapped[datetime]
    said: Mapped[str] = mapped_column(default="")


class EventRow(Base):
    """What happened, in one order; readers follow (xid, id) below the oldest open transaction, so none is missed."""

    __tablename__ = "rp_event"
    id: Mapped[int] = _identity()
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
