"""One study from the first C-STORE to the receipt, between two sites in processes of their own."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from raypost.archive import events
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.events import Position
from raypost.model.audit import EventKind
from raypost.node.demo_network import CENTRE, DOMAIN, REFERRER, SCANNER_AE_TITLE, DemoNetwork, RelayAddress
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
    first_image_s: float
    filed_s: float
    settle_wait_s: float
    delivered_s: float
    peak_mb: float

    @property
    def mb_per_s(self) -> float:
        """Raw megabytes by the time from the first C-STORE to the last instance filed."""
        return self.raw_mb / self.filed_s

    def sentence(self) -> str:
        """Say it in one line."""
        return (
            f"first image {self.first_image_s:.2f} s, all filed {self.filed_s:.2f} s ({self.mb_per_s:.1f} MB/s), "
            f"receipt {self.delivered_s:.2f} s, peak {self.peak_mb:.0f} MB"
        )

    def as_json(self) -> dict:
        """Return the figures."""
        return asdict(self) | {"mb_per_s": round(self.mb_per_s, 2)}


@contextlib.contextmanager
def relay_of(kind: str) -> Iterator[RelayAddress | None]:
    """Have a relay: None makes the network start the embedded one."""
    if kind == "embedded":
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
    """Send a study and take the figures."""
    folder = place / f"network-{len(list(place.iterdir()))}"
    folder.mkdir()
    place.chmod(0o711)  # the database's own user must be able to pass through, else its data lie elsewhere
    files = sorted(study.iterdir())
    server = EmbeddedPostgres(folder / "postgresql")
    with Caretaker() as caretaker:  # whoever ends the benchmark, no site and no server lives on
        caretaker.stop_server(server.data)
        caretaker.remove(place, server.root, server.sockets)
        try:
            with relay_of(relay_kind) as relay, DemoNetwork(folder, relay, settle_after_release_s=SETTLE_S) as network:
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
                    if site == CENTRE and one.kind is EventKind.FILED:
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
        instants["first image"] - begin,
        instants["last image"] - begin,
        instants["closed"] - instants["last received"],
        instants["delivered"] - begin,
        peak / 1e6,
    )
