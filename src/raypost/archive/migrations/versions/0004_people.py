"""Persons, their roles, and how often signing in failed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ROLES = ("technologist", "physician", "administrator", "coordinator", "auditor")


def upgrade() -> None:
    """Add what persons need, in the migration's own transaction."""
    op.create_table(
        "rp_person",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column(
            "password_hash", sa.Text(), nullable=True, comment="Argon2id (RFC 9106); null: cannot sign in by password"
        ),
        sa.Column("password_set_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_password_one_time", sa.Boolean(), nullable=False, comment="must be changed when signing in"),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_person")),
        sa.UniqueConstraint("name", name=op.f("uq_rp_person_name")),
        sa.UniqueConstraint("display_name", name=op.f("uq_rp_person_display_name")),
    )
    op.create_table(
        "rp_person_role",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_by", sa.Text(), nullable=True),
        sa.Column("retired_why", sa.Text(), nullable=True),
        sa.CheckConstraint(f"role in ({', '.join(repr(role) for role in ROLES)})", name=op.f("ck_rp_person_role_role")),
        sa.ForeignKeyConstraint(["person_id"], ["rp_person.id"], name=op.f("fk_rp_person_role_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_person_role")),
    )
    op.create_index(
        "uq_rp_person_role_person_id_role",
        "rp_person_role",
        ["person_id", "role"],
        unique=True,
        postgresql_where=sa.text("retired_at is null"),
    )
    op.create_table(
        "rp_sign_in_failures",
        sa.Column(
            "bucket", sa.BigInteger(), autoincrement=False, nullable=False, comment="hash of the name; -1: all names"
        ),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name=op.f("pk_rp_sign_in_failures")),
    )
