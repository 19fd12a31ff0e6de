"""The receiver's next step: promises that hold for any facts at any moment."""

import dataclasses
import pathlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.model.transfer import Priority
from raypost.transfer import receiver
from raypost.transfer.notes import note_due_s
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverLimits, ReceiverState, ReceiverStep

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_strategies import INSTANTS, RECEIVER_FACTS  # noqa: E402

LIMITS = ReceiverLimits()
WAITING = (ReceiverState.EXPECTED, ReceiverState.ARRIVING)
SILENT = ReceiverFacts(
    state=ReceiverState.ARRIVING,
    seed="n5k7q2xw3m6r4j2m5a7c2dkepu",
    priority=Priority.EMERGENCY,
    is_all_filed=False,
    in_hand=0,
    news=0,
    has_first_filed=False,
    gap_since_s=None,
    opened_s=1_000.0,
    last_arrival_s=1_000.0,
    last_receipt_s=1_000.0,
    reminders=0,
)
"""Something is missing and nothing comes."""


def acts(step: ReceiverStep) -> bool:
    """Whether a step does anything at all."""
    return dataclasses.replace(step, due_s=None) != ReceiverStep()


@given(RECEIVER_FACTS, INSTANTS)
def test_a_transfer_that_waits_is_never_forgotten(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    state = facts.state if step.event is None else receiver.fire(facts.state, step.event)
    if state in WAITING:
        assert step.due_s is not None
    if facts.news and step.event is None:
        assert step.write_receipt or step.due_s is not None, "whatever comes is answered, within bounds"


@given(RECEIVER_FACTS, INSTANTS)
def test_a_note_that_nobody_heard_is_never_forgotten(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    dues = [at_s for one in facts.notes if (at_s := note_due_s(one, facts.seed, LIMITS.notes)) is not None]
    if dues and min(dues) <= now_s:
        assert step.repeat_notes
    for due_s in dues:
        if due_s > now_s:
            assert step.due_s is not None and step.due_s <= due_s


@given(RECEIVER_FACTS, INSTANTS)
def test_a_due_time_lies_ahead(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    assert step.due_s is None or step.due_s > now_s


@given(RECEIVER_FACTS, INSTANTS, st.floats(0, 1, exclude_max=True))
def test_looking_early_does_nothing(facts, now_s, share) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    assert receiver.next_step(dataclasses.replace(facts), LIMITS, now_s) == step, "the same facts, the same step"
    if acts(step):
        return
    last_s = now_s + 100_000 if step.due_s is None else step.due_s
    early_s = now_s + (last_s - now_s) * share
    if early_s < last_s:
        assert not acts(receiver.next_step(facts, LIMITS, early_s)), "the due time was too late"


@given(RECEIVER_FACTS, INSTANTS)
def test_an_event_is_always_in_the_table(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    if step.event is not None:
        receiver.fire(facts.state, step.event)
        assert step.event in (ReceiverEvent.ALL_FILED, ReceiverEvent.WENT_SILENT), "the rest comes with a message"


@given(RECEIVER_FACTS, INSTANTS)
def test_receipts_keep_their_distance(facts, now_s) -> None:
    """At most one in receipt_interval_s; but the first filed parcel and the end are said at once, and once each.

    In an emergency a sender waits for the word that what it sent is filed: then sooner, but bounded as well.
    """
    step = receiver.next_step(facts, LIMITS, now_s)
    if step.write_receipt and facts.last_receipt_s is not None:
        is_first = facts.has_first_filed and facts.state in WAITING
        is_end = step.event is ReceiverEvent.ALL_FILED
        interval_s = LIMITS.receipt_interval_s
        if facts.priority is Priority.EMERGENCY and facts.state is ReceiverState.ARRIVING:
            interval_s = LIMITS.receipt_emergency_s if facts.in_hand else LIMITS.receipt_idle_s
        assert is_first or is_end or now_s - facts.last_receipt_s >= interval_s
    if facts.state in (ReceiverState.COMPLETE, ReceiverState.WITHDRAWN) and step.write_receipt:
        assert facts.news, "who is not asked does not answer"


@given(RECEIVER_FACTS, INSTANTS)
def test_reminders_are_bounded_and_patient(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    if step.is_reminder:
        assert step.write_receipt and step.asks
    if step.asks:
        assert step.write_receipt and facts.state in WAITING
        assert facts.reminders < LIMITS.reminders_max or facts.in_hand, "then it is given up"
        assert not facts.in_hand or facts.gap_since_s is not None, "what is here is not asked for"
    if step.event is ReceiverEvent.WENT_SILENT:
        assert facts.reminders >= LIMITS.reminders_max and not facts.in_hand


@given(RECEIVER_FACTS, INSTANTS)
def test_what_is_all_here_is_complete_at_once(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    unfinished = (ReceiverState.ARRIVING, ReceiverState.INCOMPLETE, ReceiverState.REDIRECTED)
    assert (step.event is ReceiverEvent.ALL_FILED) == (facts.is_all_filed and facts.state in unfinished)
    if step.event is ReceiverEvent.ALL_FILED:
        assert step.write_receipt and not step.asks


@given(RECEIVER_FACTS, INSTANTS)
def test_images_announced_and_none_came_is_told_in_time(facts, now_s) -> None:
    step = receiver.next_step(facts, LIMITS, now_s)
    if facts.state is not ReceiverState.EXPECTED or facts.is_told or facts.in_hand:
        assert not step.tell, "images did come, or somebody knows"
        return
    tells_s = facts.opened_s + LIMITS.announced_only_s
    assert step.tell == (now_s >= tells_s)
    if now_s < tells_s and step.event is None:
        assert step.due_s <= tells_s


@given(RECEIVER_FACTS, INSTANTS)
def test_back_off_is_bounded(facts, now_s) -> None:
    past = {name: min(getattr(facts, name), now_s) for name in ("last_arrival_s", "opened_s")}
    for name in ("last_receipt_s", "gap_since_s"):
        past[name] = None if getattr(facts, name) is None else min(getattr(facts, name), now_s)
    facts = dataclasses.replace(facts, notes=(), **past)
    step = receiver.next_step(facts, LIMITS, now_s)
    assert step.due_s is None or step.due_s - now_s <= LIMITS.quiet_max_s


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("state", WAITING, ids=lambda one: one.value)
@pytest.mark.parametrize("gap_since_s", [None, 990.0])
@pytest.mark.parametrize("last_receipt_s", [None, 995.0])
def test_a_receiver_that_gets_nothing_asks_and_then_tells_a_person(
    priority, state, gap_since_s, last_receipt_s
) -> None:
    facts = dataclasses.replace(
        SILENT, priority=priority, state=state, gap_since_s=gap_since_s, last_receipt_s=last_receipt_s
    )
    now_s, receipts, asked_s, told_s, looks = 1_000.0, 0, None, None, 0
    while True:
        step = receiver.next_step(facts, LIMITS, now_s)
        looks += 1
        if step.tell:
            told_s, facts = now_s, dataclasses.replace(facts, is_told=True)
        if step.write_receipt:
            receipts += 1
            asked_s = now_s if step.asks and asked_s is None else asked_s
            reminders = facts.reminders + 1 if step.is_reminder else facts.reminders
            facts = dataclasses.replace(facts, reminders=reminders, last_receipt_s=now_s, news=0)
            facts = dataclasses.replace(facts, asked_s=now_s) if step.asks else facts
        if step.event is not None:
            break
        assert looks < 100, "asked for ever"
        now_s = step.due_s
    assert step.event is ReceiverEvent.WENT_SILENT
    first_s = LIMITS.quiet_emergency_s if priority is Priority.EMERGENCY else LIMITS.quiet_s
    assert asked_s - 1_000.0 <= first_s
    assert LIMITS.reminders_max <= receipts <= LIMITS.reminders_max + 2
    assert now_s - 1_000.0 <= (LIMITS.reminders_max + 2) * LIMITS.quiet_max_s
    assert told_s == (1_000.0 + LIMITS.announced_only_s if state is ReceiverState.EXPECTED else None)


def test_a_gap_is_asked_for_sooner_than_silence() -> None:
    facts = dataclasses.replace(SILENT, last_arrival_s=1_009.0, gap_since_s=1_000.0, last_receipt_s=1_003.0)
    assert not acts(receiver.next_step(facts, LIMITS, 1_009.9))
    step = receiver.next_step(facts, LIMITS, 1_010.0)
    assert step.write_receipt and step.asks
    asked = dataclasses.replace(facts, last_receipt_s=1_010.0, asked_s=1_010.0, reminders=1)
    assert not receiver.next_step(asked, LIMITS, 1_029.9).write_receipt, "the wait doubles for a gap as well"
    assert receiver.next_step(asked, LIMITS, 1_030.0).asks


def test_a_receipt_that_answers_doubles_goes_by_all_relays() -> None:
    """The receipts before it may have been swallowed."""
    for state in ReceiverState:
        facts = dataclasses.replace(SILENT, state=state, news=1, doubles=1, last_receipt_s=None)
        step = receiver.next_step(facts, LIMITS, 1_001.0)
        assert step.write_receipt and step.by_all
        assert not receiver.next_step(dataclasses.replace(facts, doubles=0), LIMITS, 1_001.0).by_all


def test_the_first_filed_parcel_is_said_at_once() -> None:
    facts = dataclasses.replace(SILENT, has_first_filed=True, news=1, last_receipt_s=1_000.0)
    assert receiver.next_step(facts, LIMITS, 1_000.1).write_receipt
    later = dataclasses.replace(facts, has_first_filed=False)
    assert receiver.next_step(later, LIMITS, 1_000.1).due_s == 1_000.0 + LIMITS.receipt_idle_s
    busy = dataclasses.replace(later, in_hand=1)
    assert receiver.next_step(busy, LIMITS, 1_000.1).due_s == 1_000.0 + LIMITS.receipt_emergency_s
    assert receiver.next_step(dataclasses.replace(later, priority=Priority.URGENT), LIMITS, 1_000.1).due_s == 1_005.0


@pytest.mark.parametrize("state", [one for one in ReceiverState if one not in WAITING], ids=lambda one: one.value)
def test_doubles_are_answered_at_a_bounded_rate(state) -> None:
    facts = dataclasses.replace(SILENT, state=state, news=7)
    assert not receiver.next_step(facts, LIMITS, 1_001.0).write_receipt
    assert receiver.next_step(facts, LIMITS, 1_001.0).due_s == 1_005.0
    assert receiver.next_step(facts, LIMITS, 1_005.0).write_receipt
    assert not acts(receiver.next_step(dataclasses.replace(facts, news=0), LIMITS, 9_999.0))


def test_patience_doubles_with_each_reminder() -> None:
    dues = [
        receiver.next_step(dataclasses.replace(SILENT, reminders=reminders), LIMITS, 1_000.0).due_s - 1_000.0
        for reminders in range(LIMITS.reminders_max)
    ]
    assert dues[:3] == [15, 30, 60] and max(dues) == LIMITS.safety_net_s, "somebody looks in between"
    waits = []
    for reminders in range(LIMITS.reminders_max):
        facts = dataclasses.replace(SILENT, reminders=reminders)
        waits.append(
            next(wait_s for wait_s in range(15, 700, 5) if acts(receiver.next_step(facts, LIMITS, 1_000 + wait_s)))
        )
    assert waits[:6] == [15, 30, 60, 120, 240, 480] and set(waits[6:]) == {LIMITS.quiet_max_s}
