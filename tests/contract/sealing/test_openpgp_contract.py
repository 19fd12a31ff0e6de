"""OpenPGP as others write and read it: plain gpg with its defaults, and pysequoia as an independent implementation."""

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pysequoia
import pytest

from raypost.sealing.openpgp import KeyRing, OpenFailure, OpenRefusedError

CONTENT = random.Random(3).randbytes(300_001)
UNLOCKED = ("--pinentry-mode", "loopback", "--passphrase=")


class PlainGpg:
    """A partner who uses gpg as installed, with its default options."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.run("--quick-gen-key", "Partner <partner@other.example>", "rsa3072", "sign,cert", "1y")
        listing = self.run("--with-colons", "--list-keys").decode()
        self.fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        self.run("--quick-add-key", self.fingerprint, "rsa3072", "encr", "1y")

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run gpg."""
        return subprocess.run(
            ["gpg", "--homedir", self.home, "--batch", "--yes", "--quiet", *UNLOCKED, *arguments],
            input=data,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=60,
            check=True,
        ).stdout


class Sequoia:
    """A partner who uses Sequoia. Its key is made by gpg: Sequoia's own v4 keys ask for SEIPDv2, which gpg cannot."""

    def __init__(self, gpg: PlainGpg) -> None:
        self.fingerprint = gpg.fingerprint
        self.key = pysequoia.Tsk.from_bytes(gpg.run("--export-secret-keys", gpg.fingerprint))

    def write(self, content: bytes, reader: str) -> bytes:
        """Sign and encrypt."""
        certificate = pysequoia.Cert.from_bytes(reader.encode())
        return pysequoia.encrypt(content, [certificate], self.key.signer(), armor=True)

    def read(self, message: bytes, signer: str) -> bytes:
        """Decrypt and verify; raises without a valid signature."""
        certificate = pysequoia.Cert.from_bytes(signer.encode())
        opened = pysequoia.decrypt(message, self.key.decryptor(), lambda ids: [certificate])
        assert [one.certificate for one in opened.valid_sigs] == [certificate.fingerprint]
        return opened.bytes


@pytest.fixture(scope="module")
def folder():
    """Give a folder with a path short enough for plain gpg."""
    path = Path(tempfile.mkdtemp(prefix="rp-"))
    yield path
    for home in path.iterdir():
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True, timeout=30)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def partner(folder):
    """The partner with plain gpg."""
    return PlainGpg(folder / "partner")


@pytest.fixture(scope="module")
def ring(folder, partner):
    """Our key ring; we know the partner and the partner knows us."""
    ring = KeyRing(folder / "ours")
    ring.fingerprint = ring.make_site_key("Ours", "ris@ours.example", 100, 50)
    ring.certificate = ring.export_certificate(ring.fingerprint)
    ring.import_certificate(partner.run("--armor", "--export", partner.fingerprint).decode(), partner.fingerprint)
    partner.run("--import", data=ring.certificate.encode())
    return ring


def opened(ring, tmp_path, message: bytes, signer: str) -> bytes:
    """Open a message at our site."""
    (tmp_path / "message").write_bytes(message)
    found = ring.open_sealed(tmp_path / "message", tmp_path / "opened", {signer}, 1 << 20)
    assert found.signer_fingerprint == signer
    return (tmp_path / "opened").read_bytes()


def sealed(ring, tmp_path, recipient: str) -> bytes:
    """Seal the content at our site."""
    (tmp_path / "source").write_bytes(CONTENT)
    ring.seal(tmp_path / "source", tmp_path / "target", ring.fingerprint, [recipient])
    return (tmp_path / "target").read_bytes()


def test_plain_gpg_reads_ours(ring, partner, tmp_path):
    assert partner.run("--decrypt", data=sealed(ring, tmp_path, partner.fingerprint)) == CONTENT


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--armor",),
        ("--compress-algo", "zip"),
        ("--compress-algo", "bzip2"),
        ("--compress-algo", "zlib", "--armor"),
    ],
)
@pytest.mark.parametrize("recipient", ["--recipient", "--hidden-recipient"])
def test_we_read_plain_gpg(ring, partner, tmp_path, options, recipient):
    message = partner.run(
        "--trust-model", "always", *options, recipient, ring.fingerprint, "--sign", "--encrypt", data=CONTENT
    )
    assert opened(ring, tmp_path, message, partner.fingerprint) == CONTENT


def test_text_mode_comes_with_the_line_ends_of_this_machine(ring, partner, tmp_path):
    message = partner.run(
        "--trust-model",
        "always",
        "--textmode",
        "--recipient",
        ring.fingerprint,
        "--sign",
        "--encrypt",
        data=b"line\r\n" * 20_000,
    )
    assert opened(ring, tmp_path, message, partner.fingerprint) == b"line\n" * 20_000


@pytest.mark.parametrize("length", [0, 1, 2, 3, 300_000, 300_001, 300_002])
def test_sequoia_reads_ours(ring, partner, tmp_path, length, monkeypatch):
    monkeypatch.setitem(globals(), "CONTENT", CONTENT[:length] + bytes(max(0, length - len(CONTENT))))
    message = sealed(ring, tmp_path, partner.fingerprint)
    assert Sequoia(partner).read(message, ring.certificate) == CONTENT[:length]


def test_we_read_sequoia(ring, partner, tmp_path):
    message = Sequoia(partner).write(CONTENT, ring.certificate)
    assert opened(ring, tmp_path, message, partner.fingerprint) == CONTENT


def test_sequoia_agrees_that_a_flipped_bit_is_tampering(ring, partner, tmp_path):
    message = bytearray(partner.run("--dearmor", data=sealed(ring, tmp_path, partner.fingerprint)))
    message[len(message) // 2] ^= 1
    with pytest.raises((RuntimeError, OSError, ValueError)):
        Sequoia(partner).read(bytes(message), ring.certificate)


def test_we_refuse_what_sequoia_does_not_sign(ring, partner, tmp_path):
    certificate = pysequoia.Cert.from_bytes(ring.certificate.encode())
    with pytest.raises(OpenRefusedError) as caught:
        opened(ring, tmp_path, pysequoia.encrypt(b"x", [certificate]), partner.fingerprint)
    assert caught.value.reason is OpenFailure.UNSIGNED
