"""What a parcel brings: nothing that is here arrives again, nothing that lacks is called a double."""

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.taking import ItemState, bytes_covered, take_parcel

INSTANCES = [ManifestEntry(f"{number:064x}", 100, f"1.2.{number + 1}") for number in range(6)]
ENTRIES = st.lists(
    st.builds(
        lambda instance, slice_: ParcelEntry(instance, *slice_),
        st.sampled_from(INSTANCES),
        st.sampled_from([(0, 100), (0, 100), (0, 50), (50, 50), (10, 5)]),
    ),
    min_size=1,
    max_size=6,
)
ITEMS = st.dictionaries(st.sampled_from([one.sha256 for one in INSTANCES]), st.sampled_from(ItemState))
HERE = (ItemState.ARRIVED, ItemState.FILED)
STATES = st.sampled_from([one for one in ReceiverState if one is not ReceiverState.WITHDRAWN])


@given(STATES, ENTRIES, st.booleans(), ITEMS)
def test_what_arrives_is_whole_and_lacked(state, entries, is_known, items) -> None:
    news = take_parcel(state, entries, is_known=is_known, items=items)
    whole = {one.instance.sha256 for one in entries if one.is_whole}
    assert news.arrives == {sha256 for sha256 in whole if items.get(sha256) not in HERE}
    assert not news.is_dropped
    assert news.is_double == (is_known and all(items.get(one.instance.sha256) in HERE for one in entries))
    assert not (news.is_double and news.arrives)


@given(STATES, ENTRIES, ITEMS)
def test_the_same_parcel_again_brings_nothing(state, entries, items) -> None:
    """By content: also under another number, as from a sender that was restored from a backup."""
    first = take_parcel(state, entries, is_known=False, items=items)
    after = items | {one.instance.sha256: ItemState.FILED for one in entries}
    assert set(after) >= first.arrives
    again = take_parcel(state, entries, is_known=True, items=after)
    assert again.is_double and not again.arrives
    renumbered = take_parcel(state, entries, is_known=False, items=after)
    assert not renumbered.is_double and not renumbered.arrives


@given(STATES, ENTRIES)
def test_a_known_number_with_other_content_is_not_a_double(state, entries) -> None:
    news = take_parcel(state, entries, is_known=True, items={})
    assert not news.is_double


@given(ENTRIES, st.booleans(), ITEMS)
def test_nothing_of_a_recalled_transfer_is_kept(entries, is_known, items) -> None:
    news = take_parcel(ReceiverState.WITHDRAWN, entries, is_known=is_known, items=items)
    assert news.is_dropped and not news.arrives and not news.is_double


RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=12)


@given(RANGES)
def test_every_byte_counts_once(ranges) -> None:
    bytes_there = {place for offset, length in ranges for place in range(offset, offset + length)}
    assert bytes_covered(ranges) == len(bytes_there)


@given(RANGES, st.randoms(use_true_random=False))
def test_in_any_order_and_more_is_never_less(ranges, order) -> None:
    shuffled = list(ranges)
    order.shuffle(shuffled)
    assert bytes_covered(shuffled) == bytes_covered(ranges)
    assert bytes_covered([*ranges, (0, 10)]) >= bytes_covered(ranges)
