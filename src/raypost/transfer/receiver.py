"""One incoming transfer: arriving, complete, incomplete; when a receipt is due and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from raypost.errors import LocalProtocolError


class ReceiverState(Enum):
    """Where an incoming transfer is."""

    ARRIVING = "arriving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


class ReceiverEvent(Enum):
    """What can happen to it."""

    ALL_FILED = "all filed"
    MORE_CAME = "more came"
    WENT_SILENT = "went silent"


TRANSITIONS: dict[tuple[ReceiverState, ReceiverEvent], ReceiverState] = {
    (ReceiverState.ARRIVING, ReceiverEvent.ALL_FILED): ReceiverState.COMPLETE,
    (ReceiverState.ARRIVING, ReceiverEvent.MORE_CAME): ReceiverState.ARRIVING,
    (ReceiverState.ARRIVING, ReceiverEvent.WENT_SILENT): ReceiverState.INCOMPLETE,
    (ReceiverState.INCOMPLETE, ReceiverEvent.ALL_FILED): ReceiverState.COMPLETE,
    (ReceiverState.INCOMPLETE, ReceiverEvent.MORE_CAME): ReceiverState.ARRIVING,
    (ReceiverState.COMPLETE, ReceiverEvent.MORE_CAME): ReceiverState.COMPLETE,  # a double: answered, never filed twice
}


def fire(state: ReceiverState, event: ReceiverEvent) -> ReceiverState:
    """Return the next state.

    Raises:
        LocalProtocolError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LocalProtocolError(f"{event.value} while {state.value}") from None


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Times in seconds.

    Attributes:
        receipt_interval_s: While images arrive, and for doubled parcels, at most one receipt in so long.
        quiet_s: Nothing came for so long and something is missing: ask for it; doubled with each reminder.
        reminders_max: So often it is asked for before a person is told.
    """

    receipt_interval_s: float = 10.0
    quiet_s: float = 30.0
    quiet_max_s: float = 600.0
    reminders_max: int = 6


@dataclass(frozen=True, slots=True)
class ReceiverFacts:
    """All that the next step depends on. Instants are POSIX seconds.

    Attributes:
        is_all_filed: The manifest is here and everything it names is filed or refused.
        in_hand: Parcels verified but not filed yet.
        news: Parcels filed, or doubled, since the last receipt.
        last_arrival_s: When the latest parcel or manifest was verified.
        last_receipt_s: When the last receipt was written; None before the first.
        reminders: Receipts in a row that asked and brought nothing.
    """

    state: ReceiverState
    is_all_filed: bool
    in_hand: int
    news: int
    last_arrival_s: float
    last_receipt_s: float | None
    reminders: int


@dataclass(frozen=True, slots=True)
class ReceiverStep:
    """What to do next; `is_reminder` says that the receipt asks for what is missing after a quiet spell."""

    event: ReceiverEvent | None = None
    due_s: float | None = None
    write_receipt: bool = False
    is_reminder: bool = False


def next_step(facts: ReceiverFacts, limits: ReceiverLimits, now_s: float) -> ReceiverStep:
    """Decide what an incoming transfer waits for. Every path through the stations ends here."""
    may_write_s = 0.0 if facts.last_receipt_s is None else facts.last_receipt_s + limits.receipt_interval_s
    if facts.state is ReceiverState.COMPLETE:
        if not facts.news:
            return ReceiverStep()
        return ReceiverStep(write_receipt=True) if now_s >= may_write_s else ReceiverStep(due_s=may_write_s)
    if facts.is_all_filed:
        return ReceiverStep(ReceiverEvent.ALL_FILED, write_receipt=True)
    if facts.state is ReceiverState.INCOMPLETE:
        return ReceiverStep()
    quiet_s = min(limits.quiet_s * 2 ** min(facts.reminders, 16), limits.quiet_max_s)
    asks_s = max(facts.last_arrival_s, facts.last_receipt_s or 0.0) + quiet_s
    if facts.news:
        if now_s >= may_write_s:
            return ReceiverStep(due_s=now_s + quiet_s, write_receipt=True)
        return ReceiverStep(due_s=min(may_write_s, asks_s) if asks_s > now_s else may_write_s)
    if facts.in_hand:  # what is here and not filed yet is not asked for
        return ReceiverStep(due_s=max(asks_s, now_s + limits.quiet_s))
    if now_s < asks_s:
        return ReceiverStep(due_s=asks_s)
    if facts.reminders >= limits.reminders_max:
        return ReceiverStep(ReceiverEvent.WENT_SILENT)
    return ReceiverStep(due_s=now_s + quiet_s, write_receipt=True, is_reminder=True)
