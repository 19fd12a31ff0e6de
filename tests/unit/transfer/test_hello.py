"""Signs of life: due in time, silence noticed in time, clocks compared correctly."""

import dataclasses
import pathlib
import sys

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.transfer import MessageKind
from raypost.transfer import hello
from raypost.transfer.hello import (
    BASE_KINDS,
    ContactEvent,
    ContactFacts,
    ContactState,
    HelloLimits,
    may_send,
    measure_clock,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_strategies import CONTACT_FACTS, INSTANTS  # noqa: E402

LIMITS = HelloLimits()
NEW = ContactFacts(ContactState.UNKNOWN, None, None, 1_000.0, None, False)


@given(CONTACT_FACTS, INSTANTS)
def test_a_due_time_lies_ahead_within_the_interval(facts, now_s) -> None:
    step = hello.next_step(facts, LIMITS, now_s)
    interval_s = LIMITS.interval_emergency_s if facts.is_emergency_open else LIMITS.interval_s
    assert step.due_s > now_s
    assert step.due_s <= max(now_s, facts.written_s or 0.0) + interval_s
    assert step.write_hello == (facts.written_s is None or now_s >= facts.written_s + interval_s)
    assert hello.next_step(dataclasses.replace(facts), LIMITS, now_s) == step


@given(CONTACT_FACTS, INSTANTS, st.floats(0, 1, exclude_max=True))
def test_looking_early_does_nothing(facts, now_s, share) -> None:
    step = hello.next_step(facts, LIMITS, now_s)
    if step.write_hello or step.event:
        return
    early_s = now_s + (step.due_s - now_s) * share
    if early_s < step.due_s:
        early = hello.next_step(facts, LIMITS, early_s)
        assert not early.write_hello and early.event is None


@given(CONTACT_FACTS, INSTANTS)
def test_silence_is_noticed_once_and_in_time(facts, now_s) -> None:
    step = hello.next_step(facts, LIMITS, now_s)
    if step.event is not None:
        assert step.event is ContactEvent.MISSED_TWO and hello.fire(facts.state, step.event) is ContactState.SILENT
    quiet_s = now_s - max(facts.heard_s or 0.0, facts.known_since_s)
    expected_s = facts.its_interval_s or LIMITS.interval_s
    is_quiet = quiet_s >= LIMITS.missed_max * expected_s + LIMITS.grace_s
    if abs(quiet_s - LIMITS.missed_max * expected_s - LIMITS.grace_s) > 1e-6:
        assert (step.event is ContactEvent.MISSED_TWO) == (is_quiet and facts.state is not ContactState.SILENT)


def test_a_new_partner_is_greeted_at_once_and_missed_after_two() -> None:
    assert hello.next_step(NEW, LIMITS, 1_000.0).write_hello
    facts = dataclasses.replace(NEW, written_s=1_000.0)
    assert hello.next_step(facts, LIMITS, 1_001.0).due_s == 1_300.0
    assert hello.next_step(facts, LIMITS, 1_629.0).event is None
    assert hello.next_step(facts, LIMITS, 1_630.0).event is ContactEvent.MISSED_TWO
    minute = dataclasses.replace(facts, state=ContactState.FRESH, heard_s=1_000.0, its_interval_s=60.0)
    assert hello.next_step(minute, LIMITS, 1_149.0).event is None
    assert hello.next_step(minute, LIMITS, 1_150.0).event is ContactEvent.MISSED_TWO
    assert hello.next_step(dataclasses.replace(facts, is_emergency_open=True), LIMITS, 1_060.0).write_hello


def test_a_silent_partner_is_still_greeted() -> None:
    facts = dataclasses.replace(NEW, state=ContactState.SILENT, written_s=1_000.0)
    assert hello.next_step(facts, LIMITS, 9_000.0).write_hello and hello.next_step(facts, LIMITS, 9_000.0).event is None


SECONDS = st.integers(0, 10**8).map(lambda milliseconds: milliseconds / 1_000)


@given(st.integers(-(10**11), 10**11).map(lambda ms: ms / 1_000), SECONDS, SECONDS, SECONDS, SECONDS)
def test_the_clock_is_measured_within_its_uncertainty(offset_s, there_s, thinking_s, back_s, written_s) -> None:
    """For any offset, an hour or a year, and any delay either way: the true offset lies within the uncertainty."""
    heard_s = written_s + there_s + offset_s
    answered_s = heard_s + thinking_s
    reading = measure_clock(written_s, heard_s, answered_s, answered_s - offset_s + back_s)
    if reading is None:
        assert there_s + back_s < 1e-4, "only rounding makes a round trip shorter than nothing"
        return
    assert abs(reading.offset_s - offset_s) <= reading.uncertainty_s + 1e-4
    assert abs(reading.uncertainty_s - (there_s + back_s) / 2) < 1e-4


def test_times_that_contradict_each_other_measure_nothing() -> None:
    assert measure_clock(100.0, 200.0, 260.0, 150.0) is None
    assert measure_clock(100.0, 200.0, 250.0, 150.0).uncertainty_s == 0


@given(st.sampled_from(MessageKind), st.none() | st.frozensets(st.sampled_from([kind.value for kind in MessageKind])))
def test_what_may_be_sent(kind, known) -> None:
    may = may_send(kind, known)
    assert may == (known is None or kind in BASE_KINDS or kind is MessageKind.HELLO or kind.value in known)


def test_images_may_always_be_sent() -> None:
    """Whatever a partner says it understands: parcel, manifest and receipt are what every version knows."""
    assert all(may_send(kind, ()) for kind in (MessageKind.PARCEL, MessageKind.MANIFEST, MessageKind.RECEIPT))
    assert not may_send(MessageKind.ANNOUNCE, ("parcel",)) and may_send(MessageKind.ANNOUNCE, None)
