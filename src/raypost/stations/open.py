"""7 Open, verify, unpack; quarantine what fails.

Nothing of a mail is believed before its signature is verified and its signer is a partner in the address book. Then it
must be meant for this site, and every instance must have the hash that the signed part names. Strangers get no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from raypost.archive import (
    arrivals,
    bounces,
    collected,
    contacts,
    events,
    greetings,
    moving,
    notes,
    outbox,
    partners,
    quarantine,
    receipted,
    transfers,
)
from raypost.archive.collected import CollectedMail
from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.errors import (
    BadInputError,
    IntegrityError,
    RaypostError,
    RemoteProtocolError,
    SecurityError,
    UnknownMessageError,
)
from raypost.mail.smtp_replies import judge_bounce
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.model.site import Partner
from raypost.model.transfer import TO_RECEIVER, MessageKind
from raypost.sandbox.pool import Sandbox
from raypost.sealing.openpgp import KeyRing
from raypost.stations.renewal import take_certificate
from raypost.transfer.control import (
    Announce,
    Hello,
    Manifest,
    Message,
    Parcel,
    Receipt,
)
from raypost.transfer.limits import Limits
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.wire import decode

TransferMessage = Parcel | Manifest | Receipt | notes.NoteMessage

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
        except UnknownMessageError as error:
            self._note_unknown(mail, error)
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
        if isinstance(message, Hello):
            self._take_hello(mail, opened.partner, message)
            return
        if isinstance(message, Parcel) and not self._is_withdrawn(opened):
            self._store_instances(opened, message)
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            if not collected.note_done(tx, mail.collected_id, "opened"):
                return
            transfer = self._transfer(tx, opened)
            fresh, needless = self._take_in(tx, transfer, message, now)
            contacts.note_heard(tx, opened.partner.site_id, now)
            moving.note_came_by(tx, transfer, message.head.kind, message.head.number, mail.relay)
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

    def _take_in(
        self, tx: Transaction, transfer: TransferRow, message: TransferMessage, now: datetime
    ) -> tuple[bool, list[str]]:
        """Take in what a message says; return whether it is new, and which sealed files are not needed any more."""
        match message:
            case Parcel():
                if transfer.state != ReceiverState.WITHDRAWN.value:
                    self._finish_slices(tx, transfer, message)
                return arrivals.take_parcel(tx, transfer, message, now), []
            case Manifest():
                arrivals.take_manifest(tx, transfer, message, now)
                return True, []
            case Receipt():
                return True, receipted.take_receipt(tx, transfer, message, now)
            case _:
                return notes.take(tx, transfer, message, now), []

    def _take_hello(self, mail: CollectedMail, partner: Partner, message: Hello) -> None:
        renewal = take_certificate(self.keyring, partner, message)
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            if collected.note_done(tx, mail.collected_id, "opened"):
                renewal.note(tx, partner, now)
                for transfer_id in greetings.take_hello(tx, partner, message, self.limits, now):
                    enqueue(tx, "check", once=f"check:{transfer_id}", transfer_id=transfer_id)

    def _transfer(self, tx: Transaction, opened: Opened) -> TransferRow:
        """Return the transfer a message belongs to, locked: the partner's, or ours of which it speaks."""
        head, message, now = opened.message.head, opened.message, self.clock.now()
        if head.kind not in TO_RECEIVER:
            asks_for_case = head.kind is MessageKind.TAKE
            mine = transfers.find_outgoing(tx, head.transfer_key, opened.partner.site_id, with_case=asks_for_case)
            if mine is None:
                raise RemoteProtocolError("a message about a transfer that this site never sent to that partner")
            return mine
        transfer = transfers.open_incoming(tx, head, opened.partner.site_id, now)
        if transfer.is_test != head.is_test:
            raise RemoteProtocolError("a message says other things of its transfer than an earlier one")
        if isinstance(message, Announce | Parcel | Manifest):
            study = message.study_instance_uid
            transfers.name_study(tx, transfer, study, message.supplement, head.kind, now)
        return transfer

    def _is_withdrawn(self, opened: Opened) -> bool:
        """Say whether a parcel belongs to a transfer that was recalled: nothing of it is kept then."""
        with self.archive.database.transaction() as tx:
            return transfers.is_withdrawn(tx, opened.message.head.transfer_key, opened.partner.site_id)

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
        """Take a hint that a relay could not deliver; an unsigned bounce decides nothing."""
        action, enhanced, diagnostic = (
            str(outer.get(name) or "") for name in ("action", "enhanced_code", "diagnostic")
        )
        row = judge_bounce(action, enhanced, diagnostic)
        with self.archive.database.transaction() as tx:
            found = outbox.transfer_of_message_id(tx, str(outer.get("original_message_id") or ""))
            if found is None:
                raise NotOursError("a bounce for a mail that this site did not send")
            if collected.note_done(tx, mail.collected_id, "opened"):
                said, remedy = f"{enhanced} {diagnostic}".strip(), row.remedy if row else None
                bounces.take_bounce(tx, found[1], remedy, said, self.limits, self.clock.now())

    def _note_unknown(self, mail: CollectedMail, error: UnknownMessageError) -> None:
        """Note a verified message that came after this version: nobody is harmed, nothing is kept from a person."""
        with self.archive.database.transaction() as tx:
            if collected.note_done(tx, mail.collected_id, "opened"):
                kind, now = EventKind.UNKNOWN_MESSAGE, self.clock.now()
                events.record(tx, now, kind, level=Level.NOTICE, relay=mail.relay, code=error.code, what=error.what)

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
