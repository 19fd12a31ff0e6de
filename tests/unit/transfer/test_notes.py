"""When a small message is repeated: later each time, within bounds, and the same whenever it is asked for."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.notes import NOTES, Note, NoteLimits, jitter, note_due_s

LIMITS = NoteLimits()
SEEDS = st.text(max_size=40)
WAITS = st.builds(Note, st.integers(0, 10**6).map(float), st.integers(1, 40), st.sampled_from(Priority))


def wait_s(attempt: int, priority: Priority = Priority.EMERGENCY, seed: str = "s") -> float:
    due_s = note_due_s(Note(0.0, attempt, priority), seed, LIMITS)
    assert due_s is not None
    return due_s


@given(SEEDS, st.integers(0, 10**6))
def test_jitter_is_a_share_and_always_the_same(seed, attempt) -> None:
    assert 0 <= jitter(seed, attempt) <= 1
    assert jitter(seed, attempt) == jitter(seed, attempt)


def test_jitter_spreads_evenly() -> None:
    found = sorted(jitter(f"transfer{number}", 1) for number in range(1_000))
    assert all(abs(share - place / 1_000) < 0.08 for place, share in enumerate(found))
    assert len({jitter("transfer", attempt) for attempt in range(100)}) == 100


@given(WAITS, SEEDS)
def test_the_wait_is_bounded(note, seed) -> None:
    due_s = note_due_s(note, seed, LIMITS)
    if note.attempt >= LIMITS.attempts_max:
        assert due_s is None
        return
    first_s = LIMITS.emergency_first_s if note.priority is Priority.EMERGENCY else LIMITS.first_s
    assert first_s <= due_s - note.accepted_s <= LIMITS.wait_max_s * 1.25


@given(SEEDS, st.sampled_from(Priority))
def test_each_wait_is_longer_until_it_is_the_longest(seed, priority) -> None:
    waits = [wait_s(attempt, priority, seed) for attempt in range(1, LIMITS.attempts_max)]
    for one, other in zip(waits, waits[1:], strict=False):
        assert other > one or other >= LIMITS.wait_max_s


@given(WAITS, SEEDS, st.integers(1, 10**6))
def test_accepted_later_is_due_later(note, seed, delay_s) -> None:
    due_s = note_due_s(note, seed, LIMITS)
    later_s = note_due_s(Note(note.accepted_s + delay_s, note.attempt, note.priority), seed, LIMITS)
    assert (due_s is None) == (later_s is None)
    assert due_s is None or abs(later_s - due_s - delay_s) < 1e-3


def test_an_emergency_is_repeated_sooner() -> None:
    assert wait_s(1) < 10 < wait_s(1, Priority.ROUTINE)


def test_all_attempts_end_within_hours() -> None:
    """Before the end a person was told; after it the transfer's own rounds go on."""
    assert 3_600 < sum(wait_s(attempt, Priority.ROUTINE) for attempt in range(1, LIMITS.attempts_max)) < 6 * 3_600


def test_answers_are_not_answered() -> None:
    """A receipt confirms the sender's notes, a taken the receiver's; neither a receipt nor a hello is repeated."""
    assert MessageKind.RECEIPT not in NOTES and MessageKind.HELLO not in NOTES
