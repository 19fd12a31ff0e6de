"""Which relay a message goes by, for any relays in any state."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.transfer import BULK_KINDS, MessageKind, Priority
from raypost.transfer.failover import (
    FailoverLimits,
    RelayEvent,
    RelayFacts,
    RelayState,
    choose,
    fire,
    goes_by_all,
    in_order,
    retry_due_s,
)

LIMITS = FailoverLimits()
NAMES = ["main", "city", "cloud", "fourth"]
RELAYS = st.lists(
    st.tuples(st.sampled_from(RelayState), st.integers(0, 1_000).map(float), st.integers(0, 20)), max_size=4
).flatmap(lambda rows: st.permutations([RelayFacts(NAMES[place], place, *row) for place, row in enumerate(rows)]))
AVOID = st.sampled_from(["", *NAMES])


def by_name(relays):
    return {one.name: one for one in relays}


@given(RELAYS, AVOID, st.integers(0, 9), st.booleans())
def test_an_away_relay_is_taken_only_when_all_are(relays, avoid, turn, is_late) -> None:
    name = choose(relays, avoid=avoid, turn=turn, is_late=is_late)
    if not relays:
        assert name is None
        return
    chosen = by_name(relays)[name]
    if chosen.state is RelayState.AWAY:
        assert all(one.state is RelayState.AWAY for one in relays)


@given(RELAYS, AVOID, st.integers(0, 9), st.booleans())
def test_the_relay_that_was_silent_is_avoided_while_there_is_another(relays, avoid, turn, is_late) -> None:
    others = [one for one in relays if one.name != avoid and one.state is not RelayState.AWAY]
    if others:
        assert choose(relays, avoid=avoid, turn=turn, is_late=is_late) != avoid


@given(RELAYS, st.integers(0, 9))
def test_the_preferred_relay_is_used_as_soon_as_it_is_well(relays, turn) -> None:
    well = [one for one in relays if one.state is RelayState.WELL]
    if well:
        assert choose(relays, turn=turn) == min(well, key=lambda one: one.position).name


@given(RELAYS, AVOID)
def test_a_suspect_relay_comes_after_all_well_ones(relays, avoid) -> None:
    name = choose(relays, avoid=avoid)
    well = [one for one in relays if one.state is RelayState.WELL and one.name != avoid]
    if well:
        assert by_name(relays)[name].state is RelayState.WELL


@given(RELAYS)
def test_a_late_transfer_goes_by_all_well_relays_in_turn(relays) -> None:
    well = {one.name for one in relays if one.state is RelayState.WELL}
    if well:
        assert {choose(relays, turn=turn, is_late=True) for turn in range(len(well))} == well


@given(RELAYS)
def test_the_order_loses_nothing_and_does_not_depend_on_rows(relays) -> None:
    ordered = in_order(relays)
    assert sorted(one.name for one in ordered) == sorted(one.name for one in relays)
    assert in_order(list(reversed(relays))) == ordered
    assert choose(list(reversed(relays))) == choose(relays)


@given(RELAYS)
def test_what_is_not_well_is_looked_at_again_within_bounds(relays) -> None:
    for one in relays:
        due_s = retry_due_s(one, LIMITS)
        assert (due_s is None) == (one.state is RelayState.WELL)
        if one.state is RelayState.AWAY:
            assert LIMITS.retry_first_s <= due_s - one.changed_s <= LIMITS.retry_max_s
        elif one.state is RelayState.SUSPECT:
            assert due_s - one.changed_s == LIMITS.suspect_s


def test_retries_come_later_each_time() -> None:
    waits = [retry_due_s(RelayFacts("main", 0, RelayState.AWAY, 0.0, failures), LIMITS) for failures in range(60)]
    assert waits[:4] == [2, 2, 4, 8] and waits == sorted(waits) and waits[-1] == LIMITS.retry_max_s


@given(st.lists(st.sampled_from(RelayEvent), max_size=30))
def test_any_story_ends_well_once_the_relay_is_well(story) -> None:
    state = RelayState.WELL
    for event in story:
        state = fire(state, event)
    for event in (RelayEvent.LET_US_IN, RelayEvent.PROVED_ITSELF):
        state = fire(state, event)
    assert state is RelayState.WELL


def test_a_failover_in_four_scenes() -> None:
    main, city = RelayFacts("main", 0), RelayFacts("city", 1)
    assert choose([main, city]) == "main"
    away = RelayFacts("main", 0, fire(main.state, RelayEvent.KEPT_US_OUT), 5.0, 1)
    assert choose([away, city]) == "city"
    swallows = RelayFacts("main", 0, fire(main.state, RelayEvent.NOTHING_HEARD), 5.0)
    assert choose([swallows, city]) == "city"
    assert choose([swallows, RelayFacts("city", 1, RelayState.AWAY, 1.0)]) == "main", "better than one that is away"
    back = RelayFacts("main", 0, fire(away.state, RelayEvent.LET_US_IN), 9.0)
    assert choose([back, city]) == "main"


def test_what_goes_by_all_relays_at_once_is_small() -> None:
    for kind in MessageKind:
        for priority in Priority:
            assert not goes_by_all(kind, 2, priority) or kind not in BULK_KINDS
            assert not goes_by_all(kind, 1, priority) or priority is Priority.EMERGENCY or kind not in BULK_KINDS
    for kind in (MessageKind.ANNOUNCE, MessageKind.PARCEL, MessageKind.MANIFEST, MessageKind.RECEIPT):
        assert goes_by_all(kind, 1, Priority.EMERGENCY) and not goes_by_all(kind, 1, Priority.ROUTINE)
    assert goes_by_all(MessageKind.RECALL, 1, Priority.ROUTINE), "it must overtake what it recalls"
    assert not goes_by_all(MessageKind.HELLO, 1, Priority.EMERGENCY), (
        "one is written for each relay, to see which is alive"
    )
