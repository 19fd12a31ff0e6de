"""A site's sessions with the relays' IMAP side: station 6, collect. Durable, commit, only then deleted there."""

from __future__ import annotations

from raypost.lab.simulator import incoming
from raypost.lab.simulator.desk import Times
from raypost.lab.simulator.dispatch import Dispatch
from raypost.lab.simulator.links import Link
from raypost.lab.simulator.relays import Mail, Relay
from raypost.lab.simulator.rows import Incoming
from raypost.lab.simulator.world import World
from raypost.model.transfer import MessageKind

COLLECT_RETRY_S = 15.0
LANES = 2
"""Two sessions a relay: small mails have one of their own, and no bulk is in their way."""


class Collect(Dispatch):
    """What a site fetches."""

    def __init__(
        self, name: str, world: World, times: Times, relays: list[Relay], up: Link, down: Link, skew_s: float
    ) -> None:
        super().__init__(name, world, times, relays, up, down, skew_s)
        for relay in relays:
            relay.bells[name] = self.ring

    def _forget_sessions(self) -> None:
        super()._forget_sessions()
        self._fetching = {relay: [False] * LANES for relay in self.relays}

    def fetch_bytes_per_s(self) -> int:
        """Return what this site's line carries when mails are fetched."""
        return int(self.down.bytes_per_s)

    def seen(self, transfer: Incoming) -> frozenset[int]:
        """Return the parcels of a transfer that lie in this site's mailboxes, or were fetched and not opened yet."""
        found = {
            mail.message_number
            for mail in self.ledger.unopened.values()
            if mail.token == transfer.transfer_key and mail.kind is MessageKind.PARCEL
        }
        for relay in self.relays.values():
            if relay.outage() is None:
                for mail in relay.boxes.get(self.name, {}).values():
                    if mail.token == transfer.transfer_key and mail.kind is MessageKind.PARCEL:
                        found.add(mail.message_number)
        return frozenset(found)

    def ring(self, relay: str, mail: Mail | None = None) -> None:
        """Hear that a mail came, and list the mailbox; small ones have a session of their own."""
        if self.is_up:
            if mail is not None and mail.kind is MessageKind.PARCEL and self.relays[relay].outage() is None:
                theirs = self.ledger.incoming.get((mail.sender, mail.token))
                if theirs is not None and mail.message_number not in theirs.parcels:
                    incoming.note_seen(self, theirs)
            for lane in range(LANES):
                if not self._fetching[relay][lane]:
                    self._fetch(relay, lane)

    def _fetch(self, relay: str, lane: int) -> None:
        box = self.relays[relay].boxes.get(self.name)
        if not box:
            return
        best, best_rank = 0, -1
        for number, mail in box.items():
            if mail.is_small == (lane == 0):
                rank = self._rank_of(mail)
                if rank > best_rank:
                    best, best_rank = number, rank
        if best_rank < 0:
            return
        self._fetching[relay][lane] = True
        if self.relays[relay].outage() is not None:
            self.world.aside(self.world.random.uniform(1.0, COLLECT_RETRY_S), self._look_again, self.life, relay, lane)
            return
        seconds = self.down.carry(box[best].size_bytes, self.world.now_s)
        self.world.after(seconds, self._fetched, self.life, relay, lane, best)

    def _look_again(self, life: int, relay: str, lane: int) -> None:
        if life == self.life:
            self._fetching[relay][lane] = False
            self._fetch(relay, lane)

    def _rank_of(self, mail: Mail) -> int:
        """Return what is fetched first: what was announced as urgent, and of that the first parcels."""
        known = self.ledger.incoming.get((mail.sender, mail.token))
        if known is None:
            return 0
        if mail.kind is MessageKind.PARCEL and mail.message_number in known.parcels:
            return 0  # it is here already, as it seems: last, but the token proves nothing
        return known.priority.rank + 1 + (mail.message_number == 1)

    def _fetched(self, life: int, relay: str, lane: int, number: int) -> None:
        if life != self.life:
            return
        self._fetching[relay][lane] = False
        box = self.relays[relay].boxes[self.name]
        place = (relay, number)
        if self.relays[relay].outage() is None and number in box:
            if place not in self.ledger.collected:
                self.ledger.collected.add(place)
                self.ledger.unopened[place] = box[number]
                if self.dies_at("collect"):
                    self.die()
                    return
                self.wake_open(place, box[number])
            self.relays[relay].delete(self.name, number)
        self._fetch(relay, lane)

    def wake_open(self, place: tuple[str, int], mail: Mail) -> None:
        """Have a mail opened."""
        raise NotImplementedError
