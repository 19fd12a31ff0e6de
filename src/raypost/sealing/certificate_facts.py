"""What is known about an OpenPGP certificate, read from gpg's machine-readable listing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from raypost.model.identifiers import is_address, is_fingerprint

SUBKEYS_MAX = 32
USER_IDS_MAX = 16
RSA_SIZE_MIN_BITS = 3072
"""BSI TR-02102-1: shorter RSA keys are not to be used any more."""

_ALGORITHMS = {1: "RSA", 18: "ECDH", 19: "ECDSA", 22: "EdDSA"}
"""RFC 4880, 9.1, and RFC 6637: what we accept. DSA and ElGamal are left out: they only come with old, short keys."""
_ADDRESS_IN_USER_ID = re.compile(r"<([^<>]+)>\s*$")
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class SubkeyFacts:
    """One key of a certificate, the primary key included, and what it may do.

    Attributes:
        is_strong: Of an algorithm and length that we accept.
    """

    fingerprint: str
    can_sign: bool
    can_encrypt: bool
    created_at: datetime
    expires_at: datetime | None
    revoked: bool
    is_strong: bool

    def works_at(self, now: datetime) -> bool:
        """Say whether it may be used; one made in our future may be: clocks differ."""
        return not self.revoked and self.is_strong and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """A certificate: whose it is, and how long it can be used for what.

    Attributes:
        fingerprint: Of the primary key; the only name by which it is ever used.
        user_ids: As written by its owner; not verified by anybody.
        addresses: The mail addresses within the user IDs, without repetition.
        expires_at: Of the primary key; none means never.
        revoked: The whole certificate, by its owner.
        subkeys: Every key that signs or encrypts, the primary key among them if it does.
        held: Fingerprints of every key, whatever it is for.
    """

    fingerprint: str
    user_ids: tuple[str, ...]
    addresses: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked: bool
    subkeys: tuple[SubkeyFacts, ...]
    held: frozenset[str] = frozenset()

    @property
    def can_sign(self) -> bool:
        """Say whether a key of it, not revoked, is meant for signing; whether it has expired is not asked."""
        return any(one.can_sign and not one.revoked and one.is_strong for one in self.subkeys)

    @property
    def can_encrypt(self) -> bool:
        """Say whether a key of it, not revoked, is meant for encryption; whether it has expired is not asked."""
        return any(one.can_encrypt and not one.revoked and one.is_strong for one in self.subkeys)

    @property
    def usable_until(self) -> datetime | None:
        """Return when signing or encryption ends unless the owner prolongs it; none means never."""
        ends = [self.expires_at]
        good = [one for one in self.subkeys if not one.revoked and one.is_strong]
        for same_use in ([one for one in good if one.can_sign], [one for one in good if one.can_encrypt]):
            last = [one.expires_at for one in same_use if one.expires_at is not None]
            if last and len(last) == len(same_use):
                ends.append(max(last))
        return min((end for end in ends if end is not None), default=None)

    def unusable_reason_at(self, now: datetime) -> str:
        """Say in a few words why it cannot be used at a time; empty when it can."""
        if self.revoked:
            return "revoked by its owner"
        if self.expires_at is not None and now >= self.expires_at:
            return f"expired on {self.expires_at:%Y-%m-%d}"
        for verb, wanted in (
            ("sign", [one for one in self.subkeys if one.can_sign]),
            ("encrypt", [one for one in self.subkeys if one.can_encrypt]),
        ):
            if not wanted:
                return f"has no key that can {verb}"
            if not any(one.works_at(now) for one in wanted):
                return f"has no key left that may {verb}: expired, revoked or too weak"
        return ""

    def usable_at(self, now: datetime) -> bool:
        """Say whether one can verify by it and encrypt to it at a time."""
        return not self.unusable_reason_at(now)


def choose_signing_key(own: CertificateFacts, known: Collection[str] | None, now: datetime) -> str:
    """Return the newest signing key that works and that the recipient knows; without its word, the oldest that works.

    Where it knows none that works, the newest: its person must be told by us as well.

    Args:
        known: Fingerprints of our keys that the recipient holds; None: nothing is known.

    Returns:
        Empty when no key works.
    """
    working = sorted((one for one in own.subkeys if one.can_sign and one.works_at(now)), key=lambda one: one.created_at)
    if not working:
        return ""
    if known is None:
        return working[0].fingerprint
    return next((one for one in reversed(working) if one.fingerprint in known), working[-1]).fingerprint


@dataclass(frozen=True, slots=True)
class Listing:
    """What one listing of gpg holds.

    Attributes:
        has_secrets: A secret key is among it.
    """

    certificates: tuple[CertificateFacts, ...]
    has_secrets: bool


def read_listing(text: bytes) -> Listing:
    """Read the output of `--with-colons` (GnuPG, doc/DETAILS).

    Raises:
        ValueError: It is not such a listing, or holds more keys or user IDs than the bounds allow.
    """
    rows = [line.split(":") for line in text.decode("utf-8", "replace").split("\n") if line]
    starts = [at for at, row in enumerate(rows) if row[0] in ("pub", "sec")]
    ends = [*starts[1:], len(rows)]
    return Listing(
        certificates=tuple(_read_one(rows[start:end]) for start, end in zip(starts, ends, strict=True)),
        has_secrets=any(row[0] in ("sec", "ssb") for row in rows),
    )


def _read_one(rows: list[list[str]]) -> CertificateFacts:
    keys = list(_read_keys(rows))
    user_ids = tuple(_unescape(row[9]) for row in rows if row[0] == "uid" and row[1] not in ("r", "n"))
    if not keys or len(keys) > SUBKEYS_MAX or len(user_ids) > USER_IDS_MAX:
        raise ValueError("no key, or too many keys or user IDs")
    found = [match[1] for text in user_ids if (match := _ADDRESS_IN_USER_ID.search(text)) and is_address(match[1])]
    primary = keys[0]
    return CertificateFacts(
        fingerprint=primary.fingerprint,
        user_ids=user_ids,
        addresses=tuple(dict.fromkeys(found)),
        created_at=primary.created_at,
        expires_at=primary.expires_at,
        revoked=primary.revoked,
        subkeys=tuple(one for one in keys if one.can_sign or one.can_encrypt),
        held=frozenset(one.fingerprint for one in keys),
    )


def _read_keys(rows: list[list[str]]) -> Iterator[SubkeyFacts]:
    for at, row in enumerate(rows):
        if row[0] not in ("pub", "sub", "sec", "ssb"):
            continue
        following = rows[at + 1] if at + 1 < len(rows) else []
        if len(row) < 12 or len(following) < 10 or following[0] != "fpr" or not is_fingerprint(following[9]):
            raise ValueError("a key without fingerprint")
        size_bits, algorithm = int(row[2]), int(row[3])
        strong = algorithm in _ALGORITHMS and (algorithm != 1 or size_bits >= RSA_SIZE_MIN_BITS)
        yield SubkeyFacts(
            fingerprint=following[9],
            can_sign="s" in row[11],
            can_encrypt="e" in row[11],
            created_at=datetime.fromtimestamp(int(row[5]), UTC),
            expires_at=datetime.fromtimestamp(int(row[6]), UTC) if row[6] else None,
            revoked=row[1] in ("r", "i"),
            is_strong=strong,
        )


def _unescape(text: str) -> str:
    # gpg writes colons and control characters as \xHH; control characters stay written so.
    return _ESCAPED.sub(lambda match: found if (found := chr(int(match[1], 16))).isprintable() else match[0], text)
