"""At most one centre has a case, whatever is asked in whatever order (invariant 9)."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.transfer.responsibility import Decision, decide_take

CENTRES = st.integers(1, 4)
STORIES = st.lists(st.tuples(st.sampled_from(["take", "take", "recall"]), CENTRES), max_size=20)


@given(STORIES)
def test_at_most_one_is_told_that_it_has_the_case(story) -> None:
    """A story of requests and recalls, kept as the sender keeps it: who loses the images loses the case."""
    responsible, withdrawn = None, set()
    for what, centre in story:
        if what == "recall":
            withdrawn.add(centre)
            responsible = None if responsible == centre else responsible
            continue
        decision = decide_take(centre, responsible, withdrawn)
        if decision is None:
            assert centre in withdrawn and responsible is None
            continue
        if decision.is_new:
            assert responsible is None and decision.responsible == centre and centre not in withdrawn
        else:
            assert decision.responsible == responsible
        responsible = decision.responsible
        assert responsible not in withdrawn, "nobody is told to call a centre without the images"


@given(CENTRES, CENTRES)
def test_the_first_one_gets_it_and_the_second_is_told_who(first, second) -> None:
    assert decide_take(first, None, ()) == Decision(first, is_new=True)
    assert decide_take(second, first, ()) == Decision(first, is_new=False)


@given(CENTRES)
def test_a_centre_without_the_images_takes_nothing(centre) -> None:
    assert decide_take(centre, None, {centre}) is None
    assert decide_take(centre, 9, {centre}) == Decision(9, is_new=False)


def test_asking_again_changes_nothing() -> None:
    """A doubled `take` is answered with the same words and told to nobody else."""
    assert decide_take(1, 1, ()) == Decision(1, is_new=False)


def test_who_may_have_forgotten_gives_nothing_away() -> None:
    assert decide_take(1, None, (), may_have_forgotten=True) is None
    assert decide_take(2, 1, (), may_have_forgotten=True) == Decision(1, is_new=False)
