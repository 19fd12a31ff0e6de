"""Two hospitals and a relay on this machine, each in processes of its own, made as an administrator would make them."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from raypost.archive import partners
from raypost.archive.database import Database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import NotNowError
from raypost.node.clock import SystemClock
from raypost.node.setup import Template, add_partner, make_site, own_card
from raypost.node.site import database_url, opened_site
from raypost.relay.certificates import make_test_authority
from raypost.settings import load

REFERRER, CENTRE = "neustadt", "ludwigshafen"
DOMAIN = "demo.raypost.test"
SCANNER_AE_TITLE = "CT1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """Where a relay is that already runs, with one mailbox a site."""

    host: str
    smtp_port: int
    imap_port: int
    ca_file: Path
    passwords: dict[str, str]


@dataclass(slots=True)
class DemoSite:
    """One hospital of the network."""

    name: str
    folder: Path
    config: Path
    dicom_port: int = 0
    process: subprocess.Popen[str] | None = None

    def database(self) -> Database:
        """Return a connection to its database."""
        return Database(database_url(load(self.config)), connections_max=2)

    def memory_bytes(self) -> int:
        """Return the proportional set size of its process tree, without PostgreSQL."""
        if self.process is None:
            return 0
        total = 0
        try:
            parent = psutil.Process(self.process.pid)
            for one in [parent, *parent.children(recursive=True)]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue
        except psutil.Error:
            return 0
        return total


@dataclass
class DemoNetwork:
    """A context manager: everything runs inside the block and is gone after it.

    Attributes:
        folder: Where the sites live; must be empty.
        relay: A relay that runs already; None starts the embedded one.
        settle_after_release_s: See raypost.toml.
        transfer_lines: More lines for [transfer] in both sites' raypost.toml.
    """

    folder: Path
    relay: RelayAddress | None = None
    settle_after_release_s: float = 2.0
    transfer_lines: tuple[str, ...] = ()
    accepted: list[int] = field(default_factory=list)
    sites: dict[str, DemoSite] = field(default_factory=dict)
    _relay_process: subprocess.Popen[str] | None = None
    _server: EmbeddedPostgres | None = None

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            self.folder.chmod(0o711)  # our own folder; the database's own user must be able to pass through
        try:
            self._server = EmbeddedPostgres(self.folder / "postgresql").start()  # one server for both, kept running
            relay = self.relay or self._start_relay()
            for name in (REFERRER, CENTRE):
                self.sites[name] = self._make(name, relay)
            self._exchange()
            for site in self.sites.values():
                serve(site)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @staticmethod
    def remove_leftovers(folder: Path) -> None:
        """Remove a database that had to lie outside the folder because the database's own user could not reach it."""
        server = EmbeddedPostgres(folder / "postgresql")
        if server.root != folder / "postgresql":
            shutil.rmtree(server.root, ignore_errors=True)

    def _start_relay(self) -> RelayAddress:
        folder = self.folder / "relay"
        folder.mkdir()
        ca_file, certificate, secret_key = make_test_authority(folder, ["localhost", "127.0.0.1"], SystemClock().now())
        passwords = {f"{name}@{DOMAIN}": secrets.token_urlsafe(16) for name in (REFERRER, CENTRE)}
        self._relay_process = process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "raypost.relay",
                "--cert",
                str(certificate),
                "--key",
                str(secret_key),
                "--users-from-stdin",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(passwords))
        process.stdin.close()
        up = _first_word(process, self._hear_relay).get("up")
        if not isinstance(up, dict):
            raise NotNowError("the embedded relay does not start")
        return RelayAddress("127.0.0.1", up["smtp_port"], up["imap_port"], ca_file, passwords)

    def _hear_relay(self, said: dict[str, Any]) -> None:
        if "accepted_bytes" in said:
            self.accepted.append(int(said["accepted_bytes"]))

    def _make(self, name: str, relay: RelayAddress) -> DemoSite:
        folder = self.folder / name
        address = next(one for one in relay.passwords if one.startswith(name + "@"))
        display_name = {REFERRER: "Krankenhaus Neustadt", CENTRE: "Schlaganfallzentrum Ludwigshafen"}[name]
        template = Template(
            name=name,
            display_name=display_name,
            ae_stem=name.upper()[:14],
            address=address,
            smtp_host=relay.host,
            imap_host=relay.host,
            smtp_port=relay.smtp_port,
            imap_port=relay.imap_port,
            ca_file=str(relay.ca_file),
            dicom_port=_free_port(),  # written down, so that it stays the same when the process starts again
            calling=(SCANNER_AE_TITLE,),
            database_lines=(f'embedded_folder = "{self.folder / "postgresql"}"', f'name = "{name}"'),
            transfer_lines=(
                f"settle_after_release_s = {self.settle_after_release_s}",
                "settle_s = 10.0",
                "receipt_interval_s = 2.0",
                *self.transfer_lines,
            ),
        )
        folder.mkdir()
        (folder / "relay-password").touch(mode=0o600)
        (folder / "relay-password").write_text(relay.passwords[address] + "\n")
        config, _ = make_site(folder, template)
        return DemoSite(name, folder, config)

    def _exchange(self) -> None:
        """Let each site read the other's card, with the fingerprint as its administrator would read it aloud."""
        cards = {}
        for name, one in self.sites.items():
            with opened_site(load(one.config)) as site:
                card = one.folder / f"{name}.card"
                card.write_text(own_card(site))
                with site.archive.database.transaction() as tx:
                    cards[name] = (card, partners.own_site(tx).fingerprint)
        for name, one in self.sites.items():
            with opened_site(load(one.config)) as site:
                for other, (card, fingerprint) in cards.items():
                    if other != name:
                        add_partner(site, card, fingerprint, "demo")

    def _stop(self) -> None:
        running = [site.process for site in self.sites.values() if site.process is not None]
        if self._relay_process is not None:
            running.append(self._relay_process)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._server is not None:
            self._server.stop()


def serve(site: DemoSite) -> None:
    """Start `raypost serve` for a site and wait until it is up.

    Raises:
        NotNowError: It does not come up; the text has the end of its log.
    """
    log = (site.folder / "serve.log").open("a")
    with log:
        site.process = subprocess.Popen(
            [sys.executable, "-m", "raypost", "serve", "--config", str(site.config), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    ready = _first_word(site.process, lambda said: None)
    if "dicom_port" not in ready:
        said = (site.folder / "serve.log").read_text(errors="replace")[-600:]
        raise NotNowError(f"the site {site.name} does not start: {said}")
    site.dicom_port = int(ready["dicom_port"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_word(process: subprocess.Popen[str], hear: Any) -> dict[str, Any]:
    """Return the first JSON line of a process and hear the others in a thread; empty when it ends or stays silent."""
    first: queue.Queue[dict[str, Any]] = queue.Queue()

    def _listen() -> None:
        assert process.stdout is not None
        is_first = True
        for line in process.stdout:
            try:
                said = json.loads(line)
            except json.JSONDecodeError:
                continue
            if is_first:
                first.put(said)
                is_first = False
            else:
                hear(said)
        first.put({})

    threading.Thread(target=_listen, daemon=True).start()
    try:
        return first.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        return {}
