"""Makes a backup of a site while it runs: database first, then what its rows name, then the rest.

In this order everything that the database names is in the backup: files are written before their rows and never change.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from raypost import __version__
from raypost.archive import backup_content, dump, events
from raypost.archive.backup_entries import BLOBS, QUARANTINE, Tally
from raypost.archive.backup_folder import CONFIG, CONTENT_LIST, DUMP, KEYS, SETTINGS, BackupFolder, Tell
from raypost.archive.backup_manifest import Manifest, disk_faults, facts_of_files, write_whole
from raypost.archive.blobs import sha256_of
from raypost.archive.database import Database, plain_url
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.pg_programs import PgPrograms, embedded_programs, find_programs
from raypost.errors import IntegrityError, RaypostError, UsageError
from raypost.model.audit import EventKind, Level
from raypost.node.clock import SystemClock
from raypost.node.moved_settings import file_settings
from raypost.sealing.key_backup import copy_keys, has_secret, secret_keys_of
from raypost.settings import Settings

NEEDED = "needed.txt"
SMALL_FILE_MAX_BYTES = 1 << 20
"""Of what a setting names: a password, a certificate."""
UNTOUCHED = "Earlier snapshots are as they were; what was copied already is not copied again the next time."

log = structlog.get_logger("raypost.backup")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was backed up; documented in docs/reference/json-shapes.md."""

    folder: str
    snapshot: str
    backup_at: datetime
    took_s: float
    database_bytes: int
    blobs: int
    blob_bytes: int
    quarantine_files: int
    linked: int
    copied: int
    copied_bytes: int
    damaged: int
    damaged_examples: list[str]
    snapshots: int
    removed: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the shape of `raypost backup --json`."""
        return {**asdict(self), "backup_at": self.backup_at.isoformat(timespec="seconds")}


def back_up(settings: Settings, config: Path, folder: Path, *, keep: int, tell: Tell) -> BackupReport:
    """Make a new snapshot of a site in a folder of backups; older ones than the `keep` newest are removed.

    Args:
        config: The site's raypost.toml.
        tell: Is told of the progress.

    Raises:
        UsageError: The folder cannot be right, or this is not the user that the site belongs to.
        NotNowError: Disk full, database away, no pg_dump for it, another backup at work.
        SecurityError: The key folder does not hold the site's secret key.
    """
    clock = SystemClock()
    backup_at = clock.now()
    _check_places(settings, config, folder)
    with disk_faults(UNTOUCHED), _served(settings) as (url, binaries):
        target = BackupFolder.to_write(folder, settings.site.name)
        with target.locked(to_write=True):
            number, inside = target.begin(backup_at)
            instant, programs = _dump(settings, url, binaries, inside, tell)
            tally = backup_content.collect(
                shelves_of(settings.data_folder), target.content, inside / CONTENT_LIST, inside / NEEDED, tell
            )
            (inside / NEEDED).unlink()
            keygrips = _copy_secrets(settings, config, instant.fingerprint, inside)
            manifest = Manifest(
                number=number,
                site=instant.site_name,
                fingerprint=instant.fingerprint,
                backup_at=backup_at,
                finished_at=clock.now(),
                raypost=__version__,
                schema=instant.schema,
                config_folder=str(config.absolute().parent),
                server_major=instant.server_major,
                dump_major=programs.major,
                keygrips=keygrips,
                blobs=tally.blobs,
                blob_bytes=tally.blob_bytes,
                quarantine_files=tally.quarantine_files,
                damaged=tally.damaged,
                files=facts_of_files(inside),
            )
            target.finish(inside, manifest)
            removed = target.keep_newest(keep)
            if removed:
                _sweep(target)
            kept = len(target.snapshots())
        _note(url, inside.name, tally, clock.now())
    return BackupReport(
        folder=str(folder.absolute()),
        snapshot=inside.name,
        backup_at=backup_at,
        took_s=round((clock.now() - backup_at).total_seconds(), 3),
        database_bytes=manifest.files[DUMP].size_bytes,
        blobs=tally.blobs,
        blob_bytes=tally.blob_bytes,
        quarantine_files=tally.quarantine_files,
        linked=tally.linked,
        copied=tally.copied,
        copied_bytes=tally.copied_bytes,
        damaged=tally.damaged,
        damaged_examples=tally.examples,
        snapshots=kept,
        removed=removed,
    )


def shelves_of(data_folder: Path) -> dict[str, Path]:
    """Return where a site keeps what goes into a backup's content."""
    return {BLOBS: data_folder / "blobs", QUARANTINE: data_folder / "spool" / "quarantine"}


def _dump(
    settings: Settings, url: str, binaries: Path | None, inside: Path, tell: Tell
) -> tuple[dump.Instant, PgPrograms]:
    """Dump the database, and list what its rows name at the same instant."""
    with dump.held_instant(url) as instant:
        if instant.site_name != settings.site.name:
            raise UsageError(
                f"the database is that of {instant.site_name}, raypost.toml that of {settings.site.name}",
                do="Correct [database] in raypost.toml.",
            )
        programs = embedded_programs(binaries) if binaries else find_programs(instant.server_major, url)
        dump.write_dump(url, programs, instant.snapshot_id, inside / DUMP, lambda done: tell("database", done, 0))
        instant.write_needed(inside / NEEDED)
    return instant, programs


def _copy_secrets(settings: Settings, config: Path, fingerprint: str, inside: Path) -> tuple[str, ...]:
    """Copy keys, raypost.toml and the files that it names; return the names of the site's secret keys."""
    keygrips = secret_keys_of(settings.keys_folder, fingerprint)
    copy_keys(settings.keys_folder, inside / KEYS)
    if not all(has_secret(inside / KEYS, keygrip) for keygrip in keygrips):
        raise IntegrityError("a secret key vanished while it was copied", meaning=UNTOUCHED, do="Try again.")
    text = config.read_bytes()
    write_whole(inside / CONFIG, text)
    (inside / SETTINGS).mkdir(mode=0o700)
    for setting, value in file_settings(text.decode()).items():
        file = config.absolute().parent / value
        if file.is_file() and file.stat().st_size <= SMALL_FILE_MAX_BYTES:
            write_whole(inside / SETTINGS / setting, file.read_bytes())
    return keygrips


def _check_places(settings: Settings, config: Path, folder: Path) -> None:
    """Refuse what would harm: another user's site, a backup inside the data."""
    if not settings.keys_folder.is_dir():
        raise UsageError(f"there is no site in {settings.data_folder}", do="Correct data_folder in raypost.toml.")
    owner = settings.data_folder.stat().st_uid
    if owner != os.geteuid():
        raise UsageError("the site's data belongs to another user", do=f"Run this as the user with the number {owner}.")
    place, data, home = folder.resolve(), settings.data_folder.resolve(), config.resolve().parent
    if place == home or place.is_relative_to(data) or data.is_relative_to(place):
        raise UsageError(
            f"{folder} and the site's data lie within each other", do="Choose a folder outside, best on another disk."
        )


@contextlib.contextmanager
def _served(settings: Settings) -> Iterator[tuple[str, Path | None]]:
    """Have the database answer while the block runs, its schema as it is; give URL and the server's own programs."""
    if settings.database.url:
        yield plain_url(settings.database.url), None
        return
    assert settings.database.embedded_folder is not None
    server = EmbeddedPostgres(settings.database.embedded_folder)
    if not (server.data / "PG_VERSION").exists():
        raise UsageError(f"there is no database in {server.data}", do="Correct [database] in raypost.toml.")
    server.start()
    try:
        yield server.url(settings.database.name), server.binaries
    finally:
        server.stop()


def _sweep(target: BackupFolder) -> None:
    """Remove content that no snapshot names; nothing while a list cannot be trusted."""
    lists = []
    for one in target.snapshots():
        file = one.folder / CONTENT_LIST
        if sha256_of(file) != one.manifest().files[CONTENT_LIST].sha256:
            log.warning("nothing is swept: a list is damaged", snapshot=one.name)
            return
        lists.append(file)
    backup_content.sweep(target.content, lists)


def _note(url: str, snapshot: str, tally: Tally, now: datetime) -> None:
    database = Database(url, connections_max=1)
    try:
        with database.transaction() as tx:
            level = Level.NOTICE if tally.damaged else Level.INFO
            events.record(
                tx, now, EventKind.BACKED_UP, level=level, snapshot=snapshot, blobs=tally.blobs, damaged=tally.damaged
            )
    except RaypostError as error:
        log.warning("the backup is made, its event is not written", code=error.code, what=error.what)
    finally:
        database.close()
