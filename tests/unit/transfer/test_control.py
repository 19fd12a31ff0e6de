"""Messages as values: what cannot be made, and what each says of itself."""

import dataclasses
import pathlib
import sys
import typing

import pytest

from raypost.errors import RemoteProtocolError
from raypost.model.manifest import INSTANCE_SIZE_MAX_BYTES, ManifestEntry, ParcelEntry
from raypost.model.transfer import BULK_KINDS, TO_RECEIVER, MessageKind
from raypost.transfer import control
from raypost.transfer.hello import BASE_KINDS
from raypost.transfer.notes import NOTES

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_examples import EXAMPLES, THICK  # noqa: E402


def test_every_kind_is_a_class_of_its_own() -> None:
    kinds = {type(one): one.head.kind for one in EXAMPLES.values()}
    assert set(kinds) == set(typing.get_args(control.Message))
    assert sorted(kinds.values(), key=lambda kind: kind.value) == sorted(MessageKind, key=lambda kind: kind.value)


@pytest.mark.parametrize("message", EXAMPLES.values(), ids=EXAMPLES)
def test_messages_are_frozen(message) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.head = None
    assert message == dataclasses.replace(message)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 157_345), (-1, 5), (157_343, 2), (0, 0), (5, -1), (True, 1), (0, 1.0)]
)
def test_slices_stay_within_their_instance(offset, length) -> None:
    with pytest.raises(RemoteProtocolError):
        ParcelEntry(THICK, offset, length)


def test_a_slice_is_whole_only_from_the_first_to_the_last_byte() -> None:
    assert ParcelEntry(THICK, 0, THICK.size_bytes).is_whole
    assert not ParcelEntry(THICK, 0, THICK.size_bytes - 1).is_whole
    assert not ParcelEntry(THICK, 1, THICK.size_bytes - 1).is_whole


@pytest.mark.parametrize("size", [0, -1, INSTANCE_SIZE_MAX_BYTES + 1, True, 1.0, None])
def test_impossible_sizes(size) -> None:
    with pytest.raises(RemoteProtocolError):
        ManifestEntry(THICK.sha256, size, "1.2.3")


def test_every_kind_has_its_place() -> None:
    """Bulk, notes, and the rest: what is repeated until it is heard must be small."""
    assert not BULK_KINDS & NOTES
    assert not BASE_KINDS & NOTES
    assert set(MessageKind) == BASE_KINDS | NOTES | {MessageKind.HELLO}
    assert set(MessageKind) - TO_RECEIVER == {
        MessageKind.RECEIPT,
        MessageKind.OPENED,
        MessageKind.TAKE,
        MessageKind.RECALLED,
        MessageKind.HELLO,
    }
