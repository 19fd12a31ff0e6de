"""Dumps a site's database into a file and loads it again.

The dump is of one instant: a transaction of ours holds it, so that what else is read there belongs together with it.
A dump is loaded as a script through psql, because pg_restore from version 17 on sends a setting that older servers
refuse. The script is one transaction whose COMMIT is sent last: whoever dies on the way leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql

from raypost.archive.backup_manifest import open_private
from raypost.archive.blobs import BLOCK_BYTES
from raypost.archive.pg_programs import PgPrograms, RunningProgram
from raypost.errors import IntegrityError, NotNowError, UsageError

LIST_TIMEOUT_S = 600.0
LOCK_TIMEOUT_S = 60
"""A table that somebody alters is waited for so long; then the backup gives way, not the site."""
CONNECT_TIMEOUT_S = 10
ROWS_AT_ONCE = 10_000
TRANSACTION_TIMEOUT_SINCE = 17
"""Major version whose setting older servers do not know."""

Count = Callable[[int], None]
"""Is told how many bytes have passed so far."""


@dataclass(frozen=True, slots=True)
class Instant:
    """The database at one instant, as long as the block of `held_instant` lasts."""

    snapshot_id: str
    server_major: int
    schema: str
    site_name: str
    fingerprint: str
    _connection: psycopg.Connection[Any]

    def write_needed(self, file: Path) -> None:
        """Write the SHA-256 of every file that a row needs, in order, a line each.

        Of filed instances, and of those that are verified and wait for filing.
        """
        query = (
            'select sha256 collate "C" as needed from rp_instance union select i.sha256 from rp_transfer_item i'
            " join rp_transfer t on t.id = i.transfer_id where t.direction = 'in' and i.state = 'arrived' order by 1"
        )
        with open_private(file) as out, self._connection.cursor(name="needed") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(query)
            for row in cursor:
                out.write(f"{row[0]}\n".encode())


@contextlib.contextmanager
def held_instant(url: str) -> Iterator[Instant]:
    """Hold the database at one instant for reading, while it goes on for everybody else.

    Raises:
        NotNowError: It does not answer.
        UsageError: It is not the database of a site.
    """
    with _connected(url) as connection:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(sql.SQL("set {} = 0").format(sql.Identifier(setting)))
        connection.commit()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        try:
            (snapshot_id,) = _one(connection, "select pg_export_snapshot()")
            (schema,) = _one(connection, "select version_num from rp_schema_version")
            name, fingerprint = _one(
                connection,
                "select s.name, p.fingerprint from rp_site s join rp_partner p on p.site_id = s.id"
                " where s.is_self and p.retired_at is null",
            )
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, LookupError) as error:
            raise UsageError(
                "the database is not that of a site", do="`raypost check` tells what is wrong with it."
            ) from error
        yield Instant(snapshot_id, connection.info.server_version // 10_000, schema, name, fingerprint, connection)


def server_major(url: str) -> int:
    """Return the major version of a server.

    Raises:
        NotNowError: It does not answer.
    """
    with _connected(url) as connection:
        return connection.info.server_version // 10_000


def is_empty(url: str) -> bool:
    """Say whether a database holds no tables, views or sequences.

    Raises:
        NotNowError: It does not answer.
    """
    query = (
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%'"
        " and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')"
    )
    with _connected(url) as connection:
        return _one(connection, query) == (0,)


def drop_database(server_url: str, name: str) -> None:
    """Remove a database that only a half restore was in.

    Args:
        server_url: Of another database of the same server.
    """
    with _connected(server_url) as connection:
        connection.autocommit = True
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def write_dump(url: str, programs: PgPrograms, snapshot_id: str, target: Path, count: Count) -> None:
    """Write the database at a held instant into a new file, in pg_dump's custom format.

    Raises:
        NotNowError: pg_dump failed.
        OSError: The file cannot be written.
    """
    options = ["--format=custom", "--no-password", f"--lock-wait-timeout={LOCK_TIMEOUT_S * 1000}"]
    options.append(f"--snapshot={snapshot_id}")
    with open_private(target) as out, RunningProgram(programs, "pg_dump", options, url) as program:
        _pump(program.output, out, count)
        program.finish("the database could not be dumped")


def check_dump(programs: PgPrograms, file: Path) -> int:
    """Read the table of contents of a dump and return how many entries it has.

    Raises:
        IntegrityError: It is no dump.
        NotNowError: The file or the program cannot be read.
    """
    command = [str(programs.folder / "pg_restore"), "--list"]
    try:
        with file.open("rb") as source:
            done = subprocess.run(
                command, stdin=source, capture_output=True, timeout=LIST_TIMEOUT_S, check=False, cwd="/"
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotNowError("the dump of the database cannot be looked at now") from error
    entries = sum(1 for line in done.stdout.splitlines() if line and not line.startswith(b";"))
    if done.returncode or not entries:
        raise IntegrityError(
            "the dump of the database cannot be read", meaning="This snapshot is of no use.", do="Take another one."
        )
    return entries


def load_dump(url: str, programs: PgPrograms, file: Path, count: Count) -> None:
    """Load a dump into an empty database, all of it or nothing.

    Raises:
        NotNowError: It could not be loaded; the database is as empty as before.
    """
    is_older = server_major(url) < TRANSACTION_TIMEOUT_SINCE
    reading = ["--no-owner", "--no-privileges", "--file=-"]
    writing = ["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"]
    failed = "the database could not be loaded"
    with (
        file.open("rb") as source,
        RunningProgram(programs, "pg_restore", reading, "", stdin=source) as reader,
        RunningProgram(programs, "psql", writing, url, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer,
    ):
        is_cut = False
        try:
            first = reader.output.read(BLOCK_BYTES)
            if is_older:
                first = first.replace(b"\nSET transaction_timeout = 0;\n", b"\n", 1)
            writer.input.write(b"begin;\n" + first)
            _pump(reader.output, writer.input, count)
            reader.finish(failed)
            writer.input.write(b"\ncommit;\n")
            writer.input.close()
        except BrokenPipeError:  # psql ended early and says why
            is_cut = True
        writer.finish(failed)
        if is_cut:
            raise NotNowError(failed)


def _pump(source: IO[bytes], target: IO[bytes], count: Count) -> None:
    done = 0
    while block := source.read(BLOCK_BYTES):
        target.write(block)
        done += len(block)
        count(done)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        raise NotNowError(
            "the database does not answer, or does not let us in",
            do="Start the server, or correct [database] in raypost.toml; `raypost check` tells more.",
        ) from error
    try:
        with contextlib.closing(connection):
            yield connection
    except psycopg.OperationalError as error:
        raise NotNowError("the database went away", do="Try again when it is back.") from error


def _one(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    if row is None:
        raise LookupError(query)
    return tuple(row)
