"""Copies a key ring as files, consistently while gpg works in it, and puts it back; proves that the secrets are there.

As files and not by `gpg --export-secret-keys`: certificates, secret keys, trust, revocation certificates and references
to cards all come along, and what is put back is what was there.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from raypost.errors import NotNowError, SecurityError
from raypost.sealing.gpg import run_gpg
from raypost.sealing.gpg_home import SOCKET_NAMES, prepare_home

LIST_TIMEOUT_S = 60.0
COPIES_MAX = 20
COPY_PAUSE_S = 0.2
SECRETS = "private-keys-v1.d"
LEFT_OUT = {*SOCKET_NAMES, "raypost.lock", "random_seed"}
"""Sockets and what points to them belong to a place, not to the keys; gpg makes its seed anew."""
LEFT_OUT_ENDINGS = (".lock", ".tmp", ".part", "~")


def copy_keys(home: Path, target: Path) -> int:
    """Copy a GNUPGHOME into a new folder, mode 0700 and 0600; return how many files that were.

    gpg and its agent may be at work: when anything changed while it was read, everything is read again.

    Raises:
        NotNowError: The keys do not come to rest.
        OSError: A file cannot be read or written.
    """
    pause = threading.Event()
    for _ in range(COPIES_MAX):
        before = _files(home)
        try:
            _copy_files(home, target, list(before))
        except FileNotFoundError:  # replaced while it was read
            pass
        else:
            if _files(home) == before:
                return len(before)
        shutil.rmtree(target, ignore_errors=True)
        pause.wait(COPY_PAUSE_S)
    raise NotNowError("the keys change all the time", do="Try again when no key is being made or changed.")


def put_back_keys(source: Path, home: Path) -> None:
    """Make a new GNUPGHOME of a copy, with sockets of its own.

    Raises:
        UsageError: The folder cannot be used.
        OSError: A file cannot be read or written.
    """
    _copy_files(source, home, list(_files(source)))
    prepare_home(home)


def secret_keys_of(home: Path, fingerprint: str) -> tuple[str, ...]:
    """Return the keygrips, the names of the secret keys' files, of those keys of a certificate whose secret is here.

    Raises:
        SecurityError: The certificate is not here, or no secret of it.
    """
    listed = run_gpg(home, ["--with-colons", "--with-keygrip", "--list-keys", fingerprint], timeout_s=LIST_TIMEOUT_S)
    lines = [line.split(b":") for line in listed.output.splitlines()]
    grips = [line[9].decode("ascii", "replace") for line in lines if line[0] == b"grp" and len(line) > 9]
    found = tuple(grip for grip in grips if has_secret(home, grip))
    if listed.exit_code or not found:
        raise SecurityError(
            "the site's own certificate has no secret key in the key folder",
            meaning="Nothing that partners sealed to this site can be opened with these keys.",
            do="Look whether data_folder in raypost.toml is right.",
        )
    return found


def has_secret(home: Path, keygrip: str) -> bool:
    """Say whether the file of a secret key is in a key ring, or in a copy of one."""
    return (home / SECRETS / f"{keygrip}.key").is_file()


def _files(home: Path) -> dict[str, tuple[int, int, int]]:
    """Return what belongs to the keys: path within, to inode, size and time of the last change."""
    found = {}
    for folder, _, names in os.walk(home):
        for name in names:
            file = Path(folder) / name
            if name in LEFT_OUT or name.startswith((".#", "S.")) or name.endswith(LEFT_OUT_ENDINGS):
                continue
            try:
                facts = file.lstat()
            except FileNotFoundError:
                continue
            if file.is_file() and not file.is_symlink():
                found[file.relative_to(home).as_posix()] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def _copy_files(source: Path, target: Path, names: list[str]) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        place = target / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (source / name).open("rb") as opened:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                shutil.copyfileobj(opened, out)
                out.flush()
                os.fsync(out.fileno())
