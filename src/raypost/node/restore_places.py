"""Where a restore puts a site: an empty folder, an empty database, room enough; nothing of anybody else is touched."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from raypost.archive import dump
from raypost.archive.backup_folder import CONFIG, DUMP, BackupFolder
from raypost.archive.backup_manifest import Manifest, write_whole
from raypost.archive.database import create_database, plain_url
from raypost.archive.embedded import EmbeddedPostgres
from raypost.archive.pg_programs import PgPrograms, embedded_programs, find_programs
from raypost.errors import NotNowError, UsageError
from raypost.model.units import size_text
from raypost.settings import Settings

UNFINISHED = "restore.unfinished"
HARMLESS = {"lost+found", f"{UNFINISHED}.new"}
"""What may lie in a folder that is empty; the second was being written when somebody was killed."""
NOT_YET = "There is no site in the folder yet. The same command again goes on where this one ended."
ROOM_BYTES = 256 << 20
"""What a new database needs beside the images."""


class Note:
    """What an unfinished restore wrote down: which places it found empty, so that what is there now is its own."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.is_there = file.exists()
        self._mine: list[str] = json.loads(file.read_text(encoding="utf-8"))["mine"] if self.is_there else []

    def is_mine(self, place: str) -> bool:
        """Say whether an earlier run found a place empty and began to fill it."""
        return place in self._mine

    def take(self, place: str) -> None:
        """Note that a place was found empty; on the disk before anything is put there."""
        self._mine = sorted({*self._mine, place})
        write_whole(self._file, json.dumps({"mine": self._mine}).encode() + b"\n")

    def remove(self) -> None:
        """Forget it: there is a site now."""
        self._file.unlink(missing_ok=True)


def prepare_folder(folder: Path, source: Path) -> Note:
    """Make the folder or find it empty, but for what an unfinished restore put there.

    Raises:
        UsageError: It holds something else.
    """
    if not folder.parent.is_dir():
        raise UsageError(f"there is no folder {folder.parent}", do="Make it, or mount the disk that it is on.")
    place, backups = folder.resolve(), source.resolve()
    if place.is_relative_to(backups) or backups.is_relative_to(place):
        raise UsageError(f"{folder} and {source} lie within each other", do="Choose another folder.")
    folder.mkdir(mode=0o700, exist_ok=True)
    note = Note(folder / UNFINISHED)
    if (folder / CONFIG).exists():
        note.remove()
        raise UsageError(f"there is a site in {folder}", do="Choose an empty folder.")
    others = sorted({one.name for one in folder.iterdir()} - HARMLESS)
    if others and not note.is_there:
        raise UsageError(f"{folder} is not empty: {others[0]}", do="Choose an empty folder.")
    note.take(str(place))
    return note


def need_room(settings: Settings, backups: BackupFolder, manifest: Manifest) -> None:
    """Refuse at once what cannot fit."""
    place = next(one for one in (settings.data_folder, *settings.data_folder.parents) if one.exists())
    needed = ROOM_BYTES + manifest.files[DUMP].size_bytes
    if place.stat().st_dev != backups.content.stat().st_dev:
        here = sum(file.stat().st_size for file in (settings.data_folder / "blobs").glob("??/*"))
        needed += max(0, manifest.blob_bytes - here)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NotNowError(
            f"the disk is too small: {size_text(needed)} are needed, {size_text(free)} are free",
            meaning=NOT_YET,
            do="Make room, or choose a folder on another disk.",
        )


@contextlib.contextmanager
def empty_database(settings: Settings, manifest: Manifest, note: Note) -> Iterator[tuple[str, PgPrograms]]:
    """Have an empty database answer while the block runs; give its URL and the programs that load a dump into it."""
    if settings.database.url:
        url = plain_url(settings.database.url)
        major = max(manifest.dump_major, dump.server_major(url))
        _refuse_unless_empty(url, "Make an empty one (dropdb, createdb), and see that this is the right one.")
        yield url, find_programs(major, url)
        return
    assert settings.database.embedded_folder is not None
    server = EmbeddedPostgres(settings.database.embedded_folder).start()
    try:
        url, name = server.url(settings.database.name), settings.database.name
        if note.is_mine(url):
            dump.drop_database(server.url(), name)
        create_database(server.url(), name)
        _refuse_unless_empty(url, f"It lies in {server.data}; if it is of no use any more, move that away.")
        note.take(url)
        programs = embedded_programs(server.binaries)
        yield url, programs if programs.major >= manifest.dump_major else find_programs(manifest.dump_major, url)
    finally:
        server.stop()


def _refuse_unless_empty(url: str, do: str) -> None:
    if not dump.is_empty(url):
        raise UsageError("the database is not empty", meaning="It was not touched.", do=do)
