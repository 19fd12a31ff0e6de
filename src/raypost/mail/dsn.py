"""Bounces: delivery status notifications (RFC 3464) to values."""

from __future__ import annotations

import re
from typing import Any

from raypost.errors import BadInputError
from raypost.mail.mime_scan import IDENTITY_ENCODINGS, Header, body_parts, boundary_of, printable, read_header
from raypost.mail.tokens import TOKEN_FIELD, parse_token
from raypost.model.identifiers import is_address

STATUS_MAX_BYTES = 64 * 1024
GROUPS_MAX = 20
"""Recipients of one bounce that are looked at; each of our mails has one."""
DIAGNOSTIC_LENGTH_MAX = 500
FIELD_LENGTH_MAX = 400
PART_HEADER_MAX_BYTES = 16 * 1024
RETURNED_TYPES = ("message/rfc822", "text/rfc822-headers", "message/global")
ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")

_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,198}>")


def read_bounce(source: memoryview, header: Header, parts_max: int) -> dict[str, Any]:
    """Read a multipart/report with report-type=delivery-status (RFC 3464, 2; RFC 6522).

    Args:
        source: The whole mail.
        header: Its header block, already read.
        parts_max: More body parts are refused.

    Returns:
        form "delivery-status", original_message_id, recipient, action (one of ACTIONS, or ""), enhanced_code (such as
        "5.2.2", or ""), diagnostic (printable, cut), token (of the returned mail, or None). Nothing of it is signed.

    Raises:
        BadInputError: The report is broken.
    """
    status_header: Header | None = None
    groups: list[Header] = []
    returned: Header | None = None
    for start, end in body_parts(source, header.body_start, boundary_of(header), parts_max):
        part_header = read_header(source, start, end, PART_HEADER_MAX_BYTES)
        if part_header.transfer_encoding not in IDENTITY_ENCODINGS:
            continue
        if part_header.content_type.endswith("/delivery-status") and status_header is None:
            status_header = part_header
            groups = _groups(source, part_header.body_start, end)
        elif part_header.content_type in RETURNED_TYPES and returned is None:
            returned = _returned_header(source, part_header.body_start, end)
    if status_header is None or len(groups) < 2:
        raise BadInputError("A delivery status notification names no recipient.")
    return _as_values(groups[1], returned)


def _groups(source: memoryview, start: int, end: int) -> list[Header]:
    """Read the groups of fields: the first about the message, one for each recipient after it (RFC 3464, 2.1)."""
    if end - start > STATUS_MAX_BYTES:
        raise BadInputError("A delivery status notification is too long.")
    text = memoryview(bytes(source[start:end]).strip(b"\r\n") + b"\r\n\r\n")
    groups: list[Header] = []
    position = 0
    while position < len(text) and len(groups) < GROUPS_MAX:
        group = read_header(text, position, len(text), STATUS_MAX_BYTES)
        position = group.body_start
        if group.fields.keys():
            groups.append(group)
    return groups


def _returned_header(source: memoryview, start: int, end: int) -> Header | None:
    # The returned part may end with its header block, without the empty line that a whole mail has.
    block = memoryview(bytes(source[start : min(end, start + STATUS_MAX_BYTES)]) + b"\r\n\r\n")
    try:
        return read_header(block, 0, len(block), STATUS_MAX_BYTES + 4)
    except BadInputError:
        return None  # The status itself is still worth having.


def _as_values(recipient_group: Header, returned: Header | None) -> dict[str, Any]:
    action = recipient_group.text("action", 20).lower()
    enhanced = _ENHANCED.search(recipient_group.text("status", 20))
    message_id = None if returned is None else _MESSAGE_ID.search(returned.text("message-id", FIELD_LENGTH_MAX))
    token = None if returned is None else parse_token(returned.text(TOKEN_FIELD, FIELD_LENGTH_MAX))
    return {
        "form": "delivery-status",
        "original_message_id": message_id[0] if message_id else "",
        "recipient": _recipient(recipient_group),
        "action": action if action in ACTIONS else "",
        "enhanced_code": enhanced[0] if enhanced else "",
        "diagnostic": printable(str(recipient_group.fields.get("diagnostic-code", "")), DIAGNOSTIC_LENGTH_MAX),
        "token": None if token is None else token.as_json(),
    }


def _recipient(group: Header) -> str:
    for name in ("original-recipient", "final-recipient"):
        _, _, address = group.text(name, FIELD_LENGTH_MAX).partition(";")
        address = address.strip().strip("<>")
        if is_address(address):
            return address
    return ""
