"""One incoming transfer: expected, arriving, complete; or incomplete, redirected, withdrawn; when a receipt is due.

Everything that changes the state stands in this file, and in the table if it can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from raypost.errors import LocalProtocolError
from raypost.model.transfer import Priority
from raypost.transfer.notes import Note, NoteLimits, note_due_s


class ReceiverState(Enum):
    """Where an incoming transfer is."""

    EXPECTED = "expected"
    ARRIVING = "arriving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    REDIRECTED = "redirected"
    WITHDRAWN = "withdrawn"


class ReceiverEvent(Enum):
    """What can happen to it."""

    ALL_FILED = "all filed"
    MORE_CAME = "more came"
    WENT_SILENT = "went silent"
    REDIRECTED = "redirected"
    RECALLED = "recalled"


TRANSITIONS: dict[tuple[ReceiverState, ReceiverEvent], ReceiverState] = {
    (ReceiverState.EXPECTED, ReceiverEvent.MORE_CAME): ReceiverState.ARRIVING,
    (ReceiverState.EXPECTED, ReceiverEvent.WENT_SILENT): ReceiverState.INCOMPLETE,
    (ReceiverState.EXPECTED, ReceiverEvent.REDIRECTED): ReceiverState.REDIRECTED,
    (ReceiverState.EXPECTED, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
    (ReceiverState.ARRIVING, ReceiverEvent.ALL_FILED): ReceiverState.COMPLETE,
    (ReceiverState.ARRIVING, ReceiverEvent.MORE_CAME): ReceiverState.ARRIVING,
    (ReceiverState.ARRIVING, ReceiverEvent.WENT_SILENT): ReceiverState.INCOMPLETE,
    (ReceiverState.ARRIVING, ReceiverEvent.REDIRECTED): ReceiverState.REDIRECTED,
    (ReceiverState.ARRIVING, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
    (ReceiverState.INCOMPLETE, ReceiverEvent.ALL_FILED): ReceiverState.COMPLETE,
    (ReceiverState.INCOMPLETE, ReceiverEvent.MORE_CAME): ReceiverState.ARRIVING,
    (ReceiverState.INCOMPLETE, ReceiverEvent.REDIRECTED): ReceiverState.REDIRECTED,
    (ReceiverState.INCOMPLETE, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
    (ReceiverState.COMPLETE, ReceiverEvent.MORE_CAME): ReceiverState.COMPLETE,  # a double: answered, never filed twice
    (ReceiverState.COMPLETE, ReceiverEvent.REDIRECTED): ReceiverState.COMPLETE,
    (ReceiverState.COMPLETE, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
    (ReceiverState.REDIRECTED, ReceiverEvent.MORE_CAME): ReceiverState.REDIRECTED,  # filed all the same
    (ReceiverState.REDIRECTED, ReceiverEvent.ALL_FILED): ReceiverState.COMPLETE,
    (ReceiverState.REDIRECTED, ReceiverEvent.REDIRECTED): ReceiverState.REDIRECTED,
    (ReceiverState.REDIRECTED, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
    (ReceiverState.WITHDRAWN, ReceiverEvent.MORE_CAME): ReceiverState.WITHDRAWN,  # dropped and answered
    (ReceiverState.WITHDRAWN, ReceiverEvent.REDIRECTED): ReceiverState.WITHDRAWN,
    (ReceiverState.WITHDRAWN, ReceiverEvent.RECALLED): ReceiverState.WITHDRAWN,
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
        receipt_emergency_s: The same for an emergency: its sender sends on when it hears what is filed.
        receipt_idle_s: And when everything that came is filed.
        gap_wait_s: A parcel that others overtook is asked for after so long.
        quiet_emergency_s: Nothing came for so long and something is missing: ask for it; doubled with each reminder.
        quiet_s: The same for what is not an emergency.
        reminders_max: So often it is asked for before a person is told.
        announced_only_s: Images were announced and none came for so long: a person is told.
    """

    receipt_interval_s: float = 5.0
    receipt_emergency_s: float = 2.0
    receipt_idle_s: float = 1.0
    gap_wait_s: float = 10.0
    quiet_emergency_s: float = 15.0
    quiet_s: float = 30.0
    quiet_max_s: float = 600.0
    reminders_max: int = 12
    announced_only_s: float = 120.0
    safety_net_s: float = 60.0
    notes: NoteLimits = NoteLimits()


@dataclass(frozen=True, slots=True)
class ReceiverFacts:
    """All that the next step depends on. Instants are POSIX seconds.

    Attributes:
        seed: Of jitter: the transfer's key.
        is_all_filed: The manifest is here and everything it names is filed or refused.
        in_hand: Parcels verified but not filed yet, and those that lie in our mailboxes.
        news: Messages that came, parcels filed or doubled, since the last receipt.
        has_first_filed: A parcel is filed and no receipt named one yet.
        gap_since_s: When the first parcel arrived that overtook a missing one; None: nothing is missing in between.
        opened_s: When the first message of the transfer came.
        last_arrival_s: When the latest parcel or manifest was verified.
        last_receipt_s: When the last receipt was written; None before the first.
        reminders: Receipts in a row that asked and brought nothing; anything that comes makes it 0.
        is_told: A person was told that something is missing.
        notes: Small messages of ours that the relay took and the sender did not hear.
        doubles: How many of the news had come before: the receipts that named them may be lost on their way.
        asked_s: When a receipt last asked for something; None: it never did.
    """

    state: ReceiverState
    seed: str
    priority: Priority
    is_all_filed: bool
    in_hand: int
    news: int
    has_first_filed: bool
    gap_since_s: float | None
    opened_s: float
    last_arrival_s: float
    last_receipt_s: float | None
    reminders: int
    is_told: bool = False
    notes: tuple[Note, ...] = ()
    doubles: int = 0
    asked_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReceiverStep:
    """What to do next.

    Attributes:
        asks: The receipt names what is missing.
        is_reminder: It counts among the reminders: it asks, and so far in vain.
        by_all: It goes by every relay of the sender's, as the one it would go by may swallow it.
        tell: A person must be told that images were announced and none came.
        repeat_notes: Small messages whose time has come once more (`notes.note_due_s`).
    """

    event: ReceiverEvent | None = None
    due_s: float | None = None
    write_receipt: bool = False
    asks: bool = False
    is_reminder: bool = False
    by_all: bool = False
    tell: bool = False
    repeat_notes: bool = False


def next_step(facts: ReceiverFacts, limits: ReceiverLimits, now_s: float) -> ReceiverStep:
    """Decide what an incoming transfer waits for. Every path through the stations ends here."""
    if facts.state in (ReceiverState.COMPLETE, ReceiverState.WITHDRAWN):
        step = _answer(facts, limits, now_s)
    elif facts.is_all_filed and facts.state is not ReceiverState.EXPECTED:
        step = ReceiverStep(ReceiverEvent.ALL_FILED, write_receipt=True)
    elif facts.state in (ReceiverState.INCOMPLETE, ReceiverState.REDIRECTED):
        step = _answer(facts, limits, now_s)
    else:
        step = _arriving(facts, limits, now_s)
    if step.write_receipt and facts.doubles:
        step = replace(step, by_all=True)
    due = [at_s for note in facts.notes if (at_s := note_due_s(note, facts.seed, limits.notes)) is not None]
    if not due:
        return step
    later = min((at_s for at_s in due if at_s > now_s), default=now_s + limits.safety_net_s)
    return replace(step, repeat_notes=min(due) <= now_s, due_s=_earlier(step.due_s, later))


def _answer(facts: ReceiverFacts, limits: ReceiverLimits, now_s: float) -> ReceiverStep:
    """Answer what comes to a transfer that waits for nothing: within bounds."""
    if not facts.news:
        return ReceiverStep()
    may_write_s = _may_write_s(facts, limits)
    return ReceiverStep(write_receipt=True) if now_s >= may_write_s else ReceiverStep(due_s=may_write_s)


def _arriving(facts: ReceiverFacts, limits: ReceiverLimits, now_s: float) -> ReceiverStep:
    may_write_s = _may_write_s(facts, limits)
    tells_s = None
    if facts.state is ReceiverState.EXPECTED and not facts.is_told and not facts.in_hand:
        tells_s = facts.opened_s + limits.announced_only_s
        if now_s >= tells_s:
            return ReceiverStep(due_s=now_s + limits.receipt_interval_s, tell=True)
    asks_s = max(_asks_s(facts, limits), may_write_s)
    asks = now_s >= asks_s
    if asks and facts.reminders >= limits.reminders_max and not facts.in_hand:
        return ReceiverStep(ReceiverEvent.WENT_SILENT)
    net_s = now_s + limits.safety_net_s
    if asks or facts.has_first_filed or (facts.news and now_s >= may_write_s):
        asked_s, reminders = (now_s, facts.reminders + 1) if asks else (facts.asked_s, facts.reminders)
        after = replace(facts, last_receipt_s=now_s, asked_s=asked_s, reminders=reminders)
        due_s = _earliest(net_s, max(_asks_s(after, limits), _may_write_s(after, limits)), tells_s)
        return ReceiverStep(due_s=due_s, write_receipt=True, asks=asks, is_reminder=asks)
    return ReceiverStep(due_s=_earliest(net_s, asks_s, may_write_s if facts.news else None, tells_s))


def _asks_s(facts: ReceiverFacts, limits: ReceiverLimits) -> float:
    """Return when something is asked for: soon what others overtook; when nothing comes any more, what was last.

    What is here and not filed yet, or lies in the mailbox, keeps quiet: then only a gap is asked for.
    """
    factor = 2.0 ** min(facts.reminders, 16)
    asks_s = float("inf")
    if not facts.in_hand:
        first_s = limits.quiet_emergency_s if facts.priority is Priority.EMERGENCY else limits.quiet_s
        quiet_s = min(first_s * factor, limits.quiet_max_s)
        asks_s = max(facts.last_arrival_s, facts.last_receipt_s or facts.last_arrival_s) + quiet_s
    if facts.gap_since_s is not None:
        wait_s = min(limits.gap_wait_s * factor, limits.quiet_max_s)
        asks_s = min(asks_s, max(facts.gap_since_s, facts.asked_s or facts.gap_since_s) + wait_s)
    return asks_s


def _may_write_s(facts: ReceiverFacts, limits: ReceiverLimits) -> float:
    """Return when the next receipt may be written: they keep their distance."""
    if facts.last_receipt_s is None:
        return facts.opened_s
    if facts.priority is not Priority.EMERGENCY or facts.state is not ReceiverState.ARRIVING:
        return facts.last_receipt_s + limits.receipt_interval_s
    return facts.last_receipt_s + (limits.receipt_emergency_s if facts.in_hand else limits.receipt_idle_s)


def _earlier(one_s: float | None, other_s: float) -> float:
    return other_s if one_s is None else min(one_s, other_s)


def _earliest(first_s: float, *others_s: float | None) -> float:
    return min([first_s, *(one_s for one_s in others_s if one_s is not None)])
