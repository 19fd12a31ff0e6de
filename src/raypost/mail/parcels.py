"""The MIME entity inside the encryption: our control message and, beside it, instances that any mail program shows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raypost.errors import BadInputError, IntegrityError
from raypost.mail.mime_message import is_boundary
from raypost.mail.mime_scan import (
    HEADER_MAX_BYTES,
    IDENTITY_ENCODINGS,
    Header,
    body_parts,
    boundary_of,
    read_header,
)

CONTROL_TYPE = "application/vnd.raypost+json"
CONTROL_NAME = "raypost.json"
DICOM_TYPE = "application/dicom"
CONTROL_MAX_BYTES = 8 << 20
CONTROL_DEPTH_MAX = 32
ITEMS_MAX = 10_000
CHUNK_BYTES = 1 << 20
ITEM_HEADER_MAX_BYTES = 4096

ENTITY_OVERHEAD_BYTES = 700
"""Upper bound of all MIME lines of an entity that belong to no item; asserted by a test."""
ITEM_OVERHEAD_BYTES = 500
"""Upper bound of the MIME lines of one item; asserted by a test."""

HEADER_RESERVE_BYTES = 4096
"""Room in a message for outer header fields, MIME lines and what the relay adds (Received)."""
SEAL_RESERVE_BYTES = 16 * 1024
"""Room for session keys of some twenty certificates and the signature (RFC 9580, 5.1 and 5.2)."""
SEAL_GROWTH_DIVISOR = 1000
"""Partial lengths and stored compression blocks cost well under one byte in a thousand."""
ARMOUR_LINE_PAYLOAD_BYTES = 48
ARMOUR_LINE_BYTES = 66
"""48 bytes become 64 characters plus CRLF in gpg's armour (RFC 9580, 6.2 allows 76)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}", re.ASCII)
_TYPE = re.compile(r"(?!multipart/|message/)[a-z]{1,20}/[a-z0-9][a-z0-9.+\-]{0,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class EntityItem:
    """One instance, or a slice of one, to be put beside the control message.

    Args:
        path: The file that holds it.
        offset_bytes: Where it begins in the file.
        length_bytes: How long it is.
        name: Attachment name made from a counter, such as 000001.dcm; never from DICOM.
        content_type: application/dicom for a whole instance.
    """

    path: Path
    offset_bytes: int
    length_bytes: int
    name: str
    content_type: str = DICOM_TYPE

    def __post_init__(self) -> None:
        if self.offset_bytes < 0 or self.length_bytes < 0:
            raise ValueError("offset_bytes and length_bytes must not be negative")
        if _NAME.fullmatch(self.name) is None or _TYPE.fullmatch(self.content_type) is None:
            raise ValueError("name or content_type cannot stand in a MIME header")


def payload_size_max(message_size_max_bytes: int) -> int:
    """Return the size in bytes of the largest entity whose sealed, armoured message stays below a relay's limit.

    Signing and encrypting add a little, armour makes 66 bytes of 48, and the header fields need room.

    Args:
        message_size_max_bytes: The relay's limit on a message, from the EHLO keyword SIZE (RFC 1870). Bytes, not MiB.

    Returns:
        The largest value that `write_entity` may return for it. Plan items with `entity_size_max`.

    Raises:
        ValueError: The limit leaves no room for anything.
    """
    lines = (message_size_max_bytes - HEADER_RESERVE_BYTES) // ARMOUR_LINE_BYTES
    sealed_bytes = lines * ARMOUR_LINE_PAYLOAD_BYTES - SEAL_RESERVE_BYTES
    size_bytes = sealed_bytes - sealed_bytes // SEAL_GROWTH_DIVISOR
    if size_bytes < ENTITY_OVERHEAD_BYTES + ITEM_OVERHEAD_BYTES:
        raise ValueError(f"message_size_max_bytes={message_size_max_bytes} is too small for one parcel")
    return size_bytes


def entity_size_max(control_bytes: int, item_lengths_bytes: Sequence[int]) -> int:
    """Return an upper bound in bytes of the entity with a control message and items of these lengths."""
    return ENTITY_OVERHEAD_BYTES + control_bytes + sum(length + ITEM_OVERHEAD_BYTES for length in item_lengths_bytes)


def write_entity(control: bytes, items: Sequence[EntityItem], boundary: str, target: Path) -> int:
    """Write the multipart/mixed entity (RFC 2046, 5.1.3) that is then sealed.

    The items are binary (RFC 2045, 6.2), not base64 as RFC 3156, 3 wants of signed data: the seal covers them as
    they are, and base64 inside armour would cost another third.

    Args:
        control: The control message as ASCII JSON.
        items: The instances and slices, streamed from their files.
        boundary: 16 to 64 random letters and digits, fresh for every entity so that no item can hold it.
        target: The file to write; replaced if it exists.

    Returns:
        The entity's size in bytes.

    Raises:
        IntegrityError: A file is shorter than its item says.
    """
    if not is_boundary(boundary):
        raise ValueError("boundary must be 16 to 64 letters and digits")
    if not control.isascii() or len(control) > CONTROL_MAX_BYTES or len(items) > ITEMS_MAX:
        raise ValueError("the control message is not ASCII or too long, or there are too many items")
    size_bytes = 0
    with target.open("wb") as out:
        size_bytes += out.write(
            f'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'.encode("ascii")
        )
        size_bytes += out.write(_part_opening(boundary, CONTROL_TYPE, CONTROL_NAME, "7bit"))
        size_bytes += out.write(control)
        for item in items:
            size_bytes += out.write(b"\r\n" + _part_opening(boundary, item.content_type, item.name, "binary"))
            size_bytes += _copy_item(item, out)
        size_bytes += out.write(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return size_bytes


def _part_opening(boundary: str, content_type: str, name: str, encoding: str) -> bytes:
    return (
        f'--{boundary}\r\nContent-Type: {content_type}; name="{name}"\r\n'
        f"Content-Transfer-Encoding: {encoding}\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'
    ).encode("ascii")


def _copy_item(item: EntityItem, out: BinaryIO) -> int:
    left = item.length_bytes
    with item.path.open("rb") as source:
        source.seek(item.offset_bytes)
        while left:
            chunk = source.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise IntegrityError("A stored file is shorter than its record says.")
            left -= out.write(chunk)
    return item.length_bytes


def read_entity(
    source: memoryview,
    target: None,
    *,
    control_max_bytes: int = CONTROL_MAX_BYTES,
    control_depth_max: int = CONTROL_DEPTH_MAX,
    items_max: int = ITEMS_MAX,
) -> dict[str, Any]:
    """Find the control message and the items in an opened entity. Runs in the sandbox.

    The signature was verified before, but a verified partner can be broken or taken over: every count is bounded.
    Items in base64 or quoted-printable are refused: our own entities are binary, foreign ones are read elsewhere.

    Args:
        source: The entity as it came out of decryption.
        target: Not used; the caller copies the ranges out of the source.
        control_max_bytes: A longer control message is refused.
        control_depth_max: Deeper JSON is refused.
        items_max: More items are refused.

    Returns:
        `control`, the JSON object, and `items`, each with offset_bytes and length_bytes within the source, sha256, and
        content_type.

    Raises:
        BadInputError: The entity is not one of ours, or breaks a bound.
    """
    header = read_header(source, 0, len(source), HEADER_MAX_BYTES)
    if header.content_type != "multipart/mixed":
        raise BadInputError("An opened mail is not an entity of ours.")
    bounds = body_parts(source, header.body_start, boundary_of(header), items_max + 1)
    if not bounds:
        raise BadInputError("An opened mail has no parts.")
    parts = [(read_header(source, start, end, ITEM_HEADER_MAX_BYTES), end) for start, end in bounds]
    control_header, control_end = parts[0]
    if control_header.content_type != CONTROL_TYPE or control_header.transfer_encoding not in IDENTITY_ENCODINGS:
        raise BadInputError("An opened mail does not begin with a control message.")
    text = source[control_header.body_start : max(control_end, control_header.body_start)]
    if len(text) > control_max_bytes:
        raise BadInputError("A control message is too long.")
    control = parse_control(bytes(text), control_depth_max)
    return {"control": control, "items": [_item(source, one, end) for one, end in parts[1:]]}


def _item(source: memoryview, header: Header, end: int) -> dict[str, Any]:
    if header.transfer_encoding not in ("8bit", "binary"):
        raise BadInputError("An item is neither binary nor 8bit.")
    if _TYPE.fullmatch(header.content_type) is None:
        raise BadInputError("An item has a media type that no item has.")
    start = header.body_start
    end = max(end, start)
    return {
        "offset_bytes": start,
        "length_bytes": end - start,
        "sha256": hashlib.sha256(source[start:end]).hexdigest(),
        "content_type": header.content_type,
    }


def parse_control(text: bytes, depth_max: int = CONTROL_DEPTH_MAX) -> dict[str, Any]:
    """Parse the JSON object of a control message.

    Raises:
        BadInputError: Not ASCII JSON, not an object, a name twice, NaN or Infinity, or too deep.
    """
    try:
        value = json.loads(text.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError("A control message is not JSON.") from error
    if not isinstance(value, dict):
        raise BadInputError("A control message is not a JSON object.")
    level: list[Any] = [value]
    for _ in range(depth_max):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise BadInputError("A control message is too deep.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)
