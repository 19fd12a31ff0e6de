"""The tables of the four machines: every state times every event, and what any table must be."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import LocalProtocolError
from raypost.transfer import failover, hello, receiver, sender
from raypost.transfer.failover import RelayEvent, RelayState
from raypost.transfer.hello import ContactEvent, ContactState
from raypost.transfer.limits import DUE_HORIZON_S, Limits, is_due
from raypost.transfer.receiver import ReceiverEvent, ReceiverState
from raypost.transfer.sender import SenderEvent, SenderState

MACHINES = {
    "sender": (sender, SenderState, SenderEvent, SenderState.ANNOUNCED),
    "receiver": (receiver, ReceiverState, ReceiverEvent, ReceiverState.EXPECTED),
    "relay": (failover, RelayState, RelayEvent, RelayState.WELL),
    "contact": (hello, ContactState, ContactEvent, ContactState.UNKNOWN),
}
PAIRS = [
    (name, state, event)
    for name, (_, states, events, _) in MACHINES.items()
    for state, event in itertools.product(states, events)
]

REFUSED_BY_THE_SENDER = {
    (state, event)
    for event, states in {
        SenderEvent.FIRST_PARCEL: set(SenderState) - {SenderState.ANNOUNCED},
        SenderEvent.SETTLED: set(SenderState) - {SenderState.ANNOUNCED, SenderState.STREAMING},
        SenderEvent.GAVE_UP: set(SenderState) - {SenderState.CLOSED},
        SenderEvent.ORDERED_AGAIN: {SenderState.RECALLED},
        SenderEvent.REROUTED: {SenderState.DELIVERED, SenderState.REROUTED, SenderState.RECALLED},
    }.items()
    for state in states
}
REFUSED_BY_THE_RECEIVER = {
    *(
        (state, ReceiverEvent.WENT_SILENT)
        for state in set(ReceiverState) - {ReceiverState.EXPECTED, ReceiverState.ARRIVING}
    ),
    *(
        (state, ReceiverEvent.ALL_FILED)
        for state in (ReceiverState.EXPECTED, ReceiverState.COMPLETE, ReceiverState.WITHDRAWN)
    ),
}


@pytest.mark.parametrize(("name", "state", "event"), PAIRS, ids=lambda one: getattr(one, "value", one))
def test_every_state_times_every_event(name, state, event) -> None:
    module, states, _, _ = MACHINES[name]
    if (state, event) in module.TRANSITIONS:
        assert module.fire(state, event) is module.TRANSITIONS[state, event]
        assert module.TRANSITIONS[state, event] in states
    else:
        with pytest.raises(LocalProtocolError, match=event.value):
            module.fire(state, event)


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_can_be_reached_and_every_event_counts(name) -> None:
    module, states, events, first = MACHINES[name]
    assert {event for _, event in module.TRANSITIONS} == set(events)
    reached, new = {first}, {first}
    while new:
        new = {target for (state, _), target in module.TRANSITIONS.items() if state in new} - reached
        reached |= new
    assert reached == set(states)


@pytest.mark.parametrize("name", MACHINES)
def test_a_table_is_a_function_of_its_words(name) -> None:
    module, states, events, _ = MACHINES[name]
    assert len({one.value for one in states}) == len(states) and len({one.value for one in events}) == len(events)
    assert all(state in states and event in events for state, event in module.TRANSITIONS)


def test_what_the_sender_cannot_take() -> None:
    refused = set(itertools.product(SenderState, SenderEvent)) - set(sender.TRANSITIONS)
    open_without_manifest = {
        (state, SenderEvent.RECEIPT_COMPLETE) for state in (SenderState.ANNOUNCED, SenderState.STREAMING)
    }
    assert refused - open_without_manifest == REFUSED_BY_THE_SENDER


def test_what_the_receiver_cannot_take() -> None:
    assert set(itertools.product(ReceiverState, ReceiverEvent)) - set(receiver.TRANSITIONS) == REFUSED_BY_THE_RECEIVER


def test_relays_and_partners_take_everything() -> None:
    """What the network does to us is never a bug of ours."""
    assert len(failover.TRANSITIONS) == len(RelayState) * len(RelayEvent)
    assert len(hello.TRANSITIONS) == len(ContactState) * len(ContactEvent)


def test_delivered_comes_only_from_a_final_receipt() -> None:
    into = {event for (state, event), target in sender.TRANSITIONS.items() if target is SenderState.DELIVERED}
    assert into == {SenderEvent.RECEIPT_COMPLETE}
    assert (SenderState.STREAMING, SenderEvent.RECEIPT_COMPLETE) not in sender.TRANSITIONS or (
        sender.TRANSITIONS[SenderState.STREAMING, SenderEvent.RECEIPT_COMPLETE] is not SenderState.DELIVERED
    )


def test_complete_comes_only_from_everything_filed() -> None:
    into = {
        event
        for (state, event), target in receiver.TRANSITIONS.items()
        if target is ReceiverState.COMPLETE and state is not ReceiverState.COMPLETE
    }
    assert into == {ReceiverEvent.ALL_FILED}


def test_a_recall_is_for_ever() -> None:
    """Nothing leads out of recalled and withdrawn, and a recall leads there from everywhere."""
    for module, states, ended, recalled in (
        (sender, SenderState, SenderState.RECALLED, SenderEvent.RECALLED),
        (receiver, ReceiverState, ReceiverState.WITHDRAWN, ReceiverEvent.RECALLED),
    ):
        assert all(target is ended for (state, _), target in module.TRANSITIONS.items() if state is ended)
        assert all(module.TRANSITIONS[state, recalled] is ended for state in states)


def test_good_news_is_welcome_after_everything_was_given_up() -> None:
    assert sender.fire(SenderState.UNCONFIRMED, SenderEvent.RECEIPT_COMPLETE) is SenderState.DELIVERED
    assert sender.fire(SenderState.REROUTED, SenderEvent.RECEIPT_COMPLETE) is SenderState.REROUTED
    assert sender.fire(SenderState.RECALLED, SenderEvent.RECEIPT_COMPLETE) is SenderState.RECALLED
    assert receiver.fire(ReceiverState.INCOMPLETE, ReceiverEvent.ALL_FILED) is ReceiverState.COMPLETE
    assert receiver.fire(ReceiverState.REDIRECTED, ReceiverEvent.ALL_FILED) is ReceiverState.COMPLETE


def test_an_away_relay_comes_back_only_by_letting_us_in() -> None:
    out_of_away = {
        event
        for (state, event), target in failover.TRANSITIONS.items()
        if state is RelayState.AWAY and target is not state
    }
    assert out_of_away == {RelayEvent.LET_US_IN}


def test_a_relay_that_swallows_always_lets_us_in() -> None:
    assert failover.fire(RelayState.SUSPECT, RelayEvent.LET_US_IN) is RelayState.SUSPECT


def test_the_times_fit_together() -> None:
    """A person is told while there is still something to do, and patience is longer than the other side's receipts."""
    limits = Limits()
    assert limits.sender.receipt_timeout_s > limits.receiver.receipt_interval_s
    assert limits.sender.swallowed_after_s > limits.receiver.receipt_interval_s, "else every relay is suspect"
    assert limits.sender.silent_emergency_s <= 180, "a person is told within three minutes"
    assert limits.receiver.announced_only_s == 120
    assert limits.sender.silent_emergency_s < limits.sender.silent_urgent_s < limits.sender.silent_routine_s
    assert limits.receiver.receipt_idle_s <= limits.receiver.receipt_emergency_s <= limits.receiver.receipt_interval_s
    assert limits.receiver.receipt_interval_s < limits.receiver.quiet_emergency_s < limits.receiver.quiet_s
    assert limits.hello.interval_s == 300 and limits.hello.interval_emergency_s == 60 and limits.hello.missed_max == 2
    assert limits.sender.notes == limits.receiver.notes


@given(st.integers(0, 10**6).map(float), st.integers(-(10**6), 10**6))
def test_a_clock_that_is_set_back_stops_nothing(now_s, ahead_s) -> None:
    """A row that seems due in a year was written before the clock was set back: it is looked at now."""
    assert is_due(now_s + ahead_s, now_s) == (ahead_s <= 0 or now_s + ahead_s > now_s + DUE_HORIZON_S)


def test_nothing_is_ever_due_later_than_the_horizon() -> None:
    """Else a row would be looked at all the time."""
    limits = Limits()
    waits = [
        limits.sender.receipt_timeout_max_s * 1.25,
        limits.sender.notes.wait_max_s * 1.25,
        limits.receiver.quiet_max_s,
    ]
    waits += [limits.hello.interval_s, limits.relays.suspect_s, limits.relays.retry_max_s]
    assert max(waits) < DUE_HORIZON_S
