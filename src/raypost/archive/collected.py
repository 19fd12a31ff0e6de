"""Mails as fetched: stored durably, committed, then deleted at the relay; then opened, each once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import CollectedRow, MailboxRow, PartnerRow

LOOK_AGAIN = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class CollectedMail:
    """A mail that waits to be opened."""

    collected_id: int
    relay: str
    mail_file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MailPlace:
    """Where a mail lies at a relay; the three together name it for ever (RFC 9051, 2.3.1.1)."""

    relay: str
    uid_validity: int
    imap_uid: int
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KnownMails:
    """Mails at a relay that need not be fetched any more.

    Attributes:
        to_remove: Stored here: only to be deleted there.
        to_leave: They cannot be fetched and are noted in quarantine; they stay there.
    """

    to_remove: frozenset[int]
    to_leave: frozenset[int]


def known_mails(tx: Transaction, relay: str, uid_validity: int, imap_uids: list[int]) -> KnownMails:
    """Return which of these mails are known here already."""
    rows = tx.execute(
        sa.select(CollectedRow.imap_uid, CollectedRow.state, CollectedRow.removed_at).where(
            CollectedRow.relay == relay,
            CollectedRow.uid_validity == uid_validity,
            CollectedRow.imap_uid.in_(imap_uids),
        )
    ).all()
    left = frozenset(row.imap_uid for row in rows if row.state == "quarantined" and row.removed_at is not None)
    return KnownMails(frozenset(row.imap_uid for row in rows) - left, left)


def partner_addresses(tx: Transaction) -> frozenset[str]:
    """Return every address under which a site in force, this one included, sends."""
    in_force = PartnerRow.retired_at.is_(None)
    mailboxes = sa.select(MailboxRow.address).join(PartnerRow, PartnerRow.id == MailboxRow.partner_id).where(in_force)
    return frozenset(tx.scalars(sa.select(PartnerRow.address).where(in_force).union(mailboxes)))


def note_fetched(
    tx: Transaction,
    place: MailPlace,
    *,
    mail_file: str,
    size_bytes: int,
    rank: int,
    now: datetime,
    parcel: tuple[str, int] | None = None,
) -> int | None:
    """Note a stored mail and queue its opening; None when it was noted before.

    Args:
        parcel: Token and number of a parcel, as they stand outside.
    """
    row = tx.execute(
        insert(CollectedRow)
        .values(
            relay=place.relay,
            uid_validity=place.uid_validity,
            imap_uid=place.imap_uid,
            relay_time=place.taken_at,
            state="fetched",
            mail_file=mail_file,
            size_bytes=size_bytes,
            token=parcel[0] if parcel else "",
            token_number=parcel[1] if parcel else 0,
            priority_rank=rank,
            fetched_at=now,
            due=now + LOOK_AGAIN,
        )
        .on_conflict_do_nothing()
        .returning(CollectedRow.id)
    ).first()
    if row is None:
        return None
    enqueue(tx, "open", once=f"open:{row[0]}", rank=rank, collected_id=row[0])
    return int(row[0])


def note_not_fetched(
    tx: Transaction, place: MailPlace, *, size_bytes: int, now: datetime, is_left: bool = False
) -> bool:
    """Note a mail that is not fetched, because it is too large or cannot be had; False when it was noted before.

    Args:
        is_left: It stays at the relay: so we are done with it there without having removed it. When the row is
            forgotten, after weeks, it is tried again.
    """
    row = tx.execute(
        insert(CollectedRow)
        .values(
            relay=place.relay,
            uid_validity=place.uid_validity,
            imap_uid=place.imap_uid,
            relay_time=None,  # it waited, so it says nothing of the clocks
            state="quarantined",
            mail_file="",
            size_bytes=size_bytes,
            priority_rank=0,
            fetched_at=now,
            removed_at=now if is_left else None,
        )
        .on_conflict_do_nothing()
        .returning(CollectedRow.id)
    ).first()
    return row is not None


def note_removed(tx: Transaction, relay: str, uid_validity: int, imap_uids: list[int], now: datetime) -> None:
    """Note that mails are gone at the relay."""
    tx.execute(
        sa.update(CollectedRow)
        .where(
            CollectedRow.relay == relay,
            CollectedRow.uid_validity == uid_validity,
            CollectedRow.imap_uid.in_(imap_uids),
        )
        .values(removed_at=now)
    )


def to_open(tx: Transaction, collected_id: int) -> CollectedMail | None:
    """Return a mail that is still to be opened."""
    row = tx.get(CollectedRow, collected_id)
    if row is None or row.state != "fetched":
        return None
    return CollectedMail(row.id, row.relay, row.mail_file, row.size_bytes)


def note_done(tx: Transaction, collected_id: int, state: str) -> bool:
    """Note what became of a mail (opened, quarantined, ignored); False when somebody did before."""
    found = tx.execute(
        sa.update(CollectedRow)
        .where(CollectedRow.id == collected_id, CollectedRow.state == "fetched")
        .values(state=state, due=None, mail_file="")
        .returning(CollectedRow.id)
    ).first()
    return found is not None


def due_mails(tx: Transaction, now: datetime, limit: int) -> list[tuple[int, int]]:
    """Return mails that should have been opened by now, with their rank; their due moves on."""
    rows = tx.scalars(
        sa.select(CollectedRow)
        .where(CollectedRow.due <= now)
        .order_by(CollectedRow.due)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for row in rows:
        row.due = now + LOOK_AGAIN
    return [(row.id, row.priority_rank) for row in rows]


def forget_old(tx: Transaction, before: datetime) -> int:
    """Remove rows of mails that are done and gone at the relay since long; return how many."""
    done = tx.execute(
        sa.delete(CollectedRow)
        .where(CollectedRow.state != "fetched", CollectedRow.removed_at < before)
        .returning(CollectedRow.id)
    ).all()
    return len(done)


def latest_clock_offset_s(tx: Transaction) -> float | None:
    """Return by how many seconds this machine is behind the relay's clock, judged by the mail fetched last."""
    row = tx.execute(
        sa.select(CollectedRow.relay_time, CollectedRow.fetched_at)
        .where(CollectedRow.relay_time.is_not(None))
        .order_by(CollectedRow.id.desc())
        .limit(1)
    ).first()
    return (row.relay_time - row.fetched_at).total_seconds() if row and row.relay_time else None
