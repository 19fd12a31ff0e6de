"""What the bookkeeping needs of the site it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raypost.lab.simulator.rows import Incoming, Ledger, MessageRow, Outgoing
from raypost.lab.simulator.world import World
from raypost.transfer.failover import RelayFacts
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits


@dataclass(frozen=True, slots=True)
class Times:
    """The limits in force at every site of a seed."""

    limits: Limits = Limits()
    pacing: PacingLimits = PacingLimits()


class Desk:
    """A site as its books see it: rows, clock, and who is woken after a commit.

    Attributes:
        name: Of the site.
        skew_s: What this site's clock, in POSIX seconds, shows more than the world's time.
        was_set_back: Its clock was set back once: what it wrote before may lie ahead.
    """

    name: str
    world: World
    times: Times
    ledger: Ledger
    skew_s: float
    was_set_back = False

    def now(self) -> float:
        """Return the time by this site's own clock."""
        return self.world.now_s + self.skew_s

    def relays_of(self, partner: str) -> list[RelayFacts]:
        """Return the relays by which a partner is reached, as `archive.relays.of_partner`."""
        raise NotImplementedError

    def wake_pack(self, transfer: Outgoing | Incoming) -> None:
        """Have the planned messages of a transfer packed."""
        raise NotImplementedError

    def wake_file(self, transfer: Incoming, number: int) -> None:
        """Have a verified parcel filed."""
        raise NotImplementedError

    def fetch_bytes_per_s(self) -> int:
        """Return what this site's line carries when mails are fetched."""
        raise NotImplementedError

    def seen(self, transfer: Incoming) -> frozenset[int]:
        """Return the parcels of a transfer that lie in this site's mailboxes, or were fetched and not opened yet."""
        raise NotImplementedError

    def arm(self, transfer: Outgoing | Incoming, due_s: float | None) -> None:
        """Write when somebody must look at a transfer again."""
        raise NotImplementedError

    def suspect(self, relays: Iterable[str]) -> None:
        """Note relays that took mails of which nothing was heard again."""
        raise NotImplementedError

    def proved(self, relay: str) -> None:
        """Note that a receipt names a mail that went by this relay."""
        raise NotImplementedError

    def note(self, what: str, row: Outgoing | Incoming, **said: Any) -> None:
        """Record an event: the trace shows it, the figures and promises are made of it."""
        raise NotImplementedError


def message_word(row: MessageRow) -> str:
    """Return a message as the trace names it."""
    copy = f"+{row.copy}" if row.copy else ""
    again = f" x{row.attempt}" if row.attempt > 1 else ""
    return f"{row.kind.value} {row.number}{copy}{again}"
