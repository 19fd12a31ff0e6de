"""The processes of a site: dicom, worker, collector; each is started by the supervisor and ends with it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable

import structlog

from raypost.archive.queue import Worker
from raypost.dicom.scp import StorageSCP
from raypost.errors import RaypostError
from raypost.node.site import Site
from raypost.settings import Settings

SWEEP_S = 1.0
TIDY_EVERY = 3600
PR_SET_PDEATHSIG = 1

log = structlog.get_logger("raypost.node")


def run_part(name: str, settings: Settings) -> None:
    """Run one process of a site until it is told to stop.

    Args:
        name: dicom, worker, or collector:RELAY.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _die_with_parent()
    kind, _, relay = name.partition(":")
    with Site.open(settings) as site:
        match kind:
            case "dicom":
                _run_dicom(site, stop)
            case "worker":
                _run_worker(site, stop)
            case "collector":
                site.collect(relay).run(stop)


def _run_dicom(site: Site, stop: threading.Event) -> None:
    intake = site.intake()
    scp = StorageSCP(site.scp_options(), intake.receive, intake.association_ended, intake.refused)
    port = scp.start()
    say({"dicom_port": port})
    stop.wait()
    scp.stop()


def _run_worker(site: Site, stop: threading.Event) -> None:
    settle = site.settle()
    tasks: dict[str, Callable[..., None]] = {
        "route": site.route().route,
        "release": settle.release,
        "check": settle.check,
        "pack": site.pack().pack,
        "dispatch": site.dispatch(stop).dispatch,
        "open": site.open_mail().open,
        "file": site.file_parcel().file,
        "forward": site.forward().forward,
    }
    worker = Worker(site.archive.database, tasks, threads=site.settings.limits.worker_threads)
    housekeeping = threading.Thread(target=_keep_house, args=(worker, site, stop), daemon=True)
    housekeeping.start()
    say({"worker": "up"})
    worker.run(stop)
    housekeeping.join(5)


def _keep_house(worker: Worker, site: Site, stop: threading.Event) -> None:
    """Every second: rescue jobs of the dead, hand out what is due; every hour: tidy up."""
    settle, rounds = site.settle(), 0
    while not stop.is_set():
        try:
            rescued = worker.rescue()
            if rescued:
                log.warning("jobs of a dead worker run again", count=rescued)
            settle.sweep()
            if rounds % TIDY_EVERY == 0:
                settle.tidy()
            rounds += 1
        except RaypostError as error:
            log.warning("housekeeping pauses", code=error.code, what=error.what)
        stop.wait(SWEEP_S)


def say(what: dict[str, object]) -> None:
    """Tell the supervisor something, one JSON object a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _die_with_parent() -> None:
    """Have the kernel end this process when the supervisor dies, however it dies."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
