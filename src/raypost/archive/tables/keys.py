"""What people were told of keys that end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base


class KeyWarningRow(Base):
    """The last warning that a certificate ends; gone when it was renewed."""

    __tablename__ = "rp_key_warning"
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    days_left: Mapped[int] = mapped_column(comment="the threshold that was told: 60, 30, 7 or 0")
    told_at: Mapped[datetime]
