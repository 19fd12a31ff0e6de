"""A key ring is copied while gpg works in it, and put back elsewhere it signs and opens as before."""

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from raypost.errors import NotNowError, SecurityError
from raypost.sealing import key_backup
from raypost.sealing.gpg_home import runtime_folder
from raypost.sealing.key_backup import copy_keys, has_secret, put_back_keys, secret_keys_of
from raypost.sealing.openpgp import KeyRing


@pytest.fixture
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="rpk-"))
    yield made
    for home in made.iterdir():
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def site(folder) -> tuple[KeyRing, str]:
    ring = KeyRing(folder / "site")
    return ring, ring.make_site_key("neustadt", "neustadt@raypost.test", 30, 30)


def test_what_is_put_back_seals_and_opens(folder, site, tmp_path) -> None:
    ring, fingerprint = site
    (tmp_path / "before").write_bytes(b"sealed before the backup")
    ring.seal(tmp_path / "before", tmp_path / "sealed", fingerprint, [fingerprint])  # the agent is running now
    grips = secret_keys_of(folder / "site", fingerprint)
    assert len(grips) == 3, "the primary key, one to sign, one to encrypt"
    count = copy_keys(folder / "site", folder / "copy")
    assert count == sum(1 for one in (folder / "copy").rglob("*") if one.is_file())
    assert all(has_secret(folder / "copy", grip) for grip in grips)
    assert not list((folder / "copy").rglob("S.*")) and not list((folder / "copy").rglob("*.lock"))
    for one in [folder / "copy", *(folder / "copy").rglob("*")]:
        assert one.stat().st_mode & 0o777 == (0o700 if one.is_dir() else 0o600), one
    ring.close()
    shutil.rmtree(folder / "site")
    put_back_keys(folder / "copy", folder / "elsewhere")
    again = KeyRing(folder / "elsewhere")
    assert secret_keys_of(folder / "elsewhere", fingerprint) == grips
    opened = again.open_sealed(tmp_path / "sealed", tmp_path / "opened", {fingerprint}, 1000)
    assert opened.signer_fingerprint == fingerprint
    assert (tmp_path / "opened").read_bytes() == b"sealed before the backup"
    again.seal(tmp_path / "before", tmp_path / "after", fingerprint, [fingerprint])
    again.close()


def test_a_long_path_gets_sockets_of_its_own(folder, site, tmp_path) -> None:
    ring, fingerprint = site
    copy_keys(folder / "site", folder / "copy")
    ring.close()
    home = tmp_path / ("long" * 20) / "keys"
    home.parent.mkdir()
    put_back_keys(folder / "copy", home)
    again = KeyRing(home)
    (tmp_path / "plain").write_bytes(b"x")
    again.seal(tmp_path / "plain", tmp_path / "sealed", fingerprint, [fingerprint])
    again.close()
    assert (sockets := runtime_folder(home)) is not None
    shutil.rmtree(sockets)
    copy_keys(home, folder / "second")
    assert not list((folder / "second").rglob("S.*")), "a pointer to sockets is no key"


def test_a_change_while_it_is_read_has_everything_read_again(folder, site, monkeypatch) -> None:
    ring, _ = site
    copies, original = itertools.count(), key_backup._copy_files

    def _disturbed(source: Path, target: Path, names: list[str]) -> None:
        original(source, target, names)
        if next(copies) < 2:
            (folder / "site" / "private-keys-v1.d" / f"new{next(copies)}.key").write_bytes(b"made meanwhile")

    monkeypatch.setattr(key_backup, "_copy_files", _disturbed)
    monkeypatch.setattr(key_backup, "COPY_PAUSE_S", 0.01)
    copy_keys(folder / "site", folder / "copy")
    made = {one.name for one in (folder / "site" / "private-keys-v1.d").iterdir()}
    assert {one.name for one in (folder / "copy" / "private-keys-v1.d").iterdir()} == made
    assert any(name.startswith("new") for name in made)


def test_keys_that_never_rest_are_not_backed_up_half(folder, site, monkeypatch) -> None:
    original, numbers = key_backup._copy_files, itertools.count()

    def _disturbed(source: Path, target: Path, names: list[str]) -> None:
        original(source, target, names)
        os.utime(folder / "site" / "pubring.kbx", ns=(0, next(numbers)))

    monkeypatch.setattr(key_backup, "_copy_files", _disturbed)
    monkeypatch.setattr(key_backup, "COPY_PAUSE_S", 0.001)
    with pytest.raises(NotNowError, match="change all the time"):
        copy_keys(folder / "site", folder / "copy")
    assert not (folder / "copy").exists()


def test_a_folder_without_the_secret_is_no_backup(folder, site) -> None:
    ring, fingerprint = site
    with pytest.raises(SecurityError, match="no secret key"):
        secret_keys_of(folder / "site", "0" * 40)
    for one in (folder / "site" / "private-keys-v1.d").iterdir():
        one.unlink()
    with pytest.raises(SecurityError, match="no secret key"):
        secret_keys_of(folder / "site", fingerprint)
    ring.close()
