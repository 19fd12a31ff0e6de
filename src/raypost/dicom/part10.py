"""DICOM Part 10 bytes: the file meta group taken apart and put together, and bounded inflating."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raypost.errors import BadInputError
from raypost.model.identifiers import is_dicom_uid

Buffer = bytes | memoryview

IMPLEMENTATION_CLASS_UID = "2.25.302943672614838826553268158302829460519"
IMPLEMENTATION_VERSION_NAME = "RAYPOST_0"

META_SIZE_MAX_BYTES = 64 << 10
META_ELEMENTS_MAX = 64
INFLATED_SIZE_MAX_BYTES = 128 << 20

_PIECE_SIZE_BYTES = 64 << 10
_PREAMBLE_SIZE = 128
_META_START = 132
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x02, 0x03, 0x10
_LONG_VRS = (b"OB", b"UN")


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The file meta group of a Part 10 file (PS3.10, 7.1).

    Attributes:
        elements: Element number of group 0002H to the bytes of the whole element.
        data_set_offset: Where the data set begins.
        sop_class_uid: Media Storage SOP Class UID; '' if absent.
        sop_instance_uid: Media Storage SOP Instance UID; '' if absent.
    """

    elements: Mapping[int, bytes]
    data_set_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def is_part10(raw: Buffer) -> bool:
    """Say whether the bytes begin as a Part 10 file does: 128 bytes of anything, then DICM."""
    return bytes(raw[_PREAMBLE_SIZE:_META_START]) == b"DICM"


def split_meta(raw: Buffer) -> FileMeta:
    """Take the file meta group apart; it is always Explicit VR Little Endian.

    Raises:
        BadInputError: No Part 10 file, or its meta group is truncated, too large or without a transfer syntax.
    """
    if not is_part10(raw):
        raise BadInputError("not a DICOM Part 10 file")
    elements: dict[int, bytes] = {}
    at = _META_START
    while bytes(raw[at : at + 2]) == b"\2\0":
        head = bytes(raw[at : at + 12])
        if len(head) < 8:
            raise BadInputError("the file meta group is truncated")
        number, vr = struct.unpack_from("<H", head, 2)[0], head[4:6]
        if vr in _LONG_VRS:
            size = 12 + struct.unpack("<I", head[8:12].ljust(4, b"\xff"))[0]
        else:
            size = 8 + struct.unpack_from("<H", head, 6)[0]
        if at + size > min(len(raw), _META_START + META_SIZE_MAX_BYTES) or len(elements) >= META_ELEMENTS_MAX:
            raise BadInputError("the file meta group is truncated or too large")
        elements[number] = bytes(raw[at : at + size])
        at += size
    transfer_syntax_uid = _text(elements, _TRANSFER_SYNTAX)
    if not is_dicom_uid(transfer_syntax_uid):
        raise BadInputError("the file meta group has no transfer syntax")
    return FileMeta(
        elements,
        at,
        transfer_syntax_uid,
        _text(elements, _SOP_CLASS),
        _text(elements, _SOP_INSTANCE),
    )


def join_meta(elements: Mapping[int, bytes], transfer_syntax_uid: str) -> bytes:
    """Return preamble, DICM and meta group with this transfer syntax and a right group length.

    The preamble is zero: nothing in it is DICOM, and it can make the file a program (preamble polyglots).
    """
    changed = dict(elements)
    changed[_TRANSFER_SYNTAX] = _uid_element(_TRANSFER_SYNTAX, transfer_syntax_uid)
    body = b"".join(element for number, element in sorted(changed.items()) if number)
    return bytes(_PREAMBLE_SIZE) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def make_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    calling_ae_title: str = "",
) -> bytes:
    """Return preamble and meta group for a data set that came without one, by C-STORE.

    A UID that is none is left out, so that a hostile one does not get into a file that others open.
    """
    elements = {1: struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"}
    for number, dicom_uid in (
        (_SOP_CLASS, sop_class_uid),
        (_SOP_INSTANCE, sop_instance_uid),
        (0x12, IMPLEMENTATION_CLASS_UID),
    ):
        if is_dicom_uid(dicom_uid):
            elements[number] = _uid_element(number, dicom_uid)
    elements[0x13] = _element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" ")
    if calling_ae_title:
        elements[0x16] = _element(0x16, b"AE", calling_ae_title.encode("ascii", "replace"), b" ")
    return join_meta(elements, transfer_syntax_uid)


def inflate_bounded(data: Buffer, size_max_bytes: int = INFLATED_SIZE_MAX_BYTES) -> bytearray:
    """Inflate the data set of a deflated file (PS3.5, A.5).

    It is inflated twice: once only to count, so that a bomb never needs more memory than one piece.

    Raises:
        BadInputError: It is no deflate stream, truncated, or inflates beyond the limit.
    """
    size = 0
    for piece in _inflated(data):
        size += len(piece)
        if size > size_max_bytes:
            raise BadInputError(f"the deflated data set inflates beyond {size_max_bytes} bytes")
    found, at = bytearray(size), 0
    for piece in _inflated(data):
        found[at : at + len(piece)] = piece
        at += len(piece)
    return found


def _inflated(data: Buffer) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for at in range(0, len(data), _PIECE_SIZE_BYTES):
            waiting: Buffer = data[at : at + _PIECE_SIZE_BYTES]
            while waiting and not inflater.eof:
                yield inflater.decompress(waiting, _PIECE_SIZE_BYTES)
                waiting = inflater.unconsumed_tail
    except zlib.error as error:
        raise BadInputError("the deflated data set is damaged") from error
    if not inflater.eof:
        raise BadInputError("the deflated data set is truncated")


def _text(elements: Mapping[int, bytes], number: int) -> str:
    return elements.get(number, b"")[8:].rstrip(b"\0 ").decode("ascii", "replace")


def _element(number: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
    value += pad * (len(value) & 1)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _uid_element(number: int, dicom_uid: str) -> bytes:
    return _element(number, b"UI", dicom_uid.encode("ascii"), b"\0")
