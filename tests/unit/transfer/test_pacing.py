"""Parcels: nothing left out, nothing twice, nothing over the size; small first, then larger."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.manifest import ManifestEntry
from raypost.transfer.pacing import PacingLimits, Waiting, fill_parcel, parcel_goes_now, parcel_size_max

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


@given(st.integers(0, 30), st.integers(1, 10**8))
def test_sizes_grow_and_never_pass_a_limit(before, relay_max) -> None:
    size = parcel_size_max(before, LIMITS, relay_max)
    assert size <= min(LIMITS.parcel_max_bytes, relay_max)
    assert size >= min(parcel_size_max(max(0, before - 1), LIMITS, relay_max), size)
    assert parcel_size_max(0, LIMITS, relay_max) == min(LIMITS.first_parcel_max_bytes, relay_max)


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
