"""5 Hand messages to the mail relays, the most urgent first; what a relay does not take goes by another one.

"Accepted" is the relay's word and never means delivered. A crash between the relay's 250 and our commit sends the same
mail again; the receiver drops the double.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from raypost.archive import moving, outbox, partners, relays, transfers
from raypost.archive.outbox import QueuedMessage
from raypost.archive.site import Archive
from raypost.errors import RaypostError, UnreachableError
from raypost.mail.smtp import Outcome, Refused, SmtpAccount, SmtpSession
from raypost.model.clock import Clock
from raypost.stations.outcomes import Outcomes
from raypost.transfer.limits import Limits

LOOK_PAUSE_S = 0.5
SESSIONS_MAX = 1_000
"""Of one job; the sweep starts the next one."""

log = structlog.get_logger("raypost.dispatch")


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Submits what is sealed.

    Attributes:
        outcomes: Writes down what becomes of each message.
        accounts: By relay.
        linger_s: A session without work stays open for so long, because the next parcel of a study comes soon.
        pause: Waits so many seconds, or until a message is sealed in this process; True when the process is to stop.
    """

    archive: Archive
    clock: Clock
    limits: Limits
    outcomes: Outcomes
    accounts: Mapping[str, SmtpAccount]
    slots: int
    linger_s: float
    pause: Callable[[float], bool]

    def dispatch(self, relay: str, slot: int) -> None:
        """Run sessions of a relay until nothing is left for it; the slots bound how many there are at once.

        A relay that is away is tried when its time has come, also when nothing waits for it: so it comes back.

        Raises:
            TransientError: The database does not answer; the job comes again.
        """
        account = self.accounts.get(relay)
        if account is None:
            self.leave(relay)
            return
        holder = f"{relay}:{slot}"
        for _ in range(SESSIONS_MAX):
            with self.archive.database.exclusive(f"relay:{holder}") as is_mine:
                if not is_mine or not self._may_begin(relay, holder) or not self._session(account, holder):
                    return
            with self.archive.database.transaction() as tx:
                if not outbox.has_ready(tx, relay, self.clock.now()):
                    return

    def leave(self, relay: str) -> None:
        """Have everything that waits for a relay go by others, as far as there are any."""
        with self.archive.database.transaction() as tx:
            left = moving.leave_relay(tx, relay, self.clock.now())
        for name in left.files:
            self.archive.spool.discard(name)
        if left.transfers:
            log.info("messages go by another relay", relay=relay, transfers=len(left.transfers))

    def _may_begin(self, relay: str, holder: str) -> bool:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            outbox.release_slot(tx, holder)  # whoever was sending in it is dead
        with self.archive.database.transaction() as tx:
            was_away = relays.is_away(tx, relay)
            may_try = relays.may_try(tx, relay, now)
            has_work = outbox.has_ready(tx, relay, now)
        if was_away and not may_try:
            self.leave(relay)
        return may_try and (was_away or has_work)

    def _session(self, account: SmtpAccount, holder: str) -> bool:
        """Run one session; False when the relay did not let us in, or hung."""
        begun_at, in_hand = self.clock.now(), _InHand()
        with contextlib.ExitStack() as stack:
            try:
                on_stall = partial(self._stalled, account.relay, begun_at, in_hand)
                session = stack.enter_context(SmtpSession(account, on_stall))
            except RaypostError as error:
                self._kept_out(account.relay, holder, error, begun_at)
                return False
            self._let_in(account.relay, session.size_max_bytes)
            self._serve(session, holder, in_hand)
        if in_hand.is_dead_at_first:
            broken_off = UnreachableError(f"{account.relay} lets us in and breaks off at the first mail.")
            self._kept_out(account.relay, holder, broken_off, begun_at)
        elif in_hand.has_hung:
            self.leave(account.relay)
        return not in_hand.is_dead_at_first and not in_hand.has_hung

    def _serve(self, session: SmtpSession, holder: str, in_hand: _InHand) -> None:
        while (message := self._next(session, holder)) is not None:
            in_hand.message = message
            is_heard = self._submit(session, holder, message)
            in_hand.message = None
            if not is_heard:  # usual after a pause; at the first mail it is the relay that is not well
                in_hand.is_dead_at_first = in_hand.count == 0
                return
            in_hand.count += 1
            if in_hand.has_hung and session.is_open:  # slow, and the only one
                in_hand.has_hung = False
                self._let_in(session.account.relay, session.size_max_bytes)

    def _kept_out(self, relay: str, holder: str, error: RaypostError, begun_at: datetime) -> None:
        """Note that a relay does not let us in, and have its messages go elsewhere at once.

        While another session of the same relay sends, it is this session alone that the relay does not want.
        """
        with self.archive.database.transaction() as tx:
            if outbox.is_sending(tx, relay, holder):
                log.info("one session less", relay=relay, code=error.code, what=error.what)
                return
            now = self.clock.now()
            relays.kept_us_out(tx, relay, error.code, error.what, now, self.limits.relays, begun_at=begun_at)
        log.warning("a relay is away", relay=relay, code=error.code, what=error.what)
        self.leave(relay)

    def _let_in(self, relay: str, limit_bytes: int | None) -> None:
        """Note that a relay is well; what waits for others that are not goes by it."""
        with self.archive.database.transaction() as tx:
            if not relays.let_us_in(tx, relay, limit_bytes, self.clock.now()):
                return
            outbox.wake_dispatch(tx, relay, self.slots)
            others = [name for name in relays.away(tx) if name != relay]
        for name in others:
            self.leave(name)

    def _stalled(self, relay: str, begun_at: datetime, in_hand: _InHand) -> bool:
        """Have everything else go by another relay while this one hangs; True when the mail in hand can, too."""
        message, now = in_hand.message, self.clock.now()
        try:
            with self.archive.database.transaction() as tx:
                if message is None or not relays.others(tx, relay):
                    return False
                if not in_hand.has_hung:
                    said = f"{relay} has not moved for a while in the middle of a mail."
                    limits, code = self.limits.relays, UnreachableError.code
                    relays.kept_us_out(tx, relay, code, said, now, limits, begun_at=begun_at)
                has_other = moving.has_other(tx, message.partner_site_id, relay, message.refused_by)
            if not in_hand.has_hung:
                in_hand.has_hung = True
                log.warning("a relay hangs", relay=relay)
                self.leave(relay)
        except UnreachableError:  # the database is away, too: no time to change anything
            return False
        return has_other

    def _next(self, session: SmtpSession, holder: str) -> QueuedMessage | None:
        if not session.is_open:
            return None
        linger_s = self.linger_s if holder.endswith(":0") else 0.0  # one session waits for more, not all of them
        until = self.clock.now() + timedelta(seconds=linger_s)
        message = self._claim(session.account.relay, holder)
        while message is None and self.clock.now() < until:
            if self.pause(LOOK_PAUSE_S):
                return None
            message = self._claim(session.account.relay, holder)
        return message

    def _claim(self, relay: str, holder: str) -> QueuedMessage | None:
        with self.archive.database.transaction() as tx:
            return outbox.claim(tx, relay, holder, self.clock.now())

    def _submit(self, session: SmtpSession, holder: str, message: QueuedMessage) -> bool:
        """Offer one message; False when the relay did not hear of it, as the connection was dead."""
        with self.archive.database.transaction() as tx:
            partner = partners.partner_by_id(tx, message.partner_site_id)
        file = self.archive.spool.path(message.message_file)
        outcome: Outcome
        if partner is None:
            outcome = Refused(0, "", "the partner was removed from the address book")
        elif not file.exists():
            self._note_lost_file(holder, message)
            return True
        else:
            try:
                outcome = session.submit(partner.address_on(message.relay), file)
            except UnreachableError:
                with self.archive.database.transaction() as tx:
                    outbox.release_slot(tx, holder)
                return False
        if self.outcomes.note(holder, message, outcome):
            self.archive.spool.discard(message.message_file)
        return True

    def _note_lost_file(self, holder: str, message: QueuedMessage) -> None:
        with self.archive.database.transaction() as tx:
            if message.transfer_id is not None:
                transfers.lock(tx, message.transfer_id)
            outbox.note_lost_file(tx, message, holder, self.clock.now())


@dataclass(slots=True)
class _InHand:
    """What a session holds at the moment, and how it fares.

    Attributes:
        count: Mails of which the relay heard.
        has_hung: Nothing moved for a while, and other relays were told to take over.
        is_dead_at_first: The connection was dead at the first mail.
    """

    message: QueuedMessage | None = None
    count: int = 0
    has_hung: bool = False
    is_dead_at_first: bool = False
