"""Dumps between the embedded PostgreSQL and Debian's, which is older: by the programs of either, as an ordinary role."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from raypost.archive import dump, migrate, partners
from raypost.archive.database import Database, create_database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.pg_programs import PgPrograms, embedded_programs, find_programs
from raypost.errors import NotNowError
from raypost.model.site import Partner

DEBIAN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
pytestmark = pytest.mark.interop
NAMES = [("neustadt",)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="raypost-dump-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def embedded(folder) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "embedded").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def debian(folder) -> Iterator[Callable[[str], str]]:
    """Makes databases on Debian's server that belong to a role which is no superuser."""
    assert DEBIAN is not None, "Debian's package postgresql is missing: `make peers` installs it"
    place, as_root = folder / "debian", {}
    place.mkdir()
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(place, user.pw_uid, user.pw_gid)
        as_root = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def _run(*words: object) -> None:
        quiet = subprocess.DEVNULL
        subprocess.run([*map(str, words)], check=True, cwd="/", stdout=quiet, stderr=quiet, **as_root)

    _run(DEBIAN / "initdb", "-D", place / "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust")
    options = f"-k {place} -c listen_addresses= -c fsync=off"
    _run(DEBIAN / "pg_ctl", "-D", place / "data", "-w", "-o", options, "-l", place / "log", "start")
    with psycopg.connect(f"postgresql://postgres@/postgres?host={place}", autocommit=True) as admin:
        admin.execute("create role raypost login")

        def _make(name: str) -> str:
            admin.execute(f"create database {name} owner raypost template template0")
            return f"postgresql://raypost@/{name}?host={place}"

        yield _make
    _run(DEBIAN / "pg_ctl", "-D", place / "data", "-m", "immediate", "stop")


def names(url: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute("select name from rp_site").fetchall()


def dumped(url: str, programs: PgPrograms, file: Path) -> Path:
    with dump.held_instant(url) as instant:
        dump.write_dump(url, programs, instant.snapshot_id, file, lambda _: None)
    return file


def test_both_ways(embedded, debian, tmp_path) -> None:
    create_database(embedded.url(), "site")
    here = embedded.url("site")
    database = Database(here, connections_max=1)
    migrate.upgrade(database)
    with database.transaction() as tx:
        own = Partner(0, "neustadt", "Neustadt", "NEUSTADT", "neustadt@raypost.test", "A" * 40, True)
        partners.add_partner(tx, own, "cert", now=datetime(2026, 11, 24, tzinfo=UTC), who="test")
    database.close()

    there = debian("first")
    newer, older = embedded_programs(embedded.binaries), find_programs(dump.server_major(there), there)
    assert older.major == dump.server_major(there)
    dump.load_dump(there, newer, dumped(here, newer, tmp_path / "new"), lambda _: None)
    assert names(there) == NAMES, "a dump of the newer server in the older one"
    for number, programs in enumerate((older, newer)):
        again = debian(f"again{number}")
        dump.load_dump(again, programs, dumped(there, programs, tmp_path / f"old{number}"), lambda _: None)
        assert names(again) == NAMES
    if older.major < newer.major:
        with pytest.raises(NotNowError, match="server version mismatch"):
            dumped(here, older, tmp_path / "never")
