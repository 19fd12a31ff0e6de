"""The audit trail as a chain: each row's hash is over the row and the hash before it, so none can be changed alone.

A row's hash is the SHA-256, in hexadecimal, of the UTF-8 of a JSON list without spaces, non-ASCII characters as they
are: hash of the row before (64 zeros for the first), sequence, instant in UTC with microseconds (ISO 8601), kind,
number of the event, count of events, number of the case or null, outcome, who, place, message.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive.audit_events import CountedEvent, audited, due_events
from raypost.archive.database import Database, Transaction
from raypost.archive.tables import AuditRow, AuditStateRow
from raypost.model.audit_message import build

APPEND_MAX = 500
"""Events that one transaction puts into the trail."""

PAGE_ROWS = 1000
FIRST_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class Head:
    """How long a chain is and the hash of its last row; 0 and zeros before the first."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at the whole chain found.

    Attributes:
        rows: So many were read and are right.
        head: Of these.
        broken_at: Sequence number at which the chain breaks first; None: it does not.
        what: What is wrong there, in words.
    """

    rows: int
    head: Head
    broken_at: int | None = None
    what: str = ""


def head(tx: Transaction) -> Head:
    """Return the end of the chain: whoever has it elsewhere can prove what stood here."""
    state = tx.get(AuditStateRow, 1)
    return Head(0, FIRST_HASH) if state is None else Head(state.sequence, state.hash)


def head_text(tx: Transaction) -> str:
    """Return the end of the chain as partners are told of it, SEQUENCE:HASH; empty before the first row."""
    end = head(tx)
    return str(end) if end.sequence else ""


def append(database: Database, now: datetime, *, is_sending: bool) -> int:
    """Write the audit messages of events that have none yet; return how many events that were.

    Args:
        is_sending: There is a syslog receiver: what is written here is due for it.

    Raises:
        UnreachableError: The database is away.
    """
    with database.transaction() as tx:
        state = _locked_state(tx)
        counted = due_events(tx, APPEND_MAX)
        rows = list(_rows(tx, counted, Head(state.sequence, state.hash)))
        if rows:
            tx.add_all(rows)
            state.sequence, state.hash = rows[-1].sequence, rows[-1].hash
        if not is_sending or state.sent_sequence >= state.sequence:
            state.send_due = None
        elif state.send_due is None:
            state.send_due = now
        return sum(one.count for one in counted)


def _rows(tx: Transaction, counted: list[CountedEvent], before: Head) -> Iterator[AuditRow]:
    sequence, previous = before.sequence, before.hash
    for event, case_id in audited(tx, counted):
        message = build(event)
        sequence += 1
        row = AuditRow(
            sequence=sequence,
            at=event.at,
            kind=event.kind.value,
            event_id=event.number,
            events=event.count,
            case_id=case_id,
            outcome=message.outcome.value,
            who=message.who,
            place=message.place,
            message=message.text,
        )
        row.hash = previous = hash_of(previous, row)
        yield row


def hash_of(previous: str, row: AuditRow) -> str:
    """Return the hash of a row after the one whose hash is given."""
    content = [
        *(previous, row.sequence, row.at.astimezone(UTC).isoformat(timespec="microseconds"), row.kind, row.event_id),
        *(row.events, row.case_id, row.outcome, row.who, row.place, row.message),
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def verify(tx: Transaction, elsewhere: Head | None = None) -> Verdict:
    """Go through the whole chain from its first row, and compare it with a head that was kept elsewhere.

    Whoever owns the database can write a whole new chain, or cut off its end: only a head kept elsewhere shows that.
    """
    end = tx.execute(sa.select(AuditStateRow.sequence, AuditStateRow.hash).where(AuditStateRow.id == 1)).first()
    good = Head(0, FIRST_HASH)
    found: str | None = FIRST_HASH if elsewhere is not None and elsewhere.sequence == 0 else None
    for row in rows_after(tx, 0):
        if end is not None and row.sequence > end.sequence:
            break  # written since, or by somebody else: the check of the end tells
        what = _fault(good, row)
        if what:
            return Verdict(good.sequence, good, good.sequence + 1, what)
        good = Head(row.sequence, row.hash)
        if elsewhere is not None and elsewhere.sequence == row.sequence:
            found = row.hash
    if elsewhere is not None:
        if found is None:
            what = "rows are missing: the head kept elsewhere is of a later row"
            return Verdict(good.sequence, good, good.sequence + 1, what)
        if not hmac.compare_digest(found, elsewhere.hash):
            what = "this is another chain than the one whose head was kept elsewhere"
            return Verdict(good.sequence, good, elsewhere.sequence, what)
    if end is not None and end.sequence > good.sequence:
        return Verdict(good.sequence, good, good.sequence + 1, "rows are missing at the end")
    if (end is None and good.sequence) or (end is not None and end.hash != good.hash):
        return Verdict(good.sequence, good, good.sequence or 1, "the last row is not the one that was written last")
    return Verdict(good.sequence, good)


def _fault(before: Head, row: AuditRow) -> str:
    if row.sequence != before.sequence + 1:
        return "a row is missing"
    if not hmac.compare_digest(hash_of(before.hash, row), row.hash):
        return "a row was changed"
    return ""


def rows_after(tx: Transaction, sequence: int) -> Iterator[AuditRow]:
    """Go through the rows behind a sequence number, a page at a time."""
    query = sa.select(AuditRow).order_by(AuditRow.sequence).limit(PAGE_ROWS)
    for _ in itertools.count():
        page = tx.scalars(query.where(AuditRow.sequence > sequence)).all()
        if not page:
            return
        yield from page
        sequence = page[-1].sequence
        tx.expunge_all()  # a long trail must not fill the memory


def _locked_state(tx: Transaction) -> AuditStateRow:
    """Return the row that says where the chain ends, locked: writers go one by one. It is made when it is missing."""
    query = sa.select(AuditStateRow).with_for_update()
    state = tx.scalar(query)
    if state is None:
        last = tx.scalar(sa.select(AuditRow).order_by(AuditRow.sequence.desc()).limit(1))
        end = (0, FIRST_HASH) if last is None else (last.sequence, last.hash)
        values = {"id": 1, "sequence": end[0], "hash": end[1], "sent_sequence": 0, "failures": 0}
        tx.execute(insert(AuditStateRow).values(values).on_conflict_do_nothing())
        state = tx.scalars(query).one()
    return state
