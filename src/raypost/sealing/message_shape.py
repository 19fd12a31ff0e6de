"""What an OpenPGP message looks like from outside, looked at before gpg is given it; bounded, nothing is decrypted."""

from __future__ import annotations

import binascii
import enum
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

HEAD_SIZE_BYTES = 65_536
"""How much of a message is looked at; the session keys for more than a hundred recipients fit in."""
PACKETS_MAX = 64
"""Outer packets before the encrypted data: one a recipient."""

PARTIAL_LENGTHS_MAX = 262_144
"""gpg writes pieces of 8 kB: 2 GB; what has more is left to gpg."""

ARMOUR_BEGIN = b"-----BEGIN PGP MESSAGE-----"
ARMOUR_END = b"-----END PGP MESSAGE-----"
_ANY_BEGIN = b"-----BEGIN PGP "


class Shape(enum.Enum):
    """What stands in the file, judged by its outermost packets (RFC 4880, 4.3) and its armour (6.2)."""

    ENCRYPTED = "encrypted to certificates"
    PASSWORD_BASED = "encrypted with a password"
    NO_INTEGRITY = "encrypted without integrity protection"
    NOT_ENCRYPTED = "not encrypted"
    SEVERAL_MESSAGES = "several messages in one file"
    TRUNCATED = "cut short"
    NOT_OPENPGP = "not an OpenPGP message"


_KINDS = {
    1: None,  # public-key encrypted session key: the encrypted data follow
    10: None,  # marker
    3: Shape.PASSWORD_BASED,
    9: Shape.NO_INTEGRITY,
    18: Shape.ENCRYPTED,
    20: Shape.ENCRYPTED,  # LibrePGP's AEAD packet; gpg 2.2 reads it
    2: Shape.NOT_ENCRYPTED,
    4: Shape.NOT_ENCRYPTED,
    8: Shape.NOT_ENCRYPTED,
    11: Shape.NOT_ENCRYPTED,
}


@dataclass(frozen=True, slots=True)
class _Packet:
    packet_type: int
    end: int | None
    """Offset behind it; None when it has more partial lengths than are followed."""


def look_at_message(path: Path) -> Shape:
    """Say what kind of OpenPGP message a file holds, armoured or binary.

    An armoured one must be alone in its file: text around it would not be covered by the signature. A binary one must
    end where its encrypted data end.

    Raises:
        OSError: The file cannot be read.
    """
    if path.stat().st_size == 0:
        return Shape.NOT_OPENPGP
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not content[0] & 0x80:
            return _look_at_armour(content)
        shape, end = _look_at_packets(content)
        if shape is not Shape.ENCRYPTED or end is None:
            return shape
        return Shape.TRUNCATED if end > len(content) else Shape.SEVERAL_MESSAGES if end < len(content) else shape


def _look_at_armour(text: mmap.mmap) -> Shape:
    start = text.find(ARMOUR_BEGIN, 0, HEAD_SIZE_BYTES)
    if start < 0 or text[:start].strip():
        signed_text = text[:HEAD_SIZE_BYTES].lstrip().startswith(b"-----BEGIN PGP SIGNED MESSAGE-----")
        return Shape.NOT_ENCRYPTED if signed_text else Shape.NOT_OPENPGP
    if text.find(_ANY_BEGIN, start + 1) >= 0:
        return Shape.SEVERAL_MESSAGES
    end = text.find(ARMOUR_END, start)
    if end < 0:
        return Shape.TRUNCATED
    after = end + len(ARMOUR_END)
    if len(text) - after > HEAD_SIZE_BYTES or text[after:].strip():
        return Shape.SEVERAL_MESSAGES
    return _look_at_packets(_dearmour_head(text[start : min(end, start + HEAD_SIZE_BYTES)]))[0]


def _dearmour_head(armour: bytes) -> bytes:
    """Return what the first lines of an armour hold; empty when it is no base64 (RFC 4880, 6.2)."""
    _, _, body = re.sub(rb"[ \t\r]+\n", b"\n", armour).partition(b"\n\n")
    digits = b"".join(line.strip() for line in body.split(b"\n") if not line.startswith(b"="))
    try:
        return binascii.a2b_base64(digits[: len(digits) & ~3])
    except binascii.Error:
        return b""


def _look_at_packets(content: bytes | mmap.mmap) -> tuple[Shape, int | None]:
    """Return the shape, and where its deciding packet ends; None when that cannot be told."""
    at = 0
    for _ in range(PACKETS_MAX):
        packet = _read_header(content, at)
        if packet is None or packet.packet_type not in _KINDS:
            return Shape.TRUNCATED if at and at >= len(content) else Shape.NOT_OPENPGP, None
        shape = _KINDS[packet.packet_type]
        if shape is not None:
            return shape, packet.end
        if packet.end is None:
            return Shape.NOT_OPENPGP, None
        at = packet.end
    return Shape.NOT_OPENPGP, None


def _read_header(content: bytes | mmap.mmap, at: int) -> _Packet | None:
    """Read the header of the packet that begins at an offset (RFC 4880, 4.2)."""
    if at + 1 >= len(content) or not content[at] & 0x80:
        return None
    first = content[at]
    if not first & 0x40:  # old format: two bits tell how many bytes the length has, 3 = up to the end
        length_bytes = (1, 2, 4, 0)[first & 3]
        size = int.from_bytes(content[at + 1 : at + 1 + length_bytes], "big")
        return _Packet((first >> 2) & 0xF, at + 1 + length_bytes + size if length_bytes else len(content))
    return _Packet(first & 0x3F, _find_end(content, at + 1))


def _find_end(content: bytes | mmap.mmap, at: int) -> int | None:
    """Follow new-format lengths, partial ones too (RFC 4880, 4.2.2); beyond the file's end: it was cut short."""
    for _ in range(PARTIAL_LENGTHS_MAX):
        if at >= len(content):
            return at + 1
        first = content[at]
        if first < 192:
            return at + 1 + first
        if first < 224:
            return at + 2 + ((first - 192) << 8) + int.from_bytes(content[at + 1 : at + 2], "big") + 192
        if first == 255:
            return at + 5 + int.from_bytes(content[at + 1 : at + 5], "big")
        at += 1 + (1 << (first & 0x1F))
    return None
