"""Keys that a partner renewed, as its hello brings them: taken over under the same fingerprint and no other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from raypost.archive import key_news, partners
from raypost.archive.database import Transaction
from raypost.errors import SecurityError
from raypost.model.site import Partner
from raypost.sealing.openpgp import KeyRing
from raypost.transfer.control import Hello

log = structlog.get_logger("raypost.open")


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a hello's certificate changed in the key ring.

    Attributes:
        certificate: As it is now; empty: the hello brought none, or none that counts.
        refused_because: Empty: it was taken over.
    """

    certificate: str = ""
    usable_until: datetime | None = None
    revoked: bool = False
    refused_because: str = ""

    def note(self, tx: Transaction, partner: Partner, now: datetime) -> None:
        """Write it down; once, however often the same certificate comes.

        Whoever was removed, or given another key by a person since the hello was verified, stays as that person wants.
        """
        if self.refused_because:
            key_news.note_refused(tx, partner, self.refused_because, now)
        if not self.certificate:
            return
        current = partners.lock_in_force(tx, partner.site_id, partner.fingerprint)
        if current is None or self.certificate == partners.certificate_of(tx, current.site_id):
            return
        who = f"partner:{current.name}"
        if self.revoked:
            partners.add_partner(tx, current, self.certificate, now=now, who=who, why="its owner revoked its key")
            key_news.note_revoked(tx, current, now, who=who, why="its owner says so in a hello")
        else:
            key_news.note_renewed(tx, current, self.certificate, self.usable_until, now, who=who)


def take_certificate(keyring: KeyRing, partner: Partner, message: Hello) -> Renewal:
    """Take over the keys that a verified hello brings.

    Whoever signed it holds a key of that certificate, and each new key is bound to it by its primary key. gpg merges:
    an older copy takes nothing away, and a revocation stays.

    Raises:
        TransientError: No agent, disk full.
    """
    if not message.certificate:
        return Renewal()
    try:
        facts = keyring.import_certificate(message.certificate, partner.fingerprint)
        return Renewal(keyring.export_certificate(partner.fingerprint), facts.usable_until, facts.revoked)
    except SecurityError as error:
        log.warning("a certificate in a hello is not taken over", code=error.code, what=error.what)
        return Renewal(refused_because=error.what)
