"""A site's own key: made, and renewed before its subkeys end. The primary key stays as long as the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from raypost.errors import TransientError, UsageError
from raypost.model.identifiers import is_address, is_fingerprint
from raypost.sealing.gpg import GpgOutcome

VALIDITY_MAX_DAYS = 36_500
KEY_PREFERENCES = "AES256 AES192 AES SHA512 SHA384 SHA256 Uncompressed"
"""Images are compressed already: "Uncompressed" keeps a partner's default gpg six times faster."""

_USER_NAME = re.compile(r"[^<>()\x00-\x1f\x7f]{1,100}")
_UNLOCKED = ("--pinentry-mode", "loopback", "--passphrase=")
SUBKEYS = (("ed25519", "sign"), ("cv25519", "encr"))
"""What a key gets when it is made, and again with each renewal."""

Manage = Callable[[Sequence[str]], GpgOutcome]
"""Runs gpg in the home of the key ring."""


def make(manage: Manage, name: str, address: str, primary_validity_days: int, subkey_validity_days: int) -> str:
    """Make a primary key that only certifies, one subkey to sign and one to encrypt; return its fingerprint.

    Raises:
        UsageError: A value cannot be right.
        TransientError: gpg could not make it.
    """
    if not _USER_NAME.fullmatch(name) or not is_address(address):
        raise UsageError("A site key needs a plain name and a plain mail address.")
    _check_days(primary_validity_days, subkey_validity_days)
    made = manage(
        [
            *_UNLOCKED,
            "--default-preference-list",
            KEY_PREFERENCES,
            "--quick-gen-key",
            f"{name} <{address}>",
            "ed25519",
            "cert",
            f"{primary_validity_days}d",
        ]
    )
    created = made.lines("KEY_CREATED")
    if made.exit_code or len(created) != 1 or len(created[0]) < 3 or not is_fingerprint(created[0][2]):
        raise TransientError("gpg could not make the site key.")
    _add_subkeys(manage, created[0][2], subkey_validity_days)
    return created[0][2]


def renew(manage: Manage, fingerprint: str, primary_validity_days: int, subkey_validity_days: int) -> None:
    """Add fresh subkeys and prolong the primary key; the older subkeys stay until they end.

    What was sealed to them can still be opened, and whoever does not know the new ones yet is signed to by them.

    Raises:
        UsageError: A value cannot be right.
        TransientError: gpg could not do it; what it did do harms nothing, and it can be tried again.
    """
    _check_days(primary_validity_days, subkey_validity_days)
    prolonged = manage([*_UNLOCKED, "--quick-set-expire", fingerprint, f"{primary_validity_days}d"])
    if prolonged.exit_code:
        raise TransientError("gpg could not prolong the site key.", do="Is the primary secret key in this key ring?")
    _add_subkeys(manage, fingerprint, subkey_validity_days)


def _add_subkeys(manage: Manage, fingerprint: str, validity_days: int) -> None:
    for algorithm, usage in SUBKEYS:
        added = manage([*_UNLOCKED, "--quick-add-key", fingerprint, algorithm, usage, f"{validity_days}d"])
        if added.exit_code:
            raise TransientError("gpg could not add a subkey to the site key.")


def _check_days(*validity_days: int) -> None:
    for days in validity_days:
        if not 1 <= days <= VALIDITY_MAX_DAYS:
            raise UsageError(f"A key is valid for 1 to {VALIDITY_MAX_DAYS} days, not {days}.")
