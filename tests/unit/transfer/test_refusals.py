"""What becomes of a mail that a relay does not take: every class, every count of tries, with and without another relay."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.transfer.refusals import REMEDY_TEXT, Course, NextTry, RefusalLimits, Remedy, next_try

LIMITS = RefusalLimits()
MARGIN = 1.25


@pytest.mark.parametrize(("remedy", "tries", "has_other"), list(itertools.product(Remedy, range(1, 40), (False, True))))
def test_every_class_is_bounded_and_ends_with_somebody(remedy: Remedy, tries: int, has_other: bool) -> None:
    step = next_try(remedy, tries=tries, has_other_relay=has_other, seed="m")
    assert 0 <= step.wait_s <= LIMITS.retry_max_s * MARGIN
    if step.course is Course.MOVE:
        assert has_other
    if step.course is Course.GIVE_UP:
        assert step.tell and not has_other and remedy in (Remedy.PERSON, Remedy.CUT_SMALLER)
    if step.course is Course.WAIT:
        assert step.wait_s >= LIMITS.retry_first_s


@pytest.mark.parametrize("remedy", [Remedy.RETRY, Remedy.OTHER_RELAY])
@pytest.mark.parametrize("has_other", [False, True])
def test_what_lasts_is_told_once(remedy: Remedy, has_other: bool) -> None:
    told = [n for n in range(1, 40) if next_try(remedy, tries=n, has_other_relay=has_other, seed="m").tell]
    assert told == [LIMITS.tell_after_tries]


def test_a_passing_fault_is_waited_for_and_then_left() -> None:
    first, second = (next_try(Remedy.RETRY, tries=n, has_other_relay=True, seed="m") for n in (1, 2))
    assert first.course is Course.WAIT and 2 <= first.wait_s <= 2 * MARGIN
    assert second == NextTry(Course.MOVE)
    alone = [next_try(Remedy.RETRY, tries=n, has_other_relay=False, seed="m") for n in range(1, 12)]
    assert {one.course for one in alone} == {Course.WAIT}
    waits = [one.wait_s for one in alone]
    assert waits[:7] == sorted(waits[:7]) and waits[-1] >= LIMITS.retry_max_s


def test_a_pause_that_the_relay_asks_for_is_kept_or_the_relay_is_left() -> None:
    assert next_try(Remedy.RETRY, tries=1, has_other_relay=False, seed="m", retry_after_s=300).wait_s == 300
    assert next_try(Remedy.RETRY, tries=1, has_other_relay=True, seed="m", retry_after_s=300) == NextTry(Course.MOVE)
    short = next_try(Remedy.RETRY, tries=1, has_other_relay=True, seed="m", retry_after_s=5)
    assert short == NextTry(Course.WAIT, 5)


def test_a_full_mailbox_is_left_at_once_and_refusals_of_both_slow_down() -> None:
    steps = [next_try(Remedy.OTHER_RELAY, tries=n, has_other_relay=True, seed="m") for n in range(1, 30)]
    assert {one.course for one in steps} == {Course.MOVE}
    waits = [one.wait_s for one in steps]
    assert waits[:3] == [0, 0, 0] and waits == sorted(waits) and waits[-1] > 60


@given(st.text(max_size=9), st.integers(1, 60))
def test_looking_twice_never_moves_a_pause(seed: str, tries: int) -> None:
    assert next_try(Remedy.RETRY, tries=tries, has_other_relay=False, seed=seed) == next_try(
        Remedy.RETRY, tries=tries, has_other_relay=False, seed=seed
    )


def test_every_class_is_explained() -> None:
    assert set(REMEDY_TEXT) == set(Remedy)
