"""Which relay a message goes by: well ones first, several at once where seconds count.

A relay is *away* when it does not let us in, *suspect* when it took mails of which nothing was heard again. Both come
back by themselves: an away relay is tried again, a suspect one is believed again when a receipt names a mail that went
by it, or after a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from raypost.errors import LocalProtocolError
from raypost.model.transfer import MessageKind, Priority


class RelayState(Enum):
    """What is known of a relay."""

    WELL = "well"
    AWAY = "away"
    SUSPECT = "suspect"


class RelayEvent(Enum):
    """What can happen with a relay."""

    LET_US_IN = "let us in"
    KEPT_US_OUT = "kept us out"
    NOTHING_HEARD = "nothing heard"
    PROVED_ITSELF = "proved itself"
    TIME_PASSED = "time passed"


TRANSITIONS: dict[tuple[RelayState, RelayEvent], RelayState] = {
    (RelayState.WELL, RelayEvent.LET_US_IN): RelayState.WELL,
    (RelayState.WELL, RelayEvent.KEPT_US_OUT): RelayState.AWAY,
    (RelayState.WELL, RelayEvent.NOTHING_HEARD): RelayState.SUSPECT,
    (RelayState.WELL, RelayEvent.PROVED_ITSELF): RelayState.WELL,
    (RelayState.WELL, RelayEvent.TIME_PASSED): RelayState.WELL,
    (RelayState.AWAY, RelayEvent.LET_US_IN): RelayState.WELL,
    (RelayState.AWAY, RelayEvent.KEPT_US_OUT): RelayState.AWAY,
    (RelayState.AWAY, RelayEvent.NOTHING_HEARD): RelayState.AWAY,
    (RelayState.AWAY, RelayEvent.PROVED_ITSELF): RelayState.AWAY,  # a mail from before it went away
    (RelayState.AWAY, RelayEvent.TIME_PASSED): RelayState.AWAY,
    (RelayState.SUSPECT, RelayEvent.LET_US_IN): RelayState.SUSPECT,  # it always did
    (RelayState.SUSPECT, RelayEvent.KEPT_US_OUT): RelayState.AWAY,
    (RelayState.SUSPECT, RelayEvent.NOTHING_HEARD): RelayState.SUSPECT,
    (RelayState.SUSPECT, RelayEvent.PROVED_ITSELF): RelayState.WELL,
    (RelayState.SUSPECT, RelayEvent.TIME_PASSED): RelayState.WELL,
}


def fire(state: RelayState, event: RelayEvent) -> RelayState:
    """Return the next state.

    Raises:
        LocalProtocolError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LocalProtocolError(f"{event.value} while {state.value}") from None


@dataclass(frozen=True, slots=True)
class FailoverLimits:
    """Times in seconds.

    Attributes:
        retry_first_s: An away relay is tried again after so long, doubled with each failure.
        suspect_s: A suspect relay is believed again after so long.
        connect_timeout_s: A relay that does not take a connection within so long is away.
        stall_timeout_s: So is one that takes no more bytes in the middle of a mail for so long.
        reply_timeout_s: So is one that does not answer the last byte within so long. RFC 5321, 4.5.3.2.6, has ten
            minutes, lest mails are doubled; a double is harmless here, a session that hangs is not.
    """

    retry_first_s: float = 2.0
    retry_max_s: float = 60.0
    suspect_s: float = 300.0
    connect_timeout_s: float = 8.0
    stall_timeout_s: float = 30.0
    reply_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RelayFacts:
    """A relay on which this site and the partner have mailboxes. Instants are POSIX seconds.

    Attributes:
        position: Its place among our relays: the first is preferred.
        changed_s: When its state changed last.
        failures: How often in a row it kept us out.
    """

    name: str
    position: int
    state: RelayState = RelayState.WELL
    changed_s: float = 0.0
    failures: int = 0


_ORDER = {RelayState.WELL: 0, RelayState.SUSPECT: 1, RelayState.AWAY: 2}


def in_order(relays: Sequence[RelayFacts]) -> list[RelayFacts]:
    """Return the relays, the one to use first: well ones in our order, then what changed longest ago."""
    return sorted(
        relays,
        key=lambda one: (
            _ORDER[one.state],
            one.position if one.state is RelayState.WELL else one.changed_s,
            one.position,
        ),
    )


def choose(
    relays: Sequence[RelayFacts], *, avoid: str = "", turn: int = 0, is_late: bool = False, prefer: str = ""
) -> str | None:
    """Return the relay for a message; None when there is none at all.

    Args:
        avoid: The relay by which the message went before, unheard; taken only when there is no other that is not away.
        turn: Number of the message.
        is_late: The transfer will miss its deadline: its messages go by all well relays in turn.
        prefer: The relay by which the message came that this one answers: it carries mails, as is proved.
    """
    ordered = in_order(relays)
    if any(one.name == prefer and one.state is not RelayState.AWAY for one in ordered):
        return prefer
    usable = [one for one in ordered if one.state is not RelayState.AWAY and one.name != avoid]
    if is_late and (well := [one for one in usable if one.state is RelayState.WELL]):
        return well[turn % len(well)].name
    chosen = usable or ordered
    return chosen[0].name if chosen else None


def goes_by_all(kind: MessageKind, number: int, priority: Priority) -> bool:
    """Say whether a message goes by all relays at once: kilobytes that an emergency waits for.

    The parcel numbers from 1 and the first is the smallest; a recall must overtake what it recalls.
    """
    if kind in (MessageKind.RECALL, MessageKind.REDIRECT, MessageKind.TAKEN, MessageKind.TAKE):
        return True
    return priority is Priority.EMERGENCY and (
        kind in (MessageKind.ANNOUNCE, MessageKind.MANIFEST, MessageKind.RECEIPT)
        or (kind is MessageKind.PARCEL and number == 1)
    )


def retry_due_s(relay: RelayFacts, limits: FailoverLimits) -> float | None:
    """Return when somebody must look at a relay again; None for a well one."""
    match relay.state:
        case RelayState.WELL:
            return None
        case RelayState.SUSPECT:
            return relay.changed_s + limits.suspect_s
        case RelayState.AWAY:
            wait_s = min(limits.retry_first_s * 2.0 ** min(max(relay.failures - 1, 0), 16), limits.retry_max_s)
            return relay.changed_s + wait_s
