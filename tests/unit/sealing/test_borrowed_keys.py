"""A certificate that binds another site's key to itself: gpg takes it in, and would look for that site's key there."""

import base64
import hashlib
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from raypost.errors import SecurityError
from raypost.sealing.openpgp import KeyRing

CURVE = bytes.fromhex("092b06010401da470f01")
SIGNS, AUTHENTICATES = 0x02, 0x20


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([0xC0 | kind, 0xFF]) + len(body).to_bytes(4) + body


def _integer(raw: bytes) -> bytes:
    stripped = raw.lstrip(b"\0")
    return (len(stripped) * 8 - 8 + stripped[0].bit_length()).to_bytes(2) + stripped


def _hashed_key(body: bytes) -> bytes:
    return b"\x99" + len(body).to_bytes(2) + body


def _checksum(data: bytes) -> bytes:
    """Return the CRC-24 of an armour (RFC 4880, 6.1)."""
    sum_ = 0xB704CE
    for byte in data:
        sum_ ^= byte << 16
        for _ in range(8):
            sum_ = sum_ << 1 ^ (0x1864CFB if sum_ & 0x800000 else 0)
    return (sum_ & 0xFFFFFF).to_bytes(3)


def _packets(data: bytes):
    """Yield (kind, body) of the packets that gpg writes here: old format, one or two octets of length."""
    while data:
        kind, size = (data[0] >> 2) & 15, 1 << (data[0] & 3)
        length = int.from_bytes(data[1 : 1 + size])
        yield kind, data[1 + size : 1 + size + length]
        data = data[1 + size + length :]


class Forger:
    """A partner with a key of its own who can write any packet (RFC 4880, 5)."""

    def __init__(self) -> None:
        self.secret = Ed25519PrivateKey.generate()
        self.made_at = (int(time.time()) - 60).to_bytes(4)
        public = b"\x40" + self.secret.public_key().public_bytes_raw()
        self.body = b"\x04" + self.made_at + b"\x16" + CURVE + _integer(public)
        self.fingerprint = hashlib.sha1(_hashed_key(self.body)).hexdigest().upper()

    def _signature(self, kind: int, what: bytes, flags: int) -> bytes:
        issuer = bytes([22, 33, 4]) + bytes.fromhex(self.fingerprint)
        hashed = b"\x05\x02" + self.made_at + b"\x02\x1b" + bytes([flags]) + issuer
        start = bytes([4, kind, 22, 8]) + len(hashed).to_bytes(2) + hashed
        digest = hashlib.sha256(what + start + b"\x04\xff" + len(start).to_bytes(4)).digest()
        raw = self.secret.sign(digest)
        unhashed = b"\x00\x0a\x09\x10" + bytes.fromhex(self.fingerprint[-16:])
        return _packet(2, start + unhashed + digest[:2] + _integer(raw[:32]) + _integer(raw[32:]))

    def certificate(self, borrowed: bytes = b"", flags: int = SIGNS) -> str:
        """Return a certificate, with the subkey of somebody else bound to it if there is one."""
        user = b"Forger <forger@forger.example>"
        named = _hashed_key(self.body) + b"\xb4" + len(user).to_bytes(4) + user
        packets = _packet(6, self.body) + _packet(13, user) + self._signature(0x13, named, 0x03)
        if borrowed:
            bound = _hashed_key(self.body) + _hashed_key(borrowed)
            packets += _packet(14, borrowed) + self._signature(0x18, bound, flags)
        text, end = base64.encodebytes(packets).decode(), base64.b64encode(_checksum(packets)).decode()
        return f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{text}={end}\n-----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.fixture
def victim(tmp_path):
    made = KeyRing(tmp_path / "victim")
    made.own = made.make_site_key("Neustadt", "ris@neustadt.example", 100, 50)
    yield made
    made.close()


@pytest.fixture
def reader(tmp_path):
    made = KeyRing(tmp_path / "reader")
    made.own = made.make_site_key("Ludwigshafen", "ris@ludwigshafen.example", 100, 50)
    yield made
    made.close()


def _subkeys(ring: KeyRing, fingerprint: str) -> list[bytes]:
    exported = ring._manage(["--export-options", "export-minimal", "--export", fingerprint]).output
    return [body for kind, body in _packets(exported) if kind == 14]


def _is_believed(victim: KeyRing, reader: KeyRing, folder) -> bool:
    victim.import_certificate(reader.export_certificate(reader.own), reader.own)
    source, sealed, opened = (folder / name for name in ("source", "sealed", "opened"))
    source.write_bytes(b"image")
    victim.seal(source, sealed, victim.own, [reader.own])
    try:
        return reader.open_sealed(sealed, opened, {victim.own}, 1000).signer_fingerprint == victim.own
    except SecurityError:
        return False


def test_gpg_alone_would_take_it_and_then_not_believe_its_owner(victim, reader, tmp_path) -> None:
    forger, (signing, _) = Forger(), _subkeys(victim, victim.own)
    reader._manage(["--import"], source=forger.certificate(signing).encode())
    reader._manage(["--import"], source=victim.export_certificate(victim.own).encode())
    assert reader._is_here(forger.fingerprint)
    assert not _is_believed(victim, reader, tmp_path), "if this changes, the guard is not needed any more"


@pytest.mark.parametrize("flags", [SIGNS, AUTHENTICATES])
@pytest.mark.parametrize("which", [0, 1])
def test_a_certificate_with_a_key_of_another_is_refused(victim, reader, tmp_path, which, flags) -> None:
    forger = Forger()
    reader.import_certificate(forger.certificate(), forger.fingerprint)
    reader.import_certificate(victim.export_certificate(victim.own), victim.own)
    with pytest.raises(SecurityError, match="another certificate"):
        reader.import_certificate(forger.certificate(_subkeys(victim, victim.own)[which], flags), forger.fingerprint)
    assert _is_believed(victim, reader, tmp_path)
