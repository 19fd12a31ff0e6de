"""Walks the encoded elements of a data set: bounded in depth and count, and never beyond the end of the bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR

from raypost.dicom.part10 import Buffer
from raypost.errors import BadInputError

DEPTH_MAX = 32
ELEMENTS_MAX = 1_000_000
FRAGMENTS_MAX = 200_000

PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_VRS = frozenset(
    (
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FD",
        b"FL",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
        b"SS",
        b"ST",
        b"TM",
        b"UI",
        b"UL",
        b"US",
    )
)
_TEXT_VRS = frozenset(
    (
        b"AE",
        b"AS",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"ST",
        b"TM",
        b"UC",
        b"UI",
        b"UR",
        b"UT",
    )
)
_WORD_SIZES = {
    b"US": 2,
    b"SS": 2,
    b"OW": 2,
    b"AT": 2,
    b"UL": 4,
    b"SL": 4,
    b"FL": 4,
    b"OL": 4,
    b"OF": 4,
    b"FD": 8,
    b"OD": 8,
    b"SV": 8,
    b"UV": 8,
    b"OV": 8,
}
_LITTLE, _BIG = "<", ">"
_NO_ITEMS = hashlib.sha256().digest()
EXTENDED_OFFSETS = (0x7FE00001, 0x7FE00002, 0x7FE00003)
"""Extended Offset Table, its lengths, Encapsulated Pixel Data Value Total Length (PS3.3, C.7.6.3)."""
PLANAR_CONFIGURATION = 0x00280006
# With the group lengths these say how a data set is packed, not what it says; the last is trailing padding.
_PACKING = frozenset((PIXEL_DATA, PLANAR_CONFIGURATION, *EXTENDED_OFFSETS, 0xFFFCFFFC))


@dataclass(frozen=True, slots=True)
class Element:
    """One element at the top level of a data set.

    Attributes:
        number: Group and element number, such as 00100020H.
        vr: Its VR as written, or from the dictionary; b'' if unknown.
        head: Offset of its first byte in the data set.
        start: Offset of its value.
        end: Offset behind the value and behind its delimiter, if it has one.
        value: Its value bytes; empty for encapsulated Pixel Data.
        fragments: For encapsulated Pixel Data: the items, the Basic Offset Table first.
        is_encapsulated: Undefined length Pixel Data.
    """

    number: int
    vr: bytes
    head: int
    start: int
    end: int
    value: memoryview
    fragments: tuple[memoryview, ...] = ()
    is_encapsulated: bool = False


@dataclass(frozen=True, slots=True)
class DataSet:
    """The top level of a data set, and one digest over all that it says but the pixels.

    Attributes:
        elements: By number; the first one where a file has a number twice.
        digest: SHA-256 over numbers and canonical values, the same in implicit and explicit VR and for either kind
            of sequence length.
    """

    elements: Mapping[int, Element]
    digest: bytes
    is_little_endian: bool


@dataclass(slots=True)
class _Walk:
    raw: memoryview
    order: str
    counted: int = 0
    top: dict[int, Element] = field(default_factory=dict)


def read_data_set(raw: Buffer, *, implicit: bool, little_endian: bool = True) -> DataSet:
    """Read all elements of a data set.

    Args:
        raw: The encoded data set, inflated.
        implicit: Implicit VR.
        little_endian: Byte order.

    Raises:
        BadInputError: Truncated, nested too deep, too many elements, or not this encoding.
    """
    walk = _Walk(memoryview(raw), _LITTLE if little_endian else _BIG)
    digest, end = _read_level(walk, 0, len(raw), implicit, 0, in_item=False)
    if end != len(raw):
        raise BadInputError("there are bytes behind the data set")
    return DataSet(walk.top, digest, little_endian)


def _read_level(
    walk: _Walk,
    at: int,
    end: int,
    implicit: bool,
    depth: int,
    *,
    in_item: bool,
) -> tuple[bytes, int]:
    """Read elements up to `end` or an item delimiter; return the digest of the level and where it ended."""
    said: list[tuple[int, bytes, Buffer]] = []
    while at < end:
        if not in_item and _is_zero_tail(walk.raw, at, end):
            at = end
            break
        number, vr, size, start = _read_head(walk, at, end, implicit)
        if number == _ITEM_END and in_item:
            at = start
            break
        at = _read_value(walk, (at, start, end), (number, vr, size), implicit, depth, said)
    return _digest(said), at


def _read_value(
    walk: _Walk,
    place: tuple[int, int, int],
    what: tuple[int, bytes, int],
    implicit: bool,
    depth: int,
    said: list[tuple[int, bytes, Buffer]],
) -> int:
    head, start, end = place
    number, vr, size = what
    is_top = depth == 0
    if size == _UNDEFINED and (vr in (b"OB", b"OW") or (is_top and number == PIXEL_DATA)):
        fragments, after = _read_fragments(walk, start, end)
        if is_top:
            walk.top.setdefault(number, Element(number, vr, head, start, after, walk.raw[:0], fragments, True))
        if not (is_top and number in _PACKING):  # an icon, most often
            said.append((number, b"F", _digest((index, b"V", one) for index, one in enumerate(fragments))))
        return after
    if size != _UNDEFINED and start + size > end:
        raise BadInputError("an element is longer than the file")
    is_implicit = implicit or vr == b"UN"  # PS3.5, 6.2.2: what is inside UN is implicit VR
    known = _known_vr(number)
    value = walk.raw[start : start + size] if size != _UNDEFINED else walk.raw[:0]
    if size == _UNDEFINED or vr == b"SQ" or (vr in (b"", b"UN") and known == b"SQ"):
        digest, after = _read_sequence(
            walk, start, end if size == _UNDEFINED else start + size, is_implicit, depth, size == _UNDEFINED
        )
        # A private sequence without items is an empty value of no known VR in implicit VR.
        kind = b"V" if digest == _NO_ITEMS else b"S"
        content: Buffer = b"" if digest == _NO_ITEMS else digest
    else:
        after = start + size
        hidden = _hidden_sequence(walk, value, depth) if vr in (b"", b"UN") and not known else None
        kind, content = (b"S", hidden) if hidden else (b"V", _canonical(value, known, vr or known, walk.order))
    if is_top:
        walk.top.setdefault(number, Element(number, vr or known, head, start, after, value))
    if number & 0xFFFF and not (is_top and number in _PACKING):
        said.append((number, kind, content))
    return after


def _read_head(walk: _Walk, at: int, end: int, implicit: bool) -> tuple[int, bytes, int, int]:
    """Return number, VR (b'' in implicit VR), length and the offset of the value."""
    walk.counted += 1
    if walk.counted > ELEMENTS_MAX:
        raise BadInputError(f"more than {ELEMENTS_MAX} elements")
    if at + 8 > end:
        raise BadInputError("the data set is truncated")
    group, element = struct.unpack_from(walk.order + "HH", walk.raw, at)
    number = group << 16 | element
    if implicit or group == 0xFFFE:
        return number, b"", struct.unpack_from(walk.order + "I", walk.raw, at + 4)[0], at + 8
    vr = bytes(walk.raw[at + 4 : at + 6])
    if vr in _SHORT_VRS:
        return number, vr, struct.unpack_from(walk.order + "H", walk.raw, at + 6)[0], at + 8
    if vr not in _LONG_VRS:
        raise BadInputError("the data set is not explicit VR, or an element has no valid VR")
    if at + 12 > end:
        raise BadInputError("the data set is truncated")
    return number, vr, struct.unpack_from(walk.order + "I", walk.raw, at + 8)[0], at + 12


def _read_sequence(
    walk: _Walk,
    at: int,
    end: int,
    implicit: bool,
    depth: int,
    is_open: bool,
) -> tuple[bytes, int]:
    """Return the digest over the items of a sequence and where it ended."""
    if depth >= DEPTH_MAX:
        raise BadInputError(f"sequences are nested deeper than {DEPTH_MAX}")
    items = hashlib.sha256()
    while at < end:
        number, _, size, start = _read_head(walk, at, end, True)
        if number == _SEQUENCE_END and is_open:
            return items.digest(), start
        if number != _ITEM:
            raise BadInputError("a sequence holds something that is no item")
        if size == _UNDEFINED:
            digest, at = _read_level(walk, start, end, implicit, depth + 1, in_item=True)
        else:
            if start + size > end:
                raise BadInputError("an item is longer than the file")
            digest, at = _read_level(walk, start, start + size, implicit, depth + 1, in_item=False)
            if at != start + size:
                raise BadInputError("an item is longer than it says")
        items.update(digest)
    if is_open:
        raise BadInputError("a sequence does not end")
    return items.digest(), at


def _hidden_sequence(walk: _Walk, value: memoryview, depth: int) -> bytes | None:
    """Return the digest of a value of unknown VR that is in truth a sequence; None if it is none.

    A private sequence is SQ in explicit VR, UN after a detour through a system that did not know it, and has no VR
    at all in implicit VR.
    """
    if len(value) < 8 or struct.unpack_from(walk.order + "HH", value) != (0xFFFE, 0xE000):
        return None
    inner = _Walk(value, walk.order, walk.counted)
    try:
        digest, end = _read_sequence(inner, 0, len(value), True, depth, False)
    except BadInputError:
        return None
    finally:
        walk.counted = inner.counted
    return digest if end == len(value) else None


def _read_fragments(walk: _Walk, at: int, end: int) -> tuple[tuple[memoryview, ...], int]:
    fragments: list[memoryview] = []
    while at < end:
        number, _, size, start = _read_head(walk, at, end, True)
        if number == _SEQUENCE_END:
            return tuple(fragments), start
        if number != _ITEM or size == _UNDEFINED or start + size > end or len(fragments) >= FRAGMENTS_MAX:
            raise BadInputError("encapsulated Pixel Data is truncated or holds something that is no fragment")
        fragments.append(walk.raw[start : start + size])
        at = start + size
    raise BadInputError("encapsulated Pixel Data does not end")


def _canonical(value: memoryview, known: bytes, written: bytes, order: str) -> Buffer:
    """Return a value as the digest takes it: text without padding, numbers in little endian."""
    if known in _TEXT_VRS:
        return bytes(value).rstrip(b"\0 ")
    return value if order == _LITTLE else swap_bytes(value, _WORD_SIZES.get(written, 1))


def swap_bytes(value: Buffer, size: int) -> bytes:
    """Return the value with the bytes of every word of this size turned around; what is left over stays."""
    if size == 1:
        return bytes(value)
    whole = len(value) // size * size
    swapped = bytearray(value)
    for offset in range(size):
        swapped[offset:whole:size] = bytes(value[size - 1 - offset : whole : size])
    return bytes(swapped)


def _digest(said: Iterable[tuple[int, bytes, Buffer]]) -> bytes:
    level = hashlib.sha256()
    for number, kind, content in sorted(said, key=lambda one: one[0]):
        level.update(struct.pack("<IcQ", number, kind, len(content)))
        level.update(content)
    return level.digest()


def _known_vr(number: int) -> bytes:
    """Return the VR of the dictionary, the same for every encoding of an element; b'' for private and unknown ones."""
    if number >> 16 & 1:
        return b"LO" if 0x10 <= number & 0xFFFF <= 0xFF else b""  # private creators (PS3.5, 7.8.1), or unknown
    found = _VR_CACHE.get(number)
    if found is None:
        try:
            found = dictionary_VR(number).encode("ascii")
        except KeyError:
            found = b""
        if len(_VR_CACHE) < _VR_CACHE_MAX:
            _VR_CACHE[number] = found
    return found


_VR_CACHE: dict[int, bytes] = {}
_VR_CACHE_MAX = 10_000


def _is_zero_tail(raw: memoryview, at: int, end: int) -> bool:
    """Say whether nothing but zeros follows: some writers fill the last block of a file."""
    return raw[at] == 0 and not any(raw[at : at + 8]) and bytes(raw[at:end]).count(0) == end - at
