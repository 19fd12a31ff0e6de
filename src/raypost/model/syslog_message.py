"""Syslog messages as DICOM PS3.15, A.6 and A.7 want them: RFC 5424, framed for TLS by RFC 5425."""

from __future__ import annotations

import re
from datetime import UTC, datetime

FACILITY = 10
"""Security and authorisation messages (RFC 5424, 6.2.1); 10 * 8 + 5 gives the <85> of PS3.15, A.6."""
NOTICE, WARNING = 5, 4
APP_NAME = "raypost"
MESSAGE_ID = "DICOM+RFC3881"
SEQUENCE_MAX = 2_147_483_647
"""RFC 5424, 7.3.1: then it begins with 1 again."""
HOST_LENGTH_MAX = 255
_BOM = "\ufeff"


def syslog_message(message: str, *, sequence: int, at: datetime, host: str, is_failure: bool) -> bytes:
    """Return one syslog message.

    Args:
        message: The audit message, XML without line ends.
        sequence: Of the audit trail; by it a receiver sees what is missing and what came twice (RFC 5424, 7.3.1).
        at: When it happened.
        host: Name of this machine.
    """
    priority = FACILITY * 8 + (WARNING if is_failure else NOTICE)
    stamp = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = re.sub(r"[^\x21-\x7e]", "", host)[:HOST_LENGTH_MAX] or "-"
    number = (sequence - 1) % SEQUENCE_MAX + 1
    head = f'<{priority}>1 {stamp} {name} {APP_NAME} - {MESSAGE_ID} [meta sequenceId="{number}"] '
    return (head + _BOM + message).encode()


def octet_counted(message: bytes) -> bytes:
    """Return a message in the framing of RFC 5425, 4.3: its length, a space, and itself."""
    return b"%d %b" % (len(message), message)
