"""Blobs and spool: durable, named by hash, tidied up without touching what a row needs."""

import errno
import hashlib
import os
from datetime import UTC, datetime, timedelta

import pytest

from raypost.archive import blobs as blobs_module
from raypost.archive.blobs import BlobStore
from raypost.archive.spool import Spool
from raypost.errors import IntegrityError, NotNowError

NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture
def blobs(tmp_path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool")


def test_a_range_is_stored_under_its_hash(blobs, tmp_path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(b"head" + b"image" * 1000 + b"tail")
    sha256 = hashlib.sha256(b"image" * 1000).hexdigest()
    with whole.open("rb") as content:
        path = blobs.put_range(content, 4, 5000, sha256)
        assert blobs.put_range(content, 4, 5000, sha256) == path, "again is nothing"
        with pytest.raises(IntegrityError):
            blobs.put_range(content, 3, 5000, "0" * 64)
        with pytest.raises(IntegrityError):
            blobs.put_range(content, 4, 50_000, "1" * 64)
    assert blobs.all_files() == [path]
    assert len([one for one in blobs.folder.rglob("*") if one.is_file()]) == 1, "nothing half-written is left"
    assert blobs.stored_bytes() == 5000
    blobs.verify(sha256)
    path.write_bytes(b"x")
    with pytest.raises(IntegrityError):
        blobs.verify(sha256)


def test_adopting_needs_no_copy_and_verifies_on_request(blobs, tmp_path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    blobs.adopt(file, sha256)
    assert not file.exists() and blobs.has(sha256)
    file.write_bytes(b"xyz")
    with pytest.raises(IntegrityError):
        blobs.adopt_verified(file, hashlib.sha256(b"other").hexdigest())
    assert file.exists(), "slices that come again mend it"


def test_slices_come_together_in_any_order_and_twice(spool, tmp_path) -> None:
    whole = os.urandom(10_000)
    carrier = tmp_path / "carrier"
    carrier.write_bytes(whole)
    with carrier.open("rb") as content:
        for offset in (6000, 0, 3000, 6000, 9000, 0):
            spool.assemble("t-h", content, offset, offset, min(3000, 10_000 - offset))
    assert spool.assembled("t-h").read_bytes() == whole


def test_only_old_orphans_are_swept(spool) -> None:
    for name, age_h in (
        ("mail/needed", 48),
        ("mail/orphan", 48),
        ("mail/young", 1),
        ("assembly/t-h", 48),
        ("quarantine/q", 480),
    ):
        file = spool.path(name)
        file.write_bytes(b"x")
        instant = (NOW - timedelta(hours=age_h)).timestamp()
        os.utime(file, (instant, instant))
    assert spool.sweep_orphans(NOW, {"mail/needed", "assembly/t-h"}) == 1
    assert not spool.path("mail/orphan").exists()
    assert spool.path("quarantine/q").exists(), "quarantine is a person's matter"


def spoil(path, spoiled: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(spoiled)


@pytest.mark.parametrize("spoiled", [b"abX", b"", b"abcd"], ids=["other bytes", "empty", "longer"])
def test_what_comes_again_mends_a_damaged_file(blobs, tmp_path, spoiled) -> None:
    file = tmp_path / "x"
    sha256 = hashlib.sha256(b"abc").hexdigest()
    file.write_bytes(b"abc")
    path = blobs.adopt(file, sha256)
    spoil(path, spoiled)
    file.write_bytes(b"abc")
    assert blobs.adopt(file, sha256) == path
    assert path.read_bytes() == b"abc" and not file.exists()
    spoil(path, spoiled)
    carrier = tmp_path / "carrier"
    carrier.write_bytes(b"--abc--")
    with carrier.open("rb") as content:
        assert blobs.put_range(content, 2, 3, sha256) == path
    assert path.read_bytes() == b"abc"


def test_one_that_is_here_is_on_the_disk_before_it_counts(blobs, tmp_path, monkeypatch) -> None:
    """Who put it there may have died between the rename and the fsync of the folder."""
    synced = []
    real = blobs_module.fsync_folder
    monkeypatch.setattr(blobs_module, "fsync_folder", lambda folder: (synced.append(folder), real(folder)))
    file = tmp_path / "x"
    sha256 = hashlib.sha256(b"abc").hexdigest()
    there = blobs.path(sha256)
    there.parent.mkdir()
    there.write_bytes(b"abc")
    file.write_bytes(b"abc")
    blobs.adopt(file, sha256)
    assert synced == [blobs.folder, there.parent]
    synced.clear()
    file.write_bytes(b"abc")
    with file.open("rb") as content:
        blobs.put_range(content, 0, 3, sha256)
    assert synced == [there.parent]


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(blobs, tmp_path, monkeypatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()
    blobs.adopt(file, sha256)

    def too_many_open(*_: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(blobs_module, "sha256_of", too_many_open)
    with pytest.raises(NotNowError):
        blobs.verify(sha256)
