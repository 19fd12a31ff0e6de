"""Writes a data set that was explicit VR as implicit VR, value by value as it stands: no text is decoded on the way.

Implicit VR Little Endian is what every peer must take (PS3.5, 10.1), so that this way must work for every file that
could be read. The other direction needs the dictionary and is in `vr_rewriting.py`.
"""

from __future__ import annotations

import struct

from raypost.dicom.part10 import Buffer
from raypost.dicom.pixel_layout import UndecodableError

_UNDEFINED = 0xFFFFFFFF
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_END_OF_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_END_OF_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def implicit_elements(encoded: Buffer) -> bytes:
    """Return elements in Implicit VR Little Endian.

    Args:
        encoded: Elements in Explicit VR Little Endian that `read_data_set` has read: nothing is checked again here.

    Raises:
        UndecodableError: There is an encapsulated icon, which implicit VR cannot carry.
    """
    return _level(memoryview(encoded), 0, len(encoded))[0]


def _level(raw: memoryview, at: int, end: int) -> tuple[bytes, int]:
    """Return the elements up to `end` or behind an item delimiter, and where that was."""
    found: list[Buffer] = []
    while at < end:
        number, vr, size, start = _head(raw, at)
        if number == _ITEM_END:
            return b"".join(found), start
        if number == 0 and not vr.strip(b"\0"):  # zeros that fill the last block of a file
            return b"".join(found), end
        if vr == b"SQ" or (size == _UNDEFINED and vr not in (b"OB", b"OW", b"UN")):
            value, at = _items(raw, start, end if size == _UNDEFINED else start + size)
        elif size == _UNDEFINED and vr != b"UN":
            raise UndecodableError("an encapsulated icon")  # implicit VR has no form for fragments
        elif size == _UNDEFINED:  # implicit VR already (PS3.5, 6.2.2): taken over as it is
            at = _skip_items(raw, start)
            value = bytes(raw[start:at])
        else:
            at = start + size
            value = bytes(raw[start:at])
        length = _UNDEFINED if size == _UNDEFINED else len(value)
        found += (struct.pack("<HHI", number >> 16, number & 0xFFFF, length), value)
    return b"".join(found), at


def _items(raw: memoryview, at: int, end: int) -> tuple[bytes, int]:
    """Return the items of a sequence, each with its kind of length, and where they end."""
    found: list[bytes] = []
    while at < end:
        number, _, size, start = _head(raw, at)
        if number == _SEQUENCE_END:
            return b"".join((*found, _END_OF_SEQUENCE)), start
        value, at = _level(raw, start, end if size == _UNDEFINED else start + size)
        length = _UNDEFINED if size == _UNDEFINED else len(value)
        found += (struct.pack("<HHI", 0xFFFE, 0xE000, length), value, _END_OF_ITEM if size == _UNDEFINED else b"")
    return b"".join(found), at


def _skip_items(raw: memoryview, at: int) -> int:
    """Return where a value of undefined length ends, whose inside is implicit VR."""
    while True:
        group, element, size = struct.unpack_from("<HHI", raw, at)
        at += 8
        if group << 16 | element == _SEQUENCE_END:
            return at
        at = _skip_elements(raw, at) if size == _UNDEFINED else at + size


def _skip_elements(raw: memoryview, at: int) -> int:
    while True:
        group, element, size = struct.unpack_from("<HHI", raw, at)
        at += 8
        if group << 16 | element == _ITEM_END:
            return at
        at = _skip_items(raw, at) if size == _UNDEFINED else at + size


def _head(raw: memoryview, at: int) -> tuple[int, bytes, int, int]:
    group, element = struct.unpack_from("<HH", raw, at)
    number = group << 16 | element
    vr = bytes(raw[at + 4 : at + 6])
    if group == 0xFFFE:
        return number, b"", struct.unpack_from("<I", raw, at + 4)[0], at + 8
    if vr in _LONG_VRS:
        return number, vr, struct.unpack_from("<I", raw, at + 8)[0], at + 12
    return number, vr, struct.unpack_from("<H", raw, at + 6)[0], at + 8
