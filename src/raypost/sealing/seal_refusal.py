"""Why a file was not sealed."""

from __future__ import annotations

import enum

from raypost.errors import SecurityError


class SealFailure(enum.Enum):
    """Why nothing was sealed; the value is the word in logs and events."""

    SIGNER_UNUSABLE = "signer_unusable"
    RECIPIENT_UNKNOWN = "recipient_unknown"
    RECIPIENT_EXPIRED = "recipient_expired"
    RECIPIENT_REVOKED = "recipient_revoked"
    RECIPIENT_CANNOT_ENCRYPT = "recipient_cannot_encrypt"
    UNCLEAR = "unclear"


class SealRefusedError(SecurityError):
    """Nothing was sealed, because a key does not allow it.

    Args:
        what: One sentence.
        reason: The one reason, for events and decisions.
        fingerprint: Of the certificate it is about; empty when not known.
        log: The end of gpg's messages, for our log only.
    """

    code = "RP-502"
    meaning = "These images are not sent by mail; they are safe here."
    do = "`raypost partner list` shows the certificates; ask the partner for a new card."

    def __init__(self, what: str, reason: SealFailure, *, fingerprint: str = "", log: str = "") -> None:
        super().__init__(what)
        self.reason = reason
        self.fingerprint = fingerprint
        self.log = log
