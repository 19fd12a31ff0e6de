"""Makes a site again from a backup, in an empty folder; it is one when its raypost.toml is there, which comes last.

A restore that was interrupted leaves a note in the folder and can be given again: what is there is verified, not copied
again, and the database begins anew.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from raypost.archive import backup, backup_content, dump, migrate
from raypost.archive.backup_entries import Tally
from raypost.archive.backup_folder import CONFIG, CONTENT_LIST, DUMP, KEYS, SETTINGS, BackupFolder, Snapshot, Tell
from raypost.archive.backup_manifest import Manifest, damaged_snapshot, disk_faults, write_whole
from raypost.archive.blobs import fsync_folder, sha256_of
from raypost.archive.database import Database
from raypost.archive.site import Archive
from raypost.errors import NotNowError, UsageError
from raypost.node.backup import shelves_of
from raypost.node.backup_check import look_at
from raypost.node.clock import SystemClock
from raypost.node.moved_settings import Change, file_settings, move
from raypost.node.restore_places import NOT_YET, Note, empty_database, need_room, prepare_folder
from raypost.sealing.key_backup import put_back_keys
from raypost.settings import Settings, load

CONFIG_UNFINISHED = "raypost.toml.unfinished"


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored; documented in docs/reference/json-shapes.md."""

    folder: str
    config: str
    site: str
    snapshot: str
    backup_at: datetime
    restored_at: datetime
    database: str
    blobs: int
    blob_bytes: int
    quarantine_files: int
    linked: int
    copied: int
    damaged: int
    damaged_examples: list[str]
    changed_settings: list[Change]

    def as_json(self) -> dict[str, Any]:
        """Return the shape of `raypost restore --json`."""
        instants = {name: getattr(self, name).isoformat(timespec="seconds") for name in ("backup_at", "restored_at")}
        return {**asdict(self), **instants}


def restore(source: Path, folder: Path, *, snapshot: str, config: Path | None, tell: Tell) -> RestoreReport:
    """Restore a site from a folder of backups into an empty folder.

    Args:
        snapshot: Name of the one to take; empty for the newest.
        config: A raypost.toml to use instead of the one in the backup, as it is.
        tell: Is told of the progress.

    Raises:
        UsageError: The folder or the database is not empty, or the configuration cannot be used.
        IntegrityError: The snapshot is damaged.
        NotNowError: Disk full, database away, no programs for it.
    """
    with disk_faults(NOT_YET):
        backups = BackupFolder.to_read(source)
        with backups.locked(to_write=False):
            chosen = backups.snapshot(snapshot)
            verdict = look_at(chosen, tell)
            if verdict.manifest is None or verdict.faults:
                raise damaged_snapshot(chosen.name, "; ".join(verdict.faults))
            _refuse_newer(verdict.manifest)
            note = prepare_folder(folder, source)
            settings, changes = _configure(folder, chosen, verdict.manifest, config, note)
            return _fill(settings, folder, backups, chosen, verdict.manifest, changes, tell, note)


def _fill(
    settings: Settings,
    folder: Path,
    backups: BackupFolder,
    chosen: Snapshot,
    manifest: Manifest,
    changes: list[Change],
    tell: Tell,
    note: Note,
) -> RestoreReport:
    need_room(settings, backups, manifest)
    settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with empty_database(settings, manifest, note) as (url, programs):
        database = Database(url, connections_max=2)
        with contextlib.closing(Archive.open(database, settings.data_folder)):
            put_back_keys(chosen.folder / KEYS, settings.keys_folder)
            total = manifest.blobs + manifest.quarantine_files
            tally = backup_content.place_all(
                backups.content, chosen.folder / CONTENT_LIST, shelves_of(settings.data_folder), total, tell
            )
            dump.load_dump(url, programs, chosen.folder / DUMP, lambda done: tell("database", done, 0))
            restored_at = _take_up(database, manifest, tally)
    (folder / CONFIG_UNFINISHED).rename(folder / CONFIG)
    fsync_folder(folder)
    note.remove()
    return RestoreReport(
        folder=str(folder.absolute()),
        config=str(folder.absolute() / CONFIG),
        site=manifest.site,
        snapshot=chosen.name,
        backup_at=manifest.backup_at,
        restored_at=restored_at,
        database="url" if settings.database.url else "embedded",
        blobs=tally.blobs,
        blob_bytes=tally.blob_bytes,
        quarantine_files=tally.quarantine_files,
        linked=tally.linked,
        copied=tally.copied,
        damaged=tally.damaged,
        damaged_examples=tally.examples,
        changed_settings=changes,
    )


def _take_up(database: Database, manifest: Manifest, tally: Tally) -> datetime:
    """Bring the rows to this version and into a state to go on from; return the instant."""
    migrate.upgrade(database)
    now = SystemClock().now()
    with database.transaction() as tx:
        backup.note_restored(tx, manifest.backup_at, now, damaged=tally.damaged)
    return now


def _refuse_newer(manifest: Manifest) -> None:
    if not any((migrate.MIGRATIONS / "versions").glob(f"{manifest.schema}_*.py")):
        raise NotNowError(
            f"the backup has schema {manifest.schema}, which this program does not know",
            do=f"Install Raypost {manifest.raypost}, or a newer version.",
        )


def _configure(
    folder: Path, chosen: Snapshot, manifest: Manifest, config: Path | None, note: Note
) -> tuple[Settings, list[Change]]:
    """Write raypost.toml under another name, and the files it names; return what it says.

    Raises:
        UsageError: It cannot be used here.
    """

    def _is_here(setting: str, file: Path) -> bool:
        if setting.endswith(".password_file"):  # a site's own; a certificate may be looked after by the machine
            return False
        facts = manifest.files.get(f"{SETTINGS}/{setting}")
        return file.is_file() and (facts is None or sha256_of(file) == facts.sha256)

    changes: list[Change] = []
    if config is not None:
        text = config.read_text(encoding="utf-8")
    else:
        text = (chosen.folder / CONFIG).read_text(encoding="utf-8")
        text, changes = move(text, Path(manifest.config_folder), _is_here)
    unfinished = folder / CONFIG_UNFINISHED
    write_whole(unfinished, text.encode())
    settings = load(unfinished)
    if settings.site.name != manifest.site:
        raise UsageError(f"the backup is that of {manifest.site}, raypost.toml that of {settings.site.name}")
    for setting, value in file_settings(text).items():
        kept, target = chosen.folder / SETTINGS / setting, folder.absolute() / value
        if kept.is_file() and target.parent.is_relative_to(folder.absolute()):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(target, kept.read_bytes())
    data = settings.data_folder
    if not data.is_relative_to(folder.absolute()) and not note.is_mine(str(data)):
        if any((data / name).exists() for name in ("keys", "blobs", "postgresql")):
            raise UsageError(f"there is a site in {data}", do="Correct data_folder in raypost.toml.")
        note.take(str(data))
    shutil.rmtree(settings.keys_folder, ignore_errors=True)  # of a restore that was interrupted
    return settings, changes
