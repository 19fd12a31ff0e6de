"""The audit trail: messages in a chain of hashes, which events wait for theirs, and how far the receiver has it."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base


class AuditRow(Base):
    """An audit message (DICOM PS3.15, A.5). Rows are only added: a trigger refuses to change or remove them.

    The hash is over the hash of the row before and every other column, see `raypost.archive.audit_chain`. Nothing here
    is a foreign key: what happened stays when what it happened to is gone.
    """

    __tablename__ = "rp_audit"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="from 1, without gaps")
    at: Mapped[datetime]
    kind: Mapped[str]
    event_id: Mapped[int] = mapped_column(comment="of rp_event; the first, where one message tells several")
    events: Mapped[int] = mapped_column(comment="how many events it tells")
    case_id: Mapped[int | None] = mapped_column(index=True)
    outcome: Mapped[int] = mapped_column(comment="EventOutcomeIndicator: 0, 4 or 8")
    who: Mapped[str]
    place: Mapped[str] = mapped_column(comment="site or node where it was done, or that got it")
    message: Mapped[str] = mapped_column(comment="XML")
    hash: Mapped[str] = mapped_column(comment="SHA-256, hexadecimal")


class AuditDueRow(Base):
    """An event that has no audit message yet; a trigger of rp_event adds it in the event's own transaction.

    Whoever writes the message removes the row in that same transaction: each event gets into the trail exactly once,
    whatever the order in which transactions commit, and after a restore, too.
    """

    __tablename__ = "rp_audit_due"
    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AuditStateRow(Base):
    """The one row that says how long the chain is and how much of it was sent; its lock makes writers go one by one."""

    __tablename__ = "rp_audit_state"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(comment="of the last row")
    hash: Mapped[str] = mapped_column(comment="of the last row")
    sent_sequence: Mapped[int] = mapped_column(comment="of the last row that the syslog receiver has")
    send_due: Mapped[datetime | None] = mapped_column(comment="when more is sent; null: nothing waits, or no receiver")
    failures: Mapped[int] = mapped_column(comment="in a row, of sending")
    __table_args__ = (sa.CheckConstraint("id = 1", name="one"),)
