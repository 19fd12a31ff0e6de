"""A folder of backups of one site: dated snapshots, each valid by its manifest, and the files they share.

    raypost-backup.json   whose backups these are
    content/              images and quarantine, each once: archive/backup_content.py
    snapshots/000017-20261124T030000Z/
        database.dump  content.txt  raypost.toml  settings/  keys/
        manifest.json     written last: a snapshot without it is half, and removed by the next backup

Snapshots are numbered, because a clock may have been wrong: the newest is the one with the highest number.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raypost.archive.backup_manifest import FORMAT, Manifest, write_whole
from raypost.archive.blobs import fsync_folder, sha256_of
from raypost.errors import IntegrityError, NotNowError, UsageError

MARK = "raypost-backup.json"
MANIFEST, DUMP, CONTENT_LIST, CONFIG = "manifest.json", "database.dump", "content.txt", "raypost.toml"
KEYS, SETTINGS = "keys", "settings"
HARMLESS = {"lost+found", "lock", f"{MARK}.new"}
"""What may lie in a folder that is still to become one of backups."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EACCES)
"""What a file system without locks, or one that may only be read, says."""

Tell = Callable[[str, int, int], None]
"""Progress: what is being done, how much of it is done, of how much (0: nobody knows)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot; its manifest is read when it is needed."""

    folder: Path

    @property
    def name(self) -> str:
        """Return its name: number and time."""
        return self.folder.name

    @property
    def number(self) -> int:
        """Return its number; later ones have higher ones."""
        return _number(self.name)

    def manifest(self) -> Manifest:
        """Return what it is; see `Manifest.read` for errors."""
        return Manifest.read(self.folder / MANIFEST)

    def faults(self, manifest: Manifest, tell: Tell) -> list[str]:
        """Compare every file with its hash; return what is wrong, a sentence each."""
        found = []
        total = sum(one.size_bytes for one in manifest.files.values())
        done = 0
        for name, facts in sorted(manifest.files.items()):
            file = self.folder / name
            if not file.is_file():
                found.append(f"{self.name}: {name} is missing")
            elif file.stat().st_size != facts.size_bytes or sha256_of(file) != facts.sha256:
                found.append(f"{self.name}: {name} is damaged")
            done += facts.size_bytes
            tell("verifying the snapshot", done, total)
        return found


class BackupFolder:
    """The folder; see the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def content(self) -> Path:
        """Return the folder of what the snapshots share."""
        return self.folder / "content"

    @classmethod
    def to_write(cls, folder: Path, site: str) -> BackupFolder:
        """Return the folder for a backup of a site; made when it is missing, but not the folder above it.

        That one must exist, so that a disk that is not mounted is noticed.

        Raises:
            UsageError: It holds other things, or the backups of another site, or others than this user can read it.
            OSError: It cannot be made or read.
        """
        if not folder.parent.is_dir():
            raise UsageError(f"there is no folder {folder.parent}", do="Make it, or mount the disk that it is on.")
        folder.mkdir(exist_ok=True, mode=0o700)
        mark = folder / MARK
        if not mark.exists():
            if others := {one.name for one in folder.iterdir()} - HARMLESS:
                raise UsageError(
                    f"{folder} holds other things than backups: {min(others)}", do="Choose an empty folder."
                )
            write_whole(mark, json.dumps({"format": FORMAT, "site": site}).encode() + b"\n")
        made = cls.to_read(folder)
        if (other := made._owner()) != site:
            raise UsageError(f"{folder} holds the backups of {other}, not of {site}", do="Choose another folder.")
        for shelf in (made.content, folder / "snapshots"):
            shelf.mkdir(exist_ok=True, mode=0o700)
            _refuse_open(shelf)
        return made

    @classmethod
    def to_read(cls, folder: Path) -> BackupFolder:
        """Return a folder with backups.

        Raises:
            UsageError: It is none.
        """
        if not (folder / MARK).is_file():
            raise UsageError(
                f"{folder} is no folder of backups: there is no {MARK} in it", do="Name the folder given to the backup."
            )
        return cls(folder)

    def _owner(self) -> str:
        try:
            return str(json.loads((self.folder / MARK).read_text(encoding="utf-8"))["site"])
        except (ValueError, KeyError, TypeError) as error:
            right = json.dumps({"format": FORMAT, "site": "NAME"})
            raise IntegrityError(f"{MARK} is damaged", do=f"Write {right} into it, with the site's name.") from error

    @contextlib.contextmanager
    def locked(self, *, to_write: bool) -> Iterator[None]:
        """Keep others from writing while the block runs; a file system without locks does without.

        Raises:
            NotNowError: A backup is being written here, or read.
        """
        descriptor = -1
        try:
            try:
                flags = os.O_RDWR | os.O_CREAT if to_write else os.O_RDONLY
                descriptor = os.open(self.folder / "lock", flags | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, (fcntl.LOCK_EX if to_write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError) as error:
                if isinstance(error, BlockingIOError):
                    raise NotNowError(
                        "another command is at work in this backup folder", do="Wait until it has ended."
                    ) from error
            except OSError as error:
                if to_write and descriptor < 0 or error.errno not in NO_LOCKS:
                    raise
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def snapshots(self) -> list[Snapshot]:
        """Return the complete ones, oldest first."""
        found = [Snapshot(one) for one in self._folders() if (one / MANIFEST).is_file()]
        return sorted(found, key=lambda one: one.number)

    def snapshot(self, name: str = "") -> Snapshot:
        """Return the newest snapshot, or the one with a name.

        Raises:
            UsageError: There is none.
        """
        found = self.snapshots()
        chosen = [one for one in found if one.name == name] if name else found[-1:]
        if not chosen:
            names = ", ".join(one.name for one in found[-5:]) or "none at all"
            raise UsageError(f"there is no complete snapshot {name}".rstrip(), do=f"There are: {names}.")
        return chosen[0]

    def begin(self, at: datetime) -> tuple[int, Path]:
        """Remove what killed backups left and make the folder of a new snapshot; return its number and the folder."""
        for half in self._folders():
            if not (half / MANIFEST).is_file():
                shutil.rmtree(half)
        number = 1 + max((one.number for one in self.snapshots()), default=0)
        folder = self.folder / "snapshots" / f"{number:06d}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        folder.mkdir(mode=0o700)
        return number, folder

    def finish(self, folder: Path, manifest: Manifest) -> None:
        """Make a snapshot valid: everything is on the disk before its manifest is."""
        for inside in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
            fsync_folder(inside)
        fsync_folder(folder.parent)
        write_whole(folder / MANIFEST, manifest.as_bytes())

    def keep_newest(self, count: int) -> list[str]:
        """Remove older snapshots; return their names. Each loses its manifest first, so that none is half and valid."""
        removed = []
        for old in self.snapshots()[:-count]:
            (old.folder / MANIFEST).unlink()
            fsync_folder(old.folder)
            shutil.rmtree(old.folder)
            removed.append(old.name)
        return removed

    def _folders(self) -> list[Path]:
        shelf = self.folder / "snapshots"
        return [one for one in shelf.iterdir() if one.is_dir() and _number(one.name)] if shelf.is_dir() else []


def _refuse_open(shelf: Path) -> None:
    """Refuse a place for secret keys that belongs to somebody else, or where a mode means nothing."""
    facts = shelf.stat()
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UsageError(
            f"others than this user can read {shelf}",
            do=f"chmod 700 {shelf}; a disk that knows no modes is mounted with uid=, dir_mode=0700, file_mode=0600.",
        )


def _number(name: str) -> int:
    first = name.partition("-")[0]
    return int(first) if first.isascii() and first.isdigit() else 0
