"""Two hospitals with keys, made once, and a workshop for OpenPGP messages that no honest program writes."""

import dataclasses
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypost.sealing.openpgp import KeyRing

CONTENT = random.Random(7).randbytes(300_000)
UNLOCKED = ("--pinentry-mode", "loopback", "--passphrase=")


@dataclasses.dataclass
class Site:
    """A key ring, its home and its own key."""

    home: Path
    ring: KeyRing
    fingerprint: str

    def gpg(self, *arguments: str, data: bytes = b"", check: bool = True) -> bytes:
        """Run plain gpg on the home, as a person would."""
        done = subprocess.run(
            ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", "--no-tty", *UNLOCKED, *arguments],
            input=data,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout

    def revoke(self, fingerprint: str) -> str:
        """Revoke a key of this site; return the certificate as it is then."""
        text = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.gpg("--import", data=text.replace("\n:-----BEGIN", "\n-----BEGIN").encode())
        return self.ring.export_certificate(fingerprint)

    def make_expired_key(self, user_id: str) -> str:
        """Make a key that was valid in January 2020 alone."""
        past = ("--faked-system-time", "20200101T000000", "--ignore-valid-from", "--ignore-time-conflict")
        self.gpg(*past, "--quick-gen-key", user_id, "ed25519", "cert", "30d")
        listing = self.gpg("--with-colons", "--list-keys", user_id).decode()
        fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        self.gpg(*past, "--quick-add-key", fingerprint, "ed25519", "sign", "30d")
        self.gpg(*past, "--quick-add-key", fingerprint, "cv25519", "encr", "30d")
        return fingerprint


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """Give a folder with a short path: pytest's own are too long for an agent's socket."""
    folder = Path(tempfile.mkdtemp(prefix="rp-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_site(short_folder: Path) -> Iterator[object]:
    """Return a function that makes a site with a fresh key; every agent is ended afterwards."""
    made: list[Site] = []

    def make(name: str, key: bool = True) -> Site:
        home = short_folder / f"{name}{len(made)}"
        ring = KeyRing(home)
        site = Site(home, ring, "")
        made.append(site)
        if key:
            site.fingerprint = ring.make_site_key(f"Hospital {name}", f"ris@{name}.example", 1000, 400)
        return site

    yield make
    for site in made:
        site.ring.close()


@pytest.fixture(scope="session")
def sites(new_site) -> tuple[Site, Site]:
    """Two hospitals that know each other's certificates. Tests must not change their keys."""
    a, b = new_site("a"), new_site("b")
    a.ring.import_certificate(b.ring.export_certificate(b.fingerprint), b.fingerprint)
    b.ring.import_certificate(a.ring.export_certificate(a.fingerprint), a.fingerprint)
    return a, b


@pytest.fixture(scope="session")
def sealed(sites: tuple[Site, Site], short_folder: Path) -> bytes:
    """An honest message from a to b, armoured, of 300,000 bytes."""
    source, target = short_folder / "honest-source", short_folder / "honest.asc"
    source.write_bytes(CONTENT)
    sites[0].ring.seal(source, target, sites[0].fingerprint, [sites[1].fingerprint])
    return target.read_bytes()


@pytest.fixture(scope="session")
def content() -> bytes:
    """What the honest message holds."""
    return CONTENT


class Workshop:
    """Builds encrypted messages around any packets (RFC 4880, 5.1, 5.13), by the session key of an honest one."""

    def __init__(self, writer: Site, reader: Site, folder: Path) -> None:
        honest = writer.gpg("--trust-model", "always", "-z", "0", "-r", reader.fingerprint, "--encrypt", data=b"x")
        path = folder / "honest.pgp"
        path.write_bytes(honest)
        show = ["gpg", "--homedir", str(reader.home), "--batch", "--show-session-key", "--decrypt", path]
        done = subprocess.run(show, capture_output=True, timeout=60, check=True)
        said = done.stderr.decode()
        self.session_key = bytes.fromhex(said.split("session key: '9:")[1].split("'")[0])
        self.session_key_packet = honest[: 2 + honest[1]]

    @staticmethod
    def packet(packet_type: int, body: bytes) -> bytes:
        """Return a new-format packet."""
        return bytes([0xC0 | packet_type, 255]) + len(body).to_bytes(4, "big") + body

    @classmethod
    def literal(cls, content: bytes, name: bytes = b"") -> bytes:
        """Return a literal data packet (RFC 4880, 5.9)."""
        return cls.packet(11, b"b" + bytes([len(name)]) + name + b"\0\0\0\0" + content)

    def encrypt(self, packets: bytes, integrity: bool = True) -> bytes:
        """Return a message to the reader with these packets inside; without integrity as before 2000 (SED)."""
        try:
            from cryptography.hazmat.decrepit.ciphers.modes import CFB
        except ImportError:
            from cryptography.hazmat.primitives.ciphers.modes import CFB
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        prefix = os.urandom(16)
        clear = prefix + prefix[-2:] + packets
        if not integrity:
            first = Cipher(algorithms.AES(self.session_key), CFB(bytes(16))).encryptor().update(prefix + prefix[-2:])
            rest = Cipher(algorithms.AES(self.session_key), CFB(first[2:18])).encryptor().update(packets)
            return self.session_key_packet + self.packet(9, first + rest)
        clear += b"\xd3\x14"
        clear += hashlib.sha1(clear, usedforsecurity=False).digest()
        hidden = Cipher(algorithms.AES(self.session_key), CFB(bytes(16))).encryptor().update(clear)
        return self.session_key_packet + self.packet(18, b"\x01" + hidden)


@pytest.fixture(scope="session")
def workshop(sites: tuple[Site, Site], short_folder: Path) -> Workshop:
    """Messages from nobody in particular to hospital b."""
    return Workshop(*sites, short_folder)
