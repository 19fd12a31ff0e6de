"""The mail relays as rows: their order, whether they let us in, what they carry, by which a partner is reached.

`state` is about submission and decides where mails go; `is_reachable` is about our mailbox there: each for itself, so
that a relay whose IMAP server is down is still used for sending, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import MailboxRow, PartnerRow, RelayRow
from raypost.errors import LoginRefusedError, SecurityError, UsageError
from raypost.model.audit import EventKind, Level
from raypost.transfer import failover
from raypost.transfer.failover import FailoverLimits, RelayEvent, RelayFacts, RelayState

LEARNED_LASTS = timedelta(hours=24)
"""A limit that was learned by a refusal is tried anew after so long: relays are reconfigured."""
LEARNED_MIN_BYTES = 60_000
"""No refusal makes mails smaller than this: it would be another fault with the same words."""
RATE_MIN_BYTES = 100_000
"""Smaller mails say nothing about what the link carries."""
RATE_WEIGHT = 0.3
PROBE_LASTS = timedelta(seconds=60)
"""A relay that is being tried is looked at again after so long, should the process die meanwhile."""
FOR_A_PERSON = frozenset({LoginRefusedError.code, SecurityError.code, UsageError.code})
"""Codes of errors that do not pass by themselves."""
FORGIVEN_AFTER = timedelta(minutes=10)
"""A relay that was well for so long begins with short pauses when it fails."""
MEND_WAIT = timedelta(seconds=300)
"""A relay that refuses our password, or whose certificate is wrong, is tried so often: a person must mend it."""


def declare(tx: Transaction, names: Sequence[str], now: datetime) -> None:
    """Note which relays this site has accounts on, the preferred one first; others are not used any more.

    Called at the start, when accounts may have been mended: what is away is tried at once.
    """
    tx.execute(sa.update(RelayRow).where(RelayRow.name.not_in(names)).values(position=None, due=None))
    for position, name in enumerate(names):
        row = _row(tx, name, now)
        row.position = position
        if row.state == RelayState.AWAY.value:
            row.due = now


def of_partner(tx: Transaction, site_id: int) -> list[RelayFacts]:
    """Return the relays by which a partner is reached: those on which both sides have a mailbox.

    A mailbox of which no relay is known (from before there were several) lies on our first one.
    """
    ours = {row.name: row for row in tx.scalars(sa.select(RelayRow).where(RelayRow.position.is_not(None)))}
    if not ours:
        return []
    first = min(ours.values(), key=lambda row: row.position or 0).name
    theirs = tx.scalars(
        sa.select(MailboxRow.relay)
        .join(PartnerRow, PartnerRow.id == MailboxRow.partner_id)
        .where(PartnerRow.site_id == site_id, PartnerRow.retired_at.is_(None))
    ).all()
    names = {name or first for name in theirs} & set(ours) or ({first} if theirs else set())
    return [_facts(ours[name]) for name in sorted(names)]


def size_max_bytes(tx: Transaction, relay: str) -> int | None:
    """Return the largest mail the relay takes, None when it was never asked or names no limit."""
    row = tx.get(RelayRow, relay)
    if row is None:
        return None
    limits = [one for one in (row.size_max_bytes, row.learned_size_max_bytes) if one is not None]
    return min(limits) if limits else None


def rate_bytes_per_s(tx: Transaction, relay: str) -> float | None:
    """Return what the link to the relay was measured to carry, None before a large mail went."""
    return tx.scalar(sa.select(RelayRow.rate_bytes_per_s).where(RelayRow.name == relay))


def note_reached(tx: Transaction, relay: str, limit_bytes: int | None, now: datetime) -> None:
    """Note that our mailbox on the relay can be emptied; submission is tried sooner then."""
    row = _row(tx, relay, now)
    if not row.is_reachable:
        row.is_reachable = True
        events.record(tx, now, EventKind.RELAY_REACHED, relay=relay, by="collection")
        if row.state == RelayState.AWAY.value:
            row.due = now


def note_unreachable(tx: Transaction, relay: str, code: str, said: str, now: datetime) -> None:
    """Note that our mailbox on the relay cannot be emptied; an event when that is news."""
    row = _row(tx, relay, now)
    if row.is_reachable:
        row.is_reachable = False
        _record_away(tx, relay, code, said, now, by="collection", is_for_person=code in FOR_A_PERSON)


def let_us_in(tx: Transaction, relay: str, limit_bytes: int | None, now: datetime) -> bool:
    """Note a successful log-in for submission and the SIZE that was announced; True when the relay was away.

    A learned smaller limit stays for a day. Failures are forgotten when it takes a mail, not before: a relay that lets
    us in and then breaks off is tried less and less often.
    """
    row = _row(tx, relay, now)
    row.size_max_bytes = limit_bytes
    if row.learned_at is not None and row.learned_at < now - LEARNED_LASTS:
        row.learned_size_max_bytes = row.learned_at = None
    was_away = row.state == RelayState.AWAY.value
    if was_away:
        row.said = ""
        events.record(tx, now, EventKind.RELAY_REACHED, relay=relay, by="submission")
    _fire(row, RelayEvent.LET_US_IN, now)
    return was_away


def kept_us_out(
    tx: Transaction, relay: str, code: str, said: str, now: datetime, limits: FailoverLimits, *, begun_at: datetime
) -> None:
    """Note that submission to the relay fails: it is away; an event when that is news, an ALARM for a person's matter.

    Args:
        begun_at: When the session began that failed: two sessions that fail together count as one failure.
    """
    row = _row(tx, relay, now)
    was_away = row.state == RelayState.AWAY.value
    is_for_person = code in FOR_A_PERSON
    if was_away and row.changed_at >= begun_at:
        return
    if not was_away or (is_for_person and row.said != said[:500]):
        _record_away(tx, relay, code, said, now, by="submission", is_for_person=is_for_person)
    if not was_away and row.changed_at < now - FORGIVEN_AFTER:
        row.failures = 0
    row.said = said[:500]
    _fire(row, RelayEvent.KEPT_US_OUT, now)
    row.failures, row.changed_at = row.failures + 1, now
    if is_for_person:
        row.due = now + MEND_WAIT
    else:
        due_s = failover.retry_due_s(_facts(row), limits)
        row.due = None if due_s is None else datetime.fromtimestamp(due_s, UTC)


def may_try(tx: Transaction, relay: str, now: datetime) -> bool:
    """Say whether a session may begin: always, unless the relay is away; then one may try it when it is due."""
    row = tx.get(RelayRow, relay, with_for_update={"key_share": True})
    if row is None or row.state != RelayState.AWAY.value:
        return True
    if row.due is not None and row.due > now:
        return False
    row.due = now + PROBE_LASTS
    return True


def others(tx: Transaction, relay: str) -> list[str]:
    """Return our other relays that let us in, as far as is known."""
    query = sa.select(RelayRow.name).where(
        RelayRow.state != RelayState.AWAY.value, RelayRow.position.is_not(None), RelayRow.name != relay
    )
    return sorted(tx.scalars(query))


def is_away(tx: Transaction, relay: str) -> bool:
    """Say whether a relay is known not to let us in."""
    return tx.scalar(sa.select(RelayRow.state).where(RelayRow.name == relay)) == RelayState.AWAY.value


def away(tx: Transaction) -> list[str]:
    """Return those of our relays that do not let us in."""
    query = sa.select(RelayRow.name).where(RelayRow.state == RelayState.AWAY.value, RelayRow.position.is_not(None))
    return sorted(tx.scalars(query))


def _record_away(
    tx: Transaction, relay: str, code: str, said: str, now: datetime, *, by: str, is_for_person: bool
) -> None:
    level = Level.ALARM if is_for_person else Level.NOTICE
    events.record(tx, now, EventKind.RELAY_UNREACHABLE, level=level, relay=relay, by=by, code=code, said=said[:200])


def note_size_limit(tx: Transaction, relay: str, limit_bytes: int, now: datetime) -> None:
    """Note a limit that was learned by a refusal, below what the relay announces."""
    row = _row(tx, relay, now)
    learned = min(limit_bytes, row.learned_size_max_bytes or limit_bytes)
    row.learned_size_max_bytes, row.learned_at = max(learned, LEARNED_MIN_BYTES), now


def note_taken(tx: Transaction, relay: str, size_bytes: int, seconds: float, now: datetime) -> None:
    """Note that the relay took a mail; of a large one, how fast it left, smoothed."""
    failures = tx.scalar(sa.select(RelayRow.failures).where(RelayRow.name == relay)) or 0
    is_telling = size_bytes >= RATE_MIN_BYTES and seconds > 0
    if not failures and not is_telling:
        return
    row = _row(tx, relay, now)
    row.failures = 0
    if is_telling:
        row.rate_bytes_per_s = _smoothed(row.rate_bytes_per_s, size_bytes / seconds)


def note_given(tx: Transaction, relay: str, rate_bytes_per_s: float, now: datetime) -> None:
    """Note how fast the relay gave a large mail, smoothed."""
    row = _row(tx, relay, now)
    row.fetch_rate_bytes_per_s = _smoothed(row.fetch_rate_bytes_per_s, rate_bytes_per_s)


def fetch_rate_bytes_per_s(tx: Transaction) -> int:
    """Return what the line carries when mails are fetched here, by the fastest relay; 0 before any large one."""
    query = sa.select(sa.func.max(RelayRow.fetch_rate_bytes_per_s)).where(RelayRow.position.is_not(None))
    return int(tx.scalar(query) or 0)


def _smoothed(before: float | None, rate_bytes_per_s: float) -> float:
    return rate_bytes_per_s if before is None else (1 - RATE_WEIGHT) * before + RATE_WEIGHT * rate_bytes_per_s


def set_back(tx: Transaction, relay: str, limits: FailoverLimits, now: datetime) -> bool:
    """Have others preferred, for a while, to a relay that does not take a mail; False when they were already."""
    row = _row(tx, relay, now)
    was_well = row.state == RelayState.WELL.value
    if was_well:
        events.record(tx, now, EventKind.RELAY_SUSPECTED, level=Level.NOTICE, relay=relay, why="does not take mails")
    _fire(row, RelayEvent.NOTHING_HEARD, now)
    if row.state == RelayState.SUSPECT.value:
        row.changed_at, row.due = now, now + timedelta(seconds=limits.suspect_s)
    return was_well


def suspect(tx: Transaction, names: Iterable[str], limits: FailoverLimits, now: datetime) -> None:
    """Note relays that took mails of which nothing was heard again."""
    for name in sorted(set(names)):
        row = _row(tx, name, now)
        if row.state == RelayState.WELL.value:
            events.record(tx, now, EventKind.RELAY_SUSPECTED, level=Level.NOTICE, relay=name)
        _fire(row, RelayEvent.NOTHING_HEARD, now)
        if row.state == RelayState.SUSPECT.value:
            row.changed_at = now
            row.due = now + timedelta(seconds=limits.suspect_s)


def proved(tx: Transaction, name: str, now: datetime) -> None:
    """Note that a receipt names a mail that went by this relay."""
    row = tx.get(RelayRow, name, with_for_update={"key_share": True})
    if row is not None and row.state == RelayState.SUSPECT.value:
        _fire(row, RelayEvent.PROVED_ITSELF, now)
        row.due = None


def due_relays(tx: Transaction, now: datetime) -> list[str]:
    """Return relays that are away and are to be tried again; suspect ones whose time has come are believed again."""
    rows = tx.scalars(
        sa.select(RelayRow)
        .where(RelayRow.due <= now, RelayRow.position.is_not(None))
        .order_by(RelayRow.name)
        .with_for_update(key_share=True)
    ).all()
    for row in rows:
        if row.state == RelayState.SUSPECT.value:
            _fire(row, RelayEvent.TIME_PASSED, now)
    return [row.name for row in rows if row.state == RelayState.AWAY.value]


def _fire(row: RelayRow, event: RelayEvent, now: datetime) -> None:
    before = RelayState(row.state)
    after = failover.fire(before, event)
    if after is not before:
        row.state, row.changed_at = after.value, now
        if after is RelayState.WELL:
            row.due = None


def _facts(row: RelayRow) -> RelayFacts:
    return RelayFacts(row.name, row.position or 0, RelayState(row.state), row.changed_at.timestamp(), row.failures)


def _row(tx: Transaction, relay: str, now: datetime) -> RelayRow:
    tx.execute(insert(RelayRow).values(name=relay, changed_at=now).on_conflict_do_nothing())
    return tx.get_one(RelayRow, relay, with_for_update={"key_share": True})
