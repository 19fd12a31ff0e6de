"""DICOM files on disk, named by their SHA-256: write, fsync, rename; verified when taken in and on request."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from raypost.archive.keys import new_short_key
from raypost.errors import IntegrityError, NotNowError
from raypost.model.identifiers import is_sha256

BLOCK_BYTES = 1 << 20


class BlobStore:
    """A folder `ab/<sha256>`. A blob is written before its row: a crash leaves an orphan, never a dangling row."""

    def __init__(self, folder: Path) -> None:
        """Use the folder, made when it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be."""
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Say whether the blob is here."""
        return self.path(sha256).exists()

    def adopt(self, file: Path, sha256: str) -> Path:
        """Take over a finished file of the same file system: fsync, rename, fsync of the folder.

        Raises:
            NotNowError: The disk is full or broken; nothing was taken over.
        """
        target = self.path(sha256)
        try:
            if target.exists():
                file.unlink()
                return target
            self._make_parent(target)
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

        Raises:
            IntegrityError: The bytes do not have the hash.
            NotNowError: The disk is full or broken.
        """
        target = self.path(sha256)
        if target.exists():
            return target
        self._make_parent(target)
        temporary = target.with_name(f"{sha256}.{new_short_key()}.new")
        try:
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
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True, mode=0o700)
            fsync_folder(self.folder)

    def verify(self, sha256: str) -> None:
        """Read a blob and compare its hash.

        Raises:
            IntegrityError: It is missing or damaged.
        """
        if not self.has(sha256) or sha256_of(self.path(sha256)) != sha256:
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
