import io
import struct

import pydicom
import pytest
from dicom_samples import IMPLICIT, element, make
from hypothesis import given, settings
from hypothesis import strategies as st

from raypost.dicom.elements import read_data_set
from raypost.dicom.implicit_vr import implicit_elements
from raypost.dicom.part10 import split_meta
from raypost.dicom.pixel_layout import UndecodableError
from raypost.dicom.pixels import to_native, try_compress

OPEN = 0xFFFFFFFF
ITEM_END, SEQUENCE_END = (struct.pack("<HHI", 0xFFFE, one, 0) for one in (0xE00D, 0xE0DD))


def item(content: bytes, is_open: bool) -> bytes:
    head = struct.pack("<HHI", 0xFFFE, 0xE000, OPEN if is_open else len(content))
    return head + content + (ITEM_END if is_open else b"")


def sequence(number: int, items: bytes, is_open: bool, vr: bytes = b"SQ") -> bytes:
    return element(number, vr, items + SEQUENCE_END, OPEN) if is_open else element(number, vr, items)


def implicit(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", number >> 16, number & 0xFFFF, len(value)) + value


PLAIN = st.sampled_from(
    [
        element(0x00080005, b"CS", b"ISO_IR 100"),
        element(0x00100010, b"PN", b"M\xfcller"),
        element(0x00280010, b"US", b"\0\1"),
        element(0x00091002, b"OB", b"\0\1\2\3"),
        element(0x00091003, b"UN", b"abcd"),
        element(0x00091004, b"UT", b""),
        sequence(0x00091005, item(implicit(0x00091006, b"ab"), True) + item(b"", False), True, b"UN"),
        sequence(0x00091007, item(implicit(0x00091006, b"ab"), False), False, b"UN"),
    ]
)


def nested(inner):
    items = st.lists(st.tuples(st.lists(inner, max_size=3), st.booleans()), max_size=3)
    return st.builds(
        lambda number, items, is_open: sequence(number, b"".join(item(b"".join(i), o) for i, o in items), is_open),
        st.sampled_from([0x00081140, 0x00091001, 0x00400275]),
        items,
        st.booleans(),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.recursive(PLAIN, nested, max_leaves=12), max_size=6), st.booleans())
def test_any_data_set_says_the_same_in_implicit_vr(elements, is_padded):
    raw = b"".join(elements) + bytes(64 * is_padded)
    found = implicit_elements(raw)
    assert read_data_set(found, implicit=True).digest == read_data_set(raw, implicit=False).digest


def test_icon_in_fragments_has_no_implicit_form():
    icon = element(0x7FE00010, b"OB", item(b"", False) + item(b"abcd", False) + SEQUENCE_END, OPEN)
    with pytest.raises(UndecodableError):
        implicit_elements(sequence(0x00880200, item(icon, True), True))


def test_pydicom_reads_it():
    found = pydicom.dcmread(io.BytesIO(to_native(make(), implicit=True)))
    expected = pydicom.dcmread(io.BytesIO(make(syntax=IMPLICIT)))
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        "\u738b^\u5c0f\u4e1c".encode("gb18030"),
        b"\xff\xfe\xfd^\x80 ",
        b"\x1b$)C\xb1\xe8\xc8\xf1 ",
    ],
)
def test_text_in_a_wrongly_declared_character_set_is_not_touched(name):
    name += b" " * (len(name) & 1)
    raw = make()
    old = b"PN\x0c\0M\xfcller^J\xf6rg "
    raw = raw.replace(old, b"PN" + struct.pack("<H", len(name)) + name)
    kept = try_compress(raw).data
    native = to_native(kept, implicit=True)
    assert name in native
    meta = split_meta(native)
    assert meta.transfer_syntax_uid == IMPLICIT
