"""DIMSE command sets as bytes (PS3.7, 6.3): Implicit VR Little Endian, bounded, without believing any UID."""

from __future__ import annotations

import struct
from collections.abc import Mapping

COMMAND_SIZE_MAX_BYTES = 64 << 10
COMMAND_ELEMENTS_MAX = 64

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF
NO_DATA_SET = 0x0101

AFFECTED_SOP_CLASS = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
AFFECTED_SOP_INSTANCE = 0x1000


def parse_command(raw: bytes) -> dict[int, bytes]:
    """Return element number to value of a command set.

    Raises:
        ValueError: It is no command set, or too large.
    """
    if len(raw) > COMMAND_SIZE_MAX_BYTES:
        raise ValueError("command set too large")
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if at + 8 > len(raw) or len(found) >= COMMAND_ELEMENTS_MAX:
            raise ValueError("command set damaged")
        group, number, size = struct.unpack_from("<HHI", raw, at)
        if group != 0 or at + 8 + size > len(raw):
            raise ValueError("command set damaged")
        found[number] = raw[at + 8 : at + 8 + size]
        at += 8 + size
    return found


def command_number(command: Mapping[int, bytes], number: int) -> int:
    """Return a US value of a command set.

    Raises:
        ValueError: It is missing or no US.
    """
    value = command.get(number, b"")
    if len(value) != 2:
        raise ValueError("command set damaged")
    return int(struct.unpack("<H", value)[0])


def command_text(command: Mapping[int, bytes], number: int) -> str:
    """Return a UID or other text as it came, without padding; '' if it is missing."""
    return command.get(number, b"").rstrip(b"\0 ").decode("latin-1")


def response(command: Mapping[int, bytes], command_field: int, dimse_status: int) -> bytes:
    """Return the response to a request, with the request's own UIDs.

    The Affected SOP Instance UID is optional in a response (PS3.7, 9.3.1.2) and left out when it is too long for one.
    """
    elements = {
        AFFECTED_SOP_CLASS: command.get(AFFECTED_SOP_CLASS, b"")[:64],
        COMMAND_FIELD: struct.pack("<H", command_field),
        MESSAGE_ID_RESPONDED_TO: command[MESSAGE_ID],
        DATA_SET_TYPE: struct.pack("<H", NO_DATA_SET),
        STATUS: struct.pack("<H", dimse_status),
    }
    instance = command.get(AFFECTED_SOP_INSTANCE, b"")
    if 0 < len(instance) <= 64:
        elements[AFFECTED_SOP_INSTANCE] = instance
    return _encoded(elements)


def request(
    command_field: int,
    message_id: int,
    sop_class: bytes,
    more: Mapping[int, bytes],
    *,
    has_data: bool,
) -> bytes:
    """Return a request.

    Args:
        command_field: What is asked for.
        message_id: 1 to 65535.
        sop_class: Affected SOP Class UID, padded.
        more: Further elements.
        has_data: A data set follows.
    """
    return _encoded(
        {
            AFFECTED_SOP_CLASS: sop_class,
            COMMAND_FIELD: struct.pack("<H", command_field),
            MESSAGE_ID: struct.pack("<H", message_id),
            DATA_SET_TYPE: struct.pack("<H", 0 if has_data else NO_DATA_SET),
            **more,
        }
    )


def _encoded(elements: Mapping[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in sorted(elements.items()))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body
