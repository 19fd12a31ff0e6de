"""Everything a site keeps, in one hand: database, blobs and spool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raypost.archive.blobs import BlobStore
from raypost.archive.database import Database
from raypost.archive.spool import Spool


@dataclass(frozen=True, slots=True)
class Archive:
    """What the stations are given. Blobs and spool lie on one file system, so that a finished file is renamed in."""

    database: Database
    blobs: BlobStore
    spool: Spool

    @classmethod
    def open(cls, database: Database, folder: Path) -> Archive:
        """Use the database and the folders below one data folder, made when they are missing."""
        return cls(database, BlobStore(folder / "blobs"), Spool(folder / "spool"))

    def close(self) -> None:
        """Give the database connections back."""
        self.database.close()
