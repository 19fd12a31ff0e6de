"""Messages as JSON: round trips, golden bytes, and anything else refused without a crash."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import RemoteProtocolError
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.control import Head, Manifest, Parcel, Receipt, decode, encode

HASH = "ab" * 32
ENTRY = ManifestEntry(HASH, 1000, "1.2.3")


def head(kind: MessageKind, number: int = 1) -> Head:
    return Head(
        "abcdefghij234567",
        kind,
        number,
        "A" * 40,
        "B" * 40,
        Priority.EMERGENCY,
        False,
        datetime(2026, 11, 24, 3, 4, 5, 678000, tzinfo=UTC),
    )


MESSAGES = [
    Parcel(head(MessageKind.PARCEL, 3), "1.2.840", 1, (ParcelEntry(ENTRY, 0, 1000), ParcelEntry(ENTRY, 10, 20))),
    Manifest(head(MessageKind.MANIFEST), "1.2.840", 0, 3, (ENTRY,)),
    Receipt(head(MessageKind.RECEIPT, 7), frozenset({1, 2, 3, 7}), frozenset({4, 5}), 12),
    Receipt(
        head(MessageKind.RECEIPT, 8), frozenset({1}), frozenset(), 1, frozenset({HASH}), frozenset({"cd" * 32}), True
    ),
]
GOLDEN = (
    b'{"raypost":1,"kind":"receipt","transfer":"abcdefghij234567","number":7,"from":"'
    + b"A" * 40
    + b'","to":"'
    + b"B" * 40
    + b'","priority":"emergency","test":false,"written_at":"2026-11-24T03:04:05.678+00:00","parcels_filed":[[1,3],[7,7]],'
    b'"parcels_missing":[[4,5]],"instances_filed":12,"final":false,"filed":[],"refused":[]}'
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_round_trip(message) -> None:
    assert decode(json.loads(encode(message))) == message


def test_golden_bytes() -> None:
    assert encode(MESSAGES[2]) == GOLDEN


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_every_entry_is_needed_and_typed(message) -> None:
    whole = json.loads(encode(message))
    for name in whole:
        for change in ({}, {name: None}, {name: [[]]}, {name: -1}, {name: "x" * 5000}, {name: {"a": 1}}):
            spoiled = {**{k: v for k, v in whole.items() if k != name}, **change}
            with pytest.raises(RemoteProtocolError):
                decode(spoiled)


def test_unknown_entries_are_ignored() -> None:
    whole = json.loads(encode(MESSAGES[1])) | {"later": {"version": 2}}
    assert decode(whole) == MESSAGES[1]


@pytest.mark.parametrize("ranges", [[[1, 2], [2, 3]], [[3, 1]], [[1, 10**9]], [[0, 1]], [[1]], "1-3", [[1, True]]])
def test_ranges_that_lie(ranges) -> None:
    whole = json.loads(encode(MESSAGES[2])) | {"parcels_filed": ranges}
    with pytest.raises(RemoteProtocolError):
        decode(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_anything_is_refused_not_crashed(value) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(value)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_spoiled_message_is_read_or_refused(message, data) -> None:
    whole = json.loads(encode(message))
    name = data.draw(st.sampled_from(sorted(whole)))
    whole[name] = data.draw(json_values)
    try:
        decode(whole)
    except RemoteProtocolError:
        pass


def test_slices_stay_within_their_instance() -> None:
    for offset, length in ((0, 1001), (-1, 5), (999, 2), (0, 0)):
        with pytest.raises(RemoteProtocolError):
            ParcelEntry(ENTRY, offset, length)
