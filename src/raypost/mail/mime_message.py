"""The outer message: PGP/MIME (RFC 3156) written with nothing but an address outside, and read from untrusted bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, BinaryIO

from raypost.errors import BadInputError, LocalProtocolError
from raypost.mail import dsn
from raypost.mail.mime_scan import (
    HEADER_MAX_BYTES,
    MULTIPARTS_MAX,
    PARTS_MAX,
    Header,
    body_parts,
    boundary_of,
    decode_body,
    prescan,
    read_header,
)
from raypost.mail.tokens import PARCEL_KIND, TOKEN_FIELD, Token, parse_token
from raypost.model.identifiers import is_address

__all__ = [
    "MESSAGE_MAX_BYTES",
    "PARCEL_KIND",
    "SUBJECT",
    "OuterHeaders",
    "Token",
    "is_boundary",
    "is_message_id",
    "one_address",
    "parse_token",
    "read_outer",
    "write_message",
]

SUBJECT = "Raypost"
"""The same in every message: a subject would be readable on every relay."""
MESSAGE_MAX_BYTES = 256 << 20
CHUNK_BYTES = 1 << 18
PART_HEADER_MAX_BYTES = 16 * 1024
MESSAGE_ID_LENGTH_MAX = 200
DATE_LENGTH_MAX = 60
ADDRESS_FIELD_LENGTH_MAX = 1000

_MESSAGE_ID = re.compile(r"<[A-Za-z0-9._=+\-]{1,100}@[A-Za-z0-9.\-]{1,90}>", re.ASCII)
_BOUNDARY = re.compile(r"[A-Za-z0-9]{16,64}", re.ASCII)
_ONE_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.)*"[ \t]*|[^<>"@,;:]*)<([^<>\s]+)>|([^<>\s",;:]+)')


def is_message_id(value: object) -> bool:
    """Say whether a value is a Message-ID as we write them, angle brackets included (RFC 5322, 3.6.4)."""
    return isinstance(value, str) and _MESSAGE_ID.fullmatch(value) is not None


def is_boundary(value: object) -> bool:
    """Say whether a value is a boundary as we write them: 16 to 64 random letters and digits."""
    return isinstance(value, str) and _BOUNDARY.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class OuterHeaders:
    """All that a relay may see of a message.

    Checked when made: an invalid one, such as one that would inject a header line, cannot exist.

    Args:
        sender: Plain address of the sending site.
        recipient: Plain address of the receiving site.
        date: When it was written, with a time zone.
        message_id: Random, with angle brackets.
        transfer_token: Our random key of the transfer, the same in all its messages.
        kind: A kind of message of the transfer protocol, in lower case.
        number: The message's number within its kind.
    """

    sender: str
    recipient: str
    date: datetime
    message_id: str
    transfer_token: str
    kind: str
    number: int

    def __post_init__(self) -> None:
        if not is_address(self.sender) or not is_address(self.recipient):
            raise ValueError("sender and recipient must be plain addresses")
        if self.date.tzinfo is None:
            raise ValueError("date must have a time zone")
        if not is_message_id(self.message_id):
            raise ValueError("message_id must look like <random@domain>")
        Token(self.transfer_token, self.kind, self.number)


def write_message(headers: OuterHeaders, ciphertext: Path, boundary: str, target: Path) -> int:
    """Write a multipart/encrypted message (RFC 3156, 4) around an ASCII-armoured ciphertext.

    Args:
        headers: The outer header fields.
        ciphertext: ASCII-armoured OpenPGP; its line ends become CRLF.
        boundary: 16 to 64 random letters and digits; armour cannot hold a line that begins with it.
        target: The file to write; replaced if it exists. It is not synced: it can be written again.

    Returns:
        The message's size in bytes, as `SIZE=` announces it.

    Raises:
        LocalProtocolError: The ciphertext is not ASCII armour: a bug of ours, nothing may leave.
    """
    if not is_boundary(boundary):
        raise ValueError("boundary must be 16 to 64 letters and digits")
    size_bytes = 0
    with target.open("wb") as out:
        size_bytes += out.write(_opening(headers, boundary).encode("ascii"))
        for chunk in _armour_chunks(ciphertext):
            size_bytes += out.write(chunk)
        size_bytes += out.write(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return size_bytes


def _opening(headers: OuterHeaders, boundary: str) -> str:
    token = Token(headers.transfer_token, headers.kind, headers.number)
    lines = [
        f"From: {headers.sender}",
        f"To: {headers.recipient}",
        f"Date: {format_datetime(headers.date)}",
        f"Message-ID: {headers.message_id}",
        f"Subject: {SUBJECT}",
        "Auto-Submitted: auto-generated",
        f"{TOKEN_FIELD}: {token.as_field()}",
        "MIME-Version: 1.0",
        'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted";',
        f' boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: application/pgp-encrypted",
        "",
        "Version: 1",
        "",
        f"--{boundary}",
        'Content-Type: application/octet-stream; name="encrypted.asc"',
        "Content-Transfer-Encoding: 7bit",
        'Content-Disposition: inline; filename="encrypted.asc"',
        "",
        "",
    ]
    return "\r\n".join(lines)


def _armour_chunks(ciphertext: Path) -> Iterator[bytes]:
    """Yield the armour with CRLF line ends; the last line always has one."""
    held = b""  # a CR at the end of a chunk, whose LF may be the first byte of the next
    first = True
    with ciphertext.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            if first and not chunk.startswith(b"-----BEGIN PGP MESSAGE-----"):
                raise LocalProtocolError("What should go out is not an armoured OpenPGP message.")
            if not chunk.isascii():
                raise LocalProtocolError("What should go out is not ASCII.")
            first = False
            chunk = held + chunk
            held = b"\r" if chunk.endswith(b"\r") else b""
            text = chunk[: len(chunk) - len(held)].replace(b"\r\n", b"\n")
            ends_line = text.endswith(b"\n")
            yield text.replace(b"\n", b"\r\n")
    if first:
        raise LocalProtocolError("What should go out is empty.")
    if held or not ends_line:
        yield b"\r\n"


def read_outer(
    source: memoryview,
    target: BinaryIO,
    *,
    message_max_bytes: int = MESSAGE_MAX_BYTES,
    header_max_bytes: int = HEADER_MAX_BYTES,
    multiparts_max: int = MULTIPARTS_MAX,
    parts_max: int = PARTS_MAX,
) -> dict[str, Any]:
    """Find the ciphertext, or the bounce, in a mail from outside. Runs in the sandbox, on untrusted bytes.

    Args:
        source: The whole mail, with CRLF or LF line ends.
        target: Receives the ciphertext (armour or binary, without transfer encoding) if there is one.
        message_max_bytes: Longer mails are refused.
        header_max_bytes: Longer header blocks are refused.
        multiparts_max: More multiparts are refused.
        parts_max: More body parts are refused.

    Returns:
        A plain object with `form`:
        `openpgp` with sender, recipient (or ""), message_id, date (text), token (object or None), ciphertext_bytes;
        `delivery-status` with original_message_id, recipient, action, enhanced_code, diagnostic, token;
        `other` for anything else: plain mail, spam. The subject is never returned.

    Raises:
        BadInputError: The mail is hostile or broken.
    """
    if len(source) > message_max_bytes:
        raise BadInputError("A mail is larger than allowed.")
    header = read_header(source, 0, len(source), header_max_bytes)
    prescan(source, multiparts_max=multiparts_max, parts_max=parts_max)
    if header.content_type in ("multipart/encrypted", "multipart/mixed"):
        return _read_encrypted(source, header, target, parts_max) or {"form": "other"}
    if header.content_type == "multipart/report" and _parameter(header, "report-type") == "delivery-status":
        return dsn.read_bounce(source, header, parts_max)
    return {"form": "other"}


def _read_encrypted(source: memoryview, header: Header, target: BinaryIO, parts_max: int) -> dict[str, Any] | None:
    is_encrypted = header.content_type == "multipart/encrypted"
    if is_encrypted and _parameter(header, "protocol") not in ("application/pgp-encrypted", ""):
        return None
    bounds = body_parts(source, header.body_start, boundary_of(header), parts_max)
    if len(bounds) != 2:
        if is_encrypted:
            raise BadInputError("A multipart/encrypted has not exactly two parts.")
        return None
    parts = [(read_header(source, start, end, PART_HEADER_MAX_BYTES), end) for start, end in bounds]
    controls = [index for index, (one, _) in enumerate(parts) if one.content_type == "application/pgp-encrypted"]
    if len(controls) > 1 or (not controls and not is_encrypted):
        return None
    # Some gateways label the control part otherwise or turn the two round (dicom-email: receive rule 6).
    sealed, end = parts[1 - controls[0]] if controls else parts[1]
    ciphertext_bytes = decode_body(
        source, sealed.body_start, max(end, sealed.body_start), sealed.transfer_encoding, target
    )
    if ciphertext_bytes == 0:
        raise BadInputError("An encrypted mail holds no ciphertext.")
    token = parse_token(header.text(TOKEN_FIELD, ADDRESS_FIELD_LENGTH_MAX))
    return {
        "form": "openpgp",
        "sender": _sender(header),
        "recipient": one_address(header.text("to", ADDRESS_FIELD_LENGTH_MAX)),
        "message_id": header.text("message-id", MESSAGE_ID_LENGTH_MAX),
        "date": header.text("date", DATE_LENGTH_MAX),
        "token": None if token is None else token.as_json(),
        "ciphertext_bytes": ciphertext_bytes,
    }


def _sender(header: Header) -> str:
    sender = one_address(header.text("from", ADDRESS_FIELD_LENGTH_MAX))
    if not sender:
        raise BadInputError("An encrypted mail names no single sender.")
    return sender


def one_address(value: str) -> str:
    """Return the one plain address of a From or To value as written, or "" if there is not exactly one."""
    match = _ONE_ADDRESS.fullmatch(value.strip())
    address = "" if match is None else match[1] or match[2]
    return address if is_address(address) else ""


def _parameter(header: Header, name: str) -> str:
    value = header.fields.get_param(name)
    return value.strip().lower() if isinstance(value, str) else ""
