"""Parcels: nothing left out, nothing twice, nothing over the size; small first, then larger."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.pacing import (
    ROUND_TRIP_MAX_S,
    SLOW_LINK_BYTES_PER_S,
    PacingLimits,
    Waiting,
    fill_parcel,
    message_rank,
    parcel_goes_now,
    parcel_size_max,
    sent_by_s,
    smoothed_round_trip_s,
)

LIMITS = PacingLimits()


def entry(number: int, size: int) -> ManifestEntry:
    return ManifestEntry(f"{number:064x}", size, f"1.2.{number}")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(1, 3000), st.integers(1, 10))
def test_everything_is_packed_once_and_in_order(sizes, size_max, instances_max) -> None:
    waiting = [Waiting(entry(number, size)) for number, size in enumerate(sizes)]
    packed: dict[str, int] = {}
    for _ in range(sum(sizes) + len(sizes)):
        if not waiting:
            break
        parcel = fill_parcel(waiting, size_max, instances_max)
        assert parcel and len(parcel) <= instances_max
        assert sum(one.length_bytes for one in parcel) <= size_max
        for one in parcel:
            assert one.offset_bytes == packed.get(one.instance.sha256, 0)
            packed[one.instance.sha256] = one.offset_bytes + one.length_bytes
        waiting = [Waiting(one.instance, packed.get(one.instance.sha256, 0)) for one in waiting]
        waiting = [one for one in waiting if one.rest_bytes]
    assert not waiting
    assert sum(packed.values()) == sum(sizes)


def test_a_begun_instance_goes_alone_and_the_rest_of_it_is_cut() -> None:
    begun, other = Waiting(entry(1, 100), 40), Waiting(entry(2, 5))
    assert fill_parcel([begun, other], 50, 10) == [ParcelEntry(begun.instance, 40, 50)]
    assert fill_parcel([begun, other], 500, 10) == [ParcelEntry(begun.instance, 40, 60)]
    assert fill_parcel([other, Waiting(entry(3, 100))], 50, 10) == [ParcelEntry(other.instance, 0, 5)], "cut only alone"
    assert fill_parcel([], 50, 10) == []


LINKS = st.none() | st.floats(0, 10**10)


@given(st.integers(0, 30), st.integers(1, 10**8), LINKS)
def test_a_parcel_is_never_larger_than_the_link_carries_in_a_few_seconds(before, relay_max, link) -> None:
    """An emergency that comes waits behind at most one parcel; four bytes leave for three of payload."""
    size = parcel_size_max(before, LIMITS, relay_max, link)
    assert 1 <= size <= min(LIMITS.parcel_max_bytes, relay_max)
    if link is not None and before and size > LIMITS.first_parcel_max_bytes:
        assert size * 4 / 3 <= link * LIMITS.parcel_link_s + 2
    if link:
        assert size <= parcel_size_max(before, LIMITS, relay_max, link * 2)
    assert size <= parcel_size_max(before + 1, LIMITS, relay_max, link)
    assert size <= parcel_size_max(before, LIMITS, relay_max), "a measured link never makes it larger"


def test_sizes_of_a_stroke_study_on_a_thin_and_on_a_wide_link() -> None:
    megabit = 125_000.0
    assert [parcel_size_max(n, LIMITS, 10**8) for n in range(4)] == [400_000, 1_200_000, 3_600_000, 6_000_000]
    thin = int(4 * megabit * LIMITS.parcel_link_s * 3 / 4)
    assert 400_000 < thin < 1_200_000
    first = int(4 * megabit * LIMITS.first_parcel_link_s * 3 / 4)
    assert [parcel_size_max(n, LIMITS, 10**8, 4 * megabit) for n in range(3)] == [first, thin, thin]
    assert parcel_size_max(0, LIMITS, 10**8, megabit, instance_bytes=300_000) == 300_000, "one slice, whole"
    assert parcel_size_max(0, LIMITS, 10**8, megabit, instance_bytes=9_000_000) == 400_000
    assert parcel_size_max(5, LIMITS, 10**8, 100 * megabit) == 6_000_000
    assert parcel_size_max(5, LIMITS, 10**8, 0.1 * megabit) == 400_000, "smaller ones would only cost more mails"
    assert parcel_size_max(0, LIMITS, 1_000) == 1_000


@given(
    waiting_bytes=st.integers(0, 10**7),
    oldest_wait_s=st.floats(0, 100),
    parcels_before=st.integers(0, 5),
    in_hand=st.integers(0, 4),
    is_closed=st.booleans(),
    size_max_bytes=st.integers(1, 10**7),
    under_way_bytes=st.integers(0, 10**7),
    path_bytes_per_s=st.none() | st.floats(0, 10**7),
)
def test_nothing_waits_for_ever_and_nothing_piles_up(**facts) -> None:
    go = parcel_goes_now(limits=LIMITS, **facts)
    path = facts["path_bytes_per_s"]
    is_full = bool(path) and facts["under_way_bytes"] > path * LIMITS.path_s
    is_nearly_full = bool(path) and facts["under_way_bytes"] > 0
    if not facts["waiting_bytes"] or facts["in_hand"] >= LIMITS.in_hand_max or is_full:
        assert not go, "the partner's line is not filled for minutes ahead"
    elif not is_nearly_full and not facts["in_hand"] and facts["oldest_wait_s"] >= LIMITS.parcel_wait_s:
        assert go
    if go and facts["waiting_bytes"]:
        assert parcel_goes_now(limits=LIMITS, **facts | {"is_closed": True}), "the end of a study never holds back"


def goes(**words) -> bool:
    whole = dict(
        waiting_bytes=10,
        oldest_wait_s=0.0,
        parcels_before=1,
        in_hand=0,
        is_closed=False,
        size_max_bytes=10**6,
        limits=LIMITS,
    )
    return parcel_goes_now(**whole | words)


def test_when_a_parcel_goes() -> None:
    assert goes(parcels_before=0), "the first one at once"
    assert not goes(), "later ones wait for more"
    assert goes(oldest_wait_s=1.0), "but not for long"
    assert goes(waiting_bytes=LIMITS.parcel_min_bytes)
    assert goes(is_closed=True)
    assert goes(waiting_bytes=10**6, in_hand=1), "a full one goes beside another"
    assert not goes(waiting_bytes=10**6, in_hand=LIMITS.in_hand_max)
    assert not goes(waiting_bytes=0, is_closed=True)


def test_what_is_small_goes_before_parcels_and_what_is_read_first_before_the_rest() -> None:
    ranks = [
        message_rank(MessageKind.RECEIPT, Priority.EMERGENCY),
        message_rank(MessageKind.PARCEL, Priority.EMERGENCY, is_read_first=True),
        message_rank(MessageKind.PARCEL, Priority.EMERGENCY),
        message_rank(MessageKind.ANNOUNCE, Priority.URGENT),
        message_rank(MessageKind.PARCEL, Priority.URGENT, is_read_first=True),
        message_rank(MessageKind.RECALL, Priority.ROUTINE),
        message_rank(MessageKind.PARCEL, Priority.ROUTINE),
    ]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == len(ranks)


@given(st.lists(st.floats(-10, 10**6), min_size=1, max_size=30))
def test_round_trips_are_bounded_whatever_is_measured(measured) -> None:
    """A receipt that was held back for hours must not stop repair for hours."""
    smoothed = None
    for one in measured:
        smoothed = smoothed_round_trip_s(smoothed, one)
        assert 0 <= smoothed <= ROUND_TRIP_MAX_S
    assert smoothed_round_trip_s(None, 3.0) == 3.0
    for _ in range(60):
        smoothed = smoothed_round_trip_s(smoothed, 3.0)
    assert abs(smoothed - 3.0) < 0.01, "old times are forgotten"


@given(st.integers(0, 10**6).map(float), st.integers(1, 10**8), st.none() | st.floats(1_000, 10**9))
def test_a_large_mail_on_a_thin_link_is_given_its_time(sending_s, size_bytes, link) -> None:
    by_s = sent_by_s(sending_s, size_bytes, link)
    assert by_s >= sending_s + size_bytes / (link or SLOW_LINK_BYTES_PER_S)
    assert sent_by_s(sending_s, size_bytes * 2, link) >= by_s
    assert sent_by_s(sending_s, size_bytes, (link or SLOW_LINK_BYTES_PER_S) / 2) >= by_s
