"""Messages as JSON: what is written is read as it was; anything else is refused with a reason and never a crash."""

import copy
import json
import pathlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import RemoteProtocolError, UnknownMessageError
from raypost.mail.parcels import parse_control
from raypost.model.manifest import PARCELS_MAX
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.control import Identity
from raypost.transfer.wire import VERSION, decode, encode
from raypost.transfer.wire_entries import TEXT_LENGTH_MAX, WORDS_MAX, numbers_from_ranges, ranges_from_numbers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_examples import EXAMPLES  # noqa: E402
from protocol_strategies import JSON_VALUES, MESSAGES, MESSAGES_BY_KIND  # noqa: E402

WHOLE = {name: json.loads(encode(message)) for name, message in EXAMPLES.items()}
EXAMPLE = pytest.mark.parametrize("name", EXAMPLES)
OPTIONAL = {
    "announce": {"study_description", "modality", "body_part"},
    "receipt": {"heard", "withdrawn", "first_arrival_at", "last_filed_at", "parcels_seen", "audit_head"},
    "opened": {"who"},
    "take": {"who"},
    "taken": {"responsible", "responsible_name", "at", "heard"},
    "recall": {"who", "why"},
    "redirect": {"to_name", "why"},
    "correct": {"who", "why"},
    "hello": {"software", "echo", "restored_from", "fetch_rate", "certificate", "your_keys", "audit_head"},
}
"""What may be left out, and is then empty."""
CONTENT = {"who", "why", "to_name", "software", "study_description", "modality", "body_part", "responsible_name"}
"""Texts that may say anything short."""


def objects_in(value):
    """Every object within a value, itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(inner)


@pytest.mark.parametrize("kind", MessageKind)
def test_every_kind_is_written_and_read(kind) -> None:
    @given(MESSAGES_BY_KIND[kind])
    def round_trip(message) -> None:
        text = encode(message)
        assert text.isascii() and b"\n" not in text
        assert decode(parse_control(text)) == message
        assert encode(decode(parse_control(text))) == text, "looking and writing again changes nothing"

    round_trip()


@given(MESSAGES, st.data())
def test_unknown_entries_change_nothing_at_any_depth(message, data) -> None:
    whole = json.loads(encode(message))
    changed = copy.deepcopy(whole)
    for place, one in enumerate(objects_in(changed)):
        if data.draw(st.booleans(), label=f"object {place}"):
            one["a later entry"] = data.draw(JSON_VALUES)
    assert decode(changed) == message


@EXAMPLE
def test_entries_that_must_be_there(name) -> None:
    whole = WHOLE[name]
    for left_out in whole:
        rest = {one: value for one, value in whole.items() if one != left_out}
        if left_out in OPTIONAL.get(whole["kind"], ()):
            decode(rest)
        else:
            with pytest.raises(RemoteProtocolError):
                decode(rest)


@EXAMPLE
def test_every_entry_is_needed_and_typed(name) -> None:
    whole = WHOLE[name]
    for entry in whole:
        for wrong in ([[]], -1, 1.5, "x" * 5000, {"a": 1}, True):
            if wrong is True and entry in ("test", "final", "withdrawn"):
                continue
            if (
                entry == "identity"
                and isinstance(wrong, dict)
                or entry in ("before", "after", "heard")
                and wrong == {"a": 1}
            ):
                continue  # an object of entries that are not known says nothing
            if entry == "interval_s" and wrong == 1.5 or entry == "certificate" and wrong == "x" * 5000:
                continue
            with pytest.raises(RemoteProtocolError):
                decode(whole | {entry: wrong})


@EXAMPLE
def test_null_is_not_left_out(name) -> None:
    """Only instants may be null, since many writers cannot leave an entry out; and an echo."""
    whole = WHOLE[name]
    may = {"first_arrival_at", "last_filed_at", "restored_from", "echo"} | (
        {"at"} if whole["kind"] == "taken" else set()
    )
    for entry in set(whole) - may:
        with pytest.raises(RemoteProtocolError):
            decode(whole | {entry: None})


@pytest.mark.parametrize("version", [VERSION + 1, 2, 1000, 1_000_000])
@EXAMPLE
def test_a_newer_version_is_noted_not_refused(name, version) -> None:
    with pytest.raises(UnknownMessageError):
        decode(WHOLE[name] | {"raypost": version})


@given(st.text(max_size=20).filter(lambda word: word not in {kind.value for kind in MessageKind}), MESSAGES)
def test_a_newer_kind_is_noted_not_refused(word, message) -> None:
    with pytest.raises(UnknownMessageError):
        decode(json.loads(encode(message)) | {"kind": word})


@pytest.mark.parametrize("version", [0, -1, True, False, 1.0, "1", None, [1], 10**400, 1_000_001])
def test_what_is_no_version_is_no_message(version) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(WHOLE["announce-full"] | {"raypost": version})
    assert not isinstance(caught.value, UnknownMessageError)


@given(JSON_VALUES)
def test_anything_is_refused_not_crashed(value) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(value)


@given(st.dictionaries(st.sampled_from(sorted({entry for whole in WHOLE.values() for entry in whole})), JSON_VALUES))
def test_anything_with_our_words_is_read_or_refused(value) -> None:
    read_or_refused(value | {"raypost": 1})


@given(MESSAGES | st.sampled_from(list(EXAMPLES.values())), st.data())
def test_a_spoiled_message_is_read_or_refused(message, data) -> None:
    whole = json.loads(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from([one for one in objects_in(whole) if one] or [whole]))
        entry = data.draw(st.sampled_from(sorted(at)))
        match data.draw(st.integers(0, 3)):
            case 0:
                del at[entry]
            case 1:
                at[entry] = copy.deepcopy(data.draw(st.sampled_from(sorted(whole.values(), key=repr))))
            case _:
                at[entry] = data.draw(JSON_VALUES)
        if not whole:
            break
    read_or_refused(whole)


def read_or_refused(value) -> None:
    """What is read can be written again: everything we keep of a partner goes out in echoes, receipts and exports."""
    try:
        message = decode(value)
    except RemoteProtocolError as error:
        assert error.what and "x" * 100 not in error.what, "the reason names the entry and repeats nothing of it"
        return
    assert decode(json.loads(encode(message))) is not None


@EXAMPLE
def test_a_reason_names_no_patient(name) -> None:
    whole = WHOLE[name]
    for entry in whole:
        for wrong in ("Mustermann^Erika" * 100, ["Mustermann^Erika"], {"Mustermann^Erika": "Mustermann^Erika"}):
            try:
                decode(whole | {entry: wrong})
            except RemoteProtocolError as error:
                assert "Mustermann" not in f"{error} {error.meaning} {error.do}"


@given(st.frozensets(st.integers(1, PARCELS_MAX), max_size=60))
def test_ranges_are_numbers(numbers) -> None:
    ranges = ranges_from_numbers(numbers)
    assert numbers_from_ranges(ranges) == numbers
    assert all(one[1] + 1 < other[0] for one, other in zip(ranges, ranges[1:], strict=False)), "as few as possible"


def test_all_numbers_are_one_range() -> None:
    assert ranges_from_numbers(frozenset(range(1, PARCELS_MAX + 1))) == [[1, PARCELS_MAX]]


@pytest.mark.parametrize(
    "ranges", [[[1, 2], [2, 3]], [[3, 1]], [[1, 10**9]], [[0, 1]], [[1]], "1-3", [[1, True]], {}, None]
)
def test_ranges_that_lie(ranges) -> None:
    for entry in ("parcels_filed", "parcels_missing", "parcels_seen"):
        with pytest.raises(RemoteProtocolError):
            decode(WHOLE["receipt-full"] | {entry: ranges})
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE["receipt-full"] | {"heard": {"announce": ranges}})


def test_ranges_that_touch_are_read() -> None:
    assert numbers_from_ranges([[1, 2], [3, 3]]) == {1, 2, 3}


def test_what_would_fill_the_memory_is_refused_at_once() -> None:
    many = [[number, number] for number in range(1, PARCELS_MAX + 2)]
    with pytest.raises(RemoteProtocolError):
        numbers_from_ranges(many)
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE["receipt-full"] | {"heard": {str(number): [] for number in range(WORDS_MAX + 1)}})
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE["recalled-full"] | {"opened_by": ["x"] * (WORDS_MAX + 1)})
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE["hello-full"] | {"versions": [1] * 101})
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE["parcel-full"] | {"number": PARCELS_MAX + 1})


@pytest.mark.parametrize("length", [TEXT_LENGTH_MAX, TEXT_LENGTH_MAX + 1, 100_000])
def test_whatever_a_person_or_a_modality_writes_can_be_sent(length) -> None:
    """A name that is too long must not keep an emergency's announce from being read."""
    long = "ä" * length
    announce = EXAMPLES["announce-full"]
    message = type(announce)(announce.head, "1.2", 0, Identity(long, long, long, long, long, long), long, long, long, 1)
    assert decode(json.loads(encode(message))).identity.patient_name.startswith("ä" * 100)
    recall = EXAMPLES["recall-full"]
    decode(json.loads(encode(type(recall)(recall.head, long, long))))
    recalled = EXAMPLES["recalled-full"]
    names = ("Dr. A",) * (WORDS_MAX + 50)
    decode(json.loads(encode(type(recalled)(recalled.head, 1, names, (long,), recalled.at))))


def test_texts_are_one_line() -> None:
    read = decode(WHOLE["recall-full"] | {"why": "a\r\nb\u202ec\x00d\ud800e", "who": "\u2028"})
    assert read.why == "a  b c d e" and read.who == " "


def test_the_priorities_and_kinds_are_the_words_of_the_specification() -> None:
    assert [one.value for one in Priority] == ["emergency", "urgent", "routine"]
    assert VERSION == 1
