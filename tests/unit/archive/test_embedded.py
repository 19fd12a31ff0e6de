"""The embedded PostgreSQL: joined and left by many, back after a crash, reachable for its own user from closed folders."""

import os
import signal
import time
from pathlib import Path

import pytest

from raypost.archive import embedded
from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import NotNowError


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("pg") / "site"
    made.mkdir(mode=0o711)
    made.parent.chmod(0o711)
    return made / "postgresql"


@pytest.fixture
def postgres(folder):
    server = EmbeddedPostgres(folder).start()
    yield server
    server.stop()
    if server.root != folder:
        import shutil

        shutil.rmtree(server.root, ignore_errors=True)


def test_the_last_one_out_stops_it(postgres, folder) -> None:
    other = EmbeddedPostgres(folder).start()
    assert postgres.stop() is False and other.is_alive()
    assert other.stop() is True
    assert not other.is_alive()
    assert EmbeddedPostgres(folder).stop() is False, "who never came cannot leave"


def test_it_comes_back_after_its_postmaster_was_killed(postgres) -> None:
    pid = int((postgres.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while postgres.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    postgres.start()
    assert postgres.is_alive()


def test_a_data_folder_of_another_version_is_not_touched(postgres) -> None:
    postgres.stop()
    version = postgres.data / "PG_VERSION"
    version.write_text("16\n")
    with pytest.raises(NotNowError, match="PostgreSQL 16"):
        postgres.start()
    version.write_text("18\n")


def test_root_in_a_closed_folder(tmp_path, monkeypatch) -> None:
    """Binaries and data go where the server's user can reach them; the closed folder stays as it was.

    Anybody but root runs the server as himself, wherever his folder lies.
    """
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    place = tmp_path / "reachable"
    for one in (tmp_path, *tmp_path.parents[:3]):
        one.chmod(0o711)
    monkeypatch.setattr(embedded, "REACHABLE", place)
    reach = EmbeddedPostgres._can_reach
    monkeypatch.setattr(
        EmbeddedPostgres, "_can_reach", lambda self, path: "site-packages" not in str(path) and reach(self, path)
    )
    server = EmbeddedPostgres(closed / "site" / "postgresql")
    is_root = os.geteuid() == 0
    assert (place in server.binaries.parents and place in server.root.parents) is is_root
    server.start()
    try:
        assert server.is_alive()
    finally:
        server.stop()
    assert closed.stat().st_mode & 0o777 == 0o700
