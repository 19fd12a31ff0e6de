"""Ends what a test session started when the session itself dies: killed, crashed, or left behind by pytest-xdist.

When the controller of `pytest -n` goes away, execnet ends its workers with `os._exit` some seconds later, in the middle
of whatever they do: no fixture is torn down, and a PostgreSQL that was started with `pg_ctl` lives on for ever.
A caretaker is a process of its own, in a session of its own, at the other end of a pipe that only the test process
holds. When the pipe closes without a word it ends the processes it was told of, stops the servers and removes the
folders. After an orderly end it does nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

STOP_TIMEOUT_S = 20.0
LOOK_S = 0.1
REAP_TIMEOUT_S = 10.0


class Caretaker:
    """Used in a `with` block around whatever must not survive this process."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True, cwd="/"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._say("done")
        self._process.stdin.close()
        self._process.wait(REAP_TIMEOUT_S)

    def end_process(self, pid: int) -> None:
        """Have a process of this session ended."""
        self._say(f"process {pid} {_begun(pid)}")

    def stop_server(self, data: Path) -> None:
        """Have the PostgreSQL of this data folder stopped."""
        self._say(f"server {data}")

    def remove(self, *folders: Path) -> None:
        """Have folders removed, after everything else."""
        for folder in folders:
            self._say(f"folder {folder}")

    def _say(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def main() -> None:
    """Listen until the pipe closes; clean up unless "done" was said."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = [line.rstrip("\n").partition(" ")[::2] for line in sys.stdin]
    if ("done", "") in told:
        return
    processes = [tuple(map(int, one.split())) for what, one in told if what == "process"]
    _end(pid for pid, begun in processes if begun and _begun(pid) == begun)  # and no other that has its number now
    _end(filter(None, (_postmaster(Path(one)) for what, one in told if what == "server")), signal.SIGINT)
    for what, one in told:
        if what == "folder":
            shutil.rmtree(one, ignore_errors=True)


def _postmaster(data: Path) -> int | None:
    """Return the pid of the server of a data folder, if it is one and lives there."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        return pid if Path(f"/proc/{pid}/cwd").readlink() == data.resolve() else None
    except (OSError, ValueError, IndexError):
        return None


def _begun(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _end(pids: Iterable[int], first: signal.Signals = signal.SIGTERM) -> None:
    left = list(pids)
    for number, patience_s in ((first, STOP_TIMEOUT_S), (signal.SIGQUIT, STOP_TIMEOUT_S), (signal.SIGKILL, 0.0)):
        left = [pid for pid in left if _signal(pid, number)]
        until = time.monotonic() + patience_s
        while left and time.monotonic() < until:
            time.sleep(LOOK_S)
            left = [pid for pid in left if _signal(pid, 0)]


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


if __name__ == "__main__":
    main()
