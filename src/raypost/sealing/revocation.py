"""Revocation certificates: written when a key is made, kept apart from it, and taken in when a key must stop."""

from __future__ import annotations

import re
from pathlib import Path

from raypost.errors import SecurityError, UsageError
from raypost.model.identifiers import is_fingerprint

FOLDER = "openpgp-revocs.d"
"""Where GnuPG puts them, in the home of the key ring."""
REVOCATION_MAX_BYTES = 65_536

_ARMOUR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\n[A-Za-z0-9+/=:.,_() \t\n-]*\n-----END PGP PUBLIC KEY BLOCK-----"
)
_KEY_REVOCATION = re.compile(r"^\s*version \d+, created \d+, md5len \d+, sigclass 0x20$", re.MULTILINE)
_ISSUER = re.compile(r"issuer fpr v\d ([0-9A-F]{40,64})\)")
_PACKET = re.compile(r"^:([a-z -]+) packet:", re.MULTILINE)


def written_with_key(home: Path, fingerprint: str) -> str:
    """Return the revocation certificate that was written when a key was made, fit to be taken in.

    GnuPG puts a colon before its armour against use by accident; where it lies apart nobody stumbles over it.

    Raises:
        UsageError: It is not there any more.
    """
    try:
        text = (home / FOLDER / f"{fingerprint}.rev").read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "the revocation certificate is not in the key ring any more", do="It was taken out before: look there."
        ) from error
    return read_armour(text.replace("\n:-----BEGIN", "\n-----BEGIN")) + "\n"


def take_out(home: Path, fingerprint: str) -> None:
    """Remove the revocation certificate from the key ring: whoever steals the ring must not find it there."""
    (home / FOLDER / f"{fingerprint}.rev").unlink(missing_ok=True)


def read_armour(text: str) -> str:
    """Return the one armoured block of a text.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = _ARMOUR.findall(text.replace("\r\n", "\n"))
    if len(text) > REVOCATION_MAX_BYTES or len(found) != 1 or text.count("-----BEGIN") != 1:
        raise UsageError("this is not one revocation certificate in ASCII armour")
    return str(found[0])


def issuer_of(packets: str) -> str:
    """Return the fingerprint of the key that a revocation certificate revokes (RFC 4880, 5.2.1, type 0x20).

    Args:
        packets: What `gpg --list-packets` says of it.

    Raises:
        SecurityError: It is something else, or brings more.
    """
    issuers = set(_ISSUER.findall(packets))
    kinds = _PACKET.findall(packets)
    if kinds != ["signature"] or not _KEY_REVOCATION.search(packets) or len(issuers) != 1:
        raise SecurityError("this is not the revocation of one key, and nothing else", do="Nothing was changed.")
    (issuer,) = issuers
    if not is_fingerprint(issuer):
        raise SecurityError("the revocation certificate does not say whose key it revokes")
    return str(issuer)
