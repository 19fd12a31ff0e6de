"""The transfer protocol in full: announcements, several relays, signs of life, recalls, corrections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

STATES = {
    "rp_message_kind": (
        *("announce", "parcel", "manifest", "receipt", "opened", "take", "taken"),
        *("recall", "recalled", "redirect", "correct", "hello"),
    ),
    "rp_rule_action": ("send", "forward", "reroute"),
    "rp_instance_standing": ("current", "superseded", "conflict", "withdrawn"),
    "rp_transfer_state": (
        *("announced", "streaming", "closed", "delivered", "unconfirmed", "rerouted", "recalled"),
        *("expected", "arriving", "complete", "incomplete", "redirected", "withdrawn"),
    ),
}
"""Words that columns allow now; the constraints of the first schema are widened."""


def upgrade() -> None:
    """Add what the protocol needs, in the migration's own transaction."""
    _contacts()
    _cases()
    _others()
    _messages()
    _relays()
    _transfers()
    _words()


def _contacts() -> None:
    op.create_table(
        "rp_restore",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("backup_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("restored_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_restore")),
    )
    op.create_table(
        "rp_scanner",
        sa.Column("ae_title", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("last_image_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("ae_title", name=op.f("pk_rp_scanner")),
    )
    op.create_table(
        "rp_contact",
        sa.Column("site_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hellos_written", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heard_number", sa.BigInteger(), nullable=False, comment="number of its last hello"),
        sa.Column(
            "heard_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="our time at which anything of it was verified last",
        ),
        sa.Column(
            "hello_heard_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="our time at which its last hello was verified",
        ),
        sa.Column(
            "heard_written_at", sa.DateTime(timezone=True), nullable=True, comment="its time at which it wrote it"
        ),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("clock_offset_s", sa.Double(), nullable=True, comment="its clock minus ours"),
        sa.Column("clock_uncertainty_s", sa.Double(), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "round_trip_s", sa.Double(), nullable=True, comment="smoothed: relay took it until a receipt names it"
        ),
        sa.Column(
            "restored_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="instant of the backup it was restored from last",
        ),
        sa.Column(
            "restores_heard", sa.BigInteger(), server_default="0", nullable=False, comment="of so many its hellos told"
        ),
        sa.Column("capabilities", postgresql.JSONB(), nullable=False, comment="versions, kinds, sizes, software"),
        sa.CheckConstraint("state in ('unknown', 'fresh', 'silent')", name=op.f("ck_rp_contact_state")),
        sa.ForeignKeyConstraint(["site_id"], ["rp_site.id"], name=op.f("fk_rp_contact_site_id")),
        sa.PrimaryKeyConstraint("site_id", name=op.f("pk_rp_contact")),
    )
    op.create_index(
        "ix_rp_contact_due", "rp_contact", ["due"], unique=False, postgresql_where=sa.text("due is not null")
    )
    op.create_table(
        "rp_mailbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("partner_id", sa.BigInteger(), nullable=False),
        sa.Column("relay", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["partner_id"], ["rp_partner.id"], name=op.f("fk_rp_mailbox_partner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_mailbox")),
        sa.UniqueConstraint("partner_id", "relay", name=op.f("uq_rp_mailbox_partner_id_relay")),
    )


def _cases() -> None:
    op.create_table(
        "rp_correction",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("correction_key", sa.Text(), nullable=False, comment="the same at both sites"),
        sa.Column("corrected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=False),
        sa.Column("after", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["rp_case.id"], name=op.f("fk_rp_correction_case_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_correction")),
        sa.UniqueConstraint("case_id", "correction_key", name=op.f("uq_rp_correction_case_id_correction_key")),
    )
    op.create_index(op.f("ix_rp_correction_case_id"), "rp_correction", ["case_id"], unique=False)
    op.create_table(
        "rp_opening",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["rp_case.id"], name=op.f("fk_rp_opening_case_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["site_id"], ["rp_site.id"], name=op.f("fk_rp_opening_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_opening")),
        sa.UniqueConstraint(
            "case_id", "site_id", "who", "opened_at", name=op.f("uq_rp_opening_case_id_site_id_who_opened_at")
        ),
    )
    op.create_index(op.f("ix_rp_opening_case_id"), "rp_opening", ["case_id"], unique=False)
    op.add_column(
        "rp_case",
        sa.Column(
            "responsible_site_id",
            sa.BigInteger(),
            nullable=True,
            comment="the centre that took the case, as the sender decided",
        ),
    )
    op.add_column("rp_case", sa.Column("responsible_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "rp_case",
        sa.Column(
            "hidden_at", sa.DateTime(timezone=True), nullable=True, comment="its sender recalled it: kept, not shown"
        ),
    )
    op.add_column("rp_case", sa.Column("hidden_because", sa.Text(), server_default="", nullable=False))
    op.create_foreign_key(op.f("fk_rp_case_responsible_site_id"), "rp_case", "rp_site", ["responsible_site_id"], ["id"])
    op.add_column("rp_series", sa.Column("slice_thickness_mm", sa.Double(), nullable=True))
    op.add_column("rp_series", sa.Column("convolution_kernel", sa.Text(), server_default="", nullable=False))
    op.add_column("rp_series", sa.Column("contrast_agent", sa.Text(), server_default="", nullable=False))


def _others() -> None:
    op.create_table(
        "rp_listed_parcel",
        sa.Column("relay", sa.Text(), nullable=False),
        sa.Column("uid_validity", sa.BigInteger(), nullable=False),
        sa.Column("imap_uid", sa.BigInteger(), nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("listed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["rp_transfer.id"], name=op.f("fk_rp_listed_parcel_transfer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("relay", "uid_validity", "imap_uid", name=op.f("pk_rp_listed_parcel")),
    )
    op.create_index(op.f("ix_rp_listed_parcel_transfer_id"), "rp_listed_parcel", ["transfer_id"], unique=False)
    op.add_column(
        "rp_collected", sa.Column("token", sa.Text(), server_default="", nullable=False, comment="of a parcel's mail")
    )
    op.add_column("rp_collected", sa.Column("token_number", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(
        "ix_rp_collected_token",
        "rp_collected",
        ["token"],
        unique=False,
        postgresql_where=sa.text("state = 'fetched' and token <> ''"),
    )


def _messages() -> None:
    op.add_column("rp_message", sa.Column("partner_id", sa.BigInteger(), nullable=True))
    op.execute(
        "update rp_message set partner_id = rp_transfer.partner_id from rp_transfer"
        " where rp_transfer.id = rp_message.transfer_id"
    )
    op.alter_column("rp_message", "partner_id", nullable=False)
    op.add_column("rp_message", sa.Column("copy", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "rp_message",
        sa.Column(
            "body", postgresql.JSONB(), nullable=True, comment="what a small message says, where no table has it"
        ),
    )
    op.add_column(
        "rp_message",
        sa.Column(
            "is_seen",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="out: the latest receipt says it is at the partner, unfiled",
        ),
    )
    op.add_column(
        "rp_message",
        sa.Column(
            "unseen_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="out: when a receipt did not say so any more",
        ),
    )
    op.alter_column("rp_message", "transfer_id", existing_type=sa.BIGINT(), nullable=True)
    op.drop_constraint(op.f("uq_rp_message_transfer_id_direction_kind_number"), "rp_message", type_="unique")
    op.create_index(
        "uq_rp_message_hello",
        "rp_message",
        ["partner_id", "direction", "number", "copy"],
        unique=True,
        postgresql_where=sa.text("transfer_id is null"),
    )
    op.create_unique_constraint(
        op.f("uq_rp_message_transfer_id_direction_kind_number_copy"),
        "rp_message",
        ["transfer_id", "direction", "kind", "number", "copy"],
    )
    op.create_foreign_key(op.f("fk_rp_message_partner_id"), "rp_message", "rp_site", ["partner_id"], ["id"])


def _relays() -> None:
    op.add_column(
        "rp_relay",
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=True,
            comment="place among our relays; null: no account there any more",
        ),
    )
    op.add_column(
        "rp_relay",
        sa.Column(
            "learned_size_max_bytes", sa.BigInteger(), nullable=True, comment="from a refusal, below what it announces"
        ),
    )
    op.add_column("rp_relay", sa.Column("learned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("rp_relay", sa.Column("state", sa.Text(), server_default="well", nullable=False))
    op.add_column(
        "rp_relay", sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False, comment="in a row")
    )
    op.add_column(
        "rp_relay", sa.Column("due", sa.DateTime(timezone=True), nullable=True, comment="when it is tried again")
    )
    op.add_column(
        "rp_relay", sa.Column("rate_bytes_per_s", sa.Double(), nullable=True, comment="smoothed, of large mails")
    )
    op.add_column(
        "rp_relay",
        sa.Column("fetch_rate_bytes_per_s", sa.Double(), nullable=True, comment="the same when mails are fetched"),
    )
    op.add_column(
        "rp_rule",
        sa.Column(
            "partner", sa.Text(), server_default="", nullable=False, comment="reroute: the centre that is silent"
        ),
    )
    op.add_column(
        "rp_rule",
        sa.Column("deadline_s", sa.Double(), nullable=True, comment="reroute: after so long without progress"),
    )


def _transfers() -> None:
    op.add_column(
        "rp_transfer",
        sa.Column(
            "progress_at", sa.DateTime(timezone=True), nullable=True, comment="out: a receipt named something new"
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True, comment="a person was told that nothing moves"),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "asked_at", sa.DateTime(timezone=True), nullable=True, comment="in: a receipt asked for something last"
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "doubles",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="in: doubled messages since the last receipt",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "receipted_parcels", sa.BigInteger(), server_default="0", nullable=False, comment="in: named in receipts"
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "receipts_floor",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="out: receipts up to this number are older than a person's order",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "instances_there",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="out: filed at the partner, by its word",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "parcels_seen",
            postgresql.JSONB(),
            server_default="[]",
            nullable=False,
            comment="out: that a receipt saw since the last one was confirmed",
        ),
    )
    op.add_column("rp_transfer", sa.Column("switches", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "rp_transfer",
        sa.Column(
            "switched_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="out: moved to another relay, as nothing was heard",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "late_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="out: it will miss its deadline; goes by all relays",
        ),
    )
    op.add_column(
        "rp_transfer", sa.Column("rerouted_to", sa.BigInteger(), nullable=True, comment="the transfer instead")
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "announced",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="in: what the announcement said",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column(
            "partner_times",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="out: when the partner fetched and filed, by its clock",
        ),
    )
    op.add_column(
        "rp_transfer",
        sa.Column("why", sa.Text(), server_default="", nullable=False, comment="of a recall, redirect or reroute"),
    )
    op.create_foreign_key(op.f("fk_rp_transfer_rerouted_to"), "rp_transfer", "rp_transfer", ["rerouted_to"], ["id"])
    op.add_column(
        "rp_transfer_item",
        sa.Column(
            "reading_rank",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="out: what is read first is sent first",
        ),
    )


def _words() -> None:
    for name, words in STATES.items():
        table, _, column = name.rpartition("_")
        op.drop_constraint(f"ck_{name}", table, type_="check")
        listed = ", ".join(f"'{word}'" for word in words)
        op.create_check_constraint(op.f(f"ck_{name}"), table, f"{column} in ({listed})")
    op.create_check_constraint(op.f("ck_rp_relay_state"), "rp_relay", "state in ('well', 'away', 'suspect')")
    op.execute("insert into rp_mailbox (partner_id, relay, address) select id, '', address from rp_partner")
