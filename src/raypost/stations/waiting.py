"""What a sender wants to know of our mailbox: which of its parcels wait there, and how fast our line empties it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from raypost.archive import listed, relays
from raypost.archive.database import Database, Transaction
from raypost.archive.listed import WaitingParcel
from raypost.mail.collecting_order import CollectingOrder, Listed
from raypost.mail.imap import ImapMailbox

WAITING_NOTED_EVERY = timedelta(seconds=2)
WAITING_NOTED_MAX = 500
"""Of the parcels that wait so many are told to their senders: more than are on their way at once on any line."""
RATE_NOTED_EVERY = timedelta(seconds=10)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Waiting:
    """Notes it for one relay, for the life of one connection; what it writes is a hint for receipts and hellos."""

    relay: str
    database: Database
    _noted: set[int] = field(default_factory=set)
    _noted_at: datetime = LONG_AGO
    _rate_noted_at: datetime = LONG_AGO

    def note(self, order: CollectingOrder, mailbox: ImapMailbox, now: datetime) -> None:
        """Note which parcels have to wait, so that their senders do not send them again meanwhile."""
        if timedelta() <= now - self._noted_at < WAITING_NOTED_EVERY:
            return
        self._noted_at = now
        waiting = [
            WaitingParcel(one.imap_uid, one.token.transfer_token, one.token.number)
            for one in order.waiting_parcels(WAITING_NOTED_MAX)
            if one.token is not None
        ]
        if waiting:
            with self.database.transaction() as tx:
                self._noted |= listed.note_waiting(tx, self.relay, mailbox.uid_validity, waiting, now)

    def note_fetched(self, tx: Transaction, one: Listed, mailbox: ImapMailbox, size_bytes: int, now: datetime) -> None:
        """Note that a mail does not wait any more, and of a large one, once in a while, how fast the relay gave it."""
        if one.imap_uid in self._noted:
            listed.note_gone(tx, self.relay, mailbox.uid_validity, one.imap_uid)
            self._noted.discard(one.imap_uid)
        is_soon = timedelta() <= now - self._rate_noted_at < RATE_NOTED_EVERY
        if size_bytes >= relays.RATE_MIN_BYTES and mailbox.fetched_in_s > 0 and not is_soon:
            relays.note_given(tx, self.relay, size_bytes / mailbox.fetched_in_s, now)
            self._rate_noted_at = now
