"""A site: what a verified mail brings (station 7, open), signs of life, crashes, restarts, restores."""

from __future__ import annotations

from raypost.lab.simulator import cases, hellos, incoming
from raypost.lab.simulator.collect import Collect
from raypost.lab.simulator.composing import site_of
from raypost.lab.simulator.office import BYTES_PER_S
from raypost.lab.simulator.relays import Mail
from raypost.lab.simulator.rows import Incoming, Ledger, Outgoing
from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer.control import (
    Announce,
    Hello,
    Manifest,
    Message,
    Opened,
    Parcel,
    Recall,
    Recalled,
    Receipt,
    Redirect,
    Take,
    Taken,
)
from raypost.transfer.receiver import ReceiverState

OPEN_S = 0.040
GREETING_S = 2_500.0
"""So long after a restored site is there again every partner has heard a sign of life, lost ones included."""


class Site(Collect):
    """One hospital, whole."""

    # 7 open

    def wake_open(self, place: tuple[str, int], mail: Mail) -> None:
        """Have a mail opened; small ones go first."""
        seconds = OPEN_S + mail.size_bytes / BYTES_PER_S
        self.enqueue(101 if mail.is_small else 50, lambda: (seconds, lambda: self._open(place, mail)))

    def _open(self, place: tuple[str, int], mail: Mail) -> None:
        if self.dies_at("open"):
            self.die()
            return
        if self.ledger.unopened.pop(place, None) is None or mail.is_bounce:
            return
        head = mail.message.head
        partner = site_of(head.sender)
        is_damaged = mail.is_damaged or self.neighbours[partner].has_key_expired()
        if self.world.lines is not None:
            came = "quarantined" if is_damaged else "opened"
            word = f"{head.transfer_key[:6]} from {partner}: {head.kind.value} {head.number} {came}"
            self.world.say(self.name, word)
        if not is_damaged:
            hellos.note_heard(self, partner)
            self._take(partner, mail.message, place[0])

    def _take(self, partner: str, message: Message, relay: str) -> None:
        transfer_key = message.head.transfer_key
        match message:
            case Announce() | Parcel() | Manifest():
                is_announce = isinstance(message, Announce)
                transfer = incoming.open_incoming(
                    self,
                    partner,
                    transfer_key,
                    message.study_instance_uid,
                    message.supplement,
                    message.head.priority,
                    ReceiverState.EXPECTED if is_announce else ReceiverState.ARRIVING,
                )
                transfer.came_by = relay
                incoming.take(self, transfer, message)
            case Taken() | Recall() | Redirect():  # also before anything else came: it leaves a tombstone
                priority = message.head.priority
                theirs = incoming.open_incoming(self, partner, transfer_key, "", 0, priority, ReceiverState.EXPECTED)
                theirs.came_by = relay
                incoming.take(self, theirs, message)
            case Receipt() | Opened() | Take() | Recalled():
                mine = self.ledger.outgoing.get(transfer_key)
                if mine is not None and mine.partner == partner:
                    if isinstance(message, Receipt):
                        cases.take_receipt(self, mine, message)
                    else:
                        cases.take_word(self, self.ledger.cases[mine.study], mine, message)
            case Hello():
                hellos.take_hello(self, partner, message)

    # crash, restart, restore

    def crash(self, down_s: float | None) -> None:
        """Kill the site; it is started again after a while, or never. What it had committed is all it knows then."""
        if not self.is_up:
            return
        self.world.say(self.name, f"killed{f' at {self.doom}' if self.doom else ''}")
        self.life += 1
        self.is_up, self.doom = False, ""
        self._forget_jobs()
        self._forget_sessions()
        if down_s is not None:
            self.world.after(down_s, self.start)

    def die(self) -> None:
        """Die at a commit point."""
        self.crash(self.world.random.uniform(1.0, 30.0))

    def restore(self, backup: Ledger, backup_s: float, down_s: float) -> None:
        """Put a backup in the place of everything committed since.

        Args:
            backup_s: When it was made, by this site's clock.
        """
        self.crash(down_s)
        self.world.say(self.name, "restored from a backup")
        restores = self.ledger.restores
        self.ledger = backup
        self.ledger.restores, self.ledger.restored_from_s = restores + 1, backup_s
        for case in self.ledger.cases.values():
            case.is_of_before_restore = True

    def start(self) -> None:
        """Go on from what is committed."""
        self.is_up, self.up_since_s = True, self.world.now_s
        self.world.say(self.name, "started")
        for row in self.out_rows():
            if row.state is MessageState.SENDING:
                row.state = MessageState.QUEUED
            if row.state is MessageState.QUEUED and row.sealed is None:
                row.state = MessageState.PLANNED
            if row.state is MessageState.QUEUED:
                self.ready(row)
        everything: list[Outgoing | Incoming] = [*self.ledger.outgoing.values(), *self.ledger.incoming.values()]
        for transfer in everything:
            self.arm(transfer, transfer.due_s)
            if any(row.state is MessageState.PLANNED for row in transfer.messages):
                self.wake_pack(transfer)
            if isinstance(transfer, Incoming):
                for number, state in transfer.parcels.items():
                    if state is MessageState.VERIFIED:
                        self.wake_file(transfer, number)
        for place, mail in self.ledger.unopened.items():
            self.wake_open(place, mail)
        for relay in self.relays:
            self._arm_relay(relay)
            self.wake_dispatch(relay)
            self.ring(relay)
        if self.ledger.restored_from_s is not None:
            self.greet(GREETING_S)
        for partner in self.ledger.contacts:
            hellos.arm_contact(self, partner)

    def order_refused(self, partner: str) -> None:
        """Have a person order again what could not be sealed for a partner whose certificate is renewed."""
        for mine in list(self.ledger.outgoing.values()):
            if mine.partner == partner and any(row.state is MessageState.REFUSED for row in mine.messages):
                cases.order_again(self, mine)

    # people at a centre

    def open_study(self, transfer: Incoming, kind: MessageKind) -> None:
        """Have a person open a study, or ask for the case."""
        incoming.say_word(self, transfer, kind)
