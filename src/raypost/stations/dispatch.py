"""5 Hand messages to the mail relay, the most urgent first; put back, cut smaller or show what it refuses.

"Accepted" is the relay's word and never means delivered. A crash between the relay's 250 and our commit sends the same
mail again; the receiver drops the double.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import assert_never

from raypost.archive import events, messages, partners, relays, transfers
from raypost.archive.database import Transaction
from raypost.archive.messages import QueuedMessage
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import TransferRow
from raypost.errors import LoginRefusedError, RaypostError, SecurityError, TransientError
from raypost.mail.smtp import Accepted, Deferred, Outcome, Refused, SmtpAccount, SmtpSession, TooLarge, Unknown
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.transfer.limits import Limits

RETRY_FIRST_S = 2.0
RETRY_MAX_S = 300.0
LOOK_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Submits what is sealed.

    Attributes:
        accounts: By relay.
        linger_s: A session without work stays open for so long, because the next parcel of a study comes soon.
        pause: Waits so many seconds, or until a message is sealed in this process; True when the process is to stop.
    """

    archive: Archive
    clock: Clock
    limits: Limits
    accounts: Mapping[str, SmtpAccount]
    slots: int
    linger_s: float
    pause: Callable[[float], bool]

    def dispatch(self, relay: str, slot: int) -> None:
        """Run one session of a relay until nothing is left for it; the slots bound how many there are at once.

        Raises:
            TransientError: The relay or the database does not answer; the job comes again.
        """
        account = self.accounts.get(relay)
        if account is None:
            return  # the relay was taken out of the configuration; its messages wait for it or for a person
        holder = f"{relay}:{slot}"
        is_left = True
        while is_left:
            with self.archive.database.exclusive(f"relay:{holder}") as is_mine:
                if not is_mine:
                    return
                with self.archive.database.transaction() as tx:
                    messages.release_slot(tx, holder)  # whoever was sending in it is dead
                first = self._claim(relay, holder)
                if first is not None:
                    self._run_session(account, holder, first)
            with self.archive.database.transaction() as tx:
                is_left = messages.has_ready(tx, relay, self.clock.now())

    def _run_session(self, account: SmtpAccount, holder: str, first: QueuedMessage) -> None:
        message: QueuedMessage | None = first
        try:
            with SmtpSession(account) as session:
                with self.archive.database.transaction() as tx:
                    relays.note_reached(tx, account.relay, session.size_max_bytes, self.clock.now())
                while message is not None:
                    self._submit(session, holder, message)
                    message = self._next(account.relay, holder)
        except (TransientError, LoginRefusedError, SecurityError) as error:
            self._put_back(account.relay, holder, message, error)
            raise

    def _next(self, relay: str, holder: str) -> QueuedMessage | None:
        linger_s = self.linger_s if holder.endswith(":0") else 0.0  # one session waits for more, not all of them
        until = self.clock.now() + timedelta(seconds=linger_s)
        message = self._claim(relay, holder)
        while message is None and self.clock.now() < until:
            if self.pause(LOOK_PAUSE_S):
                return None
            message = self._claim(relay, holder)
        return message

    def _claim(self, relay: str, holder: str) -> QueuedMessage | None:
        with self.archive.database.transaction() as tx:
            return messages.claim(tx, relay, holder, self.clock.now())

    def _submit(self, session: SmtpSession, holder: str, message: QueuedMessage) -> None:
        with self.archive.database.transaction() as tx:
            partner = partners.partner_by_id(tx, message.partner_site_id)
        file = self.archive.spool.path(message.message_file)
        outcome: Outcome
        if partner is None:
            outcome = Refused(0, "", "the partner was removed from the address book")
        elif not file.exists():
            outcome = Unknown("the sealed file is gone; it is packed again")
        else:
            outcome = session.submit(partner.address, file)
        is_done = self._note(holder, message, outcome)
        if is_done:
            self.archive.spool.discard(message.message_file)

    def _note(self, holder: str, message: QueuedMessage, outcome: Outcome) -> bool:
        """Note what the relay said; True when the sealed file is not needed any more."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            transfer = transfers.lock(tx, message.transfer_id)
            if transfer is None:
                return True
            is_done = True
            record = partial(
                events.record,
                tx,
                now,
                transfer=transfer,
                message=message.kind.value,
                number=message.number,
                bytes=message.size_bytes,
            )
            match outcome:
                case Accepted():
                    if messages.note_accepted(tx, message, holder, now):
                        record(EventKind.SENT)
                case Deferred() | Unknown():
                    is_done = False
                    self._defer(tx, holder, message, outcome)
                    record(EventKind.SENDING_DEFERRED, said=outcome.text[:200])
                case TooLarge():
                    is_done = self._note_too_large(tx, transfer, holder, message, outcome)
                case Refused():
                    said = f"{outcome.reply_code} {outcome.enhanced} {outcome.text}".strip()
                    messages.note_refused(tx, message, holder, said)
                    record(EventKind.SENDING_REFUSED, level=Level.ALARM, said=said[:200])
                case _:
                    assert_never(outcome)
            rearm(tx, transfer, self.limits, now)
            return is_done

    def _defer(self, tx: Transaction, holder: str, message: QueuedMessage, outcome: Deferred | Unknown) -> None:
        wait_s = min(RETRY_FIRST_S * 2 ** min(message.tries, 16), RETRY_MAX_S)
        if isinstance(outcome, Deferred) and outcome.retry_after_s is not None:
            wait_s = max(wait_s, outcome.retry_after_s)
        if not self.archive.spool.path(message.message_file).exists():
            messages.note_lost_file(tx, message, holder, self.clock.now())
            return
        due = self.clock.now() + timedelta(seconds=wait_s)
        messages.note_deferred(tx, message, holder, outcome.text, due)

    def _note_too_large(
        self, tx: Transaction, transfer: TransferRow, holder: str, message: QueuedMessage, outcome: TooLarge
    ) -> bool:
        """Learn the limit and cut the parcel smaller; a message that cannot be cut is a person's matter."""
        now = self.clock.now()
        limit_bytes = outcome.limit_bytes or message.size_bytes * 3 // 4
        relays.note_size_limit(tx, message.relay, limit_bytes, now)
        if not messages.note_too_large(tx, message, holder, now):
            messages.note_refused(tx, message, holder, outcome.text)
            events.record(
                tx,
                now,
                EventKind.SENDING_REFUSED,
                level=Level.ALARM,
                transfer=transfer,
                message=message.kind.value,
                number=message.number,
                said=outcome.text[:200],
            )
        return True

    def _put_back(self, relay: str, holder: str, message: QueuedMessage | None, error: RaypostError) -> None:
        """Note that the relay does not let us in, and give back what this session held."""
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            if not (isinstance(error, TransientError) and "database" in error.what):
                relays.note_unreachable(tx, relay, error.code, error.what, now)
            messages.release_slot(tx, holder)
