"""One outgoing transfer: announced, streaming, closed, delivered; or unconfirmed, rerouted, recalled.

Everything that changes the state stands in this file, and in the table if it can. The functions do not know where the
facts come from: rows in the product, a few numbers in a test or in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from raypost.errors import LocalProtocolError
from raypost.model.transfer import Priority
from raypost.transfer.notes import Note, NoteLimits, jitter, note_due_s


class SenderState(Enum):
    """Where an outgoing transfer is."""

    ANNOUNCED = "announced"
    STREAMING = "streaming"
    CLOSED = "closed"
    DELIVERED = "delivered"
    UNCONFIRMED = "unconfirmed"
    REROUTED = "rerouted"
    RECALLED = "recalled"


class SenderEvent(Enum):
    """What can happen to it."""

    FIRST_PARCEL = "first parcel"
    SETTLED = "settled"
    RECEIPT_COMPLETE = "receipt complete"
    GAVE_UP = "gave up"
    ORDERED_AGAIN = "ordered again"
    REROUTED = "rerouted"
    RECALLED = "recalled"


OPEN = frozenset({SenderState.ANNOUNCED, SenderState.STREAMING, SenderState.CLOSED})
"""Something is still to be sent or to be confirmed."""

TRANSITIONS: dict[tuple[SenderState, SenderEvent], SenderState] = {
    (SenderState.ANNOUNCED, SenderEvent.FIRST_PARCEL): SenderState.STREAMING,
    (SenderState.ANNOUNCED, SenderEvent.SETTLED): SenderState.CLOSED,
    (SenderState.ANNOUNCED, SenderEvent.RECEIPT_COMPLETE): SenderState.ANNOUNCED,  # of before a restore from a backup
    (SenderState.ANNOUNCED, SenderEvent.ORDERED_AGAIN): SenderState.ANNOUNCED,
    (SenderState.ANNOUNCED, SenderEvent.REROUTED): SenderState.REROUTED,
    (SenderState.ANNOUNCED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.STREAMING, SenderEvent.SETTLED): SenderState.CLOSED,
    (SenderState.STREAMING, SenderEvent.RECEIPT_COMPLETE): SenderState.STREAMING,
    (SenderState.STREAMING, SenderEvent.ORDERED_AGAIN): SenderState.STREAMING,
    (SenderState.STREAMING, SenderEvent.REROUTED): SenderState.REROUTED,
    (SenderState.STREAMING, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.CLOSED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,
    (SenderState.CLOSED, SenderEvent.GAVE_UP): SenderState.UNCONFIRMED,
    (SenderState.CLOSED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.CLOSED, SenderEvent.REROUTED): SenderState.REROUTED,
    (SenderState.CLOSED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.UNCONFIRMED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,  # good news is always welcome
    (SenderState.UNCONFIRMED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.UNCONFIRMED, SenderEvent.REROUTED): SenderState.REROUTED,
    (SenderState.UNCONFIRMED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.DELIVERED, SenderEvent.RECEIPT_COMPLETE): SenderState.DELIVERED,
    (SenderState.DELIVERED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.DELIVERED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.REROUTED, SenderEvent.RECEIPT_COMPLETE): SenderState.REROUTED,  # late, and good news; noted
    (SenderState.REROUTED, SenderEvent.ORDERED_AGAIN): SenderState.CLOSED,
    (SenderState.REROUTED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.RECALLED, SenderEvent.RECALLED): SenderState.RECALLED,
    (SenderState.RECALLED, SenderEvent.RECEIPT_COMPLETE): SenderState.RECALLED,  # it crossed with the recall
}


class Doubt(Enum):
    """What a partner that was restored from a backup is offered, cheaply: its receipts name what is missing."""

    MANIFEST = "manifest"
    RECALL = "recall"


def doubt_after_restore(state: SenderState, last_receipt_s: float | None, since_s: float) -> Doubt | None:
    """Say what a restored partner may have lost of a transfer that had ended; an open one repairs itself.

    For MANIFEST the transfer is ORDERED_AGAIN and the manifest alone goes out; for RECALL the recall does.

    Args:
        last_receipt_s: When its last receipt came; None: it never had anything.
        since_s: What it confirmed after this may be gone (`hello.lost_since_s`).
    """
    if last_receipt_s is None or last_receipt_s < since_s:
        return None
    return {SenderState.DELIVERED: Doubt.MANIFEST, SenderState.RECALLED: Doubt.RECALL}.get(state)


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
        receipt_timeout_s: Shortest patience after the relay took the last mail; three round trips where that is
            longer; doubled with each round up to receipt_timeout_max_s.
        rounds_max: So often everything unconfirmed is sent again before the transfer counts as unconfirmed.
        swallowed_after_s: A relay that took mails of which so long nothing was heard is left for another one; or
            three round trips, where that is longer.
        silent_emergency_s: Without progress for so long a person is told.
        deadline_emergency_s: An emergency that is predicted to take longer goes by all relays at once.
        parcel_wait_s: See PacingLimits.
        safety_net_s: A transfer is looked at after so long, whatever happened.
    """

    settle_s: float = 30.0
    settle_after_release_s: float = 5.0
    receipt_timeout_s: float = 20.0
    receipt_timeout_max_s: float = 900.0
    rounds_max: int = 12
    swallowed_after_s: float = 10.0
    silent_emergency_s: float = 150.0
    silent_urgent_s: float = 600.0
    silent_routine_s: float = 3_600.0
    deadline_emergency_s: float = 600.0
    parcel_wait_s: float = 1.0
    safety_net_s: float = 60.0
    notes: NoteLimits = NoteLimits()

    def silent_s(self, priority: Priority) -> float:
        """Return after how long without progress a person is told."""
        match priority:
            case Priority.EMERGENCY:
                return self.silent_emergency_s
            case Priority.URGENT:
                return self.silent_urgent_s
            case Priority.ROUTINE:
                return self.silent_routine_s


@dataclass(frozen=True, slots=True)
class SenderFacts:
    """All that the next step depends on. Instants are POSIX seconds.

    Attributes:
        seed: Of jitter: the transfer's key.
        last_arrival_s: When its latest instance was filed here.
        released_s: When the modality released the association after that; None while it did not.
        items_waiting: Instances in no parcel yet.
        in_hand: Parcels and manifest planned, queued or being sent.
        unconfirmed: How many parcels and manifests the relay accepted and no receipt names.
        unheard_by_suspect: Of the messages that nothing was heard of, one went by a relay before it became suspect, and
            another relay is well.
        seen: How many the partner saw in its mailbox and has not filed: not lost, and not counted above.
        refused: Messages the relay refused for good.
        parcels: Parcels planned so far.
        has_manifest: The manifest was written.
        rounds: How often everything unconfirmed was sent again without progress.
        patience_from_s: The later of "relay accepted the last message" and "a receipt showed progress".
        progress_s: When a receipt last named something new, or something was outstanding again after nothing was.
        unheard_since_s: When the relay accepted the oldest message that nothing was heard of, or should have, if it is
            still being sent (`pacing.sent_by_s`); None: no such message. One that went by all relays does not count.
        notes: Small messages the relay took and nobody heard.
        round_trip_s: From "relay accepted" to the receipt, smoothed; None before the first.
        relays_usable: Relays on which the partner has a mailbox and which are not away, or by which something went that
            was not heard of: how many of them can be tried.
        switches: How often messages moved to another relay because nothing was heard, since the last progress.
        switched_s: When they last did.
        is_told: A person was told since the last progress.
        reroute_after_s: A rule sends the study elsewhere after so long without progress; None: no rule.
    """

    state: SenderState
    seed: str
    priority: Priority
    last_arrival_s: float
    released_s: float | None
    items_waiting: int
    in_hand: int
    unconfirmed: int
    refused: int
    parcels: int
    has_manifest: bool
    rounds: int
    patience_from_s: float
    progress_s: float
    unheard_since_s: float | None = None
    notes: tuple[Note, ...] = ()
    round_trip_s: float | None = None
    relays_usable: int = 1
    switches: int = 0
    switched_s: float | None = None
    is_told: bool = False
    reroute_after_s: float | None = None
    seen: int = 0
    unheard_by_suspect: bool = False

    @property
    def is_outstanding(self) -> bool:
        """Say whether anything is still to be sent or confirmed."""
        return self.state in OPEN and bool(
            self.items_waiting
            or self.in_hand
            or self.unconfirmed
            or self.seen
            or self.refused
            or self.state is SenderState.CLOSED
        )


@dataclass(frozen=True, slots=True)
class SenderStep:
    """What to do next; at `due_s` somebody must look again, None only when nothing is waited for.

    Attributes:
        plan: Pack what is waiting.
        send_again: Everything unconfirmed once more, but what the partner saw: the study pauses, no manifest yet.
        repeat_manifest: The manifest once more: its answer, which names what is filed and missing, did not come.
        repeat_notes: Small messages whose time has come once more (`notes.note_due_s`).
        switch_relay: What nothing was heard of goes by another relay.
        tell: A person must be told: nothing moves.
        reroute: The next centre gets the study.
    """

    event: SenderEvent | None = None
    due_s: float | None = None
    plan: bool = False
    write_manifest: bool = False
    send_again: bool = False
    repeat_manifest: bool = False
    repeat_notes: bool = False
    switch_relay: bool = False
    tell: bool = False
    reroute: bool = False


def settles_at_s(facts: SenderFacts, limits: SenderLimits) -> float:
    """Return when the transfer closes if nothing new comes."""
    quiet = facts.last_arrival_s + limits.settle_s
    if facts.released_s is None or facts.released_s < facts.last_arrival_s:
        return quiet
    return min(quiet, facts.released_s + limits.settle_after_release_s)


def next_step(facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    """Decide what an outgoing transfer waits for. Every path through the stations ends here."""
    match facts.state:
        case SenderState.ANNOUNCED | SenderState.STREAMING:
            step = _streaming(facts, limits, now_s)
        case SenderState.CLOSED:
            step = _closed(facts, limits, now_s)
        case _:
            step = SenderStep()
    if facts.is_outstanding:
        step = _watch(step, facts, limits, now_s)
    return _repeat(step, facts, limits, now_s)


def _streaming(facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    settles_s = settles_at_s(facts, limits)
    if now_s >= settles_s:
        return SenderStep(SenderEvent.SETTLED, now_s + limits.safety_net_s, plan=True, write_manifest=True)
    event = SenderEvent.FIRST_PARCEL if facts.state is SenderState.ANNOUNCED and facts.parcels else None
    due_s = settles_s if not facts.items_waiting else min(settles_s, now_s + limits.parcel_wait_s)
    step = SenderStep(event, due_s, plan=facts.items_waiting > 0)
    if facts.items_waiting or facts.in_hand or not facts.unconfirmed:
        return step
    expires_s = _expires_s(facts, limits)  # the study pauses: what was sent last may be lost
    if now_s >= expires_s and facts.rounds < limits.rounds_max:
        return replace(step, send_again=True)
    return replace(step, due_s=min(due_s, max(expires_s, now_s + limits.parcel_wait_s)))


def _closed(facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    if facts.items_waiting or facts.in_hand or not facts.has_manifest:
        # A wake-up that crossed with the end of a packing job must not cost the safety net's time.
        wait_s = limits.parcel_wait_s if facts.items_waiting and not facts.in_hand else limits.safety_net_s
        return SenderStep(
            due_s=now_s + wait_s,
            plan=facts.items_waiting > 0 or facts.in_hand > 0,
            write_manifest=not facts.has_manifest,
        )
    if facts.refused and not facts.unconfirmed and not facts.seen:
        return SenderStep(SenderEvent.GAVE_UP)
    expires_s = _expires_s(facts, limits)
    if now_s < expires_s:
        return SenderStep(due_s=expires_s)
    if facts.rounds >= limits.rounds_max:
        return SenderStep(SenderEvent.GAVE_UP)
    # The manifest alone: whoever has it asks for what is missing. A silent partner is not sent all a dozen times.
    return SenderStep(due_s=now_s + limits.safety_net_s, repeat_manifest=True)


def _expires_s(facts: SenderFacts, limits: SenderLimits) -> float:
    """Return when patience with the receipt ends."""
    first_s = max(limits.receipt_timeout_s, 3 * (facts.round_trip_s or 0.0))
    patience_s = min(first_s * 2.0 ** min(facts.rounds, 16), limits.receipt_timeout_max_s)
    return facts.patience_from_s + patience_s * (1 + jitter(facts.seed, facts.rounds) / 4)


def _repeat(step: SenderStep, facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    """Repeat small messages that nobody heard, in every state: a recall counts after a delivery too."""
    due = [at_s for note in facts.notes if (at_s := note_due_s(note, facts.seed, limits.notes)) is not None]
    if not due:
        return step
    later = min((at_s for at_s in due if at_s > now_s), default=now_s + limits.safety_net_s)
    return replace(step, repeat_notes=min(due) <= now_s, due_s=_earlier(step.due_s, later))


def _watch(step: SenderStep, facts: SenderFacts, limits: SenderLimits, now_s: float) -> SenderStep:
    """Leave a relay that swallows, tell a person, go to the next centre: while something is outstanding."""
    gave_up = step.event is SenderEvent.GAVE_UP
    if facts.unheard_since_s is not None and (facts.unheard_by_suspect or facts.switches + 1 < facts.relays_usable):
        wait_s = max(limits.swallowed_after_s, 3 * (facts.round_trip_s or 0.0)) * 2.0 ** min(facts.switches, 10)
        switches_s = max(facts.unheard_since_s, facts.switched_s or 0.0) + wait_s  # each relay once
        if facts.unheard_by_suspect:
            switches_s = now_s
        due_s = step.due_s if now_s >= switches_s else _earlier(step.due_s, switches_s)
        step = replace(step, switch_relay=now_s >= switches_s and not gave_up, due_s=None if gave_up else due_s)
    if facts.reroute_after_s is not None:
        reroutes_s = facts.progress_s + facts.reroute_after_s
        if now_s >= reroutes_s or gave_up:
            return SenderStep(SenderEvent.REROUTED, reroute=True)
        step = replace(step, due_s=_earlier(step.due_s, reroutes_s))
    if not facts.is_told:
        tells_s = facts.progress_s + limits.silent_s(facts.priority)
        due_s = step.due_s if gave_up or now_s >= tells_s else _earlier(step.due_s, tells_s)
        step = replace(step, tell=now_s >= tells_s or gave_up, due_s=due_s)
    return step


def _earlier(one_s: float | None, other_s: float) -> float:
    return other_s if one_s is None else min(one_s, other_s)
