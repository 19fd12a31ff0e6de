"""Our own random keys: of transfers, studies, quarantined objects, mails and boundaries."""

from __future__ import annotations

import base64
import secrets

TRANSFER_KEY_BYTES = 16
SHORT_KEY_BYTES = 8


def new_transfer_key() -> str:
    """Return 128 random bits as 26 characters a-z2-7; nobody can guess one."""
    return _base32(TRANSFER_KEY_BYTES)


def new_short_key() -> str:
    """Return 64 random bits as 13 characters a-z2-7: names a study, a rule or a quarantined object for people."""
    return _base32(SHORT_KEY_BYTES)


def new_message_id(domain: str) -> str:
    """Return a Message-ID (RFC 5322, 3.6.4) that says nothing about what is inside."""
    return f"<{_base32(TRANSFER_KEY_BYTES)}@{domain}>"


def new_boundary() -> str:
    """Return a MIME boundary (RFC 2046, 5.1.1) that no payload contains by chance."""
    return _base32(TRANSFER_KEY_BYTES)


def _base32(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode("ascii").rstrip("=").lower()
