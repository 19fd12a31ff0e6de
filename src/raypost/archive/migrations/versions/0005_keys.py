"""Warnings that a certificate ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add what the renewal of keys needs, in the migration's own transaction."""
    op.create_table(
        "rp_key_warning",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("days_left", sa.BigInteger(), nullable=False, comment="the threshold that was told: 60, 30, 7 or 0"),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_rp_key_warning")),
    )
