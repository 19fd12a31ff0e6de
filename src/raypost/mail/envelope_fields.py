"""What is read of a mail before it is fetched: who the relay let in, and the token. A hint, from untrusted bytes."""

from __future__ import annotations

import re
import sys

from raypost.mail.tokens import TOKEN_FIELD, Token, parse_token
from raypost.model.identifiers import is_address

FIELDS = ("RETURN-PATH", "FROM", TOKEN_FIELD.upper())
FIELDS_MAX_BYTES = 1024
"""Of these fields of one mail: a forger's long ones must not fill the memory; ours have under 300 bytes."""

_LINE_END = re.compile(rb"\r?\n(?![ \t])")
_ANGLE_ADDRESS = re.compile(r"<([^<>\s]*)>")


def read_fields(block: bytes) -> tuple[str | None, Token | None]:
    """Return sender and token as the fields of a mail say them.

    The sender is what the relay wrote into Return-Path at delivery (RFC 5321, 4.4), the address to which it bound the
    log-in; a field of that name which came with the mail stands below it or was removed. Nothing binds From, so it
    counts only where the relay writes no Return-Path.

    Args:
        block: The fields FIELDS as they stand in the mail, perhaps cut off.

    Returns:
        The address in lower case, empty for a bounce, None where none can be read; the token, None without one.
    """
    values: dict[str, list[str]] = {name: [] for name in FIELDS}
    for line in _LINE_END.split(block[:FIELDS_MAX_BYTES]):
        name, _, value = line.decode("ascii", "replace").partition(":")
        if name.strip().upper() in values:
            values[name.strip().upper()].append(" ".join(value.split()))
    sender = next((_address(value) for value in [*values["RETURN-PATH"], *values["FROM"]]), None)
    tokens = values[TOKEN_FIELD.upper()]
    return sender, parse_token(tokens[0]) if len(tokens) == 1 else None


def _address(value: str) -> str | None:
    found = _ANGLE_ADDRESS.findall(value)
    address = found[-1] if found else value
    if not address and found:
        return ""
    return sys.intern(address.lower()) if is_address(address) else None
