"""The audit trail; events from before it get their messages, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TRIGGERS = """
create function rp_audit_note_event() returns trigger language plpgsql as
$$ begin insert into rp_audit_due (event_id) values (new.id); return null; end $$;
create trigger rp_audit_note_event after insert on rp_event for each row execute function rp_audit_note_event();
create function rp_audit_refuse() returns trigger language plpgsql as
$$ begin raise exception 'rows of the audit trail are never changed or removed'; end $$;
create trigger rp_audit_refuse before update or delete on rp_audit for each row execute function rp_audit_refuse();
create trigger rp_audit_refuse_all before truncate on rp_audit execute function rp_audit_refuse();
"""


def upgrade() -> None:
    """Add the audit trail, in the migration's own transaction."""
    op.create_table(
        "rp_audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False, comment="from 1, without gaps"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "event_id",
            sa.BigInteger(),
            nullable=False,
            comment="of rp_event; the first, where one message tells several",
        ),
        sa.Column("events", sa.BigInteger(), nullable=False, comment="how many events it tells"),
        sa.Column("case_id", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.BigInteger(), nullable=False, comment="EventOutcomeIndicator: 0, 4 or 8"),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False, comment="site or node where it was done, or that got it"),
        sa.Column("message", sa.Text(), nullable=False, comment="XML"),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256, hexadecimal"),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_rp_audit")),
    )
    op.create_index(op.f("ix_rp_audit_case_id"), "rp_audit", ["case_id"], unique=False)
    op.create_table(
        "rp_audit_due",
        sa.Column("event_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_rp_audit_due")),
    )
    op.create_table(
        "rp_audit_state",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="of the last row"),
        sa.Column("hash", sa.Text(), nullable=False, comment="of the last row"),
        sa.Column(
            "sent_sequence", sa.BigInteger(), nullable=False, comment="of the last row that the syslog receiver has"
        ),
        sa.Column(
            "send_due",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when more is sent; null: nothing waits, or no receiver",
        ),
        sa.Column("failures", sa.BigInteger(), nullable=False, comment="in a row, of sending"),
        sa.CheckConstraint("id = 1", name=op.f("ck_rp_audit_state_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rp_audit_state")),
    )
    op.execute("insert into rp_audit_due (event_id) select id from rp_event")
    op.execute(TRIGGERS)
