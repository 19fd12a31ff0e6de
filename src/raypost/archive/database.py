"""The connection to PostgreSQL: transactions, exclusive sections, and what a lost database means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from raypost.errors import NotNowError, UnreachableError

Transaction = Session
"""What archive functions work in; commits at the end of `Database.transaction()`, opaque to everybody above."""

STATEMENT_TIMEOUT_MS = 60_000
CONNECT_TIMEOUT_S = 10
AWAY = "the database does not answer"


class Database:
    """One site's database."""

    def __init__(self, url: str, *, connections_max: int = 12) -> None:
        """Prepare the pool; the first transaction connects.

        Args:
            url: postgresql://... of any server from version 15.
            connections_max: Of this process.
        """
        self.url = plain_url(url)
        self.engine = sa.create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=min(4, connections_max),
            max_overflow=max(0, connections_max - 4),
            pool_pre_ping=True,
            pool_timeout=30,
            hide_parameters=True,  # an error's text must not carry names of patients into a log
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "raypost",
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}"
                " -c idle_in_transaction_session_timeout=120000",
            },
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give a transaction that commits at the end and rolls back on any exception.

        Raises:
            UnreachableError: The database is away; nothing was committed, or the commit's fate is unknown: every
                caller is written so that running again does no harm.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as tx, tx.begin():
                yield tx
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise UnreachableError(
                AWAY, do="Nothing: it is started again by itself; see `raypost check` if it lasts."
            ) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise UnreachableError(AWAY) from error
            raise

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[bool]:
        """Hold a named advisory lock while the block runs; gives False when somebody else holds it.

        The lock belongs to a connection of its own, so PostgreSQL drops it when this process dies.

        Raises:
            UnreachableError: The database is away.
        """
        lock_number = sa.func.hashtextextended(name, 0)
        try:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as guard:
                is_mine = bool(guard.scalar(sa.select(sa.func.pg_try_advisory_lock(lock_number))))
                try:
                    yield is_mine
                finally:
                    if is_mine:
                        with contextlib.suppress(DBAPIError):  # connection lost: the lock is gone with it
                            guard.execute(sa.select(sa.func.pg_advisory_unlock(lock_number)))
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise UnreachableError(AWAY) from error

    def is_alive(self) -> bool:
        """Say whether the database answers."""
        try:
            with self.engine.connect() as connection:
                connection.execute(sa.text("select 1"))
        except (OperationalError, InterfaceError, PoolTimeoutError):
            return False
        return True

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


def plain_url(url: str) -> str:
    """Return a PostgreSQL URL without a driver name, as psycopg and our settings have it."""
    for begin in ("postgresql+psycopg://", "postgres://"):
        if url.startswith(begin):
            return "postgresql://" + url.removeprefix(begin)
    return url


def create_database(server_url: str, name: str) -> None:
    """Create a database unless it is there.

    Args:
        server_url: Of any database of the server, such as `postgres`.
        name: Letters, digits and underscores.

    Raises:
        NotNowError: The name is taken by something else or the server refuses.
    """
    engine = sa.create_engine(
        plain_url(server_url).replace("postgresql://", "postgresql+psycopg://", 1),
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
    )
    quoted = engine.dialect.identifier_preparer.quote(name)
    try:
        with engine.connect() as connection, contextlib.suppress(sa.exc.ProgrammingError):
            if not connection.scalar(sa.text("select 1 from pg_database where datname = :name"), {"name": name}):
                connection.execute(sa.text(f"create database {quoted} encoding 'UTF8' template template0"))
    except OperationalError as error:
        raise NotNowError("the database server does not answer") from error
    finally:
        engine.dispose()
