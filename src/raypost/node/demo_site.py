"""One hospital of the demonstration: its process is served, killed with -9, stopped, and served again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from raypost.archive.database import Database
from raypost.errors import NotNowError
from raypost.node import demo_process
from raypost.node.site import database_url
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load

COMMAND_TIMEOUT_S = 60.0
LOG_END_LENGTH = 600


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

    def kill(self) -> int:
        """Kill all its processes with -9, as a power cut does; return how many there were. `serve` starts it again."""
        return demo_process.kill_tree(self.process) if self.process is not None else 0

    def stop(self) -> None:
        """End it in order. Nobody is told: to its partners it is silent from now on."""
        demo_process.stop([self.process])

    def run(self, *arguments: str) -> str:
        """Run `raypost …` for this site, as its administrator does; return what it printed.

        Raises:
            NotNowError: It failed; the text has its words.
        """
        done = subprocess.run(
            [sys.executable, "-m", "raypost", *arguments, "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-LOG_END_LENGTH:]
            raise NotNowError(f"`raypost {' '.join(arguments)}` failed at {self.name}: {said}")
        return done.stdout

    def forget_keys(self) -> None:
        """End the agent that holds the secret keys; one that was killed could not do it itself."""
        KeyRing(load(self.config).keys_folder).close()


def serve(*sites: DemoSite) -> None:
    """Start `raypost serve` for sites, for the first time or again, all at once, and wait until they are up.

    Raises:
        NotNowError: One does not come up; the text has the end of its log.
    """
    for site in sites:
        with (site.folder / "serve.log").open("a") as log:
            site.process = subprocess.Popen(
                [sys.executable, "-m", "raypost", "serve", "--config", str(site.config), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
    for site in sites:
        assert site.process is not None
        ready = demo_process.first_word(site.process, lambda said: None)
        if "dicom_port" not in ready:
            said = (site.folder / "serve.log").read_text(errors="replace")[-LOG_END_LENGTH:]
            raise NotNowError(f"the site {site.name} does not start: {said}")
        site.dicom_port = int(ready["dicom_port"])
