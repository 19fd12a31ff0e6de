"""The process that empties one mailbox: station 6."""

from __future__ import annotations

import threading

from raypost.archive.database import Database
from raypost.archive.site import Archive
from raypost.node.accounts import imap_account
from raypost.node.clock import SystemClock
from raypost.node.site import database_url
from raypost.settings import Settings
from raypost.stations.collect import Collect

IDLE_S = 120.0


def run(settings: Settings, stop: threading.Event, relay: str) -> None:
    """Collect from one relay until told to stop."""
    archive = Archive.open(Database(database_url(settings), connections_max=2), settings.data_folder)
    Collect(
        archive,
        SystemClock(),
        imap_account(settings, relay),
        settings.relay[relay].collect_size_max_bytes,
        IDLE_S,
        disk_free_min_bytes=settings.limits.disk_free_min_bytes,
    ).run(stop)
    archive.close()
