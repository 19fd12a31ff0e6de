"""One outgoing transfer: streaming, closed, delivered, unconfirmed.

Everything that changes the state stands in this file, and in the table if it can. The functions do not know where the
facts come from: rows in the product, a few numbers in a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from raypost.errors import LocalProtocolError


class SenderState(Enum):
    """Where an outgoing transfer is."""

    STREAMING = "streaming"
    CLOSED = "closed"
    DELIVERED = "delivered"
    UNCONFIRMED = "unconfirmed"


class SenderEvent(Enum):
    """What can happen to it."""

    SETTLED = "settled"
    RECEIPT_COMPLETE = "receipt complete"
    GAVE_UP = "gave up"
    ORDERED_AGAIN = "ordered again"


TRANSITIONS: dict[tuple[SenderState, SenderEvent], SenderState] = {
    (SenderState.STREAMING, SenderEvent.SETTLED): SenderState.CLOSED,
    (SenderState.STREAMING, SenderEvent.ORDERED_AGAIN): SenderState.STREAMING,
    (SenderState.CLOSED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,
    (SenderState.CLOSED, SenderEvent.GAVE_UP): SenderState.UNCONFIRMED,
    (SenderState.CLOSED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.UNCONFIRMED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,  # good news is always welcome
    (SenderState.UNCONFIRMED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.DELIVERED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,
    (SenderState.DELIVERED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
}


def fire(state: SenderState, event: SenderEvent) -> SenderState:
    """Return the next state.

    Raises:
        LocalProtocolError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LocalProtocolError(f"{event.value} while {state.value}") from None


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """Times in seconds.

    Attributes:
        settle_s: Nothing new for so long closes the transfer.
        settle_after_release_s: The same, after the modality released its association.
        receipt_timeout_s: Patience after the relay took the last mail; doubled with each round.
        rounds_max: So often everything unconfirmed is sent again before a person is told.
        parcel_wait_s: See PacingLimits.
        safety_net_s: A transfer is looked at after so long, whatever happened.
    """

    settle_s: float = 30.0
    settle_after_release_s: float = 5.0
    receipt_timeout_s: float = 60.0
    receipt_timeout_max_s: float = 900.0
    rounds_max: int = 5
    parcel_wait_s: float = 1.0
    safety_net_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SenderFacts:
    """All that the next step depends on. Instants are POSIX seconds.

    Attributes:
        last_arrival_s: When its latest instance was filed here.
        released_s: When the modality released the association after that; None while it did not.
        items_waiting: Instances in no parcel yet.
        in_hand: Messages planned, queued or being sent.
        unconfirmed: Messages the relay accepted and no receipt names.
        refused: Messages the relay refused for good.
        has_manifest: The manifest was written.
        rounds: How often everything unconfirmed was sent again without progress.
        patience_from_s: The later of "relay accepted the last message" and "a receipt showed progress".
    """

    state: SenderState
    last_arrival_s: float
    released_s: float | None
    items_waiting: int
    in_hand: int
    unconfirmed: int
    refused: int
    has_manifest: bool
    rounds: int
    patience_from_s: float


@dataclass(frozen=True, slots=True)
class SenderStep:
    """What to do next; at `due_s` somebody must look again, None only in a final state."""

    event: SenderEvent | None = None
    due_s: float | None = None
    plan: bool = False
    write_manifest: bool = False
    send_again: bool = False


def settles_at_s(facts: SenderFacts, limits: SenderLimits) -> float:
    """Return when the transfer closes if nothing new comes."""
    quiet = facts.last_arrival_s + limits.settle_s
    if facts.released_s is None or facts.released_s < facts.last_arrival_s:
        return quiet
    return min(quiet, facts.released_s + limits.settle_after_release_s)


def next_step(facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    """Decide what an outgoing transfer waits for. Every path through the stations ends here."""
    match facts.state:
        case SenderState.DELIVERED | SenderState.UNCONFIRMED:
            return SenderStep()
        case SenderState.STREAMING:
            settles_s = settles_at_s(facts, limits)
            if now_s >= settles_s:
                return SenderStep(SenderEvent.SETTLED, now_s + limits.safety_net_s, plan=True, write_manifest=True)
            due_s = settles_s if not facts.items_waiting else min(settles_s, now_s + limits.parcel_wait_s)
            return SenderStep(due_s=due_s, plan=facts.items_waiting > 0)
        case SenderState.CLOSED:
            return _closed(facts, limits, now_s)


def _closed(facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    if facts.items_waiting or facts.in_hand or not facts.has_manifest:
        return SenderStep(
            due_s=now_s + limits.safety_net_s,
            plan=facts.items_waiting > 0 or facts.in_hand > 0,
            write_manifest=not facts.has_manifest,
        )
    if facts.refused and not facts.unconfirmed:
        return SenderStep(SenderEvent.GAVE_UP)
    patience_s = min(limits.receipt_timeout_s * 2 ** min(facts.rounds, 16), limits.receipt_timeout_max_s)
    expires_s = facts.patience_from_s + patience_s
    if now_s < expires_s:
        return SenderStep(due_s=expires_s)
    if facts.rounds >= limits.rounds_max or facts.refused:
        return SenderStep(SenderEvent.GAVE_UP)
    return SenderStep(due_s=now_s + limits.safety_net_s, send_again=True)
