"""Signs of life: when one is due, when a partner counts as silent, how far apart the clocks are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from raypost.errors import LocalProtocolError
from raypost.model.transfer import MessageKind

NUMBERS_A_RESTORE = 1_000
"""After its n-th restore from a backup a site's receipts and notes are numbered from n times so many: no number is used
twice, and the receipts of a transfer, far fewer than that, tell which side of a restore they are from."""

BASE_KINDS = frozenset({MessageKind.PARCEL, MessageKind.MANIFEST, MessageKind.RECEIPT})
"""What every version understands; more is sent to a partner that said so, or of which nothing is known yet."""


class ContactState(Enum):
    """What is known of a partner."""

    UNKNOWN = "unknown"
    FRESH = "fresh"
    SILENT = "silent"


class ContactEvent(Enum):
    """What can happen with a partner."""

    HEARD = "heard"
    MISSED_TWO = "missed two"


TRANSITIONS: dict[tuple[ContactState, ContactEvent], ContactState] = {
    (ContactState.UNKNOWN, ContactEvent.HEARD): ContactState.FRESH,
    (ContactState.UNKNOWN, ContactEvent.MISSED_TWO): ContactState.SILENT,
    (ContactState.FRESH, ContactEvent.HEARD): ContactState.FRESH,
    (ContactState.FRESH, ContactEvent.MISSED_TWO): ContactState.SILENT,
    (ContactState.SILENT, ContactEvent.HEARD): ContactState.FRESH,
    (ContactState.SILENT, ContactEvent.MISSED_TWO): ContactState.SILENT,
}


def fire(state: ContactState, event: ContactEvent) -> ContactState:
    """Return the next state.

    Raises:
        LocalProtocolError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LocalProtocolError(f"{event.value} while {state.value}") from None


@dataclass(frozen=True, slots=True)
class HelloLimits:
    """Times in seconds.

    Attributes:
        interval_s: A sign of life goes to each partner so often.
        interval_emergency_s: The same while an emergency to or from it is open.
        missed_max: So many in a row may be missing before it counts as silent.
        grace_s: What a mail may take on top.
        restore_margin_s: What a partner committed so long before its backup counts as lost too: its clock may have been
            set since, and to offer it costs no more than manifests.
    """

    interval_s: float = 300.0
    interval_emergency_s: float = 60.0
    missed_max: int = 2
    grace_s: float = 30.0
    restore_margin_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class ContactFacts:
    """All that the next step depends on. Instants are POSIX seconds.

    Attributes:
        written_s: When our last hello was written; None before the first.
        heard_s: When anything signed by the partner was verified last; None: nothing yet.
        known_since_s: When the partner was added.
        its_interval_s: How often it said it gives a sign of life.
        is_emergency_open: A transfer to or from it is an emergency and not ended.
    """

    state: ContactState
    written_s: float | None
    heard_s: float | None
    known_since_s: float
    its_interval_s: float | None
    is_emergency_open: bool


@dataclass(frozen=True, slots=True)
class ContactStep:
    """What to do next."""

    due_s: float
    write_hello: bool = False
    event: ContactEvent | None = None


def next_step(facts: ContactFacts, limits: HelloLimits, now_s: float) -> ContactStep:
    """Decide what is due with a partner."""
    interval_s = limits.interval_emergency_s if facts.is_emergency_open else limits.interval_s
    writes_s = now_s if facts.written_s is None else facts.written_s + interval_s
    expected_s = facts.its_interval_s or limits.interval_s
    quiet_s = (limits.missed_max * expected_s) + limits.grace_s
    missed_s = max(facts.heard_s or facts.known_since_s, facts.known_since_s) + quiet_s
    is_missed = now_s >= missed_s and facts.state is not ContactState.SILENT
    write = now_s >= writes_s
    due = [now_s + interval_s if write else writes_s]
    if not is_missed and facts.state is not ContactState.SILENT:
        due.append(missed_s)
    return ContactStep(min(due), write, ContactEvent.MISSED_TWO if is_missed else None)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far the partner's clock is ahead of ours, and how sure that is: half the round trip."""

    offset_s: float
    uncertainty_s: float


def measure_clock(written_s: float, heard_s: float, answered_s: float, answer_heard_s: float) -> ClockReading | None:
    """Compare two clocks by a hello and its echo (as RFC 5905, 8, does with packets).

    Args:
        written_s: Ours: when we wrote the hello that is echoed.
        heard_s: The partner's: when it verified that hello.
        answered_s: The partner's: when it wrote the hello with the echo.
        answer_heard_s: Ours: when we verified that.

    Returns:
        None where the times contradict each other.
    """
    round_trip_s = (answer_heard_s - written_s) - (answered_s - heard_s)
    if round_trip_s < 0:
        return None
    return ClockReading(((heard_s - written_s) + (answered_s - answer_heard_s)) / 2, round_trip_s / 2)


def lost_since_s(restored_from_s: float, clock: ClockReading | None, limits: HelloLimits) -> float:
    """Return since when, by our clock, what a partner confirmed may be gone: it was restored from a backup.

    Args:
        restored_from_s: When the backup was made, by the partner's clock.
        clock: How far that is ahead of ours, as measured last; None: nobody knows, so everything may be gone.
    """
    if clock is None:
        return float("-inf")
    return restored_from_s - clock.offset_s - clock.uncertainty_s - limits.restore_margin_s


def is_of_before_restore(number: int, restores_heard: int) -> bool:
    """Say whether a receipt was written before the partner's last restore: what it names may be gone.

    Args:
        number: Of the receipt.
        restores_heard: Of how many restores the partner's hellos told.
    """
    return number <= restores_heard * NUMBERS_A_RESTORE


def may_send(kind: MessageKind, kinds_known: Collection[str] | None) -> bool:
    """Say whether a partner understands a kind of message.

    Args:
        kinds_known: What its last hello named; None while none was heard: then everything is tried, and what it does
            not understand it notes or sets aside.
    """
    return kinds_known is None or kind in BASE_KINDS or kind is MessageKind.HELLO or kind.value in kinds_known
