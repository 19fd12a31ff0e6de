"""The first schema: the queue of procrastinate 3.10 and every table of `archive/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager
from sqlalchemy.dialects import postgresql

from raypost.archive.tables import Xid8

revision = "0001"
down_revision = None

EVENT_TRIGGER = """
create function rp_event_notify() returns trigger language plpgsql as
$$ begin perform pg_notify('rp_event', ''); return null; end $$;
create trigger rp_event_notify after insert on rp_event for each statement execute function rp_event_notify();
"""


def upgrade() -> None:
    """Make everything, in the migration's own transaction."""
    _queue()
    _sites()
    _nodes_rules_relays()
    _studies()
    _instances()
    _transfers()
    _transfer_items()
    _messages()
    _parcel_entries()
    _mails()
    _forwards()
    _events()


def _queue() -> None:
    raw = op.get_bind().connection.driver_connection
    if raw is not None:
        raw.execute(SchemaManager.get_schema())


def _sites() -> None:
    op.create_table(
        "rp_site",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_self", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_site")),
        sa.UniqueConstraint("name", name=op.f("uq_rp_site_name")),
    )
    op.create_index("uq_rp_site_self", "rp_site", ["is_self"], unique=True, postgresql_where=sa.text("is_self"))
    op.create_table(
        "rp_partner",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("ae_stem", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["rp_site.id"], name=op.f("fk_rp_partner_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_partner")),
    )
    op.create_index(
        "uq_rp_partner_ae_stem", "rp_partner", ["ae_stem"], unique=True, postgresql_where=sa.text("retired_at is null")
    )
    op.create_index(
        "uq_rp_partner_fingerprint",
        "rp_partner",
        ["fingerprint"],
        unique=True,
        postgresql_where=sa.text("retired_at is null"),
    )
    op.create_index(
        "uq_rp_partner_site_id", "rp_partner", ["site_id"], unique=True, postgresql_where=sa.text("retired_at is null")
    )


def _nodes_rules_relays() -> None:
    op.create_table(
        "rp_dicom_node",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ae_title", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_dicom_node")),
    )
    op.create_index(
        "uq_rp_dicom_node_name", "rp_dicom_node", ["name"], unique=True, postgresql_where=sa.text("retired_at is null")
    )
    op.create_table(
        "rp_rule",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("rule_key", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("called_ae_title", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("study_description", sa.Text(), nullable=False),
        sa.Column("body_part", sa.Text(), nullable=False),
        sa.Column("hours_from", sa.Time(), nullable=True),
        sa.Column("hours_until", sa.Time(), nullable=True),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_by", sa.Text(), nullable=True),
        sa.CheckConstraint("action in ('send', 'forward')", name=op.f("ck_rp_rule_action")),
        sa.CheckConstraint("priority in ('emergency', 'urgent', 'routine')", name=op.f("ck_rp_rule_priority")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_rule")),
        sa.UniqueConstraint("rule_key", name=op.f("uq_rp_rule_rule_key")),
    )
    op.create_table(
        "rp_relay",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_max_bytes", sa.BigInteger(), nullable=True, comment="from its EHLO keyword SIZE (RFC 1870)"),
        sa.Column("is_reachable", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rp_relay")),
    )


def _studies() -> None:
    op.create_table(
        "rp_patient",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("issuing_site_id", sa.BigInteger(), nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=False),
        sa.Column("birth_date", sa.Text(), nullable=False),
        sa.Column("sex", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["issuing_site_id"], ["rp_site.id"], name=op.f("fk_rp_patient_issuing_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_patient")),
    )
    op.create_index(
        "uq_rp_patient",
        "rp_patient",
        ["issuing_site_id", "issuer_of_patient_id", "patient_id", "patient_name", "birth_date", "sex"],
        unique=True,
    )
    op.create_table(
        "rp_case",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("study_key", sa.Text(), nullable=False),
        sa.Column("origin_site_id", sa.BigInteger(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.BigInteger(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("study_time", sa.Text(), nullable=False),
        sa.Column("study_description", sa.Text(), nullable=False),
        sa.Column("accession_number", sa.Text(), nullable=False),
        sa.Column("is_test", sa.Boolean(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_arrival_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "released_at", sa.DateTime(timezone=True), nullable=True, comment="the modality released its association"
        ),
        sa.ForeignKeyConstraint(["origin_site_id"], ["rp_site.id"], name=op.f("fk_rp_case_origin_site_id")),
        sa.ForeignKeyConstraint(["patient_id"], ["rp_patient.id"], name=op.f("fk_rp_case_patient_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_case")),
        sa.UniqueConstraint(
            "origin_site_id",
            "study_instance_uid",
            "is_test",
            name=op.f("uq_rp_case_origin_site_id_study_instance_uid_is_test"),
        ),
        sa.UniqueConstraint("study_key", name=op.f("uq_rp_case_study_key")),
    )
    op.create_index("ix_rp_case_last_arrival_at", "rp_case", ["last_arrival_at"], unique=False)
    op.create_table(
        "rp_series",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("series_description", sa.Text(), nullable=False),
        sa.Column("body_part", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["rp_case.id"], name=op.f("fk_rp_series_case_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_series")),
        sa.UniqueConstraint("case_id", "series_instance_uid", name=op.f("uq_rp_series_case_id_series_instance_uid")),
    )


def _instances() -> None:
    op.create_table(
        "rp_instance",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=False),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("image_type", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the kept file; also the blob's name"),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("pixel_sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("raw_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "kept_because",
            sa.Text(),
            nullable=False,
            comment="why the file kept its transfer syntax; empty: compressed",
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("called_ae_title", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("routed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("standing in ('current', 'superseded', 'conflict')", name=op.f("ck_rp_instance_standing")),
        sa.ForeignKeyConstraint(["case_id"], ["rp_case.id"], name=op.f("fk_rp_instance_case_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["series_id"], ["rp_series.id"], name=op.f("fk_rp_instance_series_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_instance")),
        sa.UniqueConstraint(
            "case_id",
            "sop_instance_uid",
            "content_sha256",
            name=op.f("uq_rp_instance_case_id_sop_instance_uid_content_sha256"),
        ),
    )
    op.create_index(op.f("ix_rp_instance_sha256"), "rp_instance", ["sha256"], unique=False)
    op.create_index(
        "ix_rp_instance_unrouted",
        "rp_instance",
        ["case_id"],
        unique=False,
        postgresql_where=sa.text("routed_at is null"),
    )


def _transfers() -> None:
    op.create_table(
        "rp_transfer",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transfer_key", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("partner_id", sa.BigInteger(), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=True),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column(
            "supplement", sa.BigInteger(), nullable=False, comment="0: the first transfer of the case to this partner"
        ),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("is_test", sa.Boolean(), nullable=False),
        sa.Column("ordered_by", sa.Text(), nullable=False, comment="rule:KEY, ae:TITLE or person:NAME"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rounds", sa.BigInteger(), nullable=False),
        sa.Column("reminders", sa.BigInteger(), nullable=False),
        sa.Column(
            "news", sa.BigInteger(), nullable=False, comment="in: parcels filed or doubled since the last receipt"
        ),
        sa.Column("receipts", sa.BigInteger(), nullable=False, comment="number of the last receipt"),
        sa.Column("manifest_parcels", sa.BigInteger(), nullable=True),
        sa.Column("manifest_instances", sa.BigInteger(), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_arrival_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "patience_from",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="later of: relay took the last mail, a receipt showed progress",
        ),
        sa.Column("last_receipt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("direction in ('out', 'in')", name=op.f("ck_rp_transfer_direction")),
        sa.CheckConstraint("priority in ('emergency', 'urgent', 'routine')", name=op.f("ck_rp_transfer_priority")),
        sa.CheckConstraint(
            "state in ('streaming', 'closed', 'delivered', 'unconfirmed', 'arriving', 'complete', 'incomplete')",
            name=op.f("ck_rp_transfer_state"),
        ),
        sa.ForeignKeyConstraint(["case_id"], ["rp_case.id"], name=op.f("fk_rp_transfer_case_id")),
        sa.ForeignKeyConstraint(["partner_id"], ["rp_site.id"], name=op.f("fk_rp_transfer_partner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_transfer")),
        sa.UniqueConstraint(
            "direction", "partner_id", "transfer_key", name=op.f("uq_rp_transfer_direction_partner_id_transfer_key")
        ),
    )
    op.create_index(op.f("ix_rp_transfer_case_id"), "rp_transfer", ["case_id"], unique=False)
    op.create_index(
        "ix_rp_transfer_due", "rp_transfer", ["due"], unique=False, postgresql_where=sa.text("due is not null")
    )


def _transfer_items() -> None:
    op.create_table(
        "rp_transfer_item",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=True),
        sa.Column("packed_bytes", sa.BigInteger(), nullable=False),
        sa.Column("in_manifest", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state in ('waiting', 'packed', 'listed', 'arrived', 'filed', 'refused')",
            name=op.f("ck_rp_transfer_item_state"),
        ),
        sa.ForeignKeyConstraint(["instance_id"], ["rp_instance.id"], name=op.f("fk_rp_transfer_item_instance_id")),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["rp_transfer.id"], name=op.f("fk_rp_transfer_item_transfer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_transfer_item")),
        sa.UniqueConstraint("transfer_id", "sha256", name=op.f("uq_rp_transfer_item_transfer_id_sha256")),
    )
    op.create_index("ix_rp_transfer_item_state", "rp_transfer_item", ["transfer_id", "state"], unique=False)


def _messages() -> None:
    op.create_table(
        "rp_message",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority_rank", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False, comment="each new sealing counts"),
        sa.Column("tries", sa.BigInteger(), nullable=False, comment="submissions of this attempt"),
        sa.Column("relay", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=True, comment="which SMTP session holds it while sending"),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("message_file", sa.Text(), nullable=False, comment="name in the spool"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="of the whole mail"),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("filed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("said", sa.Text(), nullable=False, comment="the relay's last words"),
        sa.CheckConstraint("direction in ('out', 'in')", name=op.f("ck_rp_message_direction")),
        sa.CheckConstraint("kind in ('parcel', 'manifest', 'receipt')", name=op.f("ck_rp_message_kind")),
        sa.CheckConstraint(
            "state in ('planned', 'queued', 'sending', 'accepted', 'filed', 'refused', 'replaced', 'verified')",
            name=op.f("ck_rp_message_state"),
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["rp_transfer.id"], name=op.f("fk_rp_message_transfer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_message")),
        sa.UniqueConstraint(
            "transfer_id", "direction", "kind", "number", name=op.f("uq_rp_message_transfer_id_direction_kind_number")
        ),
    )
    op.create_index(
        "ix_rp_message_message_id",
        "rp_message",
        ["message_id"],
        unique=False,
        postgresql_where=sa.text("message_id <> ''"),
    )
    op.create_index(
        "ix_rp_message_open",
        "rp_message",
        ["state", "priority_rank"],
        unique=False,
        postgresql_where=sa.text("state in ('planned', 'queued', 'sending', 'verified')"),
    )


def _parcel_entries() -> None:
    op.create_table(
        "rp_parcel_entry",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("length_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["rp_transfer_item.id"], name=op.f("fk_rp_parcel_entry_item_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["rp_message.id"], name=op.f("fk_rp_parcel_entry_message_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_parcel_entry")),
        sa.UniqueConstraint(
            "message_id", "item_id", "offset_bytes", name=op.f("uq_rp_parcel_entry_message_id_item_id_offset_bytes")
        ),
    )
    op.create_index(op.f("ix_rp_parcel_entry_item_id"), "rp_parcel_entry", ["item_id"], unique=False)
    op.create_index(op.f("ix_rp_parcel_entry_message_id"), "rp_parcel_entry", ["message_id"], unique=False)


def _mails() -> None:
    op.create_table(
        "rp_collected",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("relay", sa.Text(), nullable=False),
        sa.Column("uid_validity", sa.BigInteger(), nullable=False),
        sa.Column("imap_uid", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority_rank", sa.BigInteger(), nullable=False),
        sa.Column(
            "mail_file",
            sa.Text(),
            nullable=False,
            comment="name in the spool; empty when the mail was too large to fetch",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "relay_time",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the relay says it took the mail: INTERNALDATE",
        ),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('fetched', 'opened', 'quarantined', 'ignored')", name=op.f("ck_rp_collected_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_collected")),
        sa.UniqueConstraint(
            "relay", "uid_validity", "imap_uid", name=op.f("uq_rp_collected_relay_uid_validity_imap_uid")
        ),
    )
    op.create_index(
        "ix_rp_collected_due", "rp_collected", ["due"], unique=False, postgresql_where=sa.text("due is not null")
    )
    op.create_table(
        "rp_quarantine",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("quarantine_key", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="dicom or mail"),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False, comment="AE title and host, or relay"),
        sa.Column("quarantine_file", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("put_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["transfer_id"], ["rp_transfer.id"], name=op.f("fk_rp_quarantine_transfer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_quarantine")),
        sa.UniqueConstraint("quarantine_key", name=op.f("uq_rp_quarantine_quarantine_key")),
    )


def _forwards() -> None:
    op.create_table(
        "rp_forward",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('waiting', 'sent', 'refused')", name=op.f("ck_rp_forward_state")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["rp_instance.id"], name=op.f("fk_rp_forward_instance_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["node_id"], ["rp_dicom_node.id"], name=op.f("fk_rp_forward_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_forward")),
        sa.UniqueConstraint("instance_id", "node_id", name=op.f("uq_rp_forward_instance_id_node_id")),
    )
    op.create_index(
        "ix_rp_forward_due", "rp_forward", ["due"], unique=False, postgresql_where=sa.text("due is not null")
    )


def _events() -> None:
    op.create_table(
        "rp_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=True),
        sa.Column("transfer_id", sa.BigInteger(), nullable=True),
        sa.Column("partner_id", sa.BigInteger(), nullable=True),
        sa.Column("partner_clock_offset_s", sa.Double(), nullable=True),
        sa.Column("partner_clock_uncertainty_s", sa.Double(), nullable=True),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_event")),
    )
    op.create_index(op.f("ix_rp_event_transfer_id"), "rp_event", ["transfer_id"], unique=False)
    op.create_index("ix_rp_event_xid", "rp_event", ["xid", "id"], unique=False)
    op.execute(EVENT_TRIGGER)
