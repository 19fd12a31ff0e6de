"""The migrations make exactly the tables of `archive/tables.py`; an unknown schema is refused."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from raypost.archive import migrate
from raypost.archive.database import Database, create_database
from raypost.archive.tables import Base
from raypost.errors import NotNowError


@pytest.fixture
def database(server):
    create_database(server.url(), "schema_test")
    made = Database(server.url("schema_test"))
    yield made
    made.close()
    admin = sa.create_engine(
        server.url().replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sa.text("drop database schema_test with (force)"))
    admin.dispose()


def test_migrations_make_the_tables(database) -> None:
    assert migrate.upgrade(database) == ["0001", "0002", "0003", "0004", "0005"]
    assert migrate.upgrade(database) == [], "again does nothing"
    assert migrate.is_current(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_object": lambda thing, name, *_: not (name or "").startswith(("procrastinate", "rp_schema")),
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_newer_database_is_not_touched(database) -> None:
    migrate.upgrade(database)
    with database.transaction() as tx:
        tx.execute(sa.text("update rp_schema_version set version_num = '9999'"))
    with pytest.raises(NotNowError):
        migrate.upgrade(database)


def test_events_are_read_in_commit_order_without_holes(database) -> None:
    from datetime import UTC, datetime

    from raypost.archive import events
    from raypost.archive.events import Position
    from raypost.model.audit import EventKind

    migrate.upgrade(database)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with database.transaction() as slow:
        events.record(slow, now, EventKind.RECEIVED, number=1)
        slow.flush()
        with database.transaction() as fast:
            events.record(fast, now, EventKind.RECEIVED, number=2)
        assert events.read_after(database, Position()) == [], "what may still appear in between is waited for"
    found = events.read_after(database, Position())
    assert sorted(one.fields["number"] for one in found) == [1, 2]
    assert events.read_after(database, found[-1].position) == []


def test_exclusive_sections(database) -> None:
    with database.exclusive("x") as first, database.exclusive("x") as second, database.exclusive("y") as other:
        assert (first, second, other) == (True, False, True)
    with database.exclusive("x") as again:
        assert again


def test_transaction_numbers_are_ordered_as_numbers(database) -> None:
    from datetime import UTC, datetime

    from raypost.archive import events
    from raypost.archive.events import Position

    migrate.upgrade(database)
    with database.transaction() as tx:
        for number, xid in enumerate(("9", "10", "99", "100", "11")):
            tx.execute(
                sa.text(
                    "insert into rp_event (xid, at, kind, level, fields) values (cast(:xid as xid8), :at, 'received',"
                    " 'info', jsonb_build_object('number', cast(:number as int)))"
                ),
                {"xid": xid, "at": datetime(2026, 1, 1, tzinfo=UTC), "number": number},
            )
    seen, position = [], Position()
    while found := events.read_after(database, position, limit=2):
        position = found[-1].position
        seen += [one.fields["number"] for one in found]
    assert seen == [0, 1, 4, 2, 3], "each once, none skipped"
