"""Files on their way: incoming data sets, mails, sealed messages, quarantine. Rows name them."""

from __future__ import annotations

import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from raypost.archive.blobs import BLOCK_BYTES, fsync_file, fsync_folder
from raypost.archive.keys import new_transfer_key
from raypost.errors import NotNowError

ORPHAN_AGE = timedelta(hours=24)
"""A temporary file this old belongs to a process that died."""


class Spool:
    """Folders of one site below `spool/`; every file has a random name of ours, never one from outside."""

    def __init__(self, folder: Path) -> None:
        """Use the folder, made when it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # `parents` below would make it open to others
        for name in ("temporary", "mail", "sealed", "assembly", "quarantine"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def temporary(self) -> Path:
        """Where unfinished files lie."""
        return self.folder / "temporary"

    def new_file(self, ending: str) -> Path:
        """Return a fresh name for an unfinished file; the caller writes it."""
        return self.temporary / f"{new_transfer_key()}.{ending}"

    def keep(self, file: Path, shelf: str) -> str:
        """Make an unfinished file durable on a shelf (mail, sealed, quarantine) and return its name.

        Raises:
            NotNowError: The disk is full or broken.
        """
        target = self.folder / shelf / file.name
        try:
            fsync_file(file)
            file.replace(target)
            fsync_folder(target.parent)
        except OSError as error:
            raise NotNowError(
                f"a file cannot be written to disk: {error.strerror}",
                do="Look at the disk of this machine: `raypost check`.",
            ) from error
        return f"{shelf}/{file.name}"

    def keep_also(self, file: Path, shelf: str) -> str:
        """Make a file durable on a shelf as well and return its name there; it stays where it is.

        For a row that may not be committed: a retry must find the file where it was.

        Raises:
            NotNowError: The disk is full or broken.
        """
        target = self.folder / shelf / f"{new_transfer_key()}{file.suffix}"
        try:
            fsync_file(file)
            os.link(file, target)
            fsync_folder(target.parent)
        except OSError as error:
            raise NotNowError(
                f"a file cannot be written to disk: {error.strerror}",
                do="Look at the disk of this machine: `raypost check`.",
            ) from error
        return f"{shelf}/{target.name}"

    def assemble(self, place: str, content: BinaryIO, offset_bytes: int, at_bytes: int, length_bytes: int) -> None:
        """Write a slice of an instance at its place in the assembly, durably; again does no harm.

        Args:
            place: Name of the assembly, made of our own key and a hash.
            content: Where the slice is read from, at `offset_bytes`.
            at_bytes: Where it belongs within the instance.

        Raises:
            NotNowError: The disk is full or broken.
        """
        try:
            descriptor = os.open(self.assembled(place), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                content.seek(offset_bytes)
                out.seek(at_bytes)
                rest = length_bytes
                while rest and (block := content.read(min(rest, BLOCK_BYTES))):
                    rest -= out.write(block)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise NotNowError(f"a file cannot be written to disk: {error.strerror}") from error

    def assembled(self, place: str) -> Path:
        """Return the file in which the slices of an instance come together."""
        return self.folder / "assembly" / place

    def path(self, name: str) -> Path:
        """Return the file that a row names."""
        return self.folder / name

    def discard(self, name: str) -> None:
        """Remove a file that no row needs any more."""
        if name:
            (self.folder / name).unlink(missing_ok=True)

    def sweep_orphans(self, now: datetime, named: set[str]) -> int:
        """Remove files that no row names and that are older than ORPHAN_AGE; return how many.

        Args:
            named: Names that rows still need.
        """
        removed = 0
        limit_s = (now - ORPHAN_AGE).timestamp()
        for shelf in ("temporary", "mail", "sealed", "assembly"):
            for entry in (self.folder / shelf).iterdir():
                if f"{shelf}/{entry.name}" not in named and _is_older(entry, limit_s):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
                    removed += 1
        return removed


def _is_older(entry: Path, limit_s: float) -> bool:
    """Say whether a file was last written before an instant; one that vanished meanwhile was not an orphan."""
    try:
        return entry.stat().st_mtime < limit_s
    except FileNotFoundError:
        return False
