import struct

import pytest
from dicom_samples import element, make
from hypothesis import given, settings
from hypothesis import strategies as st

from raypost.dicom import elements
from raypost.dicom.elements import DEPTH_MAX, read_data_set, swap_bytes
from raypost.dicom.part10 import split_meta
from raypost.errors import BadInputError

ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HH", 0xFFFE, one) for one in (0xE000, 0xE00D, 0xE0DD))
OPEN = b"\xff\xff\xff\xff"
NO_LENGTH = bytes(4)
NAME = element(0x00100010, b"PN", b"A^B ")


def explicit(raw: bytes):
    return read_data_set(raw, implicit=False)


def item(content: bytes, is_open: bool) -> bytes:
    if is_open:
        return ITEM + OPEN + content + ITEM_END + NO_LENGTH
    return ITEM + struct.pack("<I", len(content)) + content


def sequence(number: int, items: bytes, is_open: bool, vr: bytes = b"SQ") -> bytes:
    if is_open:
        return element(number, vr, items + SEQUENCE_END + NO_LENGTH, 0xFFFFFFFF)
    return element(number, vr, items)


def implicit_element(number: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", number >> 16, number & 0xFFFF, len(value) if length is None else length) + value


def test_digest_does_not_see_how_a_sequence_is_written():
    forms = [sequence(0x00081140, item(NAME, a) + item(b"", b), c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert len({explicit(one).digest for one in forms}) == 1


def test_digest_does_not_see_vr_encoding_padding_group_length_and_order():
    plain = NAME + element(0x00100020, b"LO", b"P1")
    same = [
        element(0x00100020, b"LO", b"P1  ") + NAME,
        element(0x00100000, b"UL", bytes(4)) + plain,
        plain + element(0xFFFCFFFC, b"OB", b"\0\0"),
        plain + bytes(512),
        element(0x00100010, b"UN", b"A^B ") + element(0x00100020, b"UN", b"P1"),
    ]
    assert {explicit(one).digest for one in same} == {explicit(plain).digest}
    assert (
        read_data_set(implicit_element(0x00100010, b"A^B ") + implicit_element(0x00100020, b"P1"), implicit=True).digest
        == explicit(plain).digest
    )


def test_private_sequence_is_the_same_with_vr_without_and_as_un():
    inner = implicit_element(0x00091002, b"x ")
    forms = [
        explicit(sequence(0x00091001, item(element(0x00091002, b"LO", b"x "), False), True)),
        explicit(sequence(0x00091001, item(inner, False), False, b"UN")),
        explicit(sequence(0x00091001, item(inner, True), True, b"UN")),
        read_data_set(implicit_element(0x00091001, item(inner, False)), implicit=True),
        read_data_set(
            implicit_element(0x00091001, item(inner, True) + SEQUENCE_END + NO_LENGTH, 0xFFFFFFFF), implicit=True
        ),
    ]
    assert len({one.digest for one in forms}) == 1


def test_empty_private_sequence_is_the_same_without_vr():
    forms = [explicit(sequence(0x00091001, b"", is_open)).digest for is_open in (True, False)]
    assert {*forms, read_data_set(implicit_element(0x00091001, b""), implicit=True).digest} == {forms[0]}
    assert explicit(sequence(0x00091001, item(b"", False), False)).digest != forms[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAME, element(0x00100010, b"PN", b"A^C ")),
        (NAME, element(0x00100020, b"LO", b"A^B ")),
        (element(0x00280011, b"US", b"\0\0"), element(0x00280011, b"US", b"")),
        (element(0x00280011, b"US", b"\1\0"), element(0x00280011, b"US", b"\1\x20")),
        (sequence(0x00081140, item(NAME, 0), 0), sequence(0x00081140, item(NAME, 0) + item(b"", 0), 0)),
        (
            sequence(0x00081140, item(NAME + element(0x00100020, b"LO", b"P1"), 0), 0),
            sequence(0x00081140, item(NAME, 0) + item(element(0x00100020, b"LO", b"P1"), 0), 0),
        ),
        (element(0x00091001, b"OB", b"\0\0"), element(0x00091001, b"OB", b"\0\0\0\0")),
        (NAME, b""),
    ],
)
def test_digest_sees_what_differs(one, other):
    assert explicit(one).digest != explicit(other).digest


def test_big_endian_numbers_are_the_same_numbers():
    little = element(0x00280010, b"US", b"\2\1") + element(0x00189073, b"FD", bytes(range(8)))
    big = b"\x00\x28\x00\x10US\x00\x02\1\2" + b"\x00\x18\x90\x73FD\x00\x08" + bytes(reversed(range(8)))
    assert (
        explicit(element(0x00189073, b"FD", bytes(range(8))) + element(0x00280010, b"US", b"\2\1")).digest
        == explicit(little).digest
        == read_data_set(big, implicit=False, little_endian=False).digest
    )


@pytest.mark.parametrize(
    "raw",
    [
        NAME[:7],
        NAME[:-1],
        element(0x00100010, b"PN", b"A^B ", 400),
        element(0x00091001, b"OB", b"1234", 0xFFFFFFF0),
        element(0x00100010, b"UT", b"")[:10],
        b"\x10\0\x10\0\0\0\0\0",
        NAME + b"\1",
        sequence(0x00081140, NAME, False),
        sequence(0x00081140, ITEM + struct.pack("<I", 400) + NAME, False),
        element(0x00081140, b"SQ", item(NAME, True), 0xFFFFFFFF),
        element(0x00081140, b"SQ", ITEM + OPEN + NAME, 0xFFFFFFFF),
        element(0x00081140, b"SQ", ITEM + struct.pack("<I", len(NAME) - 2) + NAME),
        element(0x7FE00010, b"OB", ITEM + struct.pack("<I", 10) + b"12", 0xFFFFFFFF),
        element(0x7FE00010, b"OB", ITEM + OPEN + b"12", 0xFFFFFFFF),
        element(0x7FE00010, b"OB", ITEM + NO_LENGTH, 0xFFFFFFFF),
        element(0x7FE00010, b"OB", NAME, 0xFFFFFFFF),
    ],
)
def test_what_is_truncated_or_damaged_is_refused(raw):
    with pytest.raises(BadInputError):
        explicit(raw)


@pytest.mark.parametrize("is_open", [True, False])
def test_nesting_is_bounded(is_open):
    def nested(depth: int) -> bytes:
        if is_open:
            head = element(0x00081140, b"SQ", ITEM + OPEN, 0xFFFFFFFF)
            return head * depth + (ITEM_END + NO_LENGTH + SEQUENCE_END + NO_LENGTH) * depth
        raw = b""
        for _ in range(depth):
            raw = sequence(0x00081140, item(raw, False), False)
        return raw

    explicit(nested(DEPTH_MAX))
    for depth in (DEPTH_MAX + 1, 10_000 if is_open else 2000):
        with pytest.raises(BadInputError, match="deeper"):
            explicit(nested(depth))


def test_hidden_sequences_do_not_get_around_the_bounds(monkeypatch):
    raw = b""
    for _ in range(DEPTH_MAX + 5):
        raw = implicit_element(0x00091001, item(raw, False))
    read_data_set(raw, implicit=True)  # what is deeper is opaque bytes, and no error
    monkeypatch.setattr(elements, "ELEMENTS_MAX", 1000)
    with pytest.raises(BadInputError, match="more than"):
        many = implicit_element(0x00091001, item(implicit_element(0x00091002, b"") * 2000, False))
        read_data_set(many + implicit_element(0x00100010, b""), implicit=True)


def test_element_count_is_bounded(monkeypatch):
    monkeypatch.setattr(elements, "ELEMENTS_MAX", 100)
    explicit(NAME * 100)
    with pytest.raises(BadInputError, match="more than"):
        explicit(NAME * 101)


def test_icon_in_fragments_is_part_of_the_content():
    def icon(value: bytes) -> bytes:
        fragments = ITEM + NO_LENGTH + ITEM + struct.pack("<I", len(value)) + value + SEQUENCE_END + NO_LENGTH
        return sequence(0x00880200, item(element(0x7FE00010, b"OB", fragments, 0xFFFFFFFF), True), True)

    assert explicit(icon(b"1234")).digest != explicit(icon(b"1235")).digest


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_read_but_never_anything_else(data):
    raw = bytearray(make())
    start = split_meta(bytes(raw)).data_set_offset
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(start, start + 900))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(start, len(raw)))
    for implicit in (False, True):
        try:
            read_data_set(bytes(raw[start:cut]), implicit=implicit)
        except BadInputError:
            continue


@given(st.binary(max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_swapping_twice_changes_nothing(value, size):
    assert swap_bytes(swap_bytes(value, size), size) == value


def test_swapping():
    assert swap_bytes(b"\1\2\3\4\5", 2) == b"\2\1\4\3\5"
    assert swap_bytes(b"\1\2\3\4", 4) == b"\4\3\2\1"
