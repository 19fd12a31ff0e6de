"""What a receipt says and what it changes: nothing confirmed that was not said, nothing delivered that is not named."""

import pathlib
import sys

from hypothesis import given
from hypothesis import strategies as st

from raypost.model.transfer import MessageKind, MessageState
from raypost.transfer.control import Receipt
from raypost.transfer.notes import NOTES
from raypost.transfer.receipts import RESENDABLE, UNFILED, judge_final, missing_parcels, read_receipt, write_receipt
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.wire import decode, encode

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import json  # noqa: E402

from protocol_examples import head  # noqa: E402

HEAD = head(MessageKind.RECEIPT, back=True)
SMALL_SETS = st.frozensets(st.integers(1, 12), max_size=12)
PARCELS = st.dictionaries(st.integers(1, 12), st.sampled_from(MessageState), max_size=12)
NOTE_STATES = st.dictionaries(
    st.tuples(st.sampled_from(sorted(NOTES | {MessageKind.MANIFEST}, key=lambda kind: kind.value)), st.integers(1, 3)),
    st.sampled_from(MessageState),
    max_size=6,
)
HEARD = st.dictionaries(st.sampled_from(MessageKind), st.frozensets(st.integers(1, 4)), max_size=4)
HASHES = [f"{number:064x}" for number in range(12)]
HASH_SETS = st.frozensets(st.sampled_from(HASHES))
RECEIPTS = st.builds(
    Receipt,
    st.just(HEAD),
    SMALL_SETS,
    SMALL_SETS,
    st.integers(0, 12),
    HASH_SETS,
    HASH_SETS,
    st.booleans(),
    HEARD,
    parcels_seen=SMALL_SETS,
)


@given(RECEIPTS, PARCELS, NOTE_STATES)
def test_only_what_the_receipt_names_and_we_sent_is_confirmed(receipt, parcels, notes) -> None:
    news = read_receipt(receipt, parcels=parcels, notes=notes)
    assert news.confirmed <= receipt.parcels_filed - receipt.parcels_missing, "what is asked for is not there"
    assert news.confirmed <= set(parcels)
    assert all(parcels[number] in UNFILED for number in news.confirmed)
    assert news.ask_again <= receipt.parcels_missing and all(parcels[number] in RESENDABLE for number in news.ask_again)
    assert news.heard <= set(notes) and all(notes[one] in UNFILED for one in news.heard)
    for kind, number in news.heard:
        assert number in receipt.heard.get(kind, ()) or kind is MessageKind.ANNOUNCE


@given(RECEIPTS, PARCELS, NOTE_STATES)
def test_reading_twice_changes_nothing_more(receipt, parcels, notes) -> None:
    first = read_receipt(receipt, parcels=parcels, notes=notes)
    after = parcels | dict.fromkeys(first.confirmed, MessageState.FILED)
    heard = notes | dict.fromkeys(first.heard, MessageState.FILED)
    second = read_receipt(receipt, parcels=after, notes=heard, seen_before=first.seen)
    assert not second.confirmed and not second.heard and second.seen <= first.seen
    assert not second.is_progress


@given(RECEIPTS, PARCELS, NOTE_STATES, SMALL_SETS)
def test_progress_is_news_and_nothing_else(receipt, parcels, notes, seen_before) -> None:
    news = read_receipt(receipt, parcels=parcels, notes=notes, seen_before=seen_before)
    said = {one for one in news.heard if one[0] is not MessageKind.MANIFEST}
    assert news.is_progress == bool(news.confirmed or said or news.seen - seen_before)


@given(RECEIPTS, PARCELS, SMALL_SETS)
def test_what_crossed_the_receipt_is_not_sent_again(receipt, parcels, just_sent) -> None:
    news = read_receipt(receipt, parcels=parcels, notes={}, just_sent=just_sent)
    assert not news.ask_again & just_sent
    assert news.ask_again == read_receipt(receipt, parcels=parcels, notes={}).ask_again - just_sent


@given(RECEIPTS, PARCELS)
def test_what_is_seen_is_ours_and_not_filed(receipt, parcels) -> None:
    news = read_receipt(receipt, parcels=parcels, notes={})
    assert news.seen <= receipt.parcels_seen and not news.seen & news.confirmed
    assert all(parcels[number] in UNFILED for number in news.seen)


def test_a_manifest_that_is_heard_again_is_no_progress() -> None:
    """It is repeated in each round: else its answers would keep a silent transfer patient for ever."""
    notes = {(MessageKind.MANIFEST, 1): MessageState.ACCEPTED}
    receipt = Receipt(HEAD, frozenset(), frozenset(), 0, heard={MessageKind.MANIFEST: frozenset({1})})
    news = read_receipt(receipt, parcels={}, notes=notes)
    assert news.heard == {(MessageKind.MANIFEST, 1)} and not news.is_progress


def test_whoever_has_everything_needs_no_announce() -> None:
    """Some images are not enough: the announce says who it is, and rings."""
    notes = {(MessageKind.ANNOUNCE, 2): MessageState.ACCEPTED, (MessageKind.RECALL, 1): MessageState.ACCEPTED}
    receipt = Receipt(HEAD, frozenset({1}), frozenset(), 1, is_final=True)
    assert read_receipt(receipt, parcels={}, notes=notes).heard == {(MessageKind.ANNOUNCE, 2)}
    some = Receipt(HEAD, frozenset({1}), frozenset(), 1)
    assert not read_receipt(some, parcels={}, notes=notes).heard


def test_what_was_confirmed_and_is_asked_for_is_sent_again() -> None:
    """The partner was restored from a backup."""
    receipt = Receipt(HEAD, frozenset(), frozenset({1, 2, 3}), 0)
    states = {1: MessageState.FILED, 2: MessageState.QUEUED, 3: MessageState.REPLACED}
    assert read_receipt(receipt, parcels=states, notes={}).ask_again == {1}


@given(RECEIPTS, HASH_SETS)
def test_every_instance_is_judged_once(receipt, instances) -> None:
    verdict = judge_final(receipt, instances)
    assert verdict.filed | verdict.refused | verdict.unnamed == instances
    assert len(verdict.filed) + len(verdict.refused) + len(verdict.unnamed) == len(instances)
    assert verdict.is_delivered == (instances <= receipt.filed)
    assert verdict.filed <= receipt.filed and verdict.refused <= receipt.refused


@given(SMALL_SETS, st.none() | st.integers(1, 15))
def test_what_is_missing(arrived, manifest_parcels) -> None:
    missing = missing_parcels(arrived, manifest_parcels)
    assert not missing & arrived
    assert missing | arrived >= set(range(1, max(manifest_parcels or 1, *arrived, 1) + 1))
    assert all(1 <= number <= max(manifest_parcels or 1, *arrived, 1) for number in missing)


def test_at_least_the_first_is_missing() -> None:
    assert missing_parcels(frozenset(), None) == {1}
    assert missing_parcels(frozenset({1}), None) == frozenset()
    assert missing_parcels(frozenset({1, 4}), 5) == {2, 3, 5}


@given(
    st.sampled_from(ReceiverState),
    st.dictionaries(st.integers(1, 12), st.sampled_from([MessageState.VERIFIED, MessageState.FILED]), max_size=12),
    st.none() | st.integers(1, 14),
    HASH_SETS,
    HASH_SETS,
    HEARD,
    st.booleans(),
)
def test_a_receipt_says_what_is_committed(state, parcels, manifest_parcels, filed, refused, heard, asks) -> None:
    receipt = write_receipt(
        HEAD,
        state=state,
        parcels=parcels,
        manifest_parcels=manifest_parcels,
        filed=filed,
        refused=refused,
        heard=heard,
        asks=asks,
    )
    assert receipt.parcels_filed == {number for number, one in parcels.items() if one is MessageState.FILED}
    assert not receipt.parcels_missing & set(parcels), "what is here is not asked for"
    assert receipt.instances_filed == len(filed)
    assert receipt.is_final == (state is ReceiverState.COMPLETE)
    assert receipt.filed == (filed if receipt.is_final else frozenset())
    assert receipt.is_withdrawn == (state is ReceiverState.WITHDRAWN)
    if not asks or state not in (ReceiverState.EXPECTED, ReceiverState.ARRIVING):
        assert not receipt.parcels_missing
    assert decode(json.loads(encode(receipt))) == receipt, "the sender can read it"


@given(HASH_SETS, HASH_SETS)
def test_written_and_judged_agree(filed, lost) -> None:
    """Delivered means: all that the sender has is filed at the receiver."""
    receipt = write_receipt(
        HEAD,
        state=ReceiverState.COMPLETE,
        parcels={},
        manifest_parcels=1,
        filed=filed,
        refused=frozenset(),
        heard={},
        asks=False,
    )
    assert judge_final(receipt, filed | lost).is_delivered == (lost <= filed)
