"""Verifies a folder of backups: every small file by its hash, the dump by its contents, images by size or by hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypost.archive import backup_content
from raypost.archive.backup_entries import Tally
from raypost.archive.backup_folder import CONTENT_LIST, DUMP, KEYS, BackupFolder, Snapshot, Tell
from raypost.archive.backup_manifest import Manifest, disk_faults
from raypost.archive.dump import check_dump
from raypost.archive.pg_programs import find_programs
from raypost.errors import IntegrityError, UsageError
from raypost.sealing.key_backup import has_secret


@dataclass(frozen=True, slots=True)
class SnapshotVerdict:
    """What was found of one snapshot; without faults it is in order."""

    name: str
    manifest: Manifest | None
    faults: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return one entry of `snapshots` in the shape of `raypost backup verify --json`."""
        it = self.manifest
        return {
            "snapshot": self.name,
            "good": not self.faults,
            "backup_at": it.backup_at.isoformat(timespec="seconds") if it else None,
            "raypost": it.raypost if it else None,
            "schema": it.schema if it else None,
            "blobs": it.blobs if it else None,
            "blob_bytes": it.blob_bytes if it else None,
            "damaged": it.damaged if it else None,
            "faults": list(self.faults),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a folder of backups; documented in docs/reference/json-shapes.md."""

    snapshots: tuple[SnapshotVerdict, ...]
    content: Tally
    is_deep: bool

    @property
    def is_good(self) -> bool:
        """Say whether there is a snapshot, and everything is in order."""
        return bool(self.snapshots) and not self.content.damaged and not any(one.faults for one in self.snapshots)

    def as_json(self) -> dict[str, Any]:
        """Return the shape of `raypost backup verify --json`."""
        return {
            "good": self.is_good,
            "deep": self.is_deep,
            "snapshots": [one.as_json() for one in self.snapshots],
            "blobs": self.content.blobs,
            "blob_bytes": self.content.blob_bytes,
            "quarantine_files": self.content.quarantine_files,
            "damaged": self.content.damaged,
            "damaged_examples": self.content.examples,
        }


def verify(folder: Path, *, snapshot: str, deep: bool, tell: Tell) -> Verdict:
    """Verify all complete snapshots, or one, with the images they name.

    Args:
        snapshot: Name of the one; empty for all.
        deep: Read every image and compare its SHA-256; else its size is compared.

    Raises:
        UsageError: This is no folder of backups, or there is no such snapshot.
        NotNowError: A backup is being written there, or something cannot be read now.
    """
    with disk_faults("Nothing is known about the backups."):
        source = BackupFolder.to_read(folder)
        with source.locked(to_write=False):
            chosen = [source.snapshot(snapshot)] if snapshot else source.snapshots()
            verdicts, lists, total = [], [], 0
            for one in chosen:
                verdict = look_at(one, tell)
                verdicts.append(verdict)
                if verdict.manifest and not any(CONTENT_LIST in fault for fault in verdict.faults):
                    lists.append(one.folder / CONTENT_LIST)
                    total = max(total, verdict.manifest.blobs + verdict.manifest.quarantine_files)
            content = backup_content.check(source.content, lists, total, tell, deep=deep)
    return Verdict(tuple(verdicts), content, deep)


def look_at(snapshot: Snapshot, tell: Tell) -> SnapshotVerdict:
    """Verify what a snapshot has for itself: manifest, hashes of all files, the dump, the secret keys."""
    try:
        manifest = snapshot.manifest()
    except (IntegrityError, UsageError) as error:
        return SnapshotVerdict(snapshot.name, None, (error.what,))
    faults = snapshot.faults(manifest, tell)
    if not faults:
        try:
            check_dump(find_programs(manifest.dump_major), snapshot.folder / DUMP)
        except IntegrityError as error:
            faults.append(f"{snapshot.name}: {error.what}")
        if not all(has_secret(snapshot.folder / KEYS, keygrip) for keygrip in manifest.keygrips):
            faults.append(f"{snapshot.name}: a secret key is missing")
    return SnapshotVerdict(snapshot.name, manifest, tuple(faults))
