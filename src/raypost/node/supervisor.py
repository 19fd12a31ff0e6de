"""`raypost serve`: keeps the database and the site's processes running; each is restarted when it dies.

`python -m raypost.node.supervisor raypost.toml`; the command line replaces itself by this, so that the process that
lives longest loads least. It has one thread: it forks. Its seconds go only forward, whatever is done to the machine's
clock: a restart that waits for an hour ago would never come.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

import raypost.archive.queue
import raypost.node.site
from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import RaypostError
from raypost.node import logs
from raypost.node.process import SiteProcess, fork_process
from raypost.node.site import read_password, running_database
from raypost.node.start_checks import refuse_unsafe
from raypost.sealing.openpgp import KeyRing
from raypost.settings import Settings, load

LOOK_S = 0.2
DATABASE_LOOK_S = 2.0
HEALTHY_AFTER_S = 30.0
BEHIND_MODALITIES = 10
"""Niceness of the worker: a modality that waits for its answer goes first."""
RESTART_PAUSE_FIRST_S = 0.2
RESTART_PAUSE_MAX_S = 10.0
STOP_TIMEOUT_S = 15.0
SAID_MAX_BYTES = 65_536
SHARED = (raypost.archive.queue, raypost.node.site)
"""Loaded before forking, so that it is in memory once."""

log = structlog.get_logger("raypost.supervisor")


class _Child:
    """One process of the site and when it may start again."""

    def __init__(self, kind: SiteProcess, settings: Settings, *, is_verbose: bool) -> None:
        self.kind = kind
        self._settings = settings
        self._is_verbose = is_verbose
        self._pid = 0
        self.reading = -1
        self._said = b""
        self._pause_s = 0.0
        self._started_s = 0.0
        self._not_before_s = 0.0

    def ensure(self, now_s: float) -> None:
        """Start it, or start it again when it died; one that keeps dying waits longer and longer.

        Args:
            now_s: On the clock of `time.monotonic`.
        """
        if self._pid and not self._has_ended(now_s):
            return
        if now_s >= self._not_before_s:
            self._started_s = now_s
            self._pid, self.reading = fork_process(self.kind, self._settings, is_verbose=self._is_verbose)

    def _has_ended(self, now_s: float) -> bool:
        pid, wait_code = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return False
        log.warning(
            "process died and is started again", which=self.kind.name, exit=os.waitstatus_to_exitcode(wait_code)
        )
        os.close(self.reading)
        self._pid, self.reading, self._said = 0, -1, b""
        lived_s = now_s - self._started_s
        longer_s = min(max(RESTART_PAUSE_FIRST_S, 2 * self._pause_s), RESTART_PAUSE_MAX_S)
        self._pause_s = 0.0 if lived_s > HEALTHY_AFTER_S else longer_s
        self._not_before_s = now_s + self._pause_s
        return True

    def hear(self) -> list[dict[str, Any]]:
        """Return what it said since the last time."""
        try:
            self._said = (self._said + os.read(self.reading, SAID_MAX_BYTES))[-SAID_MAX_BYTES:]
        except OSError:
            return []
        *lines, self._said = self._said.split(b"\n")
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                log.warning("a process said something odd", which=self.kind.name)
        return found

    def stop(self, timeout_s: float) -> None:
        """Wait for its end after SIGTERM; one that does not end is killed: it is written so that this does no harm."""
        begin_s = monotonic()
        while self._pid:
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                self._pid = 0
            elif monotonic() - begin_s > timeout_s:
                log.warning("process did not stop and was killed", which=self.kind.name)
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                self._pid = 0
            else:
                select.select([], [], [], LOOK_S / 4)

    def tell_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)


class _StopSignal:
    """Set by SIGTERM and SIGINT; wakes the waiting select by a pipe."""

    def __init__(self) -> None:
        self.is_set = False
        self.reading, self._writing = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True
        os.write(self._writing, b"x")


def main() -> None:
    """Run a site until SIGTERM or SIGINT; say `{"ready": true, "dicom_port": …}` when it is up."""
    is_verbose = "--verbose" in sys.argv
    logs.configure("serve", is_verbose=is_verbose)
    file = Path(sys.argv[1]).absolute()
    try:
        settings = load(file)
        refuse_unsafe(file, settings)
        serve(settings, as_json="--json" in sys.argv, is_verbose=is_verbose)
    except RaypostError as error:
        sys.stderr.write(f"{error.code} {error.what}\n  {error.meaning}\n  → {error.do}\n")
        sys.exit(error.exit_code)


def serve(settings: Settings, *, as_json: bool, is_verbose: bool) -> None:
    """Keep everything running until told to stop.

    Raises:
        NotNowError: The database does not start.
        UsageError: A password file is missing.
    """
    stop = _StopSignal()
    for relay in settings.relay.values():
        read_password(relay.password_file)
    kinds = [
        SiteProcess("dicom", "raypost.node.dicom_process"),
        SiteProcess("worker", "raypost.node.worker_process", niceness=BEHIND_MODALITIES),
    ]
    kinds += [SiteProcess(f"collector:{relay}", "raypost.node.collector_process", (relay,)) for relay in settings.relay]
    children = [_Child(kind, settings, is_verbose=is_verbose) for kind in kinds]
    with running_database(settings) as server:
        gc.collect()
        gc.freeze()
        try:
            _watch(children, server, stop, settings, as_json=as_json)
        finally:
            for child in children:
                child.tell_to_stop()
            for child in children:
                child.stop(STOP_TIMEOUT_S)
            KeyRing(settings.keys_folder).close()  # the agent that held the secret keys while the site ran


def _watch(
    children: list[_Child], server: EmbeddedPostgres | None, stop: _StopSignal, settings: Settings, *, as_json: bool
) -> None:
    up, next_database_look_s = dict[str, Any](), 0.0
    while not stop.is_set:
        now_s = monotonic()
        for child in children:
            child.ensure(now_s)
        if server is not None and now_s >= next_database_look_s:
            next_database_look_s = now_s + DATABASE_LOOK_S
            _revive(server)
        speaking, _, _ = select.select(
            [stop.reading, *(one.reading for one in children if one.reading >= 0)], [], [], LOOK_S
        )
        for child in children:
            if child.reading in speaking:
                for said in child.hear():
                    up.update(said)
        if {"dicom_port", "worker"} <= set(up) and not up.get("is_said"):
            up["is_said"] = True
            _say_ready(settings, up["dicom_port"], as_json=as_json)


def _say_ready(settings: Settings, dicom_port: int, *, as_json: bool) -> None:
    text = json.dumps({"ready": True, "dicom_port": dicom_port})
    if not as_json:
        title = settings.dicom.ae_title
        text = f"{settings.site.display_name} is up. Modalities send to port {dicom_port}, {title} or a partner's title"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _revive(server: EmbeddedPostgres) -> None:
    """Start the embedded database again when its postmaster died."""
    if server.is_alive():
        return
    try:
        server.start()
        log.warning("the database was started again")
    except RaypostError as error:
        log.warning("the database does not start", code=error.code, what=error.what)


if __name__ == "__main__":
    main()
