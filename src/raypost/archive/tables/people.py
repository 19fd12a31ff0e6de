"""Persons of this site, their roles, and how often signing in failed."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base, identity, one_of


class PersonRow(Base):
    """A person, for good: a name is never given to somebody else, whoever leaves is disabled."""

    __tablename__ = "rp_person"
    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str] = mapped_column(unique=True)
    phone: Mapped[str] = mapped_column(default="")
    password_hash: Mapped[str | None] = mapped_column(comment="Argon2id (RFC 9106); null: cannot sign in by password")
    password_set_at: Mapped[datetime | None]
    is_password_one_time: Mapped[bool] = mapped_column(default=False, comment="must be changed when signing in")
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    why: Mapped[str] = mapped_column(default="")
    disabled_at: Mapped[datetime | None]
    disabled_by: Mapped[str | None]


class PersonRoleRow(Base):
    """Roles of persons. A change retires a row or adds one."""

    __tablename__ = "rp_person_role"
    id: Mapped[int] = identity()
    person_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_person.id"))
    role: Mapped[str]
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    why: Mapped[str] = mapped_column(default="")
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    retired_why: Mapped[str | None]
    __table_args__ = (
        one_of("role", "technologist", "physician", "administrator", "coordinator", "auditor"),
        sa.Index(
            "uq_rp_person_role_person_id_role",
            "person_id",
            "role",
            unique=True,
            postgresql_where=sa.text("retired_at is null"),
        ),
    )


class SignInFailuresRow(Base):
    """Failures of the running minute, a row for many login names: what strangers type makes the table no larger."""

    __tablename__ = "rp_sign_in_failures"
    bucket: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="hash of the name; -1: all names"
    )
    since: Mapped[datetime]
    failures: Mapped[int]
