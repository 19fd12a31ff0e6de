"""Settings to packages to stations: what one process of a site is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from raypost.archive import migrate
from raypost.archive.database import Database, create_database, plain_url
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.site import Archive
from raypost.dicom.jobs import PRELOAD
from raypost.errors import NotNowError, UsageError
from raypost.node.clock import SystemClock
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.pool import Sandbox
from raypost.sealing.openpgp import KeyRing
from raypost.settings import Settings

MAIL_PARSERS = ("raypost.mail.mime_message", "raypost.mail.parcels")


@dataclass(frozen=True, slots=True)
class Site:
    """A site as one of its processes sees it; a context manager."""

    settings: Settings
    archive: Archive
    keyring: KeyRing
    clock: SystemClock
    sandbox: Sandbox

    @classmethod
    def open(cls, settings: Settings, *, connections_max: int = 12) -> Site:
        """Give the packages what they need; the database must run.

        Raises:
            UsageError: gpg is missing.
        """
        parsers = (*PRELOAD, *MAIL_PARSERS)
        limits = SandboxLimits(memory_max_bytes=settings.limits.sandbox_memory_max_bytes)
        return cls(
            settings,
            Archive.open(Database(database_url(settings), connections_max=connections_max), settings.data_folder),
            KeyRing(settings.keys_folder),
            SystemClock(),
            Sandbox(limits, settings.limits.sandbox_processes, parsers),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sandbox.close()
        self.archive.close()


def database_url(settings: Settings) -> str:
    """Return the URL of this site's database; of the embedded server too, whether it runs or not."""
    if settings.database.url:
        return plain_url(settings.database.url)
    return _embedded(settings).url(settings.database.name)


def _embedded(settings: Settings) -> EmbeddedPostgres:
    folder = settings.database.embedded_folder
    if folder is None:
        raise UsageError("no folder for the embedded database")
    return EmbeddedPostgres(folder)


@contextlib.contextmanager
def running_database(settings: Settings) -> Iterator[EmbeddedPostgres | None]:
    """Have the site's database run while the block does: the embedded one is started or joined; schema up to date.

    Raises:
        NotNowError: It does not start, or does not answer.
    """
    server = None if settings.database.url else _embedded(settings)
    if server is not None:
        server.start()
        create_database(server.url(), settings.database.name)
    try:
        database = Database(database_url(settings), connections_max=2)
        try:
            if not database.is_alive():
                raise NotNowError("the database does not answer", do="Start it, or correct [database] url.")
            migrate.upgrade(database)
        finally:
            database.close()
        yield server
    finally:
        if server is not None:
            server.stop()


@contextlib.contextmanager
def opened_site(settings: Settings) -> Iterator[Site]:
    """Have database and site at hand for one command; joins a running `raypost serve`."""
    with running_database(settings), Site.open(settings, connections_max=4) as site:
        yield site


def read_password(file: Path) -> str:
    """Return the password that a file holds, without the line's end.

    Raises:
        UsageError: It is missing, empty, or readable by everybody.
    """
    try:
        if file.stat().st_mode & 0o007:
            raise UsageError(f"{file} can be read by everybody", do=f"chmod 600 {file}")
        password = file.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", do="Write the relay's password into it."
        ) from error
    if not password:
        raise UsageError(f"{file} is empty", do="Write the relay's password into it.")
    return password
