"""Files of a backup's content in order: lists of them, walks over them, and both side by side, of any length."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOBS, QUARANTINE = "blobs", "quarantine"
EXAMPLES_MAX = 20
_PLACE = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})|quarantine/([A-Za-z0-9][A-Za-z0-9._-]{0,100})")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file by its place within the content, such as `blobs/ab/abcd…`; `sha256` is empty for what is not named so."""

    place: str
    size_bytes: int

    @property
    def sha256(self) -> str:
        """Return the hash that the name says."""
        found = _PLACE.fullmatch(self.place)
        return (found[2] or "") if found else ""

    @property
    def is_blob(self) -> bool:
        """Say whether it is an image."""
        return self.place.startswith(BLOBS)


@dataclass(slots=True)
class Tally:
    """What was done; `damaged` counts what could not be had, and `examples` names some of it."""

    blobs: int = 0
    blob_bytes: int = 0
    quarantine_files: int = 0
    linked: int = 0
    copied: int = 0
    copied_bytes: int = 0
    damaged: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Count a file that is there."""
        if entry.is_blob:
            self.blobs += 1
            self.blob_bytes += entry.size_bytes
        else:
            self.quarantine_files += 1

    def miss(self, place: str) -> None:
        """Count a file that is not."""
        self.damaged += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(place)


def read_list(file: Path) -> Iterator[Entry]:
    """Read what belongs to a snapshot, ordered by place; the file's hash was compared before.

    Raises:
        ValueError: It is no such list.
    """
    with file.open(encoding="ascii") as lines:
        for line in lines:
            size, _, place = line.rstrip("\n").partition(" ")
            if not _PLACE.fullmatch(place):
                raise ValueError("a list of files names a place that cannot be")
            yield Entry(place, int(size))


def union(list_files: list[Path]) -> Iterator[Entry]:
    """Merge lists, each place once, ordered."""
    last = ""
    for entry in heapq.merge(*map(read_list, list_files), key=lambda one: one.place):
        if entry.place != last:
            last = entry.place
            yield entry


def side_by_side(entries: Iterator[Entry], places: Iterator[str]) -> Iterator[tuple[str, Entry | None, bool]]:
    """Walk along two ordered rows at once: (place, the entry or None, whether the place is in the other row)."""
    entry, place = next(entries, None), next(places, None)
    while entry is not None or place is not None:
        if entry is not None and (place is None or entry.place < place):
            yield entry.place, entry, False
            entry = next(entries, None)
        elif place is not None and (entry is None or place < entry.place):
            yield place, None, True
            place = next(places, None)
        elif entry is not None:
            yield entry.place, entry, True
            entry, place = next(entries, None), next(places, None)


def walk(shelves: dict[str, Path], *, everything: bool = False) -> Iterator[Entry]:
    """Give every file of the shelves in the order of places; without `everything` only finished ones."""
    for name, folder in sorted(shelves.items()):
        if not folder.is_dir():
            continue
        inside = sorted(one for one in folder.iterdir() if one.is_dir()) if name == BLOBS else [folder]
        for one in inside:
            begin = f"{name}/{one.name}/" if name == BLOBS else f"{name}/"
            with os.scandir(one) as files:
                names = sorted(file.name for file in files if file.is_file(follow_symlinks=False))
            for file_name in names:
                place = begin + file_name
                if (everything or _PLACE.fullmatch(place)) and (size_bytes := file_size(one / file_name)) is not None:
                    yield Entry(place, size_bytes)


def place_of(sha256: str) -> str:
    """Return the place of an image."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def file_size(file: Path) -> int | None:
    """Return the size of a file, None when there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
