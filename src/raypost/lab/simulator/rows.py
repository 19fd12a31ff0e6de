"""What a simulated site has committed: the rows of `archive/tables`, as few columns as the machines need.

Everything here survives a crash; everything else a site knows does not. A backup is a copy of a `Ledger`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, MessageState, Priority
from raypost.transfer.control import Message
from raypost.transfer.failover import RelayFacts
from raypost.transfer.hello import ClockReading, ContactState
from raypost.transfer.notes import NOTES
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.sender import SenderState
from raypost.transfer.taking import ItemState

BULK = frozenset({MessageKind.PARCEL, MessageKind.MANIFEST})


@dataclass(slots=True, eq=False)
class MessageRow:
    """An outgoing message, or its copy for another relay (as `archive.tables.MessageRow`)."""

    transfer: Outgoing | Incoming | None
    partner: str
    kind: MessageKind
    number: int
    copy: int
    rank: int
    planned_s: float
    relay: str = ""
    state: MessageState = MessageState.PLANNED
    attempt: int = 1
    tries: int = 0
    taken: int = 0
    due_s: float | None = None
    accepted_s: float | None = None
    sending_s: float | None = None
    size_bytes: int = 0
    entries: tuple[ParcelEntry, ...] = ()
    body: dict[str, Any] = field(default_factory=dict)
    sealed: Message | None = None
    is_seen: bool = False
    is_by_all: bool = False
    is_bulk: bool = False
    is_note: bool = False

    def __post_init__(self) -> None:
        self.is_bulk, self.is_note = self.kind in BULK, self.kind in NOTES

    @property
    def is_refused(self) -> bool:
        """Say whether it cannot be sent."""
        return self.state is MessageState.REFUSED

    @property
    def is_in_hand(self) -> bool:
        """Say whether it is planned, queued or being sent."""
        state = self.state
        return state is MessageState.PLANNED or state is MessageState.QUEUED or state is MessageState.SENDING


@dataclass(slots=True, eq=False)
class WaitingRow:
    """An instance that is in no parcel yet, or not whole."""

    item: ManifestEntry
    reading_rank: int
    serial: int
    added_s: float
    packed_bytes: int = 0


@dataclass(slots=True, eq=False)
class Outgoing:
    """An outgoing transfer, with its items and messages."""

    transfer_key: str
    study: str
    supplement: int
    partner: str
    priority: Priority
    opened_s: float
    last_arrival_s: float
    patience_from_s: float
    state: SenderState = SenderState.ANNOUNCED
    due_s: float | None = None
    released_s: float | None = None
    rounds: int = 0
    progress_s: float | None = None
    told_s: float | None = None
    switches: int = 0
    switched_s: float | None = None
    finished_s: float | None = None
    last_receipt_s: float | None = None
    receipts_seen: set[int] = field(default_factory=set)
    parcels_seen: set[int] = field(default_factory=set)
    reroute_after_s: float | None = None
    items: dict[str, ManifestEntry] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    waiting: list[WaitingRow] = field(default_factory=list)
    filed_there: set[str] = field(default_factory=set)
    messages: list[MessageRow] = field(default_factory=list)
    live: list[MessageRow] = field(default_factory=list)
    parcels: int = 0
    has_manifest: bool = False
    heard: dict[MessageKind, set[int]] = field(default_factory=dict)

    def heal(self, now_s: float) -> None:
        """Write instants that lie ahead of the clock, because it was set back, as now: or time-outs stood still."""
        names = ("opened_s", "last_arrival_s", "patience_from_s", "released_s", "progress_s", "switched_s")
        _not_ahead(self, names, now_s)
        for row in self.live:
            _not_ahead(row, ("planned_s", "accepted_s", "sending_s"), now_s)

    def shed(self) -> None:
        """Leave out of `live` what is filed or replaced: an index, as the tables have one."""
        over = (MessageState.FILED, MessageState.REPLACED)
        self.live = [row for row in self.live if row.state not in over]


@dataclass(slots=True, eq=False)
class Incoming:
    """An incoming transfer, with its items and the parcels that came."""

    transfer_key: str
    study: str
    supplement: int
    partner: str
    priority: Priority
    opened_s: float
    last_arrival_s: float
    state: ReceiverState
    due_s: float | None = None
    reminders: int = 0
    news: int = 0
    doubles: int = 0
    came_by: str = ""
    receipts: int = 0
    receipts_written: int = 0
    receipted_parcels: int = 0
    last_receipt_s: float | None = None
    asked_s: float | None = None
    told_s: float | None = None
    manifest_number: int = 0
    manifest_parcels: int | None = None
    manifest: frozenset[str] = frozenset()
    lacking: set[str] = field(default_factory=set)
    items: dict[str, ItemState] = field(default_factory=dict)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    parcels: dict[int, MessageState] = field(default_factory=dict)
    arrived_s: dict[int, float] = field(default_factory=dict)
    manifest_s: float = 0.0
    entries: dict[int, tuple[ParcelEntry, ...]] = field(default_factory=dict)
    heard: dict[MessageKind, set[int]] = field(default_factory=dict)
    messages: list[MessageRow] = field(default_factory=list)
    responsible: str = ""
    responsible_number: int = 0

    def heal(self, now_s: float) -> None:
        """Write instants that lie ahead of the clock as now."""
        _not_ahead(self, ("opened_s", "last_arrival_s", "last_receipt_s", "asked_s", "manifest_s"), now_s)
        self.arrived_s = {number: min(at_s, now_s) for number, at_s in self.arrived_s.items()}
        for row in self.messages:
            _not_ahead(row, ("planned_s", "accepted_s", "sending_s"), now_s)


def _not_ahead(row: Any, names: tuple[str, ...], now_s: float) -> None:
    for name in names:
        at_s = getattr(row, name)
        if at_s is not None and at_s > now_s:
            setattr(row, name, now_s)


@dataclass(slots=True, eq=False)
class CaseRow:
    """A case at the site it comes from; `goes_to` names the centre that gets it instead of another one."""

    study: str
    priority: Priority
    responsible: str | None = None
    transfers: list[Outgoing] = field(default_factory=list)
    goes_to: dict[str, str] = field(default_factory=dict)
    is_of_before_restore: bool = False


@dataclass(slots=True, eq=False)
class ContactRow:
    """What is known of a partner."""

    known_since_s: float
    state: ContactState = ContactState.UNKNOWN
    due_s: float | None = None
    hellos: int = 0
    written_s: float | None = None
    heard_s: float | None = None
    heard_number: int = 0
    heard_hello_s: float | None = None
    heard_written_s: float | None = None
    its_interval_s: float | None = None
    clock: ClockReading | None = None
    round_trip_s: float | None = None
    restored_from_s: float | None = None
    restores_heard: int = 0
    path_bytes_per_s: float | None = None


@dataclass(slots=True, eq=False)
class RelayRow:
    """What was learned about a relay."""

    facts: RelayFacts
    due_s: float | None = None
    rate_bytes_per_s: float | None = None
    mail_size_max_bytes: int | None = None


@dataclass(slots=True, eq=False)
class Ledger:
    """Everything a site has committed.

    Attributes:
        archive: What is filed here, by its sender's site and hash.
        filings: How often a transfer brought an instance to be filed, by its key and hash; twice would be a fault.
        hidden: Instances whose transfer was recalled.
        collected: Mails that were fetched, by relay and number.
        unopened: Of these, the mails themselves that were not opened yet.
    """

    outgoing: dict[str, Outgoing] = field(default_factory=dict)
    incoming: dict[tuple[str, str], Incoming] = field(default_factory=dict)
    cases: dict[str, CaseRow] = field(default_factory=dict)
    contacts: dict[str, ContactRow] = field(default_factory=dict)
    relays: dict[str, RelayRow] = field(default_factory=dict)
    archive: set[tuple[str, str]] = field(default_factory=set)
    filings: dict[tuple[str, str], int] = field(default_factory=dict)
    collected: set[tuple[str, int]] = field(default_factory=set)
    unopened: dict[tuple[str, int], Any] = field(default_factory=dict)
    hellos: list[MessageRow] = field(default_factory=list)
    restores: int = 0
    restored_from_s: float | None = None

    def backup(self) -> Ledger:
        """Return a copy that later changes do not touch."""
        frozen = [one for transfer in self.outgoing.values() for one in transfer.items.values()]
        frozen_entries = [
            entry for transfer in self.outgoing.values() for row in transfer.messages for entry in row.entries
        ]
        frozen_entries += [
            entry for arrived in self.incoming.values() for entries in arrived.entries.values() for entry in entries
        ]
        memo: dict[int, Any] = {id(one): one for one in frozen}
        memo |= {id(one): one for one in frozen_entries}
        memo |= {id(mail): mail for mail in self.unopened.values()}
        return copy.deepcopy(self, memo)
