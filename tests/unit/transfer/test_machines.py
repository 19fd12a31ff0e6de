"""The two machines of the transfer protocol: every state times every event, and the promises for any facts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import LocalProtocolError
from raypost.transfer import receiver, sender
from raypost.transfer.receiver import ReceiverEvent, ReceiverFacts, ReceiverLimits, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderFacts, SenderLimits, SenderState

COUNTS = st.integers(0, 3)
INSTANTS = st.floats(0, 10_000, allow_nan=False)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SenderState, SenderEvent)))
def test_every_pair_of_the_sender(state, event) -> None:
    if (state, event) in sender.TRANSITIONS:
        assert sender.fire(state, event) is sender.TRANSITIONS[state, event]
    else:
        with pytest.raises(LocalProtocolError):
            sender.fire(state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ReceiverState, ReceiverEvent)))
def test_every_pair_of_the_receiver(state, event) -> None:
    if (state, event) in receiver.TRANSITIONS:
        assert receiver.fire(state, event) is receiver.TRANSITIONS[state, event]
    else:
        with pytest.raises(LocalProtocolError):
            receiver.fire(state, event)


sender_facts = st.builds(
    SenderFacts,
    state=st.sampled_from(SenderState),
    last_arrival_s=INSTANTS,
    released_s=st.none() | INSTANTS,
    items_waiting=COUNTS,
    in_hand=COUNTS,
    unconfirmed=COUNTS,
    refused=COUNTS,
    has_manifest=st.booleans(),
    rounds=st.integers(0, 7),
    patience_from_s=INSTANTS,
)
receiver_facts = st.builds(
    ReceiverFacts,
    state=st.sampled_from(ReceiverState),
    is_all_filed=st.booleans(),
    in_hand=COUNTS,
    news=COUNTS,
    last_arrival_s=INSTANTS,
    last_receipt_s=st.none() | INSTANTS,
    reminders=st.integers(0, 8),
)


@given(sender_facts, INSTANTS)
def test_an_open_sender_always_has_a_due_or_an_event_that_ends_it(facts, now_s) -> None:
    step = sender.next_step(facts, SenderLimits(), now_s)
    state = facts.state if step.event is None else sender.fire(facts.state, step.event)
    if state in (SenderState.STREAMING, SenderState.CLOSED):
        assert step.due_s is not None and step.due_s > now_s
    else:
        assert step.due_s is None and not step.send_again


@given(sender_facts, INSTANTS)
def test_the_sender_never_says_delivered_by_itself(facts, now_s) -> None:
    assert sender.next_step(facts, SenderLimits(), now_s).event is not SenderEvent.RECEIPT_COMPLETE


@given(receiver_facts, INSTANTS)
def test_an_arriving_transfer_always_has_a_due(facts, now_s) -> None:
    step = receiver.next_step(facts, ReceiverLimits(), now_s)
    state = facts.state if step.event is None else receiver.fire(facts.state, step.event)
    if state is ReceiverState.ARRIVING:
        assert step.due_s is not None and step.due_s > now_s - 1e-6
    if facts.state is ReceiverState.COMPLETE and facts.news:
        assert step.write_receipt or step.due_s is not None, "a double is answered, within bounds"


@given(receiver_facts, INSTANTS)
def test_receipts_keep_their_distance(facts, now_s) -> None:
    step = receiver.next_step(facts, ReceiverLimits(), now_s)
    if step.write_receipt and facts.last_receipt_s is not None and step.event is None:
        assert now_s - facts.last_receipt_s >= ReceiverLimits().receipt_interval_s


def test_release_settles_sooner_but_not_if_more_came_after_it() -> None:
    facts = dict(
        state=SenderState.STREAMING,
        items_waiting=0,
        in_hand=0,
        unconfirmed=0,
        refused=0,
        has_manifest=False,
        rounds=0,
        patience_from_s=0.0,
    )
    limits = SenderLimits(settle_s=30, settle_after_release_s=5)
    assert sender.settles_at_s(SenderFacts(last_arrival_s=100, released_s=101, **facts), limits) == 106
    assert sender.settles_at_s(SenderFacts(last_arrival_s=102, released_s=101, **facts), limits) == 132
    assert sender.settles_at_s(SenderFacts(last_arrival_s=100, released_s=None, **facts), limits) == 130
