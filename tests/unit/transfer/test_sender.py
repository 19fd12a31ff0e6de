"""The sender's next step: promises that hold for any facts at any moment."""

import dataclasses
import pathlib
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypost.model.transfer import Priority
from raypost.transfer import sender
from raypost.transfer.notes import Note, note_due_s
from raypost.transfer.sender import OPEN, SenderEvent, SenderFacts, SenderLimits, SenderState, SenderStep

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_strategies import INSTANTS, SENDER_FACTS  # noqa: E402

LIMITS = SenderLimits()
QUIET = SenderFacts(
    state=SenderState.CLOSED,
    seed="n5k7q2xw3m6r4j2m5a7c2dkepu",
    priority=Priority.EMERGENCY,
    last_arrival_s=1_000.0,
    released_s=None,
    items_waiting=0,
    in_hand=0,
    unconfirmed=3,
    refused=0,
    parcels=2,
    has_manifest=True,
    rounds=0,
    patience_from_s=1_000.0,
    progress_s=1_000.0,
)
"""Closed, everything at the relay, nothing heard."""
PATIENCE_MAX_S = LIMITS.receipt_timeout_max_s * 1.25
"""With the largest jitter."""


def acts(step: SenderStep) -> bool:
    """Whether a step does anything at all."""
    return dataclasses.replace(step, due_s=None) != SenderStep()


def note_dues(facts: SenderFacts) -> list[float]:
    return [at_s for one in facts.notes if (at_s := note_due_s(one, facts.seed, LIMITS.notes)) is not None]


@given(SENDER_FACTS, INSTANTS)
def test_an_open_transfer_is_never_forgotten(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    state = facts.state if step.event is None else sender.fire(facts.state, step.event)
    if state in OPEN:
        assert step.due_s is not None
    if facts.state not in OPEN:
        assert step.event is None, "nothing but a person or a message moves what is not open"


@given(SENDER_FACTS, INSTANTS)
@example(
    dataclasses.replace(
        QUIET,
        unconfirmed=0,
        refused=1,
        relays_usable=2,
        unheard_since_s=1_000.0,
        notes=(Note(1_000.0, 1, Priority.ROUTINE),),
    ),
    1_001.0,
)
def test_a_note_that_nobody_heard_is_never_forgotten(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    dues = note_dues(facts)
    if dues and min(dues) <= now_s:
        assert step.repeat_notes
    for due_s in dues:
        if due_s > now_s:
            assert step.due_s is not None and step.due_s <= due_s


@given(SENDER_FACTS, INSTANTS)
def test_a_due_time_lies_ahead(facts, now_s) -> None:
    """Else somebody looks without end and nothing happens."""
    step = sender.next_step(facts, LIMITS, now_s)
    assert step.due_s is None or step.due_s > now_s


@given(SENDER_FACTS, INSTANTS, st.floats(0, 1, exclude_max=True))
def test_looking_early_does_nothing(facts, now_s, share) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    assert sender.next_step(dataclasses.replace(facts), LIMITS, now_s) == step, "the same facts, the same step"
    if acts(step):
        return
    last_s = now_s + 100_000 if step.due_s is None else step.due_s
    early_s = now_s + (last_s - now_s) * share
    if early_s < last_s:
        assert not acts(sender.next_step(facts, LIMITS, early_s)), "the due time was too late"


@given(SENDER_FACTS, INSTANTS)
def test_an_event_is_always_in_the_table(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    if step.event is not None:
        sender.fire(facts.state, step.event)
    assert step.event is not SenderEvent.RECEIPT_COMPLETE, "only a receipt says delivered"
    assert step.event is not SenderEvent.RECALLED and step.event is not SenderEvent.ORDERED_AGAIN, "only a person does"
    assert step.reroute == (step.event is SenderEvent.REROUTED)


@given(SENDER_FACTS, INSTANTS)
def test_a_person_is_told_in_bounded_time(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    if not facts.is_outstanding or facts.is_told or step.reroute:
        return
    silent_s = facts.progress_s + LIMITS.silent_s(facts.priority)
    assert step.tell == (now_s >= silent_s or step.event is SenderEvent.GAVE_UP)
    assert step.tell or (step.due_s is not None and step.due_s <= silent_s)


@given(SENDER_FACTS, INSTANTS)
def test_nobody_is_told_twice_or_without_reason(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    assert not (step.tell and facts.is_told)
    assert not (step.tell and not facts.is_outstanding)


@given(SENDER_FACTS, INSTANTS)
def test_giving_up_has_a_reason(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    if step.event is SenderEvent.GAVE_UP:
        assert facts.rounds >= LIMITS.rounds_max or (facts.refused and not facts.unconfirmed)
        assert not facts.items_waiting and not facts.in_hand and facts.has_manifest
        assert not step.send_again and not step.repeat_manifest and not step.switch_relay
        assert step.tell or facts.is_told or facts.reroute_after_s is not None


@given(SENDER_FACTS, INSTANTS)
def test_rounds_are_bounded(facts, now_s) -> None:
    step = sender.next_step(facts, LIMITS, now_s)
    if step.send_again or step.repeat_manifest:
        assert facts.rounds < LIMITS.rounds_max
        assert not facts.in_hand and not facts.items_waiting, "first what is on its way"
    assert not (step.send_again and not facts.unconfirmed), "there is nothing to send again"
    assert not (step.send_again and facts.state is SenderState.CLOSED), "the manifest asks; it says what is missing"
    assert not (step.repeat_manifest and not (facts.state is SenderState.CLOSED and facts.has_manifest))


@given(SENDER_FACTS, INSTANTS)
def test_back_off_is_bounded(facts, now_s) -> None:
    facts = dataclasses.replace(
        facts,
        **{name: min(getattr(facts, name), now_s) for name in ("last_arrival_s", "patience_from_s", "progress_s")},
        notes=tuple(dataclasses.replace(one, accepted_s=min(one.accepted_s, now_s)) for one in facts.notes),
    )
    step = sender.next_step(facts, LIMITS, now_s)
    if step.due_s is not None and facts.state in OPEN:
        assert step.due_s - now_s <= max(LIMITS.settle_s, LIMITS.safety_net_s, PATIENCE_MAX_S)


@given(st.integers(0, 15), st.none() | st.floats(0, 5_000), st.text("abcdefghij", min_size=10, max_size=10))
def test_patience_grows_and_stays_within_its_bounds(rounds, round_trip_s, seed) -> None:
    if rounds >= LIMITS.rounds_max:
        return
    facts = dataclasses.replace(QUIET, rounds=rounds, round_trip_s=round_trip_s, seed=seed, is_told=True)
    step = sender.next_step(facts, LIMITS, 1_000.0)
    patience_s = step.due_s - facts.patience_from_s
    assert LIMITS.receipt_timeout_s <= patience_s <= PATIENCE_MAX_S
    assert patience_s >= min(3 * (round_trip_s or 0), LIMITS.receipt_timeout_max_s), "no resending on a slow way"
    later = sender.next_step(dataclasses.replace(facts, rounds=rounds + 1), LIMITS, 1_000.0)
    if rounds + 1 < LIMITS.rounds_max and patience_s * 2 < LIMITS.receipt_timeout_max_s:
        assert later.due_s > step.due_s


def test_jitter_spreads_transfers() -> None:
    """A thousand transfers that a dead relay held up do not come back in the same second."""
    dues = {
        round(
            sender.next_step(
                dataclasses.replace(QUIET, seed=f"seed{number:06}", rounds=3, is_told=True), LIMITS, 1_000.0
            ).due_s
        )
        for number in range(200)
    }
    assert len(dues) > 25


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("relays", [1, 2, 3])
def test_a_sender_that_hears_nothing_tells_a_person_and_ends(priority, relays) -> None:
    facts = dataclasses.replace(QUIET, priority=priority, relays_usable=relays, unheard_since_s=1_000.0)
    now_s, told_s, sent, looks = 1_000.0, None, 0, 0
    while True:
        step = sender.next_step(facts, LIMITS, now_s)
        looks += 1
        if step.tell:
            told_s, facts = now_s, dataclasses.replace(facts, is_told=True)
        if step.switch_relay:
            facts = dataclasses.replace(facts, switches=facts.switches + 1, switched_s=now_s, patience_from_s=now_s)
        if step.repeat_manifest:
            sent += 1
            facts = dataclasses.replace(facts, rounds=facts.rounds + 1, patience_from_s=now_s)
        if step.event is not None:
            break
        now_s = step.due_s
        assert looks < 200
    assert step.event is SenderEvent.GAVE_UP
    assert told_s == 1_000.0 + LIMITS.silent_s(priority)
    assert sent == LIMITS.rounds_max
    assert facts.switches == relays - 1, "each other relay once"
    assert now_s - 1_000.0 <= (LIMITS.rounds_max + 2) * PATIENCE_MAX_S


def test_the_second_centre_comes_when_the_rule_says() -> None:
    facts = dataclasses.replace(QUIET, reroute_after_s=60.0)
    assert sender.next_step(facts, LIMITS, 1_059.0).due_s <= 1_060.0
    step = sender.next_step(facts, LIMITS, 1_060.0)
    assert step.reroute and step.event is SenderEvent.REROUTED
    streaming = dataclasses.replace(facts, state=SenderState.STREAMING, has_manifest=False, last_arrival_s=1_059.0)
    assert sender.next_step(streaming, LIMITS, 1_060.0).reroute, "also while images still come in"
    gave_up = dataclasses.replace(facts, rounds=LIMITS.rounds_max, reroute_after_s=100_000.0)
    assert sender.next_step(gave_up, LIMITS, 90_000.0).reroute, "and before a transfer is given up"


def test_a_relay_that_swallows_is_left_when_there_is_another() -> None:
    facts = dataclasses.replace(QUIET, unheard_since_s=1_000.0, relays_usable=2)
    assert not sender.next_step(facts, LIMITS, 1_009.0).switch_relay
    assert sender.next_step(facts, LIMITS, 1_009.0).due_s == 1_010.0
    assert sender.next_step(facts, LIMITS, 1_010.0).switch_relay
    assert not sender.next_step(dataclasses.replace(facts, relays_usable=1), LIMITS, 1_015.0).switch_relay
    slow = dataclasses.replace(facts, round_trip_s=20.0)
    assert not sender.next_step(slow, LIMITS, 1_059.0).switch_relay, "three round trips, where that is longer"
    once = dataclasses.replace(facts, switches=1, switched_s=1_010.0)
    assert not sender.next_step(once, LIMITS, 1_100.0).switch_relay, "each relay once"
    once = dataclasses.replace(once, relays_usable=3)
    assert not sender.next_step(once, LIMITS, 1_029.0).switch_relay, "the wait doubles"
    assert sender.next_step(once, LIMITS, 1_030.0).switch_relay


def test_release_settles_sooner_but_not_if_more_came_after_it() -> None:
    limits = SenderLimits(settle_s=30, settle_after_release_s=5)
    for last_arrival_s, released_s, settles_s in ((100, 101, 106), (102, 101, 132), (100, None, 130), (100, 129, 130)):
        facts = dataclasses.replace(QUIET, last_arrival_s=last_arrival_s, released_s=released_s)
        assert sender.settles_at_s(facts, limits) == settles_s


def test_streaming_ends_with_a_manifest() -> None:
    facts = dataclasses.replace(QUIET, state=SenderState.STREAMING, has_manifest=False, items_waiting=2)
    step = sender.next_step(facts, LIMITS, 1_030.0)
    assert step.event is SenderEvent.SETTLED and step.write_manifest and step.plan
    early = sender.next_step(facts, LIMITS, 1_029.0)
    assert early.event is None and early.plan and early.due_s == 1_030.0


def test_an_announce_without_images_becomes_streaming_with_the_first_parcel() -> None:
    facts = dataclasses.replace(QUIET, state=SenderState.ANNOUNCED, has_manifest=False, parcels=0, unconfirmed=0)
    assert sender.next_step(facts, LIMITS, 1_001.0).event is None
    facts = dataclasses.replace(facts, parcels=1, in_hand=1)
    assert sender.next_step(facts, LIMITS, 1_001.0).event is SenderEvent.FIRST_PARCEL


def test_what_was_sent_last_before_a_pause_is_sent_again() -> None:
    facts = dataclasses.replace(QUIET, state=SenderState.STREAMING, has_manifest=False, last_arrival_s=2_000.0)
    assert sender.next_step(facts, LIMITS, 2_001.0).send_again


def test_a_silent_partner_is_asked_by_the_manifest_alone() -> None:
    """Whoever has it asks for what is missing; nobody is sent a whole study a dozen times."""
    step = sender.next_step(dataclasses.replace(QUIET, is_told=True), LIMITS, 1_030.0)
    assert step.repeat_manifest and not step.send_again
    seen = dataclasses.replace(QUIET, is_told=True, unconfirmed=0, seen=3)
    assert seen.is_outstanding and sender.next_step(seen, LIMITS, 1_030.0).repeat_manifest


def test_a_refused_mail_is_given_up_only_when_the_rest_is_through() -> None:
    assert sender.next_step(dataclasses.replace(QUIET, refused=1), LIMITS, 1_001.0).event is None
    step = sender.next_step(dataclasses.replace(QUIET, refused=1, unconfirmed=0), LIMITS, 1_001.0)
    assert step.event is SenderEvent.GAVE_UP and step.tell
