"""A folder of backups: whose it is, which snapshots are whole, how long they stay."""

import json
import multiprocessing
import os
from datetime import UTC, datetime

import pytest

from raypost.archive.backup_folder import MANIFEST, MARK, BackupFolder
from raypost.archive.backup_manifest import Manifest, disk_faults, facts_of_files
from raypost.errors import IntegrityError, NotNowError, UsageError

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


def make(folder: BackupFolder, at: datetime = NOW, *, finish: bool = True) -> str:
    number, inside = folder.begin(at)
    (inside / "keys").mkdir()
    (inside / "keys" / "one.key").write_bytes(b"secret")
    (inside / "database.dump").write_bytes(b"dump")
    manifest = Manifest(
        number, "neustadt", "F" * 40, at, at, "0", "0001", "/srv", 18, 18, ("A",), 1, 2, 3, 0, facts_of_files(inside)
    )
    if finish:
        folder.finish(inside, manifest)
    return inside.name


@pytest.fixture
def folder(tmp_path) -> BackupFolder:
    return BackupFolder.to_write(tmp_path / "backup", "neustadt")


def test_snapshots_are_numbered_whatever_the_clock_says(folder) -> None:
    names = [make(folder, NOW.replace(year=year)) for year in (2026, 2031, 2025)]
    assert names == ["000001-20261124T030000Z", "000002-20311124T030000Z", "000003-20251124T030000Z"]
    assert [one.name for one in folder.snapshots()] == names
    assert folder.snapshot().name == names[-1], "the newest is the one made last"
    assert folder.snapshot(names[0]).manifest().backup_at == NOW
    assert folder.keep_newest(2) == names[:1]
    assert [one.name for one in folder.snapshots()] == names[1:]
    with pytest.raises(UsageError, match="000001"):
        folder.snapshot(names[0])


def test_a_half_snapshot_counts_for_nothing_and_goes_with_the_next_backup(folder) -> None:
    whole, half = make(folder), make(folder, finish=False)
    assert folder.snapshot().name == whole
    assert (folder.folder / "snapshots" / half).exists()
    third = make(folder)
    assert third.startswith("000002") and [one.name for one in folder.snapshots()] == [whole, third]
    assert len(list((folder.folder / "snapshots").iterdir())) == 2


def test_every_changed_or_missing_file_is_found(folder) -> None:
    snapshot = folder.snapshot(make(folder))
    manifest, told = snapshot.manifest(), []
    assert snapshot.faults(manifest, lambda *said: told.append(said)) == []
    assert told[-1] == ("verifying the snapshot", 10, 10)
    (snapshot.folder / "keys" / "one.key").write_bytes(b"secreT")
    (snapshot.folder / "database.dump").unlink()
    assert snapshot.faults(manifest, lambda *_: None) == [
        f"{snapshot.name}: database.dump is missing",
        f"{snapshot.name}: keys/one.key is damaged",
    ]


@pytest.mark.parametrize(
    "change", [("neustadt", "Neustadt"), ('"number": 1', '"number": 2'), ("{", ""), ("sha256", "x")]
)
def test_a_manifest_that_was_changed_is_refused(folder, change) -> None:
    snapshot = folder.snapshot(make(folder))
    file = snapshot.folder / MANIFEST
    file.write_text(file.read_text().replace(*change, 1))
    with pytest.raises(IntegrityError, match="manifest"):
        snapshot.manifest()


def test_a_later_format_is_named(folder) -> None:
    snapshot = folder.snapshot(make(folder))
    file = snapshot.folder / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UsageError, match="format 2"):
        snapshot.manifest()


def test_wrong_folders_are_refused_before_anything_is_written(tmp_path, folder) -> None:
    with pytest.raises(UsageError, match="neustadt, not of ludwigshafen"):
        BackupFolder.to_write(folder.folder, "ludwigshafen")
    other = tmp_path / "other"
    (other / "lost+found").mkdir(parents=True)
    (other / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holiday"):
        BackupFolder.to_write(other, "neustadt")
    with pytest.raises(UsageError, match="there is no folder"):
        BackupFolder.to_write(tmp_path / "not" / "mounted", "neustadt")
    with pytest.raises(UsageError, match=MARK):
        BackupFolder.to_read(other)
    assert not (tmp_path / "not").exists() and not (other / MARK).exists()
    (other / "holiday.jpg").unlink()
    BackupFolder.to_write(other, "neustadt")
    (other / MARK).write_text("")
    with pytest.raises(IntegrityError):
        BackupFolder.to_write(other, "neustadt")


def test_a_place_that_others_can_read_gets_no_secrets(folder) -> None:
    (folder.folder / "snapshots").chmod(0o750)
    with pytest.raises(UsageError, match="others than this user can read"):
        BackupFolder.to_write(folder.folder, "neustadt")
    (folder.folder / "snapshots").chmod(0o700)
    BackupFolder.to_write(folder.folder, "neustadt")
    if os.geteuid() == 0:
        os.chown(folder.folder / "content", 65534, 65534)
        with pytest.raises(UsageError, match="others than this user can read"):
            BackupFolder.to_write(folder.folder, "neustadt")


def _hold(folder, to_write, held, leave) -> None:
    with folder.locked(to_write=to_write):
        held.set()
        leave.wait(30)


@pytest.mark.parametrize(
    ("first", "second", "is_let_in"), [(True, True, False), (True, False, False), (False, False, True)]
)
def test_one_writer_or_many_readers(folder, first, second, is_let_in) -> None:
    context = multiprocessing.get_context("fork")
    with folder.locked(to_write=True):
        pass  # the file is there
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(folder, first, held, leave))
    process.start()
    try:
        assert held.wait(10)
        if is_let_in:
            with folder.locked(to_write=second):
                pass
        else:
            with pytest.raises(NotNowError, match="at work"), folder.locked(to_write=second):
                pass
    finally:
        leave.set()
        process.join(10)
    with folder.locked(to_write=True):
        pass


def test_what_the_disk_says_reaches_a_person(tmp_path) -> None:
    with pytest.raises(NotNowError, match="the disk is full") as raised, disk_faults("Nothing is lost."):
        raise OSError(28, "No space left on device", "/x")
    assert raised.value.meaning == "Nothing is lost." and raised.value.exit_code == 3
    with pytest.raises(NotNowError, match="Permission denied: /y"), disk_faults(""):
        raise PermissionError(13, "Permission denied", "/y")
