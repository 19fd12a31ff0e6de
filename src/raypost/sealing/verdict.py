"""Judges what gpg said about a message: opened and signed by whom, or refused and why."""

from __future__ import annotations

import enum
import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime

from raypost.errors import SecurityError
from raypost.model.identifiers import is_fingerprint
from raypost.sealing.gpg import GpgOutcome

GOOD_HASHES = {"8", "9", "10", "11"}
"""SHA-256, SHA-384, SHA-512, SHA-224 (RFC 4880, 9.4)."""
GOOD_CLASSES = {"00", "01"}
"""Signature over a binary or a text document (RFC 4880, 5.2.1)."""

_KEY_ID = re.compile(r"[0-9A-F]{16}", re.ASCII)


class OpenFailure(enum.Enum):
    """Why a sealed message was not opened; the value is the word in logs and events."""

    NOT_OPENPGP = "not_openpgp"
    NOT_ENCRYPTED = "not_encrypted"
    PASSWORD_BASED = "password_based"
    NO_INTEGRITY = "no_integrity"
    NOT_FOR_US = "not_for_us"
    UNSIGNED = "unsigned"
    UNKNOWN_SIGNER = "unknown_signer"
    SIGNER_NOT_ALLOWED = "signer_not_allowed"
    SIGNER_EXPIRED = "signer_expired"
    SIGNER_REVOKED = "signer_revoked"
    SIGNATURE_EXPIRED = "signature_expired"
    WEAK_SIGNATURE = "weak_signature"
    SEVERAL_SIGNATURES = "several_signatures"
    SEVERAL_MESSAGES = "several_messages"
    TAMPERED = "tampered"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    UNCLEAR = "unclear"


_WORDS = {
    OpenFailure.NOT_OPENPGP: "it is not an OpenPGP message",
    OpenFailure.NOT_ENCRYPTED: "it is not encrypted",
    OpenFailure.PASSWORD_BASED: "it is encrypted with a password instead of a certificate",
    OpenFailure.NO_INTEGRITY: "it is encrypted without integrity protection",
    OpenFailure.NOT_FOR_US: "it is not encrypted to a key of this site",
    OpenFailure.UNSIGNED: "it is not signed",
    OpenFailure.UNKNOWN_SIGNER: "the certificate of its signer is not known here",
    OpenFailure.SIGNER_NOT_ALLOWED: "its signer is known, but not allowed to send this",
    OpenFailure.SIGNER_EXPIRED: "the certificate of its signer has expired",
    OpenFailure.SIGNER_REVOKED: "the certificate of its signer was revoked by its owner",
    OpenFailure.SIGNATURE_EXPIRED: "its signature has expired",
    OpenFailure.WEAK_SIGNATURE: "its signature is of a kind or strength that is not accepted",
    OpenFailure.SEVERAL_SIGNATURES: "it does not carry exactly one signature over the whole",
    OpenFailure.SEVERAL_MESSAGES: "there is more than one message in it",
    OpenFailure.TAMPERED: "it was changed on its way",
    OpenFailure.TRUNCATED: "it was cut short on its way",
    OpenFailure.TOO_LARGE: "its content is larger than allowed",
    OpenFailure.UNCLEAR: "gpg did not confirm that all is in order",
}


class OpenRefusedError(SecurityError):
    """A sealed message was not opened.

    Args:
        reason: The one reason, for events and decisions.
        claimed_signer: Who signed it as far as the message itself says: the fingerprint, or key ID, of the signing
            key, or the primary fingerprint where the certificate is known. Proves nothing unless the signature is good.
        log: The end of gpg's messages, for our log only.
    """

    code = "RP-501"

    def __init__(self, reason: OpenFailure, *, claimed_signer: str = "", log: str = "") -> None:
        super().__init__(f"A sealed message was refused: {_WORDS[reason]}.")
        self.reason = reason
        self.claimed_signer = claimed_signer
        self.log = log


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that was decrypted, is whole, and is signed by somebody who may.

    Attributes:
        signer_fingerprint: Of the signer's primary key.
        signed_at: By the signer's clock.
    """

    signer_fingerprint: str
    signed_at: datetime


def judge_opening(outcome: GpgOutcome, allowed: Set[str]) -> Opened:
    """Accept a message only if every single sign is good; otherwise name what is wrong first and worst.

    Args:
        outcome: Of `gpg --decrypt`.
        allowed: Fingerprints of the primary keys that may sign this.

    Raises:
        OpenRefusedError: Anything is not in order.
    """
    reason = _first_fault(outcome, allowed)
    if reason is not None:
        raise OpenRefusedError(reason, claimed_signer=_claimed_signer(outcome), log=outcome.log)
    valid = outcome.lines("VALIDSIG")[0]
    return Opened(signer_fingerprint=valid[10], signed_at=datetime.fromtimestamp(int(valid[3]), UTC))


def _first_fault(outcome: GpgOutcome, allowed: Set[str]) -> OpenFailure | None:
    keywords = outcome.keywords
    said = set(keywords)
    valid = outcome.lines("VALIDSIG")
    one_good_signature = keywords.count("GOODSIG") == 1 and len(valid) == 1 and keywords.count("NEWSIG") <= 1
    findings = (
        (outcome.overflowed, OpenFailure.UNCLEAR),
        ("NEED_PASSPHRASE_SYM" in said, OpenFailure.PASSWORD_BASED),
        # gpg considers only keys it has: none was named, so none of the recipients is ours.
        ("DECRYPTION_FAILED" in said and not said & {"KEY_CONSIDERED", "DECRYPTION_INFO"}, OpenFailure.NOT_FOR_US),
        ("exceeded --max-output limit" in outcome.log, OpenFailure.TOO_LARGE),
        (
            keywords.count("BEGIN_DECRYPTION") > 1
            or keywords.count("PLAINTEXT") > 1
            or any(line[1:2] == ("proc_pkt.plaintext",) for line in outcome.lines("ERROR")),
            OpenFailure.SEVERAL_MESSAGES,
        ),
        ("BADSIG" in said or "BADMDC" in said, OpenFailure.TAMPERED),
        ("REVKEYSIG" in said, OpenFailure.SIGNER_REVOKED),
        ("EXPKEYSIG" in said, OpenFailure.SIGNER_EXPIRED),
        ("EXPSIG" in said, OpenFailure.SIGNATURE_EXPIRED),
        (any(len(line) > 6 and line[6] == "9" for line in outcome.lines("ERRSIG")), OpenFailure.UNKNOWN_SIGNER),
        ("ERRSIG" in said, OpenFailure.WEAK_SIGNATURE),
        ("DECRYPTION_FAILED" in said, OpenFailure.TAMPERED),
        ("BEGIN_DECRYPTION" not in said and "PLAINTEXT" in said, OpenFailure.NOT_ENCRYPTED),
        ("BEGIN_DECRYPTION" not in said, OpenFailure.NOT_OPENPGP),
        (keywords.count("DECRYPTION_OKAY") != 1 or "GOODMDC" not in said, OpenFailure.NO_INTEGRITY),
        ("PLAINTEXT" not in said, OpenFailure.UNCLEAR),
        ("GOODSIG" not in said and not valid, OpenFailure.UNSIGNED),
        (not one_good_signature, OpenFailure.SEVERAL_SIGNATURES),
        (not _is_strong(valid), OpenFailure.WEAK_SIGNATURE),
        (bool(said & {"NODATA", "FAILURE", "ERROR"}) or outcome.exit_code != 0, OpenFailure.UNCLEAR),
        (bool(valid) and valid[0][-1] not in allowed, OpenFailure.SIGNER_NOT_ALLOWED),
    )
    return next((reason for found, reason in findings if found), None)


def _is_strong(valid: list[tuple[str, ...]]) -> bool:
    return all(
        len(line) == 11
        and line[8] in GOOD_HASHES
        and line[9] in GOOD_CLASSES
        and is_fingerprint(line[10])
        and line[3].isdecimal()
        for line in valid
    )


def _claimed_signer(outcome: GpgOutcome) -> str:
    candidates = [line[-1] for line in outcome.lines("VALIDSIG") + outcome.lines("ERRSIG")]
    for keyword in ("ERRSIG", "BADSIG", "GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"):
        candidates += [line[1] for line in outcome.lines(keyword) if len(line) > 1]
    return next((one for one in candidates if is_fingerprint(one) or _KEY_ID.fullmatch(one)), "")
