"""4 Instances into parcels; wrap in MIME; seal. Manifests and receipts go the same way.

A message's content stands in the tables before it is packed: packing is repeated as often as needed, after a crash or
to send again, and always says what is committed then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from raypost.archive import events, messages, partners, relays, transfers
from raypost.archive.database import Transaction
from raypost.archive.keys import new_boundary, new_message_id
from raypost.archive.messages import PlannedMessage
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.errors import IntegrityError, LocalProtocolError, NotNowError, SecurityError
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import EntityItem, payload_size_max, write_entity
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.model.site import Partner
from raypost.sealing.openpgp import KeyRing
from raypost.transfer.control import Manifest, Message, Parcel, encode
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits

MESSAGES_PER_JOB_MAX = 10_000
ENTRY_OVERHEAD_BYTES = 500
"""Of one instance in a parcel: its line in the control part and the MIME headers of its part."""

log = structlog.get_logger("raypost.pack")


@dataclass(frozen=True, slots=True)
class Pack:
    """Packs and seals what is planned.

    Attributes:
        relay: The relay that mails leave by.
        mail_size_max_bytes: Of a mail, where the relay names no smaller limit.
        on_queued: Is told after a message is committed as ready to be sent.
    """

    archive: Archive
    keyring: KeyRing
    clock: Clock
    limits: Limits
    pacing: PacingLimits
    relay: str
    mail_size_max_bytes: int
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
                is_left = messages.next_planned(tx, transfer_id) is not None

    def _pack_next(self, transfer_id: int) -> bool:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, transfer_id)
            if transfer is None:
                return False
            if transfer.direction == "out" and transfer.state in ("streaming", "closed"):
                messages.plan_parcels(tx, transfer, self.pacing, self._payload_max_bytes(tx), now)
            planned = messages.next_planned(tx, transfer_id)
            if planned is None:
                return False
            own, partner = partners.own_site(tx), partners.partner_by_id(tx, transfer.partner_id)
            if partner is None:
                self._give_up(tx, planned, SecurityError("the partner was removed from the address book"))
                return True
            message = messages.compose(tx, planned, sender=own.fingerprint, recipient=partner.fingerprint, now=now)
        try:
            self._seal(planned, message, own, partner)
        except (SecurityError, IntegrityError) as error:
            with self.archive.database.transaction() as tx:
                transfers.lock(tx, transfer_id)
                self._give_up(tx, planned, error)
        return True

    def _seal(self, planned: PlannedMessage, message: Message, own: Partner, partner: Partner) -> None:
        spool = self.archive.spool
        entity, sealed, mail = (spool.new_file(ending) for ending in ("entity", "asc", "eml"))
        try:
            self._verify_blobs(message)
            entity_bytes = write_entity(encode(message), self._items(message), new_boundary(), entity)
            packed_at = self.clock.now()
            self.keyring.seal(entity, sealed, own.fingerprint, [partner.fingerprint])
            message_id = new_message_id(own.address.partition("@")[2])
            now = self.clock.now()
            headers = OuterHeaders(
                sender=own.address,
                recipient=partner.address,
                date=now,
                message_id=message_id,
                transfer_token=message.head.transfer_key,
                kind=planned.kind.value,
                number=planned.number,
            )
            size_bytes = write_message(headers, sealed, new_boundary(), mail)
            name = spool.keep(mail, "sealed")
        finally:
            for unfinished in (entity, sealed, mail):
                unfinished.unlink(missing_ok=True)
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, planned.transfer_id)
            if transfer is None or not messages.note_queued(
                tx, planned, relay=self.relay, message_file=name, message_id=message_id, size_bytes=size_bytes, now=now
            ):
                spool.discard(name)
                return
            record = partial(
                events.record,
                tx,
                transfer=transfer,
                message=planned.kind.value,
                number=planned.number,
                instances=_instances(message),
            )
            record(packed_at, EventKind.PACKED, bytes=entity_bytes)
            record(now, EventKind.SEALED, bytes=size_bytes)
            messages.wake_dispatch(tx, self.relay, self.dispatch_slots)
        self.on_queued()

    def _verify_blobs(self, message: Message) -> None:
        """Compare every file with its hash before it is sealed (invariant 5)."""
        if isinstance(message, Parcel):
            for sha256 in {entry.instance.sha256 for entry in message.entries}:
                self.archive.blobs.verify(sha256)

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

    def _payload_max_bytes(self, tx: Transaction) -> int:
        """Return how many bytes of instances fit into one mail, below the limit the relay announced."""
        limit_bytes = min(relays.size_max_bytes(tx, self.relay) or self.mail_size_max_bytes, self.mail_size_max_bytes)
        try:
            payload_bytes = payload_size_max(limit_bytes)
        except ValueError as error:
            raise NotNowError(
                f"the relay takes mails of {limit_bytes} bytes at most: too small for anything",
                meaning="Images are safe here and wait.",
                do="Have the relay's administrator raise its message size limit.",
            ) from error
        room = payload_bytes - self.pacing.instances_max * ENTRY_OVERHEAD_BYTES
        return room if room > 0 else payload_bytes // 2

    def _give_up(self, tx: Transaction, planned: PlannedMessage, error: SecurityError | IntegrityError) -> None:
        """Note that a message cannot be sealed; a person must mend the certificate and order it again."""
        transfer = transfers.lock(tx, planned.transfer_id)
        if transfer is None:
            raise LocalProtocolError("a message without a transfer")
        messages.note_unsealable(tx, planned, error.what)
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
        case _:
            return message.instances_filed
