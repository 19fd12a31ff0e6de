"""An embedded mail relay of the demonstration in a process of its own: started, disturbed, killed, started again."""

from __future__ import annotations

import json
import queue
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypost.errors import NotNowError, UsageError
from raypost.lab.free_port import free_port
from raypost.node import demo_process
from raypost.node.clock import SystemClock
from raypost.relay.certificates import make_test_authority

ORDER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """Where a relay is, with one mailbox a site.

    Attributes:
        passwords: By mail address; the part before the @ is the site's name.
    """

    host: str
    smtp_port: int
    imap_port: int
    ca_file: Path
    passwords: dict[str, str]

    def mailbox(self, site_name: str) -> str:
        """Return a site's mail address."""
        return next(one for one in self.passwords if one.startswith(site_name + "@"))


@dataclass(frozen=True, slots=True)
class Carried:
    """One mail that a relay accepted, and when (POSIX seconds); with 0 copies it was lost on order."""

    at_s: float
    size_bytes: int
    sender: str
    recipient: str
    copies: int


class DemoRelay:
    """One relay.

    Attributes:
        name: In the whole network.
        domain: Of its provider.
        carried: What it accepted so far.
        process: None before the start.
    """

    def __init__(self, name: str, domain: str, folder: Path, site_names: list[str], seed: int = 1) -> None:
        self.name = name
        self.domain = domain
        self.carried: list[Carried] = []
        self.process: subprocess.Popen[str] | None = None
        self._clock = SystemClock()
        self._folder = folder
        self._seed = seed
        self._passwords = {f"{one}@{domain}": secrets.token_urlsafe(16) for one in site_names}
        self._ports = (free_port(), free_port())
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()

    @property
    def is_running(self) -> bool:
        """Say whether its process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def address(self) -> RelayAddress:
        """Return where it is; the ports stay."""
        return RelayAddress("127.0.0.1", *self._ports, self._folder / "relay-ca.pem", self._passwords)

    def start(self) -> RelayAddress:
        """Start it, or start it again after its death: at the same ports, with the same passwords, without old mails.

        Raises:
            NotNowError: It does not come up.
        """
        if not self._folder.exists():
            self._folder.mkdir()
            make_test_authority(self._folder, ["localhost", "127.0.0.1"], self._clock.now())
        smtp_port, imap_port = map(str, self._ports)
        self.process = process = subprocess.Popen(
            [
                *(sys.executable, "-m", "raypost.relay", "--users-from-stdin", "--faults-from-stdin"),
                *("--cert", str(self._folder / "relay.pem"), "--key", str(self._folder / "relay.key")),
                *("--smtp-port", smtp_port, "--imap-port", imap_port, "--seed", str(self._seed)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(json.dumps(self._passwords))
        up = demo_process.first_word(process, self._hear).get("up")
        if not isinstance(up, dict):
            raise NotNowError(f"the embedded relay {self.name} does not start")
        self._ports = (up["smtp_port"], up["imap_port"])
        return self.address

    def order(self, **faults: float | str | bool) -> None:
        """Order faults and return when they are in force; see `relay.faults.Faults`. Those not named stay.

        Raises:
            UsageError: There is no such fault.
            NotNowError: The relay is dead.
        """
        self._write(json.dumps(faults))
        try:
            answer = self._answers.get(timeout=ORDER_TIMEOUT_S)
        except queue.Empty:
            raise NotNowError(f"the embedded relay {self.name} does not answer") from None
        if "refused_order" in answer:
            raise UsageError(str(answer["refused_order"]))

    def kill(self) -> None:
        """Kill it with -9: every mail in it is gone."""
        if self.process is not None:
            demo_process.kill_tree(self.process)

    def _write(self, line: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise NotNowError(f"the embedded relay {self.name} is dead") from error

    def _hear(self, said: dict[str, Any]) -> None:
        if "accepted_bytes" in said:
            at_s, size_bytes, copies = self._clock.now().timestamp(), int(said["accepted_bytes"]), int(said["copies"])
            self.carried.append(Carried(at_s, size_bytes, str(said["from"]), str(said["to"]), copies))
        else:
            self._answers.put(said)
