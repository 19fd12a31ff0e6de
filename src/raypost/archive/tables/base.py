"""What all tables share: names of constraints, types, the identity column."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column


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
        list[int]: JSONB,
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


def identity() -> Any:
    """Return a primary key whose numbers are never used twice."""
    return mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)


def one_of(column: str, *values: str) -> sa.CheckConstraint:
    """Return a constraint that allows these words in a column."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} in ({listed})", name=column)
