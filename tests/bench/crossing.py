"""One study from the first C-STORE to the receipt, between two sites in processes of their own."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from raypost.archive import cases, events
from raypost.archive.database import Database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.events import Position
from raypost.archive.tables import InstanceRow
from raypost.model.audit import EventKind
from raypost.node.demo_network import CENTRE, DOMAIN, MAIN_RELAY, REFERRER, SCANNER_AE_TITLE, DemoNetwork
from raypost.node.demo_relay import RelayAddress
from raypost.transfer.reading_order import is_key_series
from tests.bench.peers import dcmsend
from tests.peers.caretaker import Caretaker
from tests.peers.mailserver import RealRelay, open_folder

SETTLE_S = 2.0
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Crossing:
    """The figures of one study."""

    name: str
    instances: int
    raw_mb: float
    announce_s: float
    first_image_s: float
    key_series_s: float
    filed_s: float
    settle_wait_s: float
    delivered_s: float
    peak_mb: float
    transactions_a_parcel: float
    parcel_packed_to_accepted_ms: float
    parcel_verified_to_filed_ms: float

    @property
    def mb_per_s(self) -> float:
        """Raw megabytes by the time from the first C-STORE to the last instance filed."""
        return self.raw_mb / self.filed_s

    def sentence(self) -> str:
        """Say it in one line."""
        return (
            f"known {self.announce_s:.2f} s, first image {self.first_image_s:.2f} s, "
            f"key series {self.key_series_s:.2f} s, all filed {self.filed_s:.2f} s ({self.mb_per_s:.1f} MB/s), "
            f"receipt {self.delivered_s:.2f} s, peak {self.peak_mb:.0f} MB"
        )

    def as_json(self) -> dict:
        """Return the figures."""
        return asdict(self) | {"mb_per_s": round(self.mb_per_s, 2)}


@contextlib.contextmanager
def relay_of(kind: str) -> Iterator[RelayAddress | None]:
    """Have a relay: None makes the network start the embedded one."""
    if kind != "real":
        yield None
        return
    folder = open_folder()
    passwords = {f"{name}@{DOMAIN}": f"secret-{name}" for name in (REFERRER, CENTRE)}
    try:
        with RealRelay(folder, DOMAIN, 30_000_000) as relay:
            for address, password in passwords.items():
                relay.add_user(address, password)
            yield RelayAddress("localhost", relay.smtp_port, relay.imap_port, relay.ca_file, passwords)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cross(name: str, study: Path, relay_kind: str, place: Path) -> Crossing:
    """Send a study and take the figures.

    Args:
        relay_kind: real (Postfix and Dovecot), embedded, or "one dead": two embedded ones, the preferred one is killed
            before the scanner sends.
    """
    folder = place / f"network-{len(list(place.iterdir()))}"
    folder.mkdir()
    place.chmod(0o711)  # the database's own user must be able to pass through, else its data lie elsewhere
    files = sorted(study.iterdir())
    server = EmbeddedPostgres(folder / "postgresql")
    with Caretaker() as caretaker:  # whoever ends the benchmark, no site and no server lives on
        caretaker.stop_server(server.data)
        caretaker.remove(place, server.root, server.sockets)
        try:
            with (
                relay_of(relay_kind) as relay,
                DemoNetwork(
                    folder, relay, settle_after_release_s=SETTLE_S, relay_count=2 if relay_kind == "one dead" else 1
                ) as network,
            ):
                if relay_kind == "one dead":
                    network.relays[MAIN_RELAY].kill()
                for one in [*network.sites.values(), *network.relays.values()]:
                    if one.process is not None:
                        caretaker.end_process(one.process.pid)
                return _measure(name, study, len(files), sum(one.stat().st_size for one in files) / 1e6, network)
        finally:
            for one in (folder, server.root, server.sockets):
                shutil.rmtree(one, ignore_errors=True)


def _measure(name: str, study: Path, count: int, raw_mb: float, network: DemoNetwork) -> Crossing:
    databases = {one: site.database() for one, site in network.sites.items()}
    seen = {one: Position() for one in databases}
    instants: dict[str, float] = {}
    filed, peak, stop = 0, 0, threading.Event()
    peaks: list[int] = []

    def _watch_memory() -> None:
        while not stop.wait(0.5):
            peaks.append(max(site.memory_bytes() for site in network.sites.values()))

    watching = threading.Thread(target=_watch_memory)
    watching.start()
    before = sum(_commits(database) for database in databases.values())
    begin = time.time()
    referrer = network.sites[REFERRER]
    sending = threading.Thread(
        target=dcmsend, args=(study, referrer.dicom_port, f"{CENTRE.upper()}_N", SCANNER_AE_TITLE)
    )
    sending.start()
    try:
        while "delivered" not in instants and time.time() - begin < TIMEOUT_S:
            for site, database in databases.items():
                for one in events.read_after(database, seen[site]):
                    seen[site] = one.position
                    if site == CENTRE and one.kind is EventKind.ANNOUNCED:
                        instants.setdefault("announced", one.at.timestamp())
                    elif site == CENTRE and one.kind is EventKind.FILED:
                        filed += int(one.fields["instances"])
                        instants.setdefault("first image", one.at.timestamp())
                        instants["last image"] = one.at.timestamp()
                    elif site == REFERRER and one.kind is EventKind.RECEIVED:
                        instants["last received"] = one.at.timestamp()
                    elif site == REFERRER and one.kind is EventKind.TRANSFER_CLOSED:
                        instants["closed"] = one.at.timestamp()
                    elif site == REFERRER and one.kind is EventKind.TRANSFER_DELIVERED:
                        instants["delivered"] = one.at.timestamp()
            time.sleep(0.2)
        time.sleep(1.5)  # PostgreSQL counts a second late
        commits = sum(_commits(database) for database in databases.values()) - before
        key_series = _key_series_filed(databases[CENTRE])
        parcels, packed_ms, filed_ms = _parcel_times(databases)
    finally:
        sending.join()
        stop.set()
        watching.join()
        for database in databases.values():
            database.close()
    if filed != count or "delivered" not in instants:
        raise RuntimeError(f"{filed} of {count} filed; {instants}")
    peak = max(peaks, default=0)
    return Crossing(
        name,
        count,
        raw_mb,
        instants["announced"] - begin,
        instants["first image"] - begin,
        key_series - begin,
        instants["last image"] - begin,
        instants["closed"] - instants["last received"],
        instants["delivered"] - begin,
        peak / 1e6,
        commits / parcels,
        packed_ms,
        filed_ms,
    )


def _commits(database: Database) -> int:
    with database.transaction() as tx:
        return int(tx.scalar(sa.text("select xact_commit from pg_stat_database where datname = current_database()")))


def _key_series_filed(centre: Database) -> float:
    """Return when the last image of the series that makes the study readable was filed; of all, where there is none."""
    with centre.transaction() as tx:
        instances = list(tx.scalars(sa.select(InstanceRow)))
        ranks = cases.reading_ranks(tx, instances)
        key_series = [one for one in instances if is_key_series(ranks[one.id])]
        return max(one.received_at for one in key_series or instances).timestamp()


def _parcel_times(databases: dict[str, Database]) -> tuple[int, float, float]:
    """Return how many parcels there were; mean milliseconds from planned to accepted, from verified to filed."""
    query = "select count(*), avg(extract(epoch from {0} - planned_at)) from rp_message where kind = 'parcel' and direction = '{1}'"
    with databases[REFERRER].transaction() as tx:
        parcels, packed_s = tx.execute(sa.text(query.format("accepted_at", "out"))).one()
    with databases[CENTRE].transaction() as tx:
        filed_s = tx.execute(sa.text(query.format("filed_at", "in"))).one()[1]
    return int(parcels), float(packed_s) * 1000, float(filed_s) * 1000
