"""Dump and load with real PostgreSQL: one instant, all or nothing, whatever version the programs have."""

import itertools
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest

from raypost.archive import dump, migrate, partners, pg_programs
from raypost.archive.database import Database, create_database
from raypost.archive.pg_programs import embedded_programs, find_programs
from raypost.errors import IntegrityError, NotNowError, UsageError
from raypost.model.site import Partner

NOW = datetime(2026, 11, 24, tzinfo=UTC)
OWN = Partner(0, "neustadt", "Neustadt", "NEUSTADT", "neustadt@raypost.test", "A" * 40, True)
_numbers = itertools.count()


@pytest.fixture
def new_url(server):
    """Makes empty databases; they go at the end."""
    made = []

    def _make() -> str:
        name = f"dump_{os.getpid()}_{next(_numbers)}"
        create_database(server.url(), name)
        made.append(name)
        return server.url(name)

    yield _make
    for name in made:
        dump.drop_database(server.url(), name)


@pytest.fixture
def url(new_url) -> str:
    """The database of a site."""
    found = new_url()
    database = Database(found, connections_max=1)
    migrate.upgrade(database)
    with database.transaction() as tx:
        partners.add_partner(tx, OWN, "cert", now=NOW, who="test")
    database.close()
    return found


def rows(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def dumped(url: str, server, file: Path) -> Path:
    with dump.held_instant(url) as instant:
        dump.write_dump(url, embedded_programs(server.binaries), instant.snapshot_id, file, lambda _: None)
    return file


def test_there_and_back(url, new_url, server, tmp_path) -> None:
    counted = []
    with dump.held_instant(url) as instant:
        assert (instant.site_name, instant.fingerprint, instant.server_major) == ("neustadt", "A" * 40, 18)
        assert instant.schema == rows(url, "select version_num from rp_schema_version")[0][0]
        with psycopg.connect(url) as connection:  # the site goes on: that is not in this backup
            connection.execute("insert into rp_site (name, is_self) values ('later', false)")
        instant.write_needed(tmp_path / "needed")
        programs = embedded_programs(server.binaries)
        dump.write_dump(url, programs, instant.snapshot_id, tmp_path / "dump", counted.append)
    assert counted[-1] == (tmp_path / "dump").stat().st_size
    assert dump.check_dump(programs, tmp_path / "dump") > 50
    fresh = new_url()
    assert dump.is_empty(fresh) and not dump.is_empty(url)
    dump.load_dump(fresh, programs, tmp_path / "dump", lambda _: None)
    assert rows(fresh, "select name from rp_site") == [("neustadt",)]
    assert rows(url, "select count(*) from rp_site") == [(2,)]
    database = Database(fresh, connections_max=1)
    assert migrate.is_current(database) and migrate.upgrade(database) == []
    database.close()
    query = "select count(*) from information_schema.triggers"
    assert rows(fresh, query) == rows(url, query) != [(0,)], "the triggers of events and queue came along"


def test_needed_files_are_those_of_instances_and_of_parcels_not_filed_yet(
    neustadt, ludwigshafen, postman, head, tmp_path
) -> None:
    for file in head:
        neustadt.receive(file)
    neustadt.work()
    with dump.held_instant(neustadt.archive.database.url) as instant:
        instant.write_needed(tmp_path / "needed")
    here = sorted(one.name for one in neustadt.archive.blobs.all_files())
    assert (tmp_path / "needed").read_text().split() == here and len(here) == 6
    postman.carry()
    for (one,) in ludwigshafen.rows("select id from rp_collected order by id"):
        ludwigshafen.open_mail.open(one)  # and nobody files it
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 0
    with dump.held_instant(ludwigshafen.archive.database.url) as instant:
        instant.write_needed(tmp_path / "waiting")
    there = sorted(one.name for one in ludwigshafen.archive.blobs.all_files())
    assert there and (tmp_path / "waiting").read_text().split() == there


def test_a_dump_that_is_cut_or_a_loader_that_is_killed_leaves_nothing(url, new_url, server, tmp_path) -> None:
    programs = embedded_programs(server.binaries)
    whole = dumped(url, server, tmp_path / "dump").read_bytes()
    fresh = new_url()
    for size in (0, 100, len(whole) // 2, len(whole) - 100):
        cut = tmp_path / "cut"
        cut.write_bytes(whole[:size])
        with pytest.raises(NotNowError, match="could not be loaded"):
            dump.load_dump(fresh, programs, cut, lambda _: None)
        assert dump.is_empty(fresh), size
    with pytest.raises(IntegrityError):
        dump.check_dump(programs, _text(tmp_path))
    with pytest.raises(NotNowError, match="already exists"):
        dump.load_dump(url, programs, tmp_path / "dump", lambda _: None)
    assert rows(url, "select name from rp_site") == [("neustadt",)], "what was there is as it was"


def _text(folder: Path) -> Path:
    (folder / "text").write_text("no dump")
    return folder / "text"


def test_whoever_loads_is_killed_with_9_before_the_commit(url, new_url, server, tmp_path) -> None:
    file = dumped(url, server, tmp_path / "dump")
    fresh = new_url()
    program = (
        "import sys, threading\nfrom pathlib import Path\nfrom raypost.archive import dump\n"
        "from raypost.archive.pg_programs import embedded_programs, RunningProgram\n"
        "finish = RunningProgram.finish\n"
        "def hang(self, failed):\n    print('loaded', flush=True)\n    threading.Event().wait(60)\n"
        "RunningProgram.finish = hang\n"
        "url, folder, file = sys.argv[1:]\n"
        "dump.load_dump(url, embedded_programs(Path(folder)), Path(file), lambda done: None)\n"
    )
    loader = subprocess.Popen(
        [sys.executable, "-c", program, fresh, str(server.binaries), str(file)], stdout=subprocess.PIPE, text=True
    )
    assert loader.stdout.readline() == "loaded\n", "everything but the commit was sent"
    children = psutil.Process(loader.pid).children()
    loader.send_signal(signal.SIGKILL)
    loader.wait()
    psutil.wait_procs(children, timeout=10)
    deadline = time.monotonic() + 10
    while rows(fresh, "select count(*) from pg_stat_activity where datname = current_database()") != [(1,)]:
        assert time.monotonic() < deadline
    assert dump.is_empty(fresh)


def _programs_of_version(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for name in pg_programs.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version} (Debian)'\n")
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.fixture
def only(tmp_path, monkeypatch):
    """Programs of the versions 14, 16 and 20 and of nothing else, but for the wheel's 18."""
    for version in ("14.1", "16.3", "20.0"):
        _programs_of_version(tmp_path / "usr" / "lib" / "postgresql" / version.partition(".")[0] / "bin", version)
    monkeypatch.setattr(pg_programs, "FOLDERS", (f"{tmp_path}/usr/lib/postgresql/*/bin".lstrip("/"),))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("major", "url", "found"),
    [
        (15, "", 16),
        (16, "postgresql://u@/d?host=/var/run/postgresql", 16),
        (17, "postgresql://u@/d", 18),
        (17, "postgresql://u@localhost/d", 18),
        (17, "postgresql://u@db.hospital.example/d", 20),  # the wheel's programs know no TLS
        (17, "postgresql://u@localhost/d?sslmode=verify-full", 20),
        (17, "postgresql://u@localhost,db.hospital.example/d", 20),
        (19, "", 20),
    ],
)
def test_the_oldest_programs_that_fit_are_taken(only, major, url, found) -> None:
    assert find_programs(major, url).major == found


def test_without_programs_the_way_out_is_named(only) -> None:
    with pytest.raises(NotNowError, match="no pg_dump of version 21") as raised:
        find_programs(21)
    assert "postgresql-client-21" in raised.value.do


def test_a_dump_of_this_server_goes_into_an_older_one(url, server, tmp_path) -> None:
    """From version 17 on pg_restore sends a setting that older servers refuse: the load goes by a script without it."""
    programs = embedded_programs(server.binaries)
    file = dumped(url, server, tmp_path / "dump")
    plain = subprocess.run([programs.folder / "pg_restore", "-f", "-", file], capture_output=True, check=True).stdout
    assert plain.count(b"\nSET transaction_timeout = 0;\n") == 1
    assert plain.index(b"\nSET transaction_timeout") < 10_000, "it is among what is looked at"


def test_a_password_is_never_among_the_arguments(tmp_path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = f"#!/bin/sh\nprintf '%s|' \"$@\" > {tmp_path}/said\nprintf '%s' \"$PGPASSWORD\" > {tmp_path}/secret\n"
    (folder / "pg_dump").write_text(script)
    (folder / "pg_dump").chmod(stat.S_IRWXU)
    url = "postgresql://ray:s3%20cret@db.example:5433/raypost?sslmode=require"
    dump.write_dump(url, pg_programs.PgPrograms(folder, 18), "1-2-3", tmp_path / "dump", lambda _: None)
    said = (tmp_path / "said").read_text()
    assert (tmp_path / "secret").read_text() == "s3 cret" and "cret" not in said
    assert all(word in said for word in ("--snapshot=1-2-3", "host=db.example", "port=5433", "sslmode=require"))


def test_errors_do_not_quote_rows(tmp_path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pg_dump").write_text(
        "#!/bin/sh\necho 'pg_dump: warning: x' >&2\necho 'pg_dump: error: it broke' >&2\n"
        "echo 'CONTEXT: COPY rp_patient, line 3: Müller' >&2\nexit 1\n"
    )
    (folder / "pg_dump").chmod(stat.S_IRWXU)
    with pytest.raises(NotNowError, match="dumped: pg_dump: error: it broke") as raised:
        dump.write_dump("dbname=x", pg_programs.PgPrograms(folder, 18), "1", tmp_path / "dump", lambda _: None)
    assert "Müller" not in raised.value.what


def test_other_databases_are_told_from_a_sites(new_url, server) -> None:
    empty = new_url()
    with pytest.raises(UsageError, match="not that of a site"), dump.held_instant(empty):
        pass
    with pytest.raises(NotNowError, match="does not answer"), dump.held_instant(server.url("nothing_there")):
        pass
    with psycopg.connect(empty) as connection:
        connection.execute("create view v as select 1")
    assert not dump.is_empty(empty)
