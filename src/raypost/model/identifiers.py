"""DICOM UIDs, AE titles, mail addresses, fingerprints and our own keys: what counts as one."""

from __future__ import annotations

import re

UID_LENGTH_MAX = 64
AE_TITLE_LENGTH_MAX = 16
ADDRESS_LENGTH_MAX = 254

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+", re.ASCII)
_AE_TITLE = re.compile(r"[A-Z0-9_\-. ]{1,16}", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9._+\-]{1,64}@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)*", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RAYPOST_KEY = re.compile(r"[a-z2-7]{10,40}", re.ASCII)
_SITE_NAME = re.compile(r"[a-z0-9][a-z0-9\-]{0,30}", re.ASCII)


def is_dicom_uid(value: object) -> bool:
    """Say whether a value is one UID (PS3.5, 9.1): at most 64 characters, no leading zeros, no empty component."""
    return isinstance(value, str) and len(value) <= UID_LENGTH_MAX and _UID.fullmatch(value) is not None


def is_ae_title(value: object) -> bool:
    """Say whether a value is an AE title we accept (PS3.5, 6.2: VR AE), already stripped of its padding."""
    return isinstance(value, str) and _AE_TITLE.fullmatch(value) is not None and value.strip() == value


def is_address(value: object) -> bool:
    """Say whether a value is a plain addr-spec (RFC 5321, 4.1.2), without quoting, comments or UTF-8."""
    return isinstance(value, str) and len(value) <= ADDRESS_LENGTH_MAX and _ADDRESS.fullmatch(value) is not None


def is_fingerprint(value: object) -> bool:
    """Say whether a value is a full OpenPGP fingerprint in upper case: 40 (v4) or 64 (v6) hexadecimal digits."""
    return isinstance(value, str) and _FINGERPRINT.fullmatch(value) is not None


def is_sha256(value: object) -> bool:
    """Say whether a value is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_raypost_key(value: object) -> bool:
    """Say whether a value is one of our own random keys (of a transfer, a study, a quarantined object)."""
    return isinstance(value, str) and _RAYPOST_KEY.fullmatch(value) is not None


def is_site_name(value: object) -> bool:
    """Say whether a value is a short site name: lower-case letters, digits and hyphens, at most 31."""
    return isinstance(value, str) and _SITE_NAME.fullmatch(value) is not None
