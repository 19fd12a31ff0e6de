"""The folder GnuPG keeps its keys in, and short paths for the sockets of its agent."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from raypost.errors import UsageError

SOCKET_PATH_MAX_BYTES = 100
"""A UNIX socket's path ends below 108 bytes (sun_path of unix(7)); some room for the lock files beside it."""
SOCKET_NAMES = ("S.gpg-agent", "S.gpg-agent.extra", "S.gpg-agent.browser", "S.gpg-agent.ssh", "S.scdaemon")
REDIRECTION = "%Assuan%\nsocket="
STOP_TIMEOUT_S = 10.0


def prepare_home(home: Path) -> None:
    """Make the GNUPGHOME, mode 0700, and see to it that the agent's sockets have short paths.

    A path of a UNIX socket must stay below 108 bytes. In a longer home each socket's place is taken by a small file
    that points into a short private folder (libassuan, `%Assuan%` redirection). All processes of a site share both.

    Raises:
        UsageError: The folder cannot be made, or belongs to somebody else.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid != os.geteuid():
            raise UsageError(
                "The folder of the secret keys belongs to another user.",
                do="Run Raypost as the user that owns it, or give it to this user with chown.",
            )
        home.chmod(0o700)
        _place_sockets(home)
    except OSError as error:
        raise UsageError(f"The folder of the secret keys cannot be used: {error.strerror}.") from error


def _place_sockets(home: Path) -> None:
    too_long = not _fits(home)
    if not too_long and not (home / SOCKET_NAMES[0]).is_file():
        return
    with (home / "raypost.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not too_long:  # the home was moved here from a long path; a redirection would lead nowhere
            for name in SOCKET_NAMES:
                if (home / name).is_file():
                    (home / name).unlink()
        elif runtime_folder(home) is None:
            folder = Path(tempfile.mkdtemp(prefix=_runtime_prefix(home)))
            for name in SOCKET_NAMES:
                fresh = home / f"{name}.part"
                fresh.write_text(f"{REDIRECTION}{folder / name}\n")
                fresh.rename(home / name)


def is_prepared(home: Path) -> bool:
    """Say, cheaply, whether the home and the folder of its sockets are still as prepared."""
    try:
        redirected = (home / SOCKET_NAMES[0]).is_file()
        return runtime_folder(home) is not None if redirected else home.is_dir() and _fits(home)
    except OSError:
        return False


def _fits(home: Path) -> bool:
    return max(len(os.fsencode(home / name)) for name in SOCKET_NAMES) <= SOCKET_PATH_MAX_BYTES


def _runtime_prefix(home: Path) -> str:
    # A home restored from a backup beside the old one must not talk to the old one's agent.
    return f"raypost-gpg-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}-"


def runtime_folder(home: Path) -> Path | None:
    """Return the short folder the home's sockets are redirected into; none when not redirected, or not there any more.

    A folder that somebody else could write into does not count.
    """
    try:
        text = (home / SOCKET_NAMES[0]).read_text(errors="replace")
        folder = Path(text.removeprefix(REDIRECTION).strip()).parent
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    ours = text.startswith(REDIRECTION) and folder.name.startswith(_runtime_prefix(home))
    return folder if ours and private else None


def stop_agent(home: Path) -> None:
    """End the agent of a home; it finishes what it is doing first. The next gpg would start a new one."""
    gpgconf = shutil.which("gpgconf")
    if gpgconf is None or not home.is_dir():
        return
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        subprocess.run(
            [gpgconf, "--homedir", str(home), "--kill", "all"],
            env=environment,
            timeout=STOP_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # nothing depends on it: an agent ends by itself when its home is gone
