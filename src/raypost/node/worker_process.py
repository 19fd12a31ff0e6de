"""The process that does the stations' jobs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import structlog

from raypost.archive import events, moving, relays
from raypost.archive.queue import Worker
from raypost.errors import RaypostError
from raypost.model.audit import EventKind
from raypost.node.accounts import smtp_account
from raypost.node.audit_trail import audit_trail_of
from raypost.node.process import say
from raypost.node.site import Site
from raypost.settings import Settings
from raypost.stations.dispatch import Dispatch
from raypost.stations.file import FileParcel
from raypost.stations.greet import Greet
from raypost.stations.open import OpenMail
from raypost.stations.outcomes import Outcomes
from raypost.stations.pack import OwnMailbox, Pack
from raypost.stations.route import Route
from raypost.stations.settle import Settle

SWEEP_S = 0.5
TIDY_EVERY = 7200
CONNECTIONS_BESIDE_JOBS = 4
"""Of housekeeping. A job may hold two connections: its exclusive section's and a transaction's."""
DISPATCH_SLOTS = 2
DISPATCH_LINGER_S = 3.0
CONTENT_SIZE_MAX_BYTES = 1 << 30
"""Of one opened mail: far above what fits into any relay, far below what fills a disk."""

log = structlog.get_logger("raypost.worker")


class MailBell:
    """Tells a session that waits for work that a message was sealed in this process."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._rung = threading.Condition()

    def ring(self) -> None:
        """Wake every waiting session."""
        with self._rung:
            self._rung.notify_all()

    def wait(self, pause_s: float) -> bool:
        """Wait for the bell, at most so many seconds; True when the process is to stop."""
        with self._rung:
            if not self._stop.is_set():
                self._rung.wait(pause_s)
        return self._stop.is_set()


def run(settings: Settings, stop: threading.Event) -> None:
    """Work until told to stop."""
    threads = threads_of(settings)
    with Site.open(settings, connections_max=2 * threads + CONNECTIONS_BESIDE_JOBS) as site:
        site.sandbox.start()
        declare_relays(site)
        _note(site, EventKind.STARTED)
        worker = Worker(site.archive.database, stations(site, stop), threads=threads)
        worker.rescue_at_start()
        housekeeping = threading.Thread(target=_keep_house, args=(worker, make_settle(site), stop), daemon=True)
        housekeeping.start()
        say({"worker": "up"})
        worker.run(stop)
        housekeeping.join(5)
        with contextlib.suppress(RaypostError):  # the database may have stopped before us
            _note(site, EventKind.STOPPED)


def _note(site: Site, kind: EventKind) -> None:
    """Record that this process started or stopped."""
    with site.archive.database.transaction() as tx:
        events.record(tx, site.clock.now(), kind)


def threads_of(settings: Settings) -> int:
    """Return how many jobs run at once: sessions of further relays, which may hang, take no thread from the others."""
    return settings.limits.worker_threads + DISPATCH_SLOTS * (len(settings.relay) - 1)


def declare_relays(site: Site) -> None:
    """Write down which relays there are; what waits for one that was taken out of the file goes by another."""
    now = site.clock.now()
    with site.archive.database.transaction() as tx:
        relays.declare(tx, list(site.settings.relay), now)
        gone = moving.not_ours(tx)
    for name in gone:
        with site.archive.database.transaction() as tx:
            left = moving.leave_relay(tx, name, now)
        for file in left.files:
            site.archive.spool.discard(file)


def stations(site: Site, stop: threading.Event) -> dict[str, Callable[..., None]]:
    """Return the jobs by name."""
    settle, bell = make_settle(site), MailBell(stop)
    return {
        "route": make_route(site).route,
        "release": settle.release,
        "check": settle.check,
        "pack": make_pack(site, bell).pack,
        "dispatch": make_dispatch(site, bell).dispatch,
        "open": make_open(site).open,
        "file": make_file(site).file,
        "greet": make_greet(site, bell).greet,
        "audit": audit_trail_of(site).work,
        "reject": lambda transfer_id: _reject(site, transfer_id),
        "forward": lambda node_id: _forward(site, node_id),
    }


def make_settle(site: Site) -> Settle:
    """Return station 2."""
    return Settle(site.archive, site.clock, site.settings.limits_of_transfers(), DISPATCH_SLOTS)


def make_route(site: Site) -> Route:
    """Return station 3."""
    return Route(site.archive, site.clock, site.settings.limits_of_transfers(), site.settings.zone)


def make_pack(site: Site, bell: MailBell) -> Pack:
    """Return station 4."""
    settings = site.settings
    return Pack(
        site.archive,
        site.keyring,
        site.clock,
        settings.limits_of_transfers(),
        settings.pacing(),
        {name: OwnMailbox(settings.address_on(name), it.mail_size_max_bytes) for name, it in settings.relay.items()},
        DISPATCH_SLOTS,
        bell.ring,
    )


def make_dispatch(site: Site, bell: MailBell) -> Dispatch:
    """Return station 5."""
    limits = site.settings.limits_of_transfers()
    return Dispatch(
        site.archive,
        site.clock,
        limits,
        Outcomes(site.archive, site.clock, limits, site.settings.pacing()),
        {name: smtp_account(site.settings, name) for name in site.settings.relay},
        DISPATCH_SLOTS,
        DISPATCH_LINGER_S,
        bell.wait,
    )


def make_greet(site: Site, bell: MailBell) -> Greet:
    """Return what writes signs of life."""
    settings = site.settings
    return Greet(
        site.archive,
        site.keyring,
        site.clock,
        settings.limits_of_transfers(),
        {name: settings.address_on(name) for name in settings.relay},
        min(it.collect_size_max_bytes for it in settings.relay.values()),
        DISPATCH_SLOTS,
        bell.ring,
    )


def make_open(site: Site) -> OpenMail:
    """Return station 7."""
    limits = site.settings.limits_of_transfers()
    return OpenMail(site.archive, site.keyring, site.sandbox, site.clock, limits, CONTENT_SIZE_MAX_BYTES)


def make_file(site: Site) -> FileParcel:
    """Return station 8."""
    return FileParcel(site.archive, site.sandbox, site.clock, site.settings.limits_of_transfers())


def _forward(site: Site, node_id: int) -> None:
    """Do station 10. The DICOM library is loaded only where something is forwarded: it costs 60 MB."""
    from raypost.stations.forward import Forward

    Forward(site.archive, site.sandbox, site.clock, site.settings.dicom.ae_title).forward(node_id)


def _reject(site: Site, transfer_id: int) -> None:
    """Write a rejection note. The DICOM library is loaded only where one is written."""
    from raypost.stations.reject import Reject

    Reject(site.archive, site.sandbox, site.clock).reject(transfer_id)


def _keep_house(worker: Worker, settle: Settle, stop: threading.Event) -> None:
    """Twice a second: rescue jobs of the dead, hand out what is due; every hour: tidy up."""
    rounds = 0
    while not stop.is_set():
        rounds += 1
        try:
            rescued = worker.rescue()
            if rescued:
                log.warning("jobs of a dead worker run again", count=rescued)
            settle.sweep()
            if rounds % TIDY_EVERY == 1:
                settle.tidy()
        except RaypostError as error:
            log.warning("housekeeping pauses", code=error.code, what=error.what)
        except Exception:  # noqa: BLE001 the outermost frame of the thread: without it nothing would ever be due again
            log.exception("housekeeping failed and goes on")
        stop.wait(SWEEP_S)
