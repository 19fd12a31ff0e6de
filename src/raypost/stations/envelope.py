"""One message made into one mail: wrapped in MIME, signed and encrypted, put into the spool durably."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from raypost.archive.keys import new_boundary, new_message_id
from raypost.archive.site import Archive
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import EntityItem, write_entity
from raypost.model.clock import Clock
from raypost.sealing.openpgp import KeyRing
from raypost.transfer.control import Message
from raypost.transfer.wire import encode


@dataclass(frozen=True, slots=True)
class SealedMail:
    """A mail in the spool that is ready to be submitted.

    Attributes:
        message_file: Its name in the spool.
        entity_bytes: Size of what was sealed.
        packed_at: When that was written.
    """

    message_file: str
    message_id: str
    size_bytes: int
    entity_bytes: int
    packed_at: datetime


def seal_message(
    archive: Archive,
    keyring: KeyRing,
    clock: Clock,
    message: Message,
    items: Sequence[EntityItem],
    *,
    sender_address: str,
    recipient_address: str,
    keys_known: Collection[str] | None,
) -> SealedMail:
    """Wrap, sign, encrypt and keep one message.

    Args:
        keys_known: Which of our keys the recipient holds, by its word; None: it said nothing of them.

    Raises:
        SecurityError: The recipient's certificate cannot be used.
        IntegrityError: An item's file is not as long as it should be.
    """
    spool, head = archive.spool, message.head
    entity, sealed, mail = (spool.new_file(ending) for ending in ("entity", "asc", "eml"))
    try:
        entity_bytes = write_entity(encode(message), items, new_boundary(), entity)
        packed_at = clock.now()
        signing_key = keyring.signing_key(head.sender, keys_known, packed_at)
        keyring.seal(entity, sealed, head.sender, [head.recipient], signing_key=signing_key)
        message_id = new_message_id(sender_address.partition("@")[2])
        headers = OuterHeaders(
            sender=sender_address,
            recipient=recipient_address,
            date=clock.now(),
            message_id=message_id,
            transfer_token=head.transfer_key,
            kind=head.kind.value,
            number=head.number,
        )
        size_bytes = write_message(headers, sealed, new_boundary(), mail)
        return SealedMail(spool.keep(mail, "sealed"), message_id, size_bytes, entity_bytes, packed_at)
    finally:
        for unfinished in (entity, sealed, mail):
            unfinished.unlink(missing_ok=True)
