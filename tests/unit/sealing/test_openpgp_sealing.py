"""Sealing, and a key ring in a deep folder, under many threads and with programs missing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypost.errors import SecurityError, TransientError, UsageError
from raypost.sealing import gpg, gpg_home
from raypost.sealing.openpgp import KeyRing, SealFailure, SealRefusedError


@pytest.fixture
def refuse(tmp_path):
    """Return a function that tries to seal and expects a refusal without any output."""

    def check(site, signer: str, recipients: list[str], reason: SealFailure, about: str = "") -> None:
        (tmp_path / "source").write_bytes(b"content")
        with pytest.raises(SealRefusedError) as caught:
            site.ring.seal(tmp_path / "source", tmp_path / "target", signer, recipients)
        assert (caught.value.reason, caught.value.fingerprint) == (reason, about)
        assert isinstance(caught.value, SecurityError)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    return check


def test_the_message_is_armoured_and_does_not_compress(sites, tmp_path):
    a, b = sites
    (tmp_path / "source").write_bytes(bytes(100_000))
    a.ring.seal(tmp_path / "source", tmp_path / "target", a.fingerprint, [b.fingerprint, b.fingerprint])
    text = (tmp_path / "target").read_bytes()
    assert text.startswith(b"-----BEGIN PGP MESSAGE-----\n\n")
    assert text.rstrip().splitlines()[-2].startswith(b"="), "gpg 2.2 needs the checksum line"
    assert len(text) > 130_000
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_every_recipient_can_open(sites, new_site, tmp_path):
    a, b = sites
    c = new_site("c")
    a.ring.import_certificate(c.ring.export_certificate(c.fingerprint), c.fingerprint)
    c.ring.import_certificate(a.ring.export_certificate(a.fingerprint), a.fingerprint)
    (tmp_path / "source").write_bytes(b"content")
    a.ring.seal(tmp_path / "source", tmp_path / "target", a.fingerprint, [b.fingerprint, c.fingerprint])
    for site in (b, c):
        site.ring.open_sealed(tmp_path / "target", tmp_path / site.home.name, {a.fingerprint}, 100)
        assert (tmp_path / site.home.name).read_bytes() == b"content"


def test_refuses_unknown_and_malformed_recipients(refuse, sites):
    a, b = sites
    refuse(a, a.fingerprint, [b.fingerprint, "0" * 40], SealFailure.RECIPIENT_UNKNOWN, "0" * 40)
    for wrong in ([], ["ris@b.example"], [b.fingerprint[-16:]], ["--output"], [f"{b.fingerprint}!"]):
        refuse(a, a.fingerprint, wrong, SealFailure.UNCLEAR)


def test_refuses_a_signer_without_secret_key(refuse, sites):
    a, b = sites
    refuse(a, b.fingerprint, [b.fingerprint], SealFailure.SIGNER_UNUSABLE, b.fingerprint)


def test_refuses_expired_and_revoked_keys(refuse, new_site):
    site, other = new_site("renewing"), new_site("ageing")
    expired = other.make_expired_key("Old <old@ageing.example>")
    site.ring.import_certificate(other.gpg("--armor", "--export", expired).decode(), expired)
    refuse(site, site.fingerprint, [expired], SealFailure.RECIPIENT_EXPIRED, expired)
    refuse(site, site.fingerprint, [site.fingerprint, expired], SealFailure.RECIPIENT_EXPIRED, expired)
    refuse(other, expired, [other.fingerprint], SealFailure.SIGNER_UNUSABLE, expired)
    site.ring.import_certificate(other.revoke(other.fingerprint), other.fingerprint)
    refuse(site, site.fingerprint, [other.fingerprint], SealFailure.RECIPIENT_REVOKED, other.fingerprint)
    refuse(other, other.fingerprint, [expired], SealFailure.RECIPIENT_EXPIRED, expired)


def test_refuses_a_recipient_that_only_signs(refuse, sites, new_site):
    signer_only = new_site("signer", key=False)
    signer_only.gpg("--quick-gen-key", "Signs <s@signer.example>", "ed25519", "cert,sign", "30d")
    listing = signer_only.gpg("--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    site = new_site("writer")
    facts = site.ring.import_certificate(signer_only.ring.export_certificate(fingerprint), fingerprint)
    assert facts.can_sign and not facts.can_encrypt
    refuse(site, site.fingerprint, [fingerprint], SealFailure.RECIPIENT_CANNOT_ENCRYPT, fingerprint)


def test_a_missing_source_is_transient(sites, tmp_path):
    a, b = sites
    with pytest.raises(TransientError):
        a.ring.seal(tmp_path / "missing", tmp_path / "target", a.fingerprint, [b.fingerprint])
    with pytest.raises(TransientError):
        a.ring.open_sealed(tmp_path / "missing", tmp_path / "target", {b.fingerprint}, 100)
    assert list(tmp_path.iterdir()) == []


def test_many_threads_at_once(new_site, short_folder):
    """Also starts the agent from many threads at the same moment."""
    site = new_site("threads")
    site.ring.close()
    gate = threading.Barrier(8)

    def there_and_back(number: int) -> bytes:
        source, target, opened = (short_folder / f"{name}{number}" for name in ("source", "target", "opened"))
        source.write_bytes(b"%d" % number * 10_000)
        gate.wait(30)
        site.ring.seal(source, target, site.fingerprint, [site.fingerprint])
        site.ring.open_sealed(target, opened, {site.fingerprint}, 1 << 20)
        return opened.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        for number, content in enumerate(pool.map(there_and_back, range(8))):
            assert content == b"%d" % number * 10_000


def test_a_home_with_a_long_path(short_folder, tmp_path):
    home = short_folder / "deep"
    while len(str(home)) < 150:
        home /= "folder"
    ring = KeyRing(home)
    try:
        fingerprint = ring.make_site_key("Deep", "ris@deep.example", 100, 50)
        (tmp_path / "source").write_bytes(b"content")
        ring.seal(tmp_path / "source", tmp_path / "target", fingerprint, [fingerprint])
        assert home.stat().st_mode & 0o777 == 0o700
        folder = gpg_home.runtime_folder(home)
        assert folder is not None and folder.stat().st_mode & 0o777 == 0o700

        assert gpg_home.runtime_folder(home) == folder
        KeyRing(home)  # a second process of the same site shares agent and folder
        assert gpg_home.runtime_folder(home) == folder

        ring.close()
        assert list(folder.iterdir()) == []
        folder.rmdir()  # what a tidy /tmp does
        ring.open_sealed(tmp_path / "target", tmp_path / "opened", {fingerprint}, 100)
        assert gpg_home.runtime_folder(home) not in (None, folder)
    finally:
        ring.close()
        folder = gpg_home.runtime_folder(home)
        if folder is not None:
            folder.rmdir()


def test_a_home_copied_elsewhere_gets_sockets_of_its_own(short_folder):
    long_home = short_folder / "x" / ("y" * 120)
    gpg_home.prepare_home(long_home)
    text = (long_home / "S.gpg-agent").read_text()
    other = short_folder / "x" / ("z" * 120)
    other.mkdir()
    (other / "S.gpg-agent").write_text(text)
    gpg_home.prepare_home(other)
    assert (other / "S.gpg-agent").read_text() != text
    short = short_folder / "short"
    short.mkdir()
    (short / "S.gpg-agent").write_text(text)
    gpg_home.prepare_home(short)
    assert not (short / "S.gpg-agent").exists()
    for home in (long_home, other):
        gpg_home.runtime_folder(home).rmdir()


def test_a_folder_others_can_enter_is_not_used_for_sockets(short_folder):
    home = short_folder / ("w" * 120)
    gpg_home.prepare_home(home)
    folder = gpg_home.runtime_folder(home)
    folder.chmod(0o777)
    gpg_home.prepare_home(home)
    assert gpg_home.runtime_folder(home) != folder
    folder.rmdir()
    gpg_home.runtime_folder(home).rmdir()


def test_without_gpg_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        KeyRing(tmp_path / "home")
    assert "apt-get install gnupg" in caught.value.do


@pytest.fixture
def false_gpg(monkeypatch, tmp_path):
    """Return a function that puts a shell script in the place of gpg."""

    def put(script: str) -> None:
        path = tmp_path / "gpg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(gpg, "find_gpg", lambda: str(path))

    return put


def test_gpg_that_hangs_is_ended(false_gpg, tmp_path):
    false_gpg("exec cat /dev/tty1 <&- ; exec tail -f /dev/null")
    with pytest.raises(TransientError, match="did not finish"):
        gpg.run_gpg(tmp_path, [], timeout_s=0.3)


@pytest.mark.parametrize(
    ("script", "kept"), [("yes '[GNUPG:] ENC_TO 0' >/dev/fd/$2", "status"), ("yes output", "output")]
)
def test_gpg_that_talks_without_end_is_ended(false_gpg, tmp_path, script, kept):
    # The number behind --status-fd is the first argument after the base options.
    false_gpg('while [ "$1" != --status-fd ]; do shift; done\n' + script)
    outcome = gpg.run_gpg(tmp_path, [], timeout_s=30)
    assert outcome.overflowed
    assert outcome.exit_code != 0
    assert bool(outcome.output) == (kept == "output")
    assert len(outcome.output) <= gpg.OUTPUT_MAX_BYTES
    assert sum(len(" ".join(line)) for line in outcome.status_lines) <= gpg.STATUS_MAX_BYTES


def test_messages_for_people_are_kept_from_the_end(false_gpg, tmp_path):
    false_gpg("head -c 300000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3")
    outcome = gpg.run_gpg(tmp_path, [], timeout_s=30)
    assert outcome.exit_code == 3
    assert outcome.log.endswith("the end\n")
    assert len(outcome.log) == gpg.LOG_MAX_BYTES


def test_gpg_that_cannot_be_run_is_transient(monkeypatch, tmp_path):
    monkeypatch.setattr(gpg, "find_gpg", lambda: str(Path("/nonexistent/gpg")))
    with pytest.raises(TransientError):
        gpg.run_gpg(tmp_path, [], timeout_s=1)
