"""What becomes of a message after a relay spoke: accepted, put back, moved to another relay, cut smaller, a person's.

Half of station 5: `mail/smtp_replies.py` says what helps, `transfer/refusals.py` decides, here it is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import assert_never

from raypost.archive import events, moving, outbox, relays, transfers
from raypost.archive.database import Transaction
from raypost.archive.outbox import QueuedMessage
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.mail.parcel_sizes import parcel_room
from raypost.mail.smtp import Accepted, BrokenOff, Deferred, Outcome, Refused, TooLarge, Unknown
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits
from raypost.transfer.refusals import Course, RefusalLimits, Remedy, next_try

COPY_TRIES_MAX = 3
"""So often a copy is offered to its relay."""
SAID_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Writes down what relays say of messages."""

    archive: Archive
    clock: Clock
    limits: Limits
    pacing: PacingLimits
    refusals: RefusalLimits = field(default_factory=RefusalLimits)

    def note(self, holder: str, message: QueuedMessage, outcome: Outcome) -> bool:
        """Note what the relay said; True when the sealed file is not needed any more."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = None if message.transfer_id is None else transfers.lock(tx, message.transfer_id)
            note = _Note(tx, transfer, holder, message, now)
            match outcome:
                case Accepted():
                    is_done = True
                    if outbox.note_accepted(tx, message, holder, now):
                        note.record(EventKind.SENT)
                case Deferred():
                    is_done = self._try_again(note, outcome.remedy, outcome.text, outcome.retry_after_s)
                case BrokenOff() | Unknown():
                    is_done = self._try_again(note, Remedy.RETRY, outcome.text, None)
                case TooLarge():
                    is_done = self._cut(note, outcome)
                case Refused():
                    said = f"{outcome.reply_code} {outcome.enhanced} {outcome.text}".strip()
                    is_done = self._try_again(note, outcome.remedy, said, None, is_for_good=True)
                case _:
                    assert_never(outcome)
            if transfer is not None:
                rearm(tx, transfer, self.limits, now)
            if isinstance(outcome, Accepted):
                relays.note_taken(tx, message.relay, message.size_bytes, outcome.content_s, now)
            return is_done

    def _try_again(
        self, note: _Note, remedy: Remedy, said: str, retry_after_s: float | None, *, is_for_good: bool = False
    ) -> bool:
        """Let a message wait, go by another relay, or be a person's matter; True when its sealed file can go."""
        message, tries = note.message, note.message.tries + 1
        if message.is_dispensable and (is_for_good or tries >= COPY_TRIES_MAX or message.transfer_id is None):
            outbox.drop(note.tx, message, note.holder, said)
            return True
        has_other = not message.copy and moving.has_other(
            note.tx, message.partner_site_id, message.relay, message.refused_by, also_away=is_for_good
        )
        step = next_try(
            Remedy.PERSON if is_for_good and not has_other else remedy,
            tries=tries,
            has_other_relay=has_other,
            seed=str(message.message_row),
            retry_after_s=retry_after_s,
            limits=self.refusals,
        )
        level = Level.ALARM if step.tell else Level.INFO
        match step.course:
            case Course.GIVE_UP:
                if outbox.note_refused(note.tx, message, note.holder, said):
                    note.record(EventKind.SENDING_REFUSED, said, Level.ALARM)
                return True
            case Course.MOVE:
                is_news = relays.set_back(note.tx, message.relay, self.limits.relays, note.now)
                if is_for_good and not is_news:
                    level = Level.INFO  # it was told when this relay refused the first one
                note.record(EventKind.SENDING_DEFERRED, said, level)
                outbox.note_moved(
                    note.tx, message, note.holder, said, note.now, pause_s=step.wait_s, is_refused=is_for_good
                )
                return True
            case Course.WAIT:
                note.record(EventKind.SENDING_DEFERRED, said, level)
                due = note.now + timedelta(seconds=step.wait_s)
                return not outbox.note_deferred(note.tx, message, note.holder, said, due)

    def _cut(self, note: _Note, outcome: TooLarge) -> bool:
        """Learn the limit and cut the parcel smaller; what cannot be cut goes by another relay or to a person."""
        message = note.message
        if outcome.limit_bytes is None or outcome.limit_bytes >= message.size_bytes:  # it refuses what it announces
            relays.note_size_limit(note.tx, message.relay, message.size_bytes // 2, note.now)
        limit_bytes = relays.size_max_bytes(note.tx, message.relay) or message.size_bytes // 2
        room = parcel_room(limit_bytes, self.pacing.instances_max)
        payload_max_bytes = room.size_max_bytes if room else None
        if outbox.note_too_large(note.tx, message, note.holder, note.now, payload_max_bytes):
            return True
        return self._try_again(note, Remedy.CUT_SMALLER, outcome.text, None, is_for_good=True)


@dataclass(frozen=True, slots=True)
class _Note:
    """One outcome that is being written down; the transfer's row is locked."""

    tx: Transaction
    transfer: TransferRow | None
    holder: str
    message: QueuedMessage
    now: datetime

    def record(self, kind: EventKind, said: str = "", level: Level = Level.INFO) -> None:
        """Record an event about the message."""
        it = self.message
        events.record(
            self.tx,
            self.now,
            kind,
            level=level,
            transfer=self.transfer,
            message=it.kind.value,
            number=it.number,
            bytes=it.size_bytes,
            relay=it.relay,
            said=said[:SAID_LENGTH_MAX] or None,
        )
