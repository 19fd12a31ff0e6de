"""What makes a snapshot valid: its manifest, with the hash of every file; and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from raypost.archive.blobs import fsync_file, fsync_folder, sha256_of
from raypost.errors import IntegrityError, NotNowError, UsageError

FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file of a snapshot must be."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is.

    Attributes:
        backup_at: Before the database's instant; what was committed later may be missing.
        config_folder: Where raypost.toml was; relative paths in it began there.
        server_major: Of the PostgreSQL server.
        dump_major: Of the pg_dump.
        keygrips: Names of the secret keys of the site's own certificate.
        damaged: Files that rows need and that were missing or damaged when the backup was made.
        files: Every file of the snapshot but the manifest, by its path within it.
    """

    number: int
    site: str
    fingerprint: str
    backup_at: datetime
    finished_at: datetime
    raypost: str
    schema: str
    config_folder: str
    server_major: int
    dump_major: int
    keygrips: tuple[str, ...]
    blobs: int
    blob_bytes: int
    quarantine_files: int
    damaged: int
    files: dict[str, FileFacts] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Return the manifest with its own hash, as JSON."""
        body: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        for name in ("backup_at", "finished_at"):
            body[name] = body[name].astimezone(UTC).isoformat()
        return (json.dumps({"sha256": _digest(body), **body}, indent=1) + "\n").encode()

    @classmethod
    def read(cls, file: Path) -> Manifest:
        """Read a manifest.

        Raises:
            IntegrityError: It is damaged.
            UsageError: It is of a version that this program does not know.
        """
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
            written = body.pop("sha256")
            if body["format"] != FORMAT:
                raise UsageError(
                    f"the backup has format {body['format']}, which this program does not know",
                    do="Restore it with the version of Raypost that made it, or a newer one.",
                )
            if _digest(body) != written:
                raise ValueError("hash")
            del body["format"]
            for name in ("backup_at", "finished_at"):
                body[name] = datetime.fromisoformat(body[name])
            body["keygrips"] = tuple(body["keygrips"])
            body["files"] = {name: FileFacts(**facts) for name, facts in body["files"].items()}
            return cls(**body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged_snapshot(file.parent.name, "its manifest is damaged") from error


def facts_of_files(folder: Path) -> dict[str, FileFacts]:
    """Bring every file of a snapshot to the disk and return what it is, by its path within."""
    found = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        fsync_file(file)
        found[file.relative_to(folder).as_posix()] = FileFacts(file.stat().st_size, sha256_of(file))
    return found


def open_private(file: Path) -> IO[bytes]:
    """Open a new file, mode 0600, for writing."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def write_whole(file: Path, content: bytes) -> None:
    """Write a private file that is there as a whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    with open_private(fresh) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    fsync_folder(file.parent)


@contextlib.contextmanager
def disk_faults(meaning: str) -> Iterator[None]:
    """Turn what the operating system says of a disk into an error for people.

    Raises:
        NotNowError: The disk is full, cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        what = "the disk is full" if error.errno in FULL else f"{error.strerror or type(error).__name__}"
        raise NotNowError(what + where, meaning=meaning, do="Make room or mend it, then try again.") from error


def damaged_snapshot(name: str, what: str) -> IntegrityError:
    """Return the error for a snapshot that cannot be trusted."""
    return IntegrityError(
        f"snapshot {name}: {what}",
        meaning="Nothing was restored from it.",
        do="Take another one with --snapshot; `raypost backup verify` tells which are in order.",
    )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
