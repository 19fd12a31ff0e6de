"""Two sites in one process: real PostgreSQL, real gpg, real sandbox; a postman instead of SMTP and IMAP."""

import dataclasses
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from raypost.archive import collected, migrate, outbox, partners, relays, transfers
from raypost.archive.collected import MailPlace
from raypost.archive.database import Database, create_database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.dicom.jobs import PRELOAD
from raypost.dicom.storing import Received
from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.model.site import Partner
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.pool import Sandbox
from raypost.sealing.openpgp import KeyRing
from raypost.stations.file import FileParcel
from raypost.stations.greet import Greet
from raypost.stations.intake import Intake
from raypost.stations.open import OpenMail
from raypost.stations.pack import OwnMailbox, Pack
from raypost.stations.route import Route
from raypost.stations.settle import Settle
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits
from tests.peers.caretaker import Caretaker

NAMES = ("neustadt", "ludwigshafen")
RELAY = "main"


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    def pass_time(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


@dataclass
class TestSite:
    """One site with its stations."""

    __test__ = False
    archive: Archive
    keyring: KeyRing
    sandbox: Sandbox
    clock: SetClock
    partner: Partner
    limits: Limits = field(default_factory=Limits)
    pacing: PacingLimits = field(default_factory=PacingLimits)
    mail_size_max_bytes: int = 10_000_000
    folder: Path = Path()
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.addresses.setdefault(RELAY, self.partner.address)

    @property
    def intake(self) -> Intake:
        return Intake(self.archive, self.sandbox, self.clock, 0)

    @property
    def settle(self) -> Settle:
        return Settle(self.archive, self.clock, self.limits, 1)

    @property
    def route(self) -> Route:
        return Route(self.archive, self.clock, self.limits, UTC)

    @property
    def pack(self) -> Pack:
        mailboxes = {relay: OwnMailbox(address, self.mail_size_max_bytes) for relay, address in self.addresses.items()}
        return Pack(self.archive, self.keyring, self.clock, self.limits, self.pacing, mailboxes, 1)

    @property
    def open_mail(self) -> OpenMail:
        return OpenMail(self.archive, self.keyring, self.sandbox, self.clock, self.limits, 1 << 30)

    @property
    def file_parcel(self) -> FileParcel:
        return FileParcel(self.archive, self.sandbox, self.clock, self.limits)

    @property
    def greet(self) -> Greet:
        return Greet(self.archive, self.keyring, self.clock, self.limits, self.addresses, 1 << 20, 1)

    def work(self) -> int:
        """Do every waiting job but greet, dispatch and forward, as a worker would; return how many."""
        self.settle.sweep()
        tasks = {
            "route": self.route.route,
            "release": self.settle.release,
            "check": self.settle.check,
            "pack": self.pack.pack,
            "open": self.open_mail.open,
            "file": self.file_parcel.file,
        }
        for count in itertools.count():
            with self.archive.database.transaction() as tx:
                row = tx.execute(
                    sa.text(
                        "delete from procrastinate_jobs where id = (select id from procrastinate_jobs where status = 'todo'"
                        " and task_name = any(:names) order by priority desc, id limit 1) returning task_name, args"
                    ),
                    {"names": list(tasks)},
                ).first()
            if row is None:
                return count
            tasks[row.task_name](**row.args)
            assert count < 10_000, "jobs breed jobs"
        raise AssertionError

    def receive(self, file: Path, called: str = "LUDWIGSHAFEN_N", association: str = "a1", problem: str = "") -> int:
        """Take a file in as if it had come by C-STORE."""
        copy = self.archive.spool.new_file("in")
        shutil.copyfile(file, copy)
        try:
            return self.intake.receive(Received(copy, "", "", "CT1", called, "127.0.0.1", association, problem))
        finally:
            copy.unlink(missing_ok=True)  # as the listener does

    def rows(self, sql: str, **values: object) -> list[sa.Row]:
        """Look into the tables."""
        with self.archive.database.transaction() as tx:
            return list(tx.execute(sa.text(sql), values))

    def scalar(self, sql: str, **values: object) -> object:
        """Look into the tables for one value."""
        return self.rows(sql, **values)[0][0]

    def kinds(self) -> list[str]:
        """Return the kinds of all events, in order."""
        return [row[0] for row in self.rows("select kind from rp_event order by id")]

    def transfer(self, direction: str = "out") -> TransferRow:
        """Return the only transfer of a direction."""
        with self.archive.database.transaction() as tx:
            return tx.scalars(sa.select(TransferRow).where(TransferRow.direction == direction)).one()


class Postman:
    """Carries mails between the sites: what SMTP, relay and IMAP do, with faults on order."""

    def __init__(self, sites: dict[str, TestSite]) -> None:
        self.sites = sites
        self.carried: list[tuple[str, str, int]] = []
        self._imap_uids = itertools.count(1)
        self.lose = lambda kind, number: False
        self.copies = 1

    def carry(self) -> int:
        """Take every queued mail to its mailbox; return how many."""
        count = 0
        for sender in self.sites.values():
            while (message := self._claim(sender)) is not None:
                mail = sender.archive.spool.path(message.message_file).read_bytes()
                self._accept(sender, message)
                kind, number = message.kind.value, message.number
                self.carried.append((sender.partner.name, kind, number))
                count += 1
                if not self.lose(kind, number):
                    recipient = self._recipient(mail)
                    for _ in range(self.copies if recipient is not None else 0):
                        self.deliver(recipient, mail)
        return count

    def deliver(self, site: TestSite, mail: bytes, relay: str = RELAY) -> int:
        """Put a mail into a site's hands as `collect` does."""
        file = site.archive.spool.new_file("eml")
        file.write_bytes(mail)
        name = site.archive.spool.keep(file, "mail")
        with site.archive.database.transaction() as tx:
            place = MailPlace(relay, 1, next(self._imap_uids), site.clock.now())
            found = collected.note_fetched(
                tx, place, mail_file=name, size_bytes=len(mail), rank=0, now=site.clock.now()
            )
        assert found is not None
        return found

    def run(self, rounds_max: int = 200) -> None:
        """Let both sites work and carry mails until nothing moves any more."""
        for _ in range(rounds_max):
            if not sum([*(site.work() for site in self.sites.values()), self.carry()]):
                return
        raise AssertionError("it never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass: it jumps to whatever is due next, as nothing happens in between."""
        clock = next(iter(self.sites.values())).clock
        end = clock.now() + timedelta(seconds=seconds)
        for _ in range(5_000):
            due = [instant for site in self.sites.values() if (instant := self._next_due(site)) is not None]
            clock.instant = min([end, *(max(one, clock.now() + timedelta(seconds=0.5)) for one in due)])
            for site in self.sites.values():
                site.settle.sweep()
            self.run()
            if clock.now() >= end:
                return
        raise AssertionError("time does not pass")

    def _next_due(self, site: TestSite) -> datetime | None:
        return site.scalar(
            "select least((select min(due) from rp_transfer), (select min(due) from rp_message where state = 'queued'),"
            " (select min(due) from rp_collected))"
        )

    def _claim(self, sender: TestSite) -> outbox.QueuedMessage | None:
        with sender.archive.database.transaction() as tx:
            return outbox.claim(tx, RELAY, "test", sender.clock.now())

    def _accept(self, sender: TestSite, message: outbox.QueuedMessage) -> None:
        with sender.archive.database.transaction() as tx:
            transfer = None if message.transfer_id is None else transfers.lock(tx, message.transfer_id)
            assert outbox.note_accepted(tx, message, "test", sender.clock.now())
            if transfer is not None:
                rearm(tx, transfer, sender.limits, sender.clock.now())
        sender.archive.spool.discard(message.message_file)

    def _recipient(self, mail: bytes) -> TestSite | None:
        """Return the site that a mail is for; None for one that is only in an address book."""
        line = next(line for line in mail.split(b"\r\n") if line.startswith(b"To: "))
        return next((site for site in self.sites.values() if site.partner.address.encode() in line), None)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="raypost-test-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(folder / "postgresql")
    with Caretaker() as caretaker:  # a worker of pytest-xdist whose controller dies tears nothing down
        caretaker.stop_server(postgres.data)
        caretaker.remove(folder, postgres.root, postgres.sockets)
        try:
            postgres.start()
            _be_quick(postgres)
            create_database(postgres.url(), "template_site")
            database = Database(postgres.url("template_site"))
            migrate.upgrade(database)
            database.close()
            yield postgres
        finally:  # also when the migration fails
            postgres.stop()
            for one in (folder, postgres.root, postgres.sockets):
                shutil.rmtree(one, ignore_errors=True)


def _be_quick(postgres: EmbeddedPostgres) -> None:
    """Let the server's disk be lost with the machine: no test takes that away, and each has databases of its own."""
    (postgres.data / "local.conf").write_text("fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n")
    os.chown(postgres.data / "local.conf", postgres.uid, postgres.gid)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")


@pytest.fixture(scope="session")
def keyrings() -> Iterator[dict[str, tuple[KeyRing, str]]]:
    folder = Path(tempfile.mkdtemp(prefix="rpk-"))
    made = {}
    with Caretaker() as caretaker:
        caretaker.remove(folder)  # an agent whose folder is gone ends by itself
        try:
            for name in (*NAMES, "stranger"):
                ring = KeyRing(folder / name)
                made[name] = (ring, ring.make_site_key(name, f"{name}@raypost.test", 30, 30))
            for name in NAMES:
                for other in NAMES:
                    if other != name:
                        ring, fingerprint = made[other]
                        made[name][0].import_certificate(ring.export_certificate(fingerprint), fingerprint)
            stranger, _ = made["stranger"]
            for name in NAMES:
                stranger.import_certificate(made[name][0].export_certificate(made[name][1]), made[name][1])
            yield made
        finally:
            for ring, _ in made.values():
                ring.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    parsers = (*PRELOAD, "raypost.mail.mime_message", "raypost.mail.parcels")
    with Sandbox(SandboxLimits(), 2, parsers) as pool:
        yield pool


@pytest.fixture(scope="session")
def databases(server) -> Iterator[dict[str, Database]]:
    """A database for each site, made once: a new one for each test costs more than what most of them do in it."""
    made = {}
    for name in NAMES:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"create database site_{name} template template_site")
        made[name] = Database(server.url(f"site_{name}"), connections_max=6)
    yield made
    for one in made.values():
        one.close()


_EMPTY = """
do $$
declare one record;
begin
    set local session_replication_role = replica;  -- no order of tables, no triggers
    for one in select tablename from pg_tables where schemaname = 'public' and tablename <> 'rp_schema_version' loop
        execute format('delete from %I', one.tablename);
    end loop;
    for one in select sequencename from pg_sequences where schemaname = 'public' and last_value is not null loop
        perform setval(quote_ident(one.sequencename), 1, false);
    end loop;
end $$
"""
"""Removes every row, and lets numbers begin anew; `truncate` takes ten times as long."""


@pytest.fixture
def sites(databases, keyrings, sandbox, tmp_path) -> Iterator[dict[str, TestSite]]:
    clock, made = SetClock(), {}
    for name in NAMES:
        with databases[name].transaction() as tx:
            tx.execute(sa.text(_EMPTY))
        ring, fingerprint = keyrings[name]
        own = Partner(0, name, name.title(), name.upper(), f"{name}@raypost.test", fingerprint, True)
        archive = Archive.open(databases[name], tmp_path / name)
        made[name] = TestSite(archive, ring, sandbox, clock, own, folder=tmp_path / name)
    for name, site in made.items():
        with site.archive.database.transaction() as tx:
            partners.add_partner(tx, site.partner, "cert", now=clock.now(), who="test")
            for other, its in made.items():
                if other != name:
                    partner = dataclasses.replace(its.partner, is_self=False)
                    partners.add_partner(tx, partner, "cert", now=clock.now(), who="test")
            relays.declare(tx, [RELAY], clock.now())
    yield made


@pytest.fixture
def neustadt(sites) -> TestSite:
    return sites["neustadt"]


@pytest.fixture
def ludwigshafen(sites) -> TestSite:
    return sites["ludwigshafen"]


@pytest.fixture
def postman(sites) -> Postman:
    return Postman(sites)


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> list[Path]:
    """Six small slices of a head, without localiser."""
    spec = HeadCtSpec(study_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), slices=6, size_px=128, has_localizer=False)
    return write_study(head_ct(spec), tmp_path_factory.mktemp("head"))
