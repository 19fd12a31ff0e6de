"""7 Open, verify, unpack; quarantine what fails.

Nothing of a mail is believed before its signature is verified and its signer is a partner in the address book. Then it
must be meant for this site, and every instance must have the hash that the signed part names. Strangers get no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypost.archive import arrivals, collected, events, messages, partners, quarantine, transfers
from raypost.archive.collected import CollectedMail
from raypost.archive.database import Transaction
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.errors import BadInputError, IntegrityError, RaypostError, RemoteProtocolError, SecurityError
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.model.site import Partner
from raypost.sandbox.pool import Sandbox
from raypost.sealing.openpgp import KeyRing
from raypost.transfer.control import Manifest, Message, Parcel, Receipt, decode
from raypost.transfer.limits import Limits

READ_OUTER = "raypost.mail.mime_message:read_outer"
READ_ENTITY = "raypost.mail.parcels:read_entity"


class NotOursError(BadInputError):
    """A mail that is not sealed: spam, or somebody wrote to the site's mailbox."""

    code = "RP-302"
    meaning = "It has nothing to do with any transfer; it is kept unread and nobody is answered."
    do = "Nothing; a person who writes to this address is better told another one."


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified message: from whom, what it says, and where its items lie in the opened file."""

    partner: Partner
    message: Message
    items: Sequence[dict[str, Any]]
    entity: Path


@dataclass(frozen=True, slots=True)
class OpenMail:
    """Opens collected mails."""

    archive: Archive
    keyring: KeyRing
    sandbox: Sandbox
    clock: Clock
    limits: Limits
    content_size_max_bytes: int

    def open(self, collected_id: int) -> None:
        """Open one mail and take in what it brings.

        Raises:
            TransientError: Disk, database or agent; the job comes again.
        """
        with self.archive.database.transaction() as tx:
            mail = collected.to_open(tx, collected_id)
        if mail is None:
            return
        spool = self.archive.spool
        file, ciphertext, entity = spool.path(mail.mail_file), spool.new_file("pgp"), spool.new_file("entity")
        try:
            if not file.exists():
                raise IntegrityError("a fetched mail is not in the spool any more; its sender will send it again")
            outer = self.sandbox.run(READ_OUTER, file, ciphertext)
            match outer.get("form"):
                case "openpgp":
                    self._take(mail, self._verify(ciphertext, entity))
                case "delivery-status":
                    self._note_bounce(mail, outer)
                case _:
                    raise NotOursError("a mail that is not sealed came to this site's mailbox")
        except (BadInputError, SecurityError, RemoteProtocolError, IntegrityError) as error:
            self._put_aside(mail, file, error)
            return
        finally:
            ciphertext.unlink(missing_ok=True)
            entity.unlink(missing_ok=True)
        spool.discard(mail.mail_file)

    def _verify(self, ciphertext: Path, entity: Path) -> Opened:
        with self.archive.database.transaction() as tx:
            own = partners.own_site(tx)
            known = {one.fingerprint: one for one in partners.all_partners(tx)}
        opened = self.keyring.open_sealed(ciphertext, entity, set(known), self.content_size_max_bytes)
        partner = known[opened.signer_fingerprint]
        found = self.sandbox.run(READ_ENTITY, entity)
        message = decode(found.get("control"))
        if message.head.sender != partner.fingerprint:
            raise SecurityError("a message names another sender than the one who signed it")
        if message.head.recipient != own.fingerprint:
            raise SecurityError("a message was meant for another site and passed on to this one")
        items: Any = found.get("items")
        return Opened(partner, message, items, entity)

    def _take(self, mail: CollectedMail, opened: Opened) -> None:
        message = opened.message
        if isinstance(message, Parcel):
            self._store_instances(opened, message)
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            if not collected.note_done(tx, mail.collected_id, "opened"):
                return
            transfer = self._transfer(tx, opened)
            fresh, needless = True, list[str]()
            match message:
                case Parcel():
                    self._finish_slices(tx, transfer, message)
                    fresh = arrivals.take_parcel(tx, transfer, message, now)
                case Manifest():
                    arrivals.take_manifest(tx, transfer, message, now)
                case Receipt():
                    needless = arrivals.take_receipt(tx, transfer, message, now)
            if fresh:
                events.record(
                    tx,
                    now,
                    EventKind.VERIFIED,
                    transfer=transfer,
                    message=message.head.kind.value,
                    number=message.head.number,
                    instances=len(message.entries) if isinstance(message, Parcel) else None,
                )
            rearm(tx, transfer, self.limits, now)
        for name in needless:
            self.archive.spool.discard(name)

    def _transfer(self, tx: Transaction, opened: Opened) -> TransferRow:
        head, message = opened.message.head, opened.message
        if isinstance(message, Receipt):
            mine = transfers.find_outgoing(tx, head.transfer_key, opened.partner.site_id)
            if mine is None:
                raise RemoteProtocolError("a receipt for a transfer that this site never sent to that partner")
            return mine
        transfer = transfers.open_incoming(
            tx,
            transfer_key=head.transfer_key,
            site_id=opened.partner.site_id,
            study_instance_uid=message.study_instance_uid,
            supplement=message.supplement,
            priority=head.priority,
            is_test=head.is_test,
            now=self.clock.now(),
        )
        if transfer.study_instance_uid != message.study_instance_uid or transfer.is_test != head.is_test:
            raise RemoteProtocolError("a message says other things of its transfer than an earlier one")
        return transfer

    def _store_instances(self, opened: Opened, parcel: Parcel) -> None:
        """Bring every instance into the blob store under its verified hash; slices into their assembly."""
        if len(opened.items) != len(parcel.entries):
            raise RemoteProtocolError("a parcel does not hold as many instances as it lists")
        blobs, spool = self.archive.blobs, self.archive.spool
        with opened.entity.open("rb") as content:
            for entry, item in zip(parcel.entries, opened.items, strict=True):
                if item["length_bytes"] != entry.length_bytes:
                    raise IntegrityError("an instance in a parcel has another length than its signed list says")
                if entry.is_whole:
                    blobs.put_range(content, item["offset_bytes"], entry.length_bytes, entry.instance.sha256)
                elif not blobs.has(entry.instance.sha256):
                    place = f"{parcel.head.transfer_key}-{entry.instance.sha256}"
                    spool.assemble(place, content, item["offset_bytes"], entry.offset_bytes, entry.length_bytes)

    def _finish_slices(self, tx: Transaction, transfer: TransferRow, parcel: Parcel) -> None:
        """Bring instances whose last slice is here into the blob store.

        In the transaction that takes the parcel, the transfer locked: of two workers with the last two slices one must
        see the other's. Slices that do not add up are asked for again, all but those of this parcel.
        """
        for instance in arrivals.slices_complete(tx, transfer, parcel):
            place = self.archive.spool.assembled(f"{parcel.head.transfer_key}-{instance.sha256}")
            if self.archive.blobs.has(instance.sha256):
                place.unlink(missing_ok=True)
                continue
            try:
                self.archive.blobs.adopt_verified(place, instance.sha256)
            except IntegrityError:
                arrivals.forget_slices(tx, transfer, instance.sha256)

    def _note_bounce(self, mail: CollectedMail, outer: dict[str, Any]) -> None:
        """Show a person that a relay could not deliver; receipts decide what is sent again, not an unsigned bounce."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            found = messages.transfer_of_message_id(tx, str(outer.get("original_message_id") or ""))
            if found is None:
                raise NotOursError("a bounce for a mail that this site did not send")
            if collected.note_done(tx, mail.collected_id, "opened"):
                said = f"{outer.get('enhanced_code') or ''} {outer.get('diagnostic') or ''}".strip()
                events.record(
                    tx,
                    now,
                    EventKind.BOUNCED,
                    level=Level.NOTICE,
                    transfer=transfers.lock(tx, found[0]),
                    relay=mail.relay,
                    said=said[:200],
                )

    def _put_aside(self, mail: CollectedMail, file: Path, error: RaypostError) -> None:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            state, kind = "quarantined", EventKind.QUARANTINED
            if isinstance(error, NotOursError):
                state, kind = "ignored", EventKind.MAIL_IGNORED
            if collected.note_done(tx, mail.collected_id, state):
                spool = self.archive.spool
                quarantine.put(tx, spool, file, error, source="mail", origin=mail.relay, now=now, kind=kind)
        self.archive.spool.discard(mail.mail_file)
