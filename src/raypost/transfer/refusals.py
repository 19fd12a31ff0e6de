"""What becomes of a mail that a relay does not take: another try, smaller, another relay, or a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from raypost.transfer.notes import jitter


class Remedy(Enum):
    """What helps against a refusal or a bounce."""

    RETRY = "retry"
    CUT_SMALLER = "cut smaller"
    OTHER_RELAY = "other relay"
    PERSON = "person"


REMEDY_TEXT: dict[Remedy, str] = {
    Remedy.RETRY: "It passes by itself: the mail is offered again after growing pauses; by another relay if it lasts.",
    Remedy.CUT_SMALLER: "The parcel is cut into smaller ones; a mail that cannot be cut goes by another relay.",
    Remedy.OTHER_RELAY: "This relay or the mailbox on it cannot take it: it goes by another one. "
    "Where there is none, it is offered again or a person is told.",
    Remedy.PERSON: "A person is told at once; meanwhile the mail goes by another relay where there is one.",
}
"""One sentence for people; the how-to page lists them."""


@dataclass(frozen=True, slots=True)
class RefusalLimits:
    """How long one relay is asked.

    Attributes:
        retry_first_s: Pause before the second try, doubled with each further one up to `retry_max_s`.
        tries_before_move: So many tries go to one relay while another would take the mail.
        patience_s: A longer pause than this is not waited for while another relay would take the mail.
        tell_after_tries: A person is told when a mail was not taken so often.
    """

    retry_first_s: float = 2.0
    retry_max_s: float = 300.0
    tries_before_move: int = 2
    patience_s: float = 10.0
    tell_after_tries: int = 6


class Course(Enum):
    """What is done with the mail."""

    WAIT = "wait"
    MOVE = "move"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class NextTry:
    """The decision.

    Attributes:
        wait_s: Before the next try, in seconds.
        tell: A person is to be told.
    """

    course: Course
    wait_s: float = 0.0
    tell: bool = False


def next_try(
    remedy: Remedy,
    *,
    tries: int,
    has_other_relay: bool,
    seed: str,
    retry_after_s: float | None = None,
    limits: RefusalLimits | None = None,
) -> NextTry:
    """Decide what becomes of a mail that was not taken.

    Args:
        remedy: What helps; CUT_SMALLER for a mail that cannot be cut.
        tries: How often it was offered in vain, this time included; kept when it moves to another relay.
        has_other_relay: Another relay of the partner lets us in and did not refuse this mail.
        seed: Of jitter: the same for the same mail.
        retry_after_s: The pause that the relay asks for.
    """
    it = limits or RefusalLimits()
    wait_s = min(it.retry_first_s * 2.0 ** min(max(tries - 1, 0), 16), it.retry_max_s)
    wait_s = max(wait_s * (1 + jitter(seed, tries) / 4), retry_after_s or 0.0)
    match remedy:
        case Remedy.PERSON | Remedy.CUT_SMALLER:
            if has_other_relay:
                return NextTry(Course.MOVE, tell=remedy is Remedy.PERSON)
            return NextTry(Course.GIVE_UP, tell=True)
        case Remedy.OTHER_RELAY:
            is_lasting = True
        case Remedy.RETRY:
            is_lasting = tries % it.tries_before_move == 0 or wait_s > it.patience_s
    tell = tries == it.tell_after_tries
    if is_lasting and has_other_relay:
        return NextTry(Course.MOVE, _pause_s(tries, it), tell)
    return NextTry(Course.WAIT, wait_s, tell)


def _pause_s(tries: int, limits: RefusalLimits) -> float:
    """Return the pause before a mail is offered to the next relay: none, until it has been to several in vain."""
    rounds = tries // (2 * limits.tries_before_move)
    return 0.0 if rounds == 0 else min(limits.retry_first_s * 2.0 ** min(rounds, 16), limits.retry_max_s)
