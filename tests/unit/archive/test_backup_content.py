"""Images and quarantine in a backup: each once, by link or copy, verified; damage never replaces what is whole."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from raypost.archive import backup_content
from raypost.archive.backup_entries import BLOBS, QUARANTINE, Entry, Tally, read_list, side_by_side, walk


class Live:
    """The files of a site, and a backup's content beside them."""

    def __init__(self, folder: Path) -> None:
        self.shelves = {BLOBS: folder / "data" / "blobs", QUARANTINE: folder / "data" / "quarantine"}
        for one in self.shelves.values():
            one.mkdir(parents=True)
        self.content = folder / "content"
        self.content.mkdir()
        self.folder = folder
        self.runs = 0
        self.told: list[tuple[str, int, int]] = []

    def blob(self, content: bytes) -> Path:
        sha256 = hashlib.sha256(content).hexdigest()
        file = self.shelves[BLOBS] / sha256[:2] / sha256
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return file

    def collect(self, *needed: str) -> Tally:
        self.runs += 1
        wanted = self.folder / f"needed-{self.runs}"
        wanted.write_text("".join(f"{one}\n" for one in sorted(needed)))
        return backup_content.collect(
            self.shelves, self.content, self.list_file, wanted, lambda *said: self.told.append(said)
        )

    @property
    def list_file(self) -> Path:
        return self.folder / f"content-{self.runs}.txt"

    def listed(self) -> list[str]:
        return [entry.place for entry in read_list(self.list_file)]


@pytest.fixture(params=["links", "copies"])
def live(tmp_path, monkeypatch, request) -> Live:
    made = Live(tmp_path)
    if request.param == "copies":

        def _refuse(source: Path, target: Path) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", _refuse)
    made.links = request.param == "links"
    return made


def test_everything_is_brought_once(live) -> None:
    files = [live.blob(os.urandom(1000 + number)) for number in range(20)]
    (live.shelves[QUARANTINE] / "abc.eml").write_bytes(b"mail")
    files[0].with_name(files[0].name + ".x.new").write_bytes(b"half")
    tally = live.collect(*(one.name for one in files))
    assert (tally.blobs, tally.quarantine_files, tally.damaged) == (20, 1, 0)
    assert (tally.linked, tally.copied) == ((21, 0) if live.links else (0, 21))
    assert tally.blob_bytes == sum(one.stat().st_size for one in files)
    assert live.listed() == sorted([*(f"blobs/{one.name[:2]}/{one.name}" for one in files), "quarantine/abc.eml"])
    for one in files:
        copy = live.content / "blobs" / one.name[:2] / one.name
        assert copy.read_bytes() == one.read_bytes()
        assert (copy.stat().st_ino == one.stat().st_ino) is live.links
        assert live.links or copy.stat().st_mode & 0o777 == 0o600
    live.blob(b"one more")
    again = live.collect()
    assert (again.blobs, again.linked + again.copied) == (21, 1), "what is there is not brought again"
    assert live.told[-1] == ("images", 21, 21)


def test_a_file_of_another_size_is_replaced_by_a_whole_one_only(live) -> None:
    good, bad = live.blob(b"good" * 100), live.blob(b"bad" * 100)
    live.collect()
    places = [live.content / "blobs" / one.name[:2] / one.name for one in (good, bad)]
    for file, content in ((places[0], b"cut"), (bad, b"cut")):  # the one in the backup, the other on the site's disk
        file.unlink()
        file.write_bytes(content)
    tally = live.collect(good.name, bad.name)
    assert places[0].read_bytes() == b"good" * 100 and places[1].read_bytes() == b"bad" * 100
    assert tally.damaged == 1 and tally.examples == [f"blobs/{bad.name[:2]}/{bad.name}"]
    assert tally.blobs == 2, "the backup has both"


def test_what_rows_need_and_the_disk_has_not_is_told(live) -> None:
    here = live.blob(b"here")
    lost = hashlib.sha256(b"lost").hexdigest()
    tally = live.collect(here.name, lost)
    assert (tally.blobs, tally.damaged, tally.examples) == (1, 1, [f"blobs/{lost[:2]}/{lost}"])


def test_a_damaged_file_is_not_copied(live) -> None:
    file = live.blob(b"x" * 100)
    file.write_bytes(b"x" * 99 + b"y")
    tally = live.collect(file.name)
    assert tally.damaged == (0 if live.links else 1), "a link is not read"
    assert (live.content / "blobs" / file.name[:2] / file.name).exists() is live.links
    assert not list(live.content.rglob("*.new"))


def test_placing_verifies_and_goes_on_without_what_is_damaged(live) -> None:
    files = [live.blob(os.urandom(500)) for _ in range(5)]
    (live.shelves[QUARANTINE] / "abc.eml").write_bytes(b"mail")
    live.collect()
    spoilt = live.content / "blobs" / files[2].name[:2] / files[2].name
    spoilt.unlink()
    spoilt.write_bytes(b"z" * 500)
    shelves = {name: live.folder / "new" / name for name in (BLOBS, QUARANTINE)}
    half = shelves[BLOBS] / files[0].name[:2] / files[0].name
    half.parent.mkdir(parents=True)
    half.write_bytes(b"of a restore that was interrupted")
    for _ in range(2):  # again is nothing new
        tally = backup_content.place_all(live.content, live.list_file, shelves, 6, lambda *_: None)
        assert (tally.blobs, tally.quarantine_files) == (4, 1)
        assert tally.examples == [f"blobs/{files[2].name[:2]}/{files[2].name}"]
    for number, one in enumerate(files):
        placed = shelves[BLOBS] / one.name[:2] / one.name
        assert not placed.exists() if number == 2 else placed.read_bytes() == one.read_bytes()
    assert not list(live.folder.rglob("*.new"))


def test_checking_by_size_and_by_hash(live) -> None:
    files = [live.blob(os.urandom(500)) for _ in range(3)]
    live.collect()
    spoilt = live.content / "blobs" / files[0].name[:2] / files[0].name
    spoilt.unlink()
    spoilt.write_bytes(b"z" * 500)
    lists = [live.list_file, live.list_file]

    def _check(deep: bool) -> Tally:
        return backup_content.check(live.content, lists, 3, lambda *_: None, deep=deep)

    assert (_check(False).blobs, _check(False).damaged) == (3, 0)
    assert (_check(True).blobs, _check(True).damaged) == (2, 1)
    spoilt.unlink()
    assert _check(False).damaged == 1


def test_only_what_no_list_names_is_swept(live) -> None:
    files = [live.blob(os.urandom(500)) for _ in range(6)]
    live.collect()
    first = live.list_file
    for one in files[:3]:  # as if a study was erased
        one.unlink()
    live.blob(b"new")
    live.collect()
    (live.content / "blobs" / files[0].name[:2] / (files[0].name + ".new")).write_bytes(b"half")
    assert backup_content.sweep(live.content, [first, live.list_file]) == 1
    assert backup_content.sweep(live.content, [live.list_file]) == 3
    assert {one.place for one in walk({name: live.content / name for name in live.shelves})} == set(live.listed())


def test_a_full_disk_is_not_taken_for_a_damaged_file(live, monkeypatch) -> None:
    live.blob(b"x" * 100)
    if live.links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    else:
        monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        live.collect()


def test_two_rows_side_by_side() -> None:
    entries = [Entry(place, 1) for place in ("a", "c", "d")]
    found = list(side_by_side(iter(entries), iter(["b", "c", "e"])))
    assert [(place, entry is not None, named) for place, entry, named in found] == [
        ("a", True, False),
        ("b", False, True),
        ("c", True, True),
        ("d", True, False),
        ("e", False, True),
    ]


@pytest.mark.parametrize("line", ["1 blobs/ab/../../etc", "1 quarantine/../x", "1 /etc/passwd", "x blobs", ""])
def test_a_list_that_names_other_places_is_refused(tmp_path, line) -> None:
    file = tmp_path / "list"
    file.write_text(line + "\n")
    with pytest.raises(ValueError):
        list(read_list(file))
