"""What the snapshots of a backup folder share: images by their hash, and quarantined objects; each file once.

Both only grow while a site lives and no file of them ever changes, so a hard link is as good as a copy where both lie
on one file system, and what is there already is not copied again. A snapshot has the list of what belongs to it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from raypost.archive.backup_entries import (
    BLOBS,
    QUARANTINE,
    Entry,
    Tally,
    file_size,
    place_of,
    read_list,
    side_by_side,
    union,
    walk,
)
from raypost.archive.backup_folder import Tell
from raypost.archive.backup_manifest import open_private
from raypost.archive.blobs import BLOCK_BYTES, DAMAGED_ERRNOS, fsync_folder, sha256_of

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What the operating system says when a file cannot be linked there."""
NEEDED_LINE_BYTES = 65


class FileTaker:
    """Brings files from one place to another by link or copy, durably; `finish` brings the folders to the disk."""

    def __init__(self) -> None:
        self._may_link = True
        self._touched: set[Path] = set()

    def take(self, source: Path, target: Path, entry: Entry, tally: Tally, *, verify: bool) -> bool:
        """Take one file; False when it is damaged or gone at its source.

        Args:
            verify: Read a file that is only linked, too, and compare it with its hash.

        Raises:
            OSError: The target's disk is full or broken.
        """
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True)
        if self._may_link and (not verify or not entry.sha256 or _has_hash(source, entry)):
            fresh = _free_name(target)
            try:
                os.link(source, fresh)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._may_link = error.errno == errno.EMLINK
            else:
                fresh.replace(target)
                tally.linked += 1
                return True
        if not _copy(source, target, entry):
            return False
        tally.copied += 1
        tally.copied_bytes += entry.size_bytes
        return True

    def note(self, target: Path) -> None:
        """Have a file's folder made durable, too: who put it there may have died before it was."""
        self._touched |= {target.parent, target.parent.parent}

    def finish(self) -> None:
        """Make the entries of all folders durable."""
        for folder in sorted(self._touched):
            fsync_folder(folder)
        self._touched.clear()


def collect(shelves: dict[str, Path], content: Path, list_file: Path, needed: Path, tell: Tell) -> Tally:
    """Bring everything from a living site into the content and list it; streams, so that any number will do.

    Args:
        shelves: Folders of the site by their name in the content.
        needed: A file with the SHA-256 of every file that rows need, in order, a line each.

    Raises:
        OSError: The backup's disk is full or broken.
    """
    tally, taker = Tally(), FileTaker()
    total = needed.stat().st_size // NEEDED_LINE_BYTES
    with needed.open(encoding="ascii") as lines, open_private(list_file) as out:
        wanted = (place_of(line.rstrip("\n")) for line in lines)
        for place, entry, is_needed in side_by_side(walk(shelves), wanted):
            target = content / place
            there = file_size(target)
            found = entry
            if entry is not None and entry.size_bytes != there:
                name, _, rest = place.partition("/")
                # Whatever is there of another size is only replaced by what has the right hash.
                if not taker.take(shelves[name] / rest, target, entry, tally, verify=there is not None):
                    found = None
            if found is None and is_needed:
                tally.miss(place)
            if found is None and there is not None:  # an earlier backup still has it
                found = Entry(place, there)
            if found is not None:
                out.write(f"{found.size_bytes} {place}\n".encode())
                tally.add(found)
                taker.note(target)
            tell("images", tally.blobs, max(total, tally.blobs))
        out.flush()
        os.fsync(out.fileno())
    taker.finish()
    return tally


def place_all(content: Path, list_file: Path, shelves: dict[str, Path], total: int, tell: Tell) -> Tally:
    """Bring everything that a snapshot lists to a new site, images verified by their hash.

    Args:
        total: How many files that will be.

    Raises:
        OSError: The site's disk is full or broken.
    """
    tally, taker = Tally(), FileTaker()
    for number, entry in enumerate(read_list(list_file), 1):
        name, _, rest = entry.place.partition("/")
        source, target = content / entry.place, shelves[name] / rest
        is_here = file_size(target) == entry.size_bytes and (not entry.sha256 or _has_hash(target, entry))
        if is_here or (file_size(source) == entry.size_bytes and taker.take(source, target, entry, tally, verify=True)):
            tally.add(entry)
            taker.note(target)
        else:
            tally.miss(entry.place)
        tell("images", number, total)
    taker.finish()
    return tally


def check(content: Path, list_files: list[Path], total: int, tell: Tell, *, deep: bool) -> Tally:
    """Look whether listed files are there with their size; `deep` reads every image and compares its hash."""
    tally = Tally()
    for number, entry in enumerate(union(list_files), 1):
        file = content / entry.place
        if file_size(file) != entry.size_bytes or (deep and entry.sha256 and not _has_hash(file, entry)):
            tally.miss(entry.place)
        else:
            tally.add(entry)
        tell("images", number, total)
    return tally


def sweep(content: Path, list_files: list[Path]) -> int:
    """Remove what no list names any more, and what killed backups left half-copied; return how many files."""
    shelves = {name: content / name for name in (BLOBS, QUARANTINE)}
    removed = 0
    named = (entry.place for entry in union(list_files))
    for place, entry, is_named in side_by_side(walk(shelves, everything=True), named):
        if entry is not None and not is_named:
            (content / place).unlink(missing_ok=True)
            removed += 1
    return removed


def _copy(source: Path, target: Path, entry: Entry) -> bool:
    """Copy a file whole or not at all, comparing hash and size on the way; False when the source is damaged or gone."""
    fresh = _free_name(target)
    try:
        with open_private(fresh) as out:
            digest, size_bytes = hashlib.sha256(), 0
            try:
                with source.open("rb") as opened:
                    while block := _read(opened.fileno()):
                        digest.update(block)
                        size_bytes += len(block)
                        out.write(block)
            except _UnreadableError:
                return False
            if size_bytes != entry.size_bytes or (entry.sha256 and digest.hexdigest() != entry.sha256):
                return False
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(target)
        return True
    except FileNotFoundError:
        return False
    finally:
        fresh.unlink(missing_ok=True)


class _UnreadableError(Exception):
    """The disk does not give a file back."""


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, BLOCK_BYTES)
    except OSError as error:
        if error.errno in DAMAGED_ERRNOS:
            raise _UnreadableError from error
        raise


def _has_hash(file: Path, entry: Entry) -> bool:
    try:
        return file.stat().st_size == entry.size_bytes and sha256_of(file) == entry.sha256
    except OSError as error:
        if error.errno in DAMAGED_ERRNOS:
            return False
        raise


def _free_name(target: Path) -> Path:
    fresh = target.with_name(target.name + ".new")
    fresh.unlink(missing_ok=True)
    return fresh
