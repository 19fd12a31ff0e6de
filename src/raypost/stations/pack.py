"""4 Instances into parcels; choose the relay; wrap in MIME; seal. Manifests and receipts go the same way.

A message's content stands in the tables before it is packed: packing is repeated as often as needed, after a crash, to
send again or to go by another relay, and always says what is committed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from raypost.archive import composing, contacts, damage, events, moving, outbox, packing, partners, relays, transfers
from raypost.archive.database import Transaction
from raypost.archive.packing import PlannedMessage
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.errors import IntegrityError, LocalProtocolError, SecurityError
from raypost.mail.parcel_sizes import parcel_room
from raypost.mail.parcels import EntityItem
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.model.site import Partner
from raypost.sealing.openpgp import KeyRing
from raypost.stations.envelope import SealedMail, seal_message
from raypost.transfer.control import Manifest, Message, Parcel, Receipt
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits

MESSAGES_PER_JOB_MAX = 10_000
UNROUTABLE_WAIT = timedelta(seconds=30)
"""What no relay can take is looked at again after so long."""


@dataclass(frozen=True, slots=True)
class OwnMailbox:
    """Our side of one relay.

    Attributes:
        address: Our mail address there.
        mail_size_max_bytes: Of a mail, where the relay names no smaller limit.
    """

    address: str
    mail_size_max_bytes: int


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message with its way: what is sealed next."""

    planned: PlannedMessage
    message: Message
    partner: Partner
    relay: str
    sender_address: str
    keys_known: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Pack:
    """Packs and seals what is planned.

    Attributes:
        mailboxes: Ours, by relay.
        on_queued: Is told after a message is committed as ready to be sent.
    """

    archive: Archive
    keyring: KeyRing
    clock: Clock
    limits: Limits
    pacing: PacingLimits
    mailboxes: Mapping[str, OwnMailbox]
    dispatch_slots: int
    on_queued: Callable[[], None] = lambda: None

    def pack(self, transfer_id: int) -> None:
        """Pack and seal every message of a transfer that is to go now.

        One job packs a transfer at a time. A job that finds another at work leaves; the one at work looks again after
        it let go, so that nothing is left behind.
        """
        is_left = True
        while is_left:
            with self.archive.database.exclusive(f"pack:{transfer_id}") as is_mine:
                if not is_mine:
                    return
                for _ in range(MESSAGES_PER_JOB_MAX):
                    if not self._pack_next(transfer_id):
                        break
            with self.archive.database.transaction() as tx:
                is_left = packing.next_planned(tx, transfer_id, self.clock.now()) is not None

    def _pack_next(self, transfer_id: int) -> bool:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, transfer_id)
            if transfer is None:
                return False
            if transfer.direction == "out" and transfer.state in ("announced", "streaming", "closed"):
                self._plan_parcels(tx, transfer, now)
            planned = packing.next_planned(tx, transfer_id, now)
            if planned is None:
                return False
            letter = self._write(tx, transfer, planned, now)
        if letter is None:
            return True
        if damaged := damage.damaged_in(self.archive.blobs, letter.message):
            self._leave_out(planned, damaged)
            return True
        try:
            self._seal(letter)
        except (SecurityError, IntegrityError) as error:
            with self.archive.database.transaction() as tx:
                transfers.lock(tx, transfer_id)
                self._give_up(tx, planned, error)
        return True

    def _write(self, tx: Transaction, transfer: TransferRow, planned: PlannedMessage, now: datetime) -> _Letter | None:
        """Choose a message's way and say what it says; None when it does not go, or not now, which is noted then."""
        own, partner = partners.own_site(tx), partners.partner_by_id(tx, transfer.partner_id)
        if partner is None:
            self._give_up(tx, planned, SecurityError("the partner was removed from the address book"))
            return None
        relay = moving.relay_for(tx, planned, is_late=transfer.late_at is not None)
        if relay is None and planned.copy:
            packing.drop_copy(tx, planned)
            return None
        mailbox = self.mailboxes.get(relay) if relay is not None else None
        if relay is None or mailbox is None:
            packing.note_unroutable(tx, transfer, now + UNROUTABLE_WAIT)
            self._tell_stalled(tx, transfer, now, "the partner has no mailbox on any of this site's relays")
            return None
        message = composing.compose(tx, planned, sender=own.fingerprint, recipient=partner.fingerprint, now=now)
        if isinstance(message, Manifest) and not message.instances:
            self._give_up(tx, planned, IntegrityError("every image of the transfer is damaged on this disk"))
            return None
        known = contacts.keys_known(tx, partner.site_id)
        return _Letter(planned, message, partner, relay, mailbox.address, known)

    def _seal(self, letter: _Letter) -> None:
        sealed = seal_message(
            self.archive,
            self.keyring,
            self.clock,
            letter.message,
            self._items(letter.message),
            sender_address=letter.sender_address,
            recipient_address=letter.partner.address_on(letter.relay),
            keys_known=letter.keys_known,
        )
        with self.archive.database.transaction() as tx:
            if not self._note_queued(tx, letter, sealed):
                self.archive.spool.discard(sealed.message_file)
                return
            outbox.wake_dispatch(tx, letter.relay, self.dispatch_slots)
        self.on_queued()

    def _note_queued(self, tx: Transaction, letter: _Letter, sealed: SealedMail) -> bool:
        planned, now = letter.planned, self.clock.now()
        transfer = transfers.lock(tx, planned.transfer_id)
        if transfer is None or not packing.note_queued(
            tx,
            planned,
            relay=letter.relay,
            message_file=sealed.message_file,
            message_id=sealed.message_id,
            size_bytes=sealed.size_bytes,
            now=now,
        ):
            return False
        kind, number = planned.kind.value, planned.number
        record = partial(events.record, tx, transfer=transfer, message=kind, number=number)
        record(sealed.packed_at, EventKind.PACKED, bytes=sealed.entity_bytes, instances=_instances(letter.message))
        record(now, EventKind.SEALED, bytes=sealed.size_bytes, instances=_instances(letter.message))
        if planned.attempt > 1 and planned.relay not in ("", letter.relay):
            record(now, EventKind.MESSAGE_MOVED, relay=letter.relay, before=planned.relay)
        return True

    def _leave_out(self, planned: PlannedMessage, damaged: frozenset[str]) -> None:
        """Refuse what is damaged here; the rest of the parcel is planned again."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, planned.transfer_id)
            if transfer is not None:
                damage.leave_out(tx, transfer, planned.message_row, planned.attempt, damaged, now)
                rearm(tx, transfer, self.limits, now)

    def _items(self, message: Message) -> Sequence[EntityItem]:
        if not isinstance(message, Parcel):
            return ()
        return [
            EntityItem(
                self.archive.blobs.path(entry.instance.sha256),
                entry.offset_bytes,
                entry.length_bytes,
                f"{index:06d}.dcm",
                "application/dicom" if entry.is_whole else "application/octet-stream",
            )
            for index, entry in enumerate(message.entries, 1)
        ]

    def _plan_parcels(self, tx: Transaction, transfer: TransferRow, now: datetime) -> None:
        """Plan parcels for the relay by which they will probably go: below its limit, as large as its link carries."""
        names = [name for name in moving.relay_for_parcels(tx, transfer.partner_id) if name in self.mailboxes]
        there_bytes = contacts.mail_size_max_bytes(tx, transfer.partner_id)
        for name in names:
            limit_bytes = self.mailboxes[name].mail_size_max_bytes
            limit_bytes = min(one for one in (relays.size_max_bytes(tx, name), there_bytes, limit_bytes) if one)
            if (room := parcel_room(limit_bytes, self.pacing.instances_max)) is not None:
                pacing = replace(self.pacing, instances_max=room.instances_max)
                rate = relays.rate_bytes_per_s(tx, name)
                packing.plan_parcels(tx, transfer, pacing, room.size_max_bytes, now, link_bytes_per_s=rate)
                return
        if names:
            self._tell_stalled(tx, transfer, now, f"{', '.join(names)}: takes only mails too small for any image")

    def _tell_stalled(self, tx: Transaction, transfer: TransferRow, now: datetime, why: str) -> None:
        """Tell a person, once, that the mails of a transfer have no way; the sweep looks again."""
        if transfer.told_at is None:
            transfer.told_at = now
            events.record(tx, now, EventKind.TRANSFER_STALLED, level=Level.ALARM, transfer=transfer, why=why)

    def _give_up(self, tx: Transaction, planned: PlannedMessage, error: SecurityError | IntegrityError) -> None:
        """Note that a message cannot be sealed; a person must mend the certificate and order it again."""
        transfer = transfers.lock(tx, planned.transfer_id)
        if transfer is None:
            raise LocalProtocolError("a message without a transfer")
        packing.note_unsealable(tx, planned, error.what)
        events.record(
            tx,
            self.clock.now(),
            EventKind.SENDING_REFUSED,
            level=Level.ALARM,
            transfer=transfer,
            message=planned.kind.value,
            number=planned.number,
            code=error.code,
            said=error.what,
        )
        rearm(tx, transfer, self.limits, self.clock.now())


def _instances(message: Message) -> int:
    match message:
        case Parcel():
            return len(message.entries)
        case Manifest():
            return len(message.instances)
        case Receipt():
            return message.instances_filed
        case _:
            return 0
