"""Beside the way of the data: a sign of life to every partner, by every relay, before a patient needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from raypost.archive import contacts, greetings, key_news, outbox, partners, relays
from raypost.archive.keys import new_transfer_key
from raypost.archive.site import Archive
from raypost.errors import IntegrityError, SecurityError
from raypost.model.clock import Clock
from raypost.model.site import Partner
from raypost.sealing.certificate_facts import CertificateFacts
from raypost.sealing.openpgp import KeyRing
from raypost.stations.envelope import seal_message
from raypost.transfer.limits import Limits

log = structlog.get_logger("raypost.greet")


@dataclass(frozen=True, slots=True)
class Greet:
    """Writes hellos and notices that a partner is silent.

    Attributes:
        addresses: Our own address by relay.
        mail_size_max_bytes: Largest mail that is fetched here.
        on_queued: Is told after a hello is committed as ready to be sent.
    """

    archive: Archive
    keyring: KeyRing
    clock: Clock
    limits: Limits
    addresses: Mapping[str, str]
    mail_size_max_bytes: int
    dispatch_slots: int
    on_queued: Callable[[], None] = lambda: None

    def greet(self, site_id: int) -> None:
        """Do what is due with a partner.

        Raises:
            TransientError: Disk, database or agent; the job comes again.
        """
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            partner, own = partners.partner_by_id(tx, site_id), partners.own_site(tx)
            known = contacts.keys_known(tx, site_id)
        if partner is None or partner.is_self:
            return
        ours, theirs = self._facts(own), self._facts(partner)  # gpg is slow: before any row is locked
        needs_ours = known is not None and not _working(ours, now) <= set(known)
        certificate = self.keyring.export_certificate(own.fingerprint) if needs_ours else ""
        with self.archive.database.transaction() as tx:
            for site, facts in ((own, ours), (partner, theirs)):
                if facts is not None:
                    key_news.warn(tx, site, facts.usable_until, now)
            if not greetings.next_step(tx, partner, self.limits, now).write_hello:
                return
            found = greetings.compose(
                tx,
                partner,
                own_fingerprint=own.fingerprint,
                transfer_key=new_transfer_key(),
                mail_size_max_bytes=self.mail_size_max_bytes,
                limits=self.limits,
                now=now,
                certificate=certificate,
                your_keys=sorted(_working(theirs, now)),
            )
            reached = relays.of_partner(tx, site_id)
        for copy, relay in enumerate(reached):
            try:
                sealed = seal_message(
                    self.archive,
                    self.keyring,
                    self.clock,
                    found.message,
                    (),
                    sender_address=self.addresses.get(relay.name, own.address),
                    recipient_address=partner.address_on(relay.name),
                    keys_known=known,
                )
            except (SecurityError, IntegrityError) as error:
                log.warning("no sign of life", partner=partner.name, code=error.code, what=error.what)
                return
            with self.archive.database.transaction() as tx:
                greetings.note_queued(
                    tx,
                    partner,
                    found.number,
                    copy,
                    relay=relay.name,
                    message_file=sealed.message_file,
                    message_id=sealed.message_id,
                    size_bytes=sealed.size_bytes,
                    now=self.clock.now(),
                )
                outbox.wake_dispatch(tx, relay.name, self.dispatch_slots)
            self.on_queued()

    def _facts(self, site: Partner) -> CertificateFacts | None:
        try:
            return self.keyring.facts(site.fingerprint)
        except SecurityError as error:
            log.warning("a certificate is missing", site=site.name, code=error.code, what=error.what)
            return None


def _working(facts: CertificateFacts | None, now: datetime) -> set[str]:
    """Return the keys of a certificate that sign or encrypt now."""
    return {one.fingerprint for one in facts.subkeys if one.works_at(now)} if facts is not None else set()
