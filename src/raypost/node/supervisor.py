"""`raypost serve`: keeps the database and the site's processes running; each is restarted when it dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import RaypostError
from raypost.node.clock import SystemClock
from raypost.node.site import read_password, running_database
from raypost.settings import Settings

LOOK_S = 0.2
DATABASE_LOOK_S = 2.0
RESTART_PAUSE_MAX_S = 10.0
STOP_TIMEOUT_S = 15.0

log = structlog.get_logger("raypost.supervisor")


class _Child:
    """One process of the site and when it may start again."""

    def __init__(self, name: str, command: list[str], say: Callable[[str, dict[str, Any]], None]) -> None:
        self.name = name
        self._command = command
        self._say = say
        self.process: subprocess.Popen[str] | None = None
        self._pause_s = 0.0
        self._started_s = 0.0
        self._not_before_s = 0.0

    def ensure(self, now_s: float) -> None:
        """Start it, or start it again when it died; one that keeps dying waits longer and longer."""
        if self.process is not None:
            if self.process.poll() is None:
                return
            log.warning("process died and is started again", part=self.name, exit=self.process.returncode)
            self.process = None
            lived_s = now_s - self._started_s
            self._pause_s = 0.0 if lived_s > 30 else min(max(0.2, 2 * self._pause_s), RESTART_PAUSE_MAX_S)
            self._not_before_s = now_s + self._pause_s
        if now_s >= self._not_before_s:
            self._started_s = now_s
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            try:
                self._say(self.name, json.loads(line))
            except json.JSONDecodeError:
                sys.stderr.write(line)

    def stop(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; one that does not end is killed: it is written so that this does no harm."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("process did not stop and was killed", part=self.name)
            self.process.kill()
            self.process.wait()


def serve(file: Path, settings: Settings, say: Callable[[dict[str, Any]], None]) -> None:
    """Run a site until SIGTERM or SIGINT.

    Args:
        file: raypost.toml, which the processes read again.
        say: Is told when the site is ready: `{"ready": true, "dicom_port": …}`.

    Raises:
        NotNowError: The database does not start.
        UsageError: A password file is missing.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for relay in settings.relay.values():
        read_password(relay.password_file)
    up: dict[str, Any] = {}

    def _hear(name: str, what: dict[str, Any]) -> None:
        up.update(what)
        if {"dicom_port", "worker"} <= set(up) and not up.get("ready"):
            up["ready"] = True
            say({"ready": True, "dicom_port": up["dicom_port"]})

    with running_database(settings) as server:
        names = ["dicom", "worker", *(f"collector:{relay}" for relay in settings.relay)]
        children = [
            _Child(name, [sys.executable, "-m", "raypost", "run-part", name, "--config", str(file)], _hear)
            for name in names
        ]
        try:
            _watch(children, server, stop)
        finally:
            for child in children:
                child.stop()
            for child in children:
                child.wait(STOP_TIMEOUT_S)


def _watch(children: list[_Child], server: EmbeddedPostgres | None, stop: threading.Event) -> None:
    clock = SystemClock()
    next_database_look_s = 0.0
    while not stop.is_set():
        now_s = clock.now().timestamp()
        for child in children:
            child.ensure(now_s)
        if server is not None and now_s >= next_database_look_s:
            next_database_look_s = now_s + DATABASE_LOOK_S
            _revive(server)
        stop.wait(LOOK_S)


def _revive(server: EmbeddedPostgres) -> None:
    """Start the embedded database again when its postmaster died."""
    if server.is_alive():
        return
    try:
        server.start()
        log.warning("the database was started again")
    except RaypostError as error:
        log.warning("the database does not start", code=error.code, what=error.what)
