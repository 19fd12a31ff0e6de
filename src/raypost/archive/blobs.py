"""DICOM files on disk, named by their SHA-256: write, fsync, rename; verified when taken in and on request."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from raypost.archive.keys import new_short_key
from raypost.errors import IntegrityError, NotNowError
from raypost.model.identifiers import is_sha256

BLOCK_BYTES = 1 << 20
DAMAGED_ERRNOS = frozenset(
    {errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.EBADMSG, errno.EUCLEAN}
)
"""What the kernel says of a file that is gone or that the disk gives back wrong; anything else may pass."""


class BlobStore:
    """A folder `ab/<sha256>`. A blob is written before its row: a crash leaves an orphan, never a dangling row."""

    def __init__(self, folder: Path) -> None:
        """Use the folder, made when it is missing."""
        self.folder = folder
        self._synced: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be."""
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Say whether the blob is here."""
        return self.path(sha256).exists()

    def adopt(self, file: Path, sha256: str) -> Path:
        """Take over a finished file of the same file system: fsync, rename, fsync of the folder.

        One that is here already is compared, and replaced when it is damaged: what comes again mends it.

        Raises:
            NotNowError: The disk is full or broken; nothing was taken over.
        """
        target = self.path(sha256)
        try:
            self._make_parent(target)
            if _is_intact(target, sha256, file.stat().st_size):
                fsync_folder(target.parent)  # who put it there may have died before it was on the disk
                file.unlink()
                return target
            fsync_file(file)
            file.replace(target)
            fsync_folder(target.parent)
        except OSError as error:
            raise NotNowError(
                f"the image cannot be written to disk: {error.strerror}",
                meaning="The image was not taken; its sender keeps it and tries again.",
                do="Look at the disk of this machine: `raypost check`.",
            ) from error
        return target

    def adopt_verified(self, file: Path, sha256: str) -> Path:
        """Take over a file after comparing its hash; one that does not fit stays: slices that come again mend it.

        Raises:
            IntegrityError: The bytes do not have the hash.
        """
        if not file.exists() or sha256_of(file) != sha256:
            raise IntegrityError("the slices of an instance do not add up to it")
        return self.adopt(file, sha256)

    def copy_to(self, sha256: str, target: Path) -> Path:
        """Copy a blob, as into quarantine or to a person's folder; return the copy."""
        try:
            shutil.copyfile(self.path(sha256), target)
        except OSError as error:
            raise NotNowError(f"a file cannot be written: {error.strerror}") from error
        return target

    def put_range(self, source: BinaryIO, offset_bytes: int, length_bytes: int, sha256: str) -> Path:
        """Copy a range of an open file into the store, checking its hash on the way.

        One that is here already is compared, and replaced when it is damaged.

        Raises:
            IntegrityError: The bytes do not have the hash.
            NotNowError: The disk is full or broken.
        """
        target = self.path(sha256)
        temporary = target.with_name(f"{sha256}.{new_short_key()}.new")
        try:
            self._make_parent(target)
            if _is_intact(target, sha256, length_bytes):
                fsync_folder(target.parent)
                return target
            digest = hashlib.sha256()
            source.seek(offset_bytes)
            rest = length_bytes
            with temporary.open("xb") as out:
                while rest and (block := source.read(min(rest, BLOCK_BYTES))):
                    digest.update(block)
                    out.write(block)
                    rest -= len(block)
                out.flush()
                os.fsync(out.fileno())
            if rest or digest.hexdigest() != sha256:
                raise IntegrityError("an instance does not have the hash its manifest names")
            temporary.replace(target)
            fsync_folder(target.parent)
        except OSError as error:
            raise NotNowError(f"the image cannot be written to disk: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _make_parent(self, target: Path) -> None:
        if target.parent.name in self._synced and target.parent.exists():
            return
        target.parent.mkdir(exist_ok=True, mode=0o700)
        fsync_folder(self.folder)  # also when another process made it, and may have died before this
        self._synced.add(target.parent.name)

    def verify(self, sha256: str) -> None:
        """Read a blob and compare its hash.

        Raises:
            IntegrityError: It is missing or damaged, or the disk cannot read it.
            NotNowError: It cannot be read at this moment.
        """
        if not _is_intact(self.path(sha256), sha256):
            raise IntegrityError(
                "an image file is missing or damaged on this disk",
                do="Restore it from the backup, or ask the sender to send the study again.",
            )

    def free_bytes(self) -> int:
        """Return the free space of the file system."""
        return shutil.disk_usage(self.folder).free

    def stored_bytes(self) -> int:
        """Return the size of all blobs."""
        return sum(file.stat().st_size for file in self.all_files())

    def all_files(self) -> list[Path]:
        """Return every finished blob."""
        return [entry for entry in self.folder.glob("??/*") if is_sha256(entry.name)]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_intact(file: Path, sha256: str, size_bytes: int | None = None) -> bool:
    """Say whether a file is here with this hash; of another size it is not even read.

    Raises:
        NotNowError: That cannot be found out at this moment.
    """
    try:
        if size_bytes is not None and file.stat().st_size != size_bytes:
            return False
        return sha256_of(file) == sha256
    except OSError as error:
        if error.errno in DAMAGED_ERRNOS:
            return False
        raise NotNowError(f"an image file cannot be read: {error.strerror}") from error


def fsync_file(file: Path) -> None:
    """Bring a file's bytes to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    fsync_file(folder)
