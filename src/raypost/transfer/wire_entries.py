"""Entries that several messages share, read strictly: instances, numbers as ranges, hashes, texts, instants."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from raypost.errors import RemoteProtocolError
from raypost.model.identifiers import is_dicom_uid, is_fingerprint, is_sha256
from raypost.model.manifest import INSTANCES_MAX, PARCELS_MAX, ManifestEntry
from raypost.model.transfer import MessageKind

TEXT_LENGTH_MAX = 1_000
YEAR_MIN, YEAR_MAX = 1970, 9990
"""Of an instant: other years cannot be carried through every time zone."""
WORDS_MAX = 200
ARMOUR_LENGTH_MAX = 65_536
KEYS_MAX = 64
_AUDIT_HEAD = re.compile(r"[1-9][0-9]{0,17}:[0-9a-f]{64}", re.ASCII)
_KIND_WORDS = {kind.value: kind for kind in MessageKind}


def need(is_right: bool, what: str) -> None:
    """Refuse a message whose entry is not right.

    Raises:
        RemoteProtocolError: It is not.
    """
    if not is_right:
        raise RemoteProtocolError(f"the message's entry for {what} is missing or wrong")


def is_count(value: object, limit: int) -> bool:
    """Say whether a value is a whole number from 0 to the limit."""
    return type(value) is int and 0 <= value <= limit


def dicom_uid(value: object) -> str:
    """Return a UID (PS3.5, 9.1) that was checked."""
    if not isinstance(value, str) or not is_dicom_uid(value):
        raise RemoteProtocolError("the message's entry for study_instance_uid is missing or wrong")
    return value


def instant(value: object, what: str) -> datetime:
    """Return an instant with its time zone (RFC 3339)."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not YEAR_MIN <= found.year <= YEAR_MAX:
        raise RemoteProtocolError(f"the message's entry for {what} is missing or wrong")
    return found


def instant_or_none(value: object, what: str) -> datetime | None:
    """Return an instant, or None where the entry is left out."""
    return None if value is None else instant(value, what)


def text(body: Mapping[str, Any], name: str) -> str:
    """Return a short text without control characters; one that is left out is empty."""
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
        raise RemoteProtocolError(f"the message's entry for {name} is missing or wrong")
    return "".join(letter if letter.isprintable() else " " for letter in value)


def armour(body: Mapping[str, Any], name: str) -> str:
    """Return a text in ASCII armour (RFC 9580, 6.2) as it stands; one that is left out is empty."""
    value = body.get(name, "")
    is_right = isinstance(value, str) and len(value) <= ARMOUR_LENGTH_MAX and value.isascii()
    need(is_right and all(letter.isprintable() or letter in "\n\t" for letter in value), name)
    return str(value)


def audit_head(body: Mapping[str, Any]) -> str:
    """Return the end of an audit trail as SEQUENCE:HASH; one that is left out is empty."""
    value = body.get("audit_head", "")
    need(value == "" or (isinstance(value, str) and _AUDIT_HEAD.fullmatch(value) is not None), "audit_head")
    return str(value)


def fingerprints(value: object, name: str) -> tuple[str, ...]:
    """Return a short list of full fingerprints."""
    need(isinstance(value, list) and len(value) <= KEYS_MAX and all(map(is_fingerprint, value)), name)
    return tuple(value) if isinstance(value, list) else ()


def cut(written: str) -> str:
    """Return a text as short as a reader takes it: what is cut off matters less than a message that is refused."""
    return written[:TEXT_LENGTH_MAX]


def cut_all(written: Iterable[str]) -> list[str]:
    """Return texts as short and as few as a reader takes them."""
    return [cut(one) for one in itertools.islice(written, WORDS_MAX)]


def words(value: object) -> tuple[str, ...]:
    """Return a short list of short texts."""
    if not isinstance(value, list) or len(value) > WORDS_MAX:
        raise RemoteProtocolError("a list of words in the message is missing or wrong")
    return tuple(text({"word": one}, "word") for one in value)


def hashes(value: object) -> frozenset[str]:
    """Return a set of SHA-256."""
    if not isinstance(value, list) or len(value) > INSTANCES_MAX or not all(map(is_sha256, value)):
        raise RemoteProtocolError("the message's entry for hashes is missing or wrong")
    return frozenset(value)


def entries_of(value: object) -> list[dict[str, Any]]:
    """Return the listed instances as plain objects, at least one."""
    if not isinstance(value, list) or not 0 < len(value) <= INSTANCES_MAX:
        raise RemoteProtocolError("the message lists no instances, or too many")
    if not all(isinstance(one, dict) for one in value):
        raise RemoteProtocolError("an instance is not an object")
    return value


def entry_json(one: ManifestEntry) -> dict[str, Any]:
    """Return an instance as a plain object."""
    return {"sha256": one.sha256, "size": one.size_bytes, "sop_instance_uid": one.sop_instance_uid}


def instance_of(listed: Mapping[str, Any]) -> ManifestEntry:
    """Read an instance."""
    return ManifestEntry(listed.get("sha256", ""), listed.get("size", 0), listed.get("sop_instance_uid", ""))


def ranges_from_numbers(numbers: frozenset[int]) -> list[list[int]]:
    """Write {1, 2, 3, 7} as [[1, 3], [7, 7]]."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def numbers_from_ranges(ranges: object) -> frozenset[int]:
    """Read [[1, 3], [7, 7]]; ascending, so that all ranges together stay within PARCELS_MAX."""
    if not isinstance(ranges, list) or len(ranges) > PARCELS_MAX:
        raise RemoteProtocolError("numbers are not given as ranges")
    found: set[int] = set()
    last = 0
    for pair in ranges:
        need(isinstance(pair, list) and len(pair) == 2, "ranges")
        need(all(is_count(number, PARCELS_MAX) for number in pair) and last < pair[0] <= pair[1], "ranges")
        last = pair[1]
        found.update(range(pair[0], pair[1] + 1))
    return frozenset(found)


def numbers_by_kind_json(heard: Mapping[MessageKind, frozenset[int]]) -> dict[str, list[list[int]]]:
    """Return which messages were heard, as a plain object."""
    return {kind.value: ranges_from_numbers(heard[kind]) for kind in sorted(heard, key=lambda kind: kind.value)}


def numbers_by_kind(found: object) -> dict[MessageKind, frozenset[int]]:
    """Read which messages were heard; kinds that this version does not know are left out."""
    if not isinstance(found, dict) or len(found) > WORDS_MAX:
        raise RemoteProtocolError("the message's entry for heard is missing or wrong")
    return {_KIND_WORDS[word]: numbers_from_ranges(said) for word, said in found.items() if word in _KIND_WORDS}
