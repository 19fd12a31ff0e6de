"""Settings to packages to stations: what one process of a site is given."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from raypost.archive import migrate, partners
from raypost.archive.database import Database, create_database, plain_url
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.site import Archive
from raypost.dicom.scp import StorageSCPOptions
from raypost.errors import NotNowError, RaypostError, UsageError
from raypost.mail.imap import ImapAccount
from raypost.mail.smtp import SmtpAccount
from raypost.node.clock import SystemClock
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.pool import Sandbox
from raypost.sealing.openpgp import KeyRing
from raypost.settings import Settings
from raypost.stations.collect import Collect
from raypost.stations.dispatch import Dispatch
from raypost.stations.file import FileParcel
from raypost.stations.forward import Forward
from raypost.stations.intake import Intake
from raypost.stations.open import OpenMail
from raypost.stations.pack import Pack
from raypost.stations.route import Route
from raypost.stations.settle import Settle

DISPATCH_SLOTS = 2
DISPATCH_LINGER_S = 3.0
IDLE_S = 120.0
CONTENT_SIZE_MAX_BYTES = 1 << 30
"""Of one opened mail: far above what fits into any relay, far below what fills a disk."""

DICOM_PARSERS = "raypost.dicom.examine:load"
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
        parsers = (DICOM_PARSERS, *MAIL_PARSERS)
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

    def intake(self) -> Intake:
        """Return station 1."""
        return Intake(self.archive, self.sandbox, self.clock, self.settings.limits.disk_free_min_bytes)

    def settle(self) -> Settle:
        """Return station 2."""
        return Settle(self.archive, self.clock, self.settings.limits_of_transfers(), DISPATCH_SLOTS)

    def route(self) -> Route:
        """Return station 3."""
        return Route(self.archive, self.clock, self.settings.limits_of_transfers(), self.settings.zone)

    def pack(self) -> Pack:
        """Return station 4."""
        relay = self.settings.first_relay
        return Pack(
            self.archive,
            self.keyring,
            self.clock,
            self.settings.limits_of_transfers(),
            self.settings.pacing(),
            relay,
            self.settings.relay[relay].mail_size_max_bytes,
            DISPATCH_SLOTS,
        )

    def dispatch(self, stop: threading.Event) -> Dispatch:
        """Return station 5."""
        return Dispatch(
            self.archive,
            self.clock,
            self.settings.limits_of_transfers(),
            {name: smtp_account(self.settings, name) for name in self.settings.relay},
            DISPATCH_SLOTS,
            DISPATCH_LINGER_S,
            lambda pause_s: bool(stop.wait(pause_s)),
        )

    def collect(self, relay: str) -> Collect:
        """Return station 6 for one relay."""
        limit_bytes = self.settings.relay[relay].collect_size_max_bytes
        return Collect(self.archive, self.clock, imap_account(self.settings, relay), limit_bytes, IDLE_S)

    def open_mail(self) -> OpenMail:
        """Return station 7."""
        return OpenMail(
            self.archive,
            self.keyring,
            self.sandbox,
            self.clock,
            self.settings.limits_of_transfers(),
            CONTENT_SIZE_MAX_BYTES,
        )

    def file_parcel(self) -> FileParcel:
        """Return station 8."""
        return FileParcel(self.archive, self.sandbox, self.clock, self.settings.limits_of_transfers())

    def forward(self) -> Forward:
        """Return station 10."""
        return Forward(self.archive, self.sandbox, self.clock, self.settings.dicom.ae_title)

    def called_ae_titles(self) -> frozenset[str]:
        """Return every AE title that modalities may call: this site's own and those of its partners."""
        titles = {self.settings.dicom.ae_title}
        try:
            with self.archive.database.transaction() as tx:
                for partner in partners.all_partners(tx):
                    if not partner.is_self:
                        titles.update(partner.ae_titles())
        except RaypostError:
            pass  # the database is away: our own title is answered, and each C-STORE says "out of resources"
        return frozenset(titles)

    def scp_options(self) -> StorageSCPOptions:
        """Return how this site listens for modalities."""
        it = self.settings.dicom
        return StorageSCPOptions(
            spool=self.archive.spool.temporary,
            called_ae_titles=self.called_ae_titles,
            calling_ae_titles={one.ae_title: frozenset(one.hosts) for one in it.calling},
            host=it.host,
            port=it.port,
            pdu_size_max_bytes=it.pdu_size_max_bytes,
            instance_size_max_bytes=it.instance_size_max_bytes,
            associations_max=it.associations_max,
            associations_per_host_max=it.associations_max,
            idle_timeout_s=it.idle_timeout_s,
            tls=_server_tls(settings=self.settings),
        )


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


def smtp_account(settings: Settings, relay: str) -> SmtpAccount:
    """Return the account by which mail leaves."""
    it = settings.relay[relay]
    return SmtpAccount(
        relay=relay,
        host=it.smtp_host,
        port=it.smtp_port,
        security=it.smtp_security,
        username=it.username,
        password=read_password(it.password_file),
        address=settings.site.address,
        ca_file=it.ca_file,
        timeout_s=max(it.timeout_s, 120.0),
    )


def imap_account(settings: Settings, relay: str) -> ImapAccount:
    """Return the account by which mail is fetched."""
    it = settings.relay[relay]
    return ImapAccount(
        relay=relay,
        host=it.imap_host,
        port=it.imap_port,
        security=it.imap_security,
        username=it.username,
        password=read_password(it.password_file),
        ca_file=it.ca_file,
        timeout_s=it.timeout_s,
    )


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


def _server_tls(settings: Settings) -> ssl.SSLContext | None:
    it = settings.dicom
    if it.tls_certificate is None or it.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(it.tls_certificate, it.tls_key)
        if it.tls_client_ca is not None:
            context.load_verify_locations(it.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the DICOM TLS files cannot be used: {error}") from error
    return context
