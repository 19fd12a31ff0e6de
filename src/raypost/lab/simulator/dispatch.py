"""A site's sessions with the relays' SMTP side: station 5, dispatch; and what is known of the relays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from raypost.lab.simulator import incoming, outgoing, parcels, planned
from raypost.lab.simulator.desk import Times, message_word
from raypost.lab.simulator.links import Link
from raypost.lab.simulator.office import SWEEP_S, Office
from raypost.lab.simulator.relays import Mail, Outcome, Relay
from raypost.lab.simulator.rows import ContactRow, Incoming, Ledger, MessageRow, Outgoing, RelayRow
from raypost.lab.simulator.world import World
from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer import failover
from raypost.transfer.control import Message
from raypost.transfer.failover import RelayEvent, RelayFacts, RelayState
from raypost.transfer.limits import is_due
from raypost.transfer.refusals import Course, Remedy, next_try
from raypost.transfer.sender import OPEN

SLOTS = 2
REFUSED_S = 0.2
RATE_MIN_BYTES = 100_000
LEARNED_MIN_BYTES = 60_000


class Dispatch(Office):
    """What a site does with its relays.

    Attributes:
        partners: By which relays each partner is reached.
        mails: How many mails the relays took, by kind; whether they were copies, whether they were sent again.
    """

    def __init__(
        self, name: str, world: World, times: Times, relays: list[Relay], up: Link, down: Link, skew_s: float
    ) -> None:
        rows = {
            one.name: RelayRow(RelayFacts(one.name, position), rate_bytes_per_s=0.8 * up.bytes_per_s)
            for position, one in enumerate(relays)
        }
        super().__init__(name, world, times, Ledger(relays=rows), skew_s)
        self.relays = {one.name: one for one in relays}
        self.up, self.down = up, down
        self.partners: dict[str, frozenset[str]] = {}
        self.mails: Counter[tuple[MessageKind, bool, bool]] = Counter()
        self._forget_sessions()

    def _forget_sessions(self) -> None:
        self._is_sending = {relay: [False] * SLOTS for relay in self.relays}
        self._is_probing = dict.fromkeys(self.relays, False)
        self._ready: dict[str, list[MessageRow]] = {relay: [] for relay in self.relays}

    def meet(self, partner: str, relays: Iterable[str], path_bytes_per_s: float) -> None:
        """Add a partner and the relays on which it has a mailbox; it gave signs of life before the seed begins."""
        self.partners[partner] = frozenset(relays)
        self.ledger.contacts[partner] = ContactRow(self.now(), path_bytes_per_s=path_bytes_per_s)

    def relays_of(self, partner: str) -> list[RelayFacts]:
        """Return the relays by which a partner is reached."""
        theirs = self.partners[partner]
        return [row.facts for name, row in self.ledger.relays.items() if name in theirs]

    def out_rows(self) -> list[MessageRow]:
        """Return every outgoing message."""
        rows = list(self.ledger.hellos)
        for mine in self.ledger.outgoing.values():
            rows += mine.messages
        for theirs in self.ledger.incoming.values():
            rows += theirs.messages
        return rows

    # 5 dispatch

    def wake_dispatch(self, relay: str) -> None:
        """Have the idle sessions of a relay take what is most urgent; one that is away is left alone until its time."""
        if not self._ready[relay] or self.ledger.relays[relay].facts.state is RelayState.AWAY:
            return
        for slot in range(SLOTS):
            if not self._is_sending[relay][slot]:
                row = self._claim(relay)
                if row is None:
                    return
                self._send(relay, slot, row)

    def ready(self, row: MessageRow) -> None:
        """Have a sealed message taken by a session of its relay."""
        self._ready[row.relay].append(row)
        if row.due_s is not None:
            self.world.after(max(0.0, row.due_s - self.now()) + SWEEP_S, self._retry, self.life, row.relay)
        self.wake_dispatch(row.relay)

    def _claim(self, relay: str) -> MessageRow | None:
        """Take the most urgent message that is ready; the longest waiting of several."""
        now_s = self.now()
        best: MessageRow | None = None
        ready = self._ready[relay] = [
            row for row in self._ready[relay] if row.state is MessageState.QUEUED and row.relay == relay
        ]
        for row in ready:
            if (best is None or row.rank > best.rank) and (row.due_s is None or is_due(row.due_s, now_s)):
                best = row
        if best is not None:
            ready.remove(best)
        return best

    def _send(self, relay: str, slot: int, row: MessageRow) -> None:
        row.state, row.sending_s = MessageState.SENDING, self.now()
        self._is_sending[relay][slot] = True
        outage = self.relays[relay].outage()
        if outage is not None:
            wait_s = self.times.limits.relays.connect_timeout_s if outage.hangs else REFUSED_S
            self.world.after(wait_s, self._kept_out, self.life, relay, slot, row, row.attempt)
            return
        seconds = self.up.carry(row.size_bytes, self.world.now_s)
        message = row.sealed
        assert message is not None, "a queued message is sealed"
        self.world.after(seconds, self._submitted, self.life, relay, slot, row, row.attempt, message, seconds)

    def _submitted(
        self, life: int, relay: str, slot: int, row: MessageRow, attempt: int, message: Message, seconds: float
    ) -> None:
        if life != self.life:
            return
        outage = self.relays[relay].outage()
        if outage is not None:  # it went away while it took the mail, or before it answered the last byte
            limits = self.times.limits.relays
            is_through = self.world.now_s - outage.from_s < self.up.latency_s
            wait_s = limits.reply_timeout_s if is_through else limits.stall_timeout_s
            self.world.after(wait_s if outage.hangs else 0.0, self._kept_out, life, relay, slot, row, attempt)
            return
        mail = Mail(
            0,
            self.name,
            row.partner,
            message.head.transfer_key,
            row.kind,
            row.number,
            row.size_bytes,
            message,
            is_damaged=self.has_key_expired(),
        )
        outcome = self.relays[relay].submit(mail)
        if self.world.lines is not None:
            word = f"{mail.token[:6]} to {row.partner}: {message_word(row)} {outcome.value} by {relay}"
            self.world.say(self.name, word)
        if self.dies_at("accept"):
            self.die()
            return
        self._is_sending[relay][slot] = False
        if row.state is MessageState.SENDING and row.attempt == attempt:
            match outcome:
                case Outcome.ACCEPTED:
                    self._accepted(row, seconds)
                case Outcome.DEFERRED:
                    self._not_taken(row, Remedy.RETRY)
                case Outcome.BOX_FULL:
                    self._not_taken(row, Remedy.OTHER_RELAY)
                case Outcome.TOO_LARGE:
                    self._too_large(row)
            self._rearm(row)
        self.wake_dispatch(relay)

    def _rearm(self, row: MessageRow) -> None:
        if isinstance(row.transfer, Outgoing):
            outgoing.rearm_outgoing(self, row.transfer)
        elif isinstance(row.transfer, Incoming):
            incoming.rearm_incoming(self, row.transfer)

    def _accepted(self, row: MessageRow, seconds: float) -> None:
        row.state, row.accepted_s, row.due_s = MessageState.ACCEPTED, self.now(), None
        row.sealed = None
        row.taken += 1
        self.mails[row.kind, row.copy > 0, row.attempt > 1] += 1
        if row.kind is MessageKind.RECEIPT and isinstance(row.transfer, Incoming):
            row.transfer.messages.remove(row)
        if isinstance(row.transfer, Outgoing) and not row.is_note:
            row.transfer.patience_from_s = max(row.transfer.patience_from_s, self.now())
        relay = self.ledger.relays[row.relay]
        if row.size_bytes >= RATE_MIN_BYTES:
            rate, before = row.size_bytes / seconds, relay.rate_bytes_per_s
            relay.rate_bytes_per_s = rate if before is None else 0.7 * before + 0.3 * rate

    def _not_taken(self, row: MessageRow, remedy: Remedy) -> None:
        """Do what helps against a refusal; as `stations/outcomes.py`."""
        row.tries += 1
        others = [
            one
            for one in self.relays_of(row.partner)
            if one.name != row.relay and one.state is not RelayState.AWAY and row.copy == 0
        ]
        seed = "" if row.transfer is None else row.transfer.transfer_key
        decided = next_try(remedy, tries=row.tries, has_other_relay=bool(others), seed=f"{seed}{row.kind}{row.number}")
        if decided.tell and row.transfer is not None:
            self.note("told", row.transfer, why="the relay does not take a mail")
        match decided.course:
            case Course.MOVE if row.transfer is not None:
                tries = row.tries
                planned.plan_again(self, row.transfer, [row])
                row.tries, row.due_s = tries, self.now() + decided.wait_s
            case Course.WAIT | Course.MOVE:
                row.state, row.due_s = MessageState.QUEUED, self.now() + decided.wait_s
                self.ready(row)
            case Course.GIVE_UP:
                row.state = MessageState.REFUSED

    def _retry(self, life: int, relay: str) -> None:
        if life == self.life:
            self.wake_dispatch(relay)

    def _too_large(self, row: MessageRow) -> None:
        relay = self.ledger.relays[row.relay]
        learned = row.size_bytes * 3 // 4
        relay.mail_size_max_bytes = max(min(learned, relay.mail_size_max_bytes or learned), LEARNED_MIN_BYTES)
        if row.kind is MessageKind.PARCEL and isinstance(row.transfer, Outgoing):
            parcels.take_apart(self, row.transfer, row)
        else:
            self._not_taken(row, Remedy.CUT_SMALLER)

    def _kept_out(self, life: int, relay: str, slot: int, row: MessageRow, attempt: int) -> None:
        """Note that a relay did not let us in, and what was sealed for it goes by another one."""
        if life != self.life:
            return
        self._is_sending[relay][slot] = False
        if row.state is MessageState.SENDING and row.attempt == attempt:
            row.state, row.tries = MessageState.QUEUED, row.tries + 1
            self._ready[relay].append(row)
        self._note_away(relay)
        self._rearm(row)

    def _note_away(self, relay: str) -> None:
        row = self.ledger.relays[relay]
        state, failures = failover.fire(row.facts.state, RelayEvent.KEPT_US_OUT), row.facts.failures + 1
        row.facts = replace(row.facts, state=state, failures=failures, changed_s=self.now())
        if self.world.lines is not None:
            self.world.say(self.name, f"{relay} keeps us out, {failures} times")
        planned.leave_relay(self, relay)
        self._arm_relay(relay)

    def _arm_relay(self, relay: str) -> None:
        row = self.ledger.relays[relay]
        row.due_s = failover.retry_due_s(row.facts, self.times.limits.relays)
        if row.due_s is not None and not self._is_probing[relay]:
            self._is_probing[relay] = True
            self.world.aside(max(0.0, row.due_s - self.now()), self._probe, self.life, relay)

    def _probe(self, life: int, relay: str) -> None:
        """Look whether a relay is well again."""
        if life != self.life:
            return
        self._is_probing[relay] = False
        row = self.ledger.relays[relay]
        if row.due_s is None:
            return
        if row.due_s > self.now() + 1e-6:
            self._arm_relay(relay)
        elif row.facts.state is RelayState.SUSPECT:
            self._fire_relay(relay, RelayEvent.TIME_PASSED)
        elif self.relays[relay].outage() is not None:
            self._note_away(relay)
        else:
            self._fire_relay(relay, RelayEvent.LET_US_IN)
            row.facts = replace(row.facts, failures=0)
            self.wake_dispatch(relay)

    def _fire_relay(self, relay: str, event: RelayEvent) -> None:
        row = self.ledger.relays[relay]
        state = failover.fire(row.facts.state, event)
        if state is not row.facts.state:
            row.facts = replace(row.facts, state=state, changed_s=self.now())
            if self.world.lines is not None:
                self.world.say(self.name, f"{relay} is {state.value}")
        if state is RelayState.WELL:
            row.due_s = None

    def suspect(self, relays: Iterable[str]) -> None:
        """Note relays that took mails of which nothing was heard again."""
        for name in sorted(relays):
            before = self.ledger.relays[name].facts.state
            self._fire_relay(name, RelayEvent.NOTHING_HEARD)
            if self.ledger.relays[name].facts.state is before:
                continue
            self._arm_relay(name)
            planned.leave_relay(self, name)
            for mine in self.ledger.outgoing.values():  # what else went by it is looked at as well
                if mine.state in OPEN:
                    self.arm(mine, self.now())

    def proved(self, relay: str) -> None:
        """Note that a receipt names a mail that went by this relay."""
        if self.ledger.relays[relay].facts.state is RelayState.SUSPECT:
            self._fire_relay(relay, RelayEvent.PROVED_ITSELF)
