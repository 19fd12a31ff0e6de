"""Brings a database to the newest schema, one process at a time; says how far it is."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from raypost.archive.database import Database
from raypost.errors import NotNowError

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "rp_schema_version"
LOCK = 4713


def upgrade(database: Database) -> list[str]:
    """Apply what is missing, all in one transaction; return the revisions applied.

    Raises:
        NotNowError: The database is newer than this program.
        UnreachableError: The database is away.
    """
    script = ScriptDirectory(str(MIGRATIONS))
    with database.transaction() as tx:
        tx.execute(sa.text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context = MigrationContext.configure(tx.connection(), opts={"version_table": VERSION_TABLE})
        current, newest = context.get_current_revision(), script.get_current_head()
        known = {one.revision for one in script.walk_revisions()}
        if current is not None and current not in known:
            raise NotNowError(
                f"the database has schema {current}, which this program does not know",
                meaning="Nothing was changed; this version of Raypost is older than the database.",
                do="Install the version that made the database, or a newer one.",
            )
        steps = [one for one in script.iterate_revisions(newest, current) if one.revision != current]
        with Operations.context(context):
            for step in reversed(steps):
                step.module.upgrade()
                context._ensure_version_table()
                tx.execute(sa.text(f"delete from {VERSION_TABLE}"))
                tx.execute(sa.text(f"insert into {VERSION_TABLE} values (:revision)"), {"revision": step.revision})
        return [step.revision for step in reversed(steps)]


def is_current(database: Database) -> bool:
    """Say whether the schema is the one this program needs."""
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    with database.transaction() as tx:
        return (
            MigrationContext.configure(tx.connection(), opts={"version_table": VERSION_TABLE}).get_current_revision()
            == newest
        )
