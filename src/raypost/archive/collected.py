"""Mails as fetched: stored durably, committed, then deleted at the relay; then opened, each once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.database import Transaction
from raypost.archive.queue import enqueue
from raypost.archive.tables import CollectedRow

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


def known_mails(tx: Transaction, relay: str, uid_validity: int, imap_uids: list[int]) -> set[int]:
    """Return which of these mails are stored here already: those are only to be deleted at the relay."""
    return set(
        tx.scalars(
            sa.select(CollectedRow.imap_uid).where(
                CollectedRow.relay == relay,
                CollectedRow.uid_validity == uid_validity,
                CollectedRow.imap_uid.in_(imap_uids),
            )
        )
    )


def note_fetched(
    tx: Transaction, place: MailPlace, *, mail_file: str, size_bytes: int, rank: int, now: datetime
) -> int | None:
    """Note a stored mail and queue its opening; None when it was noted before."""
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


def due_mails(tx: Transaction, now: datetime, limit: int) -> list[int]:
    """Return mails that should have been opened by now; their due moves on."""
    rows = tx.scalars(
        sa.select(CollectedRow)
        .where(CollectedRow.due <= now)
        .order_by(CollectedRow.due)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for row in rows:
        row.due = now + LOOK_AGAIN
    return [row.id for row in rows]


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
