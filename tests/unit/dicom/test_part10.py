import struct
import tracemalloc
import zlib

import pytest
from dicom_samples import EXPLICIT, IMPLICIT, JPEG_LS, element, make

from raypost.dicom.part10 import inflate_bounded, is_part10, join_meta, make_meta, split_meta
from raypost.errors import BadInputError


def test_meta_group_is_split_and_joined_without_loss():
    raw = make()
    meta = split_meta(raw)
    assert (meta.transfer_syntax_uid, meta.sop_instance_uid) == (EXPLICIT, "2.25.1")
    assert join_meta(meta.elements, EXPLICIT) == raw[: meta.data_set_offset]


def test_transfer_syntax_is_changed_and_length_right():
    meta = split_meta(make())
    joined = join_meta(meta.elements, JPEG_LS)
    again = split_meta(joined)
    assert again.transfer_syntax_uid == JPEG_LS
    assert struct.unpack("<I", joined[140:144])[0] == len(joined) - 144


def test_preamble_is_zeroed():
    raw = b"MZ" + make()[2:]
    assert join_meta(split_meta(raw).elements, EXPLICIT)[:128] == bytes(128)


def test_meta_for_a_data_set_that_came_by_c_store():
    meta = split_meta(make_meta("1.2.840.10008.5.1.4.1.1.2", "2.25.5", IMPLICIT, "CT1"))
    assert (meta.sop_class_uid, meta.sop_instance_uid) == ("1.2.840.10008.5.1.4.1.1.2", "2.25.5")
    assert meta.elements[0x16].endswith(b"CT1 ")


@pytest.mark.parametrize("hostile", ["", "../../x", "1.2\n3", "1" * 65, "1.2.\0003"])
def test_hostile_uid_does_not_get_into_the_file(hostile):
    raw = make_meta(hostile, hostile, IMPLICIT)
    meta = split_meta(raw)
    assert 2 not in meta.elements and 3 not in meta.elements
    assert not hostile or hostile.encode() not in raw


HEAD = bytes(128) + b"DICM"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(132),
        HEAD,
        HEAD + b"\2\0",
        HEAD + element(0x00020010, b"UI", b"1.2\0", 60),
        HEAD + element(0x00020001, b"OB", b"\0\1", 0xFFFFFFFF),
        HEAD + b"\2\0\1\0OB\0\0",
        HEAD + element(0x00020010, b"UI", b"nonsense"),
        HEAD + element(0x00020010, b"UI", b""),
        HEAD + element(0x00020001, b"OB", bytes(70_000)) + element(0x00020010, b"UI", b"1.2\0"),
    ],
)
def test_broken_meta_group_is_refused(raw):
    with pytest.raises(BadInputError):
        split_meta(raw)
    assert is_part10(raw) == raw.startswith(HEAD)


def deflated(raw: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(raw) + squeeze.flush()


def test_inflating_is_bounded_in_memory():
    bomb = deflated(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(BadInputError, match="beyond"):
        inflate_bounded(bomb, 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_inflating_to_exactly_the_limit():
    assert inflate_bounded(deflated(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(BadInputError):
        inflate_bounded(deflated(bytes(1001)), 1000)


@pytest.mark.parametrize("damaged", [b"", b"\xff\xff\xff", deflated(b"x" * 1000)[:-3]])
def test_damaged_deflate_stream(damaged):
    with pytest.raises(BadInputError):
        inflate_bounded(damaged, 1 << 20)
