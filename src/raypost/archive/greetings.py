"""Signs of life as rows: when one is due, what a partner's says, what follows from its restore from a backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost import __version__
from raypost.archive import audit_chain, contacts, events, planning, relays
from raypost.archive.database import Transaction
from raypost.archive.tables import ContactRow, MessageRow, PartnerRow, RestoreRow, SiteRow, TransferRow
from raypost.model.audit import EventKind, Level
from raypost.model.site import Partner
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import hello
from raypost.transfer.control import Echo, Head, Hello
from raypost.transfer.hello import ContactEvent, ContactFacts, ContactState, ContactStep
from raypost.transfer.limits import Limits
from raypost.transfer.sender import Doubt, SenderEvent, SenderState, doubt_after_restore, fire
from raypost.transfer.wire import VERSION

LOOK_AGAIN = timedelta(seconds=60)
KEEP_BETTER_CLOCK = timedelta(minutes=30)
"""A surer reading of a partner's clock is kept for so long."""
TOLD_EVERY = timedelta(days=1)
"""A person is told of a partner's audit trail no oftener: who says something else each time must not ring for ever."""
HELLOS_KEPT = timedelta(days=1)
OPEN_WORDS = ("announced", "streaming", "closed", "expected", "arriving")


@dataclass(frozen=True, slots=True)
class Greeting:
    """A hello that is to be sealed for a partner."""

    number: int
    message: Hello


def due_partners(tx: Transaction, now: datetime) -> list[int]:
    """Return partners to look at; a partner that is new gets its row, one that was removed loses it."""
    in_force = (
        sa.select(PartnerRow.site_id)
        .join(SiteRow, SiteRow.id == PartnerRow.site_id)
        .where(PartnerRow.retired_at.is_(None), ~SiteRow.is_self)
    )
    known = set(tx.scalars(sa.select(ContactRow.site_id)))
    for site_id in sorted(set(tx.scalars(in_force)) - known):
        contacts.row_of(tx, site_id).due = now
    tx.execute(sa.update(ContactRow).where(ContactRow.site_id.not_in(in_force)).values(due=None))
    tx.execute(sa.update(ContactRow).where(ContactRow.due.is_(None), ContactRow.site_id.in_(in_force)).values(due=now))
    rows = tx.scalars(
        sa.select(ContactRow)
        .where(ContactRow.due <= now)
        .order_by(ContactRow.site_id)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for row in rows:
        row.due = now + LOOK_AGAIN
    return [row.site_id for row in rows]


def greet_all_now(tx: Transaction, now: datetime) -> None:
    """Have every partner get a hello at once: there is something to say."""
    tx.execute(sa.update(ContactRow).values(due=now, written_at=None))


def next_step(tx: Transaction, partner: Partner, limits: Limits, now: datetime) -> ContactStep:
    """Decide what is due with a partner and write down when to look again; its row is locked after that."""
    row = contacts.row_of(tx, partner.site_id)
    added_at = tx.scalars(
        sa.select(PartnerRow.added_at).where(PartnerRow.site_id == partner.site_id, PartnerRow.retired_at.is_(None))
    ).one()
    interval = row.capabilities.get("interval_s") if row.capabilities else None
    facts = ContactFacts(
        state=ContactState(row.state),
        written_s=_ago(row.written_at, now),
        heard_s=_ago(row.heard_at, now),
        known_since_s=min(added_at, now).timestamp(),
        its_interval_s=float(interval) if interval else None,
        is_emergency_open=_is_emergency_open(tx, partner.site_id),
    )
    step = hello.next_step(facts, limits.hello, now.timestamp())
    if step.event is ContactEvent.MISSED_TWO:
        _fire(row, step.event, now)
        heard = row.heard_at.isoformat(timespec="seconds") if row.heard_at else "never"
        events.record(tx, now, EventKind.PARTNER_SILENT, level=Level.NOTICE, site_id=partner.site_id, last_heard=heard)
    row.due = datetime.fromtimestamp(step.due_s, UTC) + timedelta(milliseconds=1)
    return step


def _ago(at: datetime | None, now: datetime) -> float | None:
    """Return an instant in seconds; one that lies ahead of the clock, which was set back, counts as now."""
    return None if at is None else min(at, now).timestamp()


def _is_emergency_open(tx: Transaction, site_id: int) -> bool:
    found = sa.select(TransferRow.id).where(
        TransferRow.partner_id == site_id,
        TransferRow.priority == Priority.EMERGENCY.value,
        TransferRow.state.in_(OPEN_WORDS),
    )
    return tx.scalar(found.limit(1)) is not None


def compose(
    tx: Transaction,
    partner: Partner,
    *,
    own_fingerprint: str,
    transfer_key: str,
    mail_size_max_bytes: int,
    limits: Limits,
    now: datetime,
    certificate: str = "",
    your_keys: Sequence[str] = (),
) -> Greeting:
    """Say our sign of life; numbers go on after a restore from a backup.

    Args:
        certificate: Ours, if the partner does not hold all of its keys.
        your_keys: The keys of the partner that we hold and that work.
        transfer_key: A random key of its own; a hello belongs to no transfer.
        mail_size_max_bytes: Largest mail that is fetched here.
    """
    row = contacts.row_of(tx, partner.site_id)
    restores = tx.scalar(sa.select(sa.func.count()).select_from(RestoreRow)) or 0
    number = max(row.hellos_written, restores * hello.NUMBERS_A_RESTORE) + 1
    row.hellos_written, row.written_at = number, now
    echo = None
    if row.heard_at is not None and row.heard_written_at is not None and row.heard_number:
        echo = Echo(row.heard_number, row.heard_written_at, row.hello_heard_at or row.heard_at)
    is_emergency = _is_emergency_open(tx, partner.site_id)
    message = Hello(
        Head(
            transfer_key,
            MessageKind.HELLO,
            number,
            own_fingerprint,
            partner.fingerprint,
            Priority.ROUTINE,
            False,
            now,
        ),
        f"Raypost {__version__}",
        (VERSION,),
        tuple(sorted(kind.value for kind in MessageKind)),
        mail_size_max_bytes,
        limits.hello.interval_emergency_s if is_emergency else limits.hello.interval_s,
        echo,
        tx.scalar(sa.select(RestoreRow.backup_at).order_by(RestoreRow.id.desc()).limit(1)),
        relays.fetch_rate_bytes_per_s(tx),
        certificate,
        tuple(your_keys),
        audit_chain.head_text(tx),
    )
    return Greeting(number, message)


def note_queued(
    tx: Transaction,
    partner: Partner,
    number: int,
    copy: int,
    *,
    relay: str,
    message_file: str,
    message_id: str,
    size_bytes: int,
    now: datetime,
) -> None:
    """Put a sealed hello into the outbox; older ones that never left make room for it."""
    mine = sa.and_(
        MessageRow.partner_id == partner.site_id,
        MessageRow.transfer_id.is_(None),
        MessageRow.direction == "out",
        MessageRow.relay == relay,
    )
    tx.execute(
        sa.update(MessageRow)
        .where(mine, MessageRow.state == "queued", MessageRow.number < number)
        .values(state="replaced", due=None, message_file="")
    )
    tx.execute(
        sa.delete(MessageRow).where(mine, MessageRow.state != "sending", MessageRow.planned_at < now - HELLOS_KEPT)
    )
    tx.execute(
        insert(MessageRow)
        .values(
            partner_id=partner.site_id,
            direction="out",
            kind=MessageKind.HELLO.value,
            number=number,
            copy=copy,
            state="queued",
            priority_rank=Priority.URGENT.rank,
            relay=relay,
            message_id=message_id,
            message_file=message_file,
            size_bytes=size_bytes,
            planned_at=now,
            queued_at=now,
            due=now + planning.LOOK_AGAIN,
        )
        .on_conflict_do_nothing()
    )
    events.record(tx, now, EventKind.HELLO_SENT, site_id=partner.site_id, number=number, relay=relay)


def take_hello(tx: Transaction, partner: Partner, message: Hello, limits: Limits, now: datetime) -> list[int]:
    """Take in a partner's sign of life; return our transfers that must be looked at, as it was restored from a backup.

    A number that was heard is a double, by another relay or replayed: it is a sign of nothing.
    """
    row = contacts.row_of(tx, partner.site_id)
    if message.head.number <= row.heard_number:
        return []
    row.heard_number, row.heard_written_at = message.head.number, message.head.written_at
    row.heard_at = row.hello_heard_at = now
    before = row.capabilities or {}
    row.capabilities = {
        "software": message.software,
        "versions": list(message.versions),
        "kinds": list(message.kinds),
        "mail_size_max": message.mail_size_max_bytes,
        "interval_s": message.interval_s,
        "fetch_rate": message.fetch_bytes_per_s or before.get("fetch_rate", 0),
        "your_keys": list(message.your_keys),
        "audit_head": message.audit_head or before.get("audit_head", ""),
        # Our notes, not the partner's word:
        "keys_refused_at": before.get("keys_refused_at", ""),
        "audit_went_back_at": before.get("audit_went_back_at", ""),
    }
    _look_at_audit_head(tx, row, message, before.get("audit_head", ""), now)
    if row.state == ContactState.SILENT.value:
        events.record(tx, now, EventKind.PARTNER_HEARD_AGAIN, level=Level.NOTICE, site_id=partner.site_id)
    _fire(row, ContactEvent.HEARD, now)
    _note_clock(row, message, now)
    events.record(
        tx,
        now,
        EventKind.HELLO_HEARD,
        site_id=partner.site_id,
        number=message.head.number,
        clock_offset_s=row.clock_offset_s,
        clock_uncertainty_s=row.clock_uncertainty_s,
        audit_head=message.audit_head,
    )
    return _after_restore(tx, row, message, limits, now)


def _look_at_audit_head(tx: Transaction, row: ContactRow, message: Hello, before: str, now: datetime) -> None:
    """Ring when a partner's audit trail is not what it was, unless it says that it was restored from a backup."""
    told_at = row.capabilities["audit_went_back_at"]
    is_told = bool(told_at) and abs(now - datetime.fromisoformat(told_at)) < TOLD_EVERY
    is_restored = message.restored_from not in (None, row.restored_at)
    if _went_back(before, message.audit_head) and not is_restored and not is_told:
        row.capabilities = {**row.capabilities, "audit_went_back_at": now.isoformat()}
        events.record(
            tx,
            now,
            EventKind.AUDIT_WENT_BACK,
            level=Level.ALARM,
            site_id=row.site_id,
            head_before=before,
            head_now=message.audit_head,
        )


def _went_back(before: str, after: str) -> bool:
    """Say whether a partner's audit trail is shorter than it was, or another one of the same length."""
    if not before or not after:
        return False
    (old, old_hash), (new, new_hash) = before.split(":"), after.split(":")
    return int(new) < int(old) or (new == old and new_hash != old_hash)


def _note_clock(row: ContactRow, message: Hello, now: datetime) -> None:
    echo = message.echo
    if echo is None:
        return
    reading = hello.measure_clock(
        echo.written_at.timestamp(),
        echo.heard_at.timestamp(),
        message.head.written_at.timestamp(),
        now.timestamp(),
    )
    if reading is None:
        return
    is_old = row.measured_at is None or row.measured_at < now - KEEP_BETTER_CLOCK
    if is_old or row.clock_uncertainty_s is None or reading.uncertainty_s <= row.clock_uncertainty_s:
        row.clock_offset_s, row.clock_uncertainty_s = round(reading.offset_s, 3), round(reading.uncertainty_s, 3)
        row.measured_at = now


def _after_restore(tx: Transaction, row: ContactRow, message: Hello, limits: Limits, now: datetime) -> list[int]:
    """Offer again what the partner receipted after the backup it was restored from: it does not have it any more.

    Only the manifest goes at first: the partner's receipt then names what is missing. A recall is said again.
    """
    restored_from = message.restored_from
    if restored_from is None or row.restored_at == restored_from:
        return []
    row.restored_at, row.restores_heard = restored_from, row.restores_heard + 1
    clock = None
    if row.clock_offset_s is not None and row.clock_uncertainty_s is not None:
        clock = hello.ClockReading(row.clock_offset_s, row.clock_uncertainty_s)
    since_s = hello.lost_since_s(restored_from.timestamp(), clock, limits.hello)
    ended = tx.scalars(
        sa.select(TransferRow)
        .where(
            TransferRow.partner_id == row.site_id,
            TransferRow.direction == "out",
            TransferRow.state.in_((SenderState.DELIVERED.value, SenderState.RECALLED.value)),
            TransferRow.last_receipt_at >= datetime.fromtimestamp(max(since_s, 0.0), UTC),
        )
        .order_by(TransferRow.id)
        .with_for_update(key_share=True)
    ).all()
    found = []
    for transfer in ended:
        receipted_s = transfer.last_receipt_at.timestamp() if transfer.last_receipt_at else None
        doubt = doubt_after_restore(SenderState(transfer.state), receipted_s, since_s)
        if doubt is None:
            continue
        found.append(transfer)
        if doubt is Doubt.MANIFEST:
            transfer.state = fire(SenderState(transfer.state), SenderEvent.ORDERED_AGAIN).value
            transfer.rounds, transfer.patience_from, transfer.progress_at = 0, now, now
            transfer.finished_at, transfer.told_at = None, None
        planning.send_again(tx, transfer, now, states=("filed", "accepted", "refused"), kinds=(doubt.value,))
        events.record(
            tx,
            now,
            EventKind.SENT_AGAIN,
            level=Level.NOTICE,
            transfer=transfer,
            why="the partner was restored from a backup",
        )
    return [transfer.id for transfer in found]


def _fire(row: ContactRow, event: ContactEvent, now: datetime) -> None:
    before = ContactState(row.state)
    after = hello.fire(before, event)
    if after is not before:
        row.state, row.changed_at = after.value, now
