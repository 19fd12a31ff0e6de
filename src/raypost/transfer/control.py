"""The control part of every message (parcel, manifest, receipt) as values and as JSON bytes.

Everything with meaning stands here, under the signature: intended recipient, transfer, kind, number, priority, time.
The form is `docs/spec/transfer-protocol.md`, version 1. Reading is strict: unknown kinds, missing or mistyped entries
are a RemoteProtocolError; entries this version does not know are ignored, so that later versions can add some.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from raypost.errors import RemoteProtocolError
from raypost.model.identifiers import is_dicom_uid, is_fingerprint, is_raypost_key, is_sha256
from raypost.model.manifest import INSTANCES_MAX, PARCELS_MAX, ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority

VERSION = 1
NUMBER_MAX = 1_000_000
SUPPLEMENTS_MAX = 1_000
TEXT_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Head:
    """What every message says of itself.

    Attributes:
        sender: Fingerprint of the sending site; must be the signer's.
        recipient: Fingerprint of the site it is meant for; anybody else quarantines it.
        number: Parcels and receipts are numbered from 1; the manifest has 1.
    """

    transfer_key: str
    kind: MessageKind
    number: int
    sender: str
    recipient: str
    priority: Priority
    is_test: bool
    written_at: datetime


@dataclass(frozen=True, slots=True)
class Parcel:
    """As many whole instances as fit, or slices."""

    head: Head
    study_instance_uid: str
    supplement: int
    entries: tuple[ParcelEntry, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Closes a transfer: everything it holds."""

    head: Head
    study_instance_uid: str
    supplement: int
    parcels: int
    instances: tuple[ManifestEntry, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is committed at the receiver, cumulative.

    Attributes:
        parcels_filed: Numbers of the parcels whose instances are all in the archive.
        parcels_missing: Numbers that are asked for again.
        instances_filed: How many instances are in the archive.
        filed: Their hashes; given when the receiver has everything it will get (is_final).
        refused: Hashes of instances the receiver keeps in quarantine.
        is_final: The manifest is here and every instance in it is filed or refused.
    """

    head: Head
    parcels_filed: frozenset[int]
    parcels_missing: frozenset[int]
    instances_filed: int
    filed: frozenset[str] = field(default_factory=frozenset)
    refused: frozenset[str] = field(default_factory=frozenset)
    is_final: bool = False


Message = Parcel | Manifest | Receipt


def encode(message: Message) -> bytes:
    """Return the JSON bytes of a message: ASCII, one line, keys in a fixed order."""
    head = message.head
    body: dict[str, Any] = {
        "raypost": VERSION,
        "kind": head.kind.value,
        "transfer": head.transfer_key,
        "number": head.number,
        "from": head.sender,
        "to": head.recipient,
        "priority": head.priority.value,
        "test": head.is_test,
        "written_at": head.written_at.astimezone(UTC).isoformat(timespec="milliseconds"),
    }
    match message:
        case Parcel():
            body |= {"study_instance_uid": message.study_instance_uid, "supplement": message.supplement}
            body["instances"] = [
                _entry(one.instance) | {"offset": one.offset_bytes, "length": one.length_bytes}
                for one in message.entries
            ]
        case Manifest():
            body |= {"study_instance_uid": message.study_instance_uid, "supplement": message.supplement}
            body |= {"parcels": message.parcels, "instances": [_entry(one) for one in message.instances]}
        case Receipt():
            body |= {
                "parcels_filed": _ranges(message.parcels_filed),
                "parcels_missing": _ranges(message.parcels_missing),
                "instances_filed": message.instances_filed,
                "final": message.is_final,
                "filed": sorted(message.filed),
                "refused": sorted(message.refused),
            }
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def decode(body: object) -> Message:
    """Read the control part of a verified message.

    Args:
        body: The parsed JSON object.

    Raises:
        RemoteProtocolError: It is not a message of this protocol version.
    """
    if not isinstance(body, dict) or body.get("raypost") != VERSION:
        raise RemoteProtocolError("the message is not of transfer protocol version 1")
    head = _head(body)
    if head.kind is MessageKind.RECEIPT:
        return _receipt(head, body)
    _need(is_dicom_uid(body.get("study_instance_uid")), "study_instance_uid")
    _need(_is_count(body.get("supplement"), SUPPLEMENTS_MAX), "supplement")
    study_instance_uid, supplement = body["study_instance_uid"], body["supplement"]
    listed = body.get("instances")
    if not isinstance(listed, list) or not 0 < len(listed) <= INSTANCES_MAX:
        raise RemoteProtocolError("the message lists no instances, or too many")
    if head.kind is MessageKind.MANIFEST:
        _need(_is_count(body.get("parcels"), PARCELS_MAX), "parcels")
        manifest = Manifest(head, study_instance_uid, supplement, body["parcels"], tuple(map(_instance, listed)))
        _need(len({one.sha256 for one in manifest.instances}) == len(listed), "instances")
        return manifest
    entries = tuple(ParcelEntry(_instance(one), one.get("offset"), one.get("length")) for one in listed)
    return Parcel(head, study_instance_uid, supplement, entries)


def _head(body: dict[str, Any]) -> Head:
    try:
        kind, priority = MessageKind(body.get("kind")), Priority(body.get("priority"))
        written_at = datetime.fromisoformat(body.get("written_at", ""))
    except (ValueError, TypeError) as error:
        raise RemoteProtocolError("the message has no kind, priority or time that this version knows") from error
    _need(is_raypost_key(body.get("transfer")), "transfer")
    _need(_is_count(body.get("number"), NUMBER_MAX) and body["number"] > 0, "number")
    _need(is_fingerprint(body.get("from")) and is_fingerprint(body.get("to")), "from, to")
    _need(isinstance(body.get("test"), bool), "test")
    _need(written_at.tzinfo is not None, "written_at")
    return Head(body["transfer"], kind, body["number"], body["from"], body["to"], priority, body["test"], written_at)


def _receipt(head: Head, body: dict[str, Any]) -> Receipt:
    filed, refused = body.get("filed"), body.get("refused")
    for hashes in (filed, refused):
        _need(isinstance(hashes, list) and len(hashes) <= INSTANCES_MAX and all(map(is_sha256, hashes)), "hashes")
    _need(_is_count(body.get("instances_filed"), INSTANCES_MAX), "instances_filed")
    _need(isinstance(body.get("final"), bool), "final")
    return Receipt(
        head,
        _numbers(body.get("parcels_filed")),
        _numbers(body.get("parcels_missing")),
        body["instances_filed"],
        frozenset(filed or ()),
        frozenset(refused or ()),
        body["final"],
    )


def _entry(one: ManifestEntry) -> dict[str, Any]:
    return {"sha256": one.sha256, "size": one.size_bytes, "sop_instance_uid": one.sop_instance_uid}


def _instance(listed: object) -> ManifestEntry:
    if not isinstance(listed, dict):
        raise RemoteProtocolError("an instance is not an object")
    return ManifestEntry(listed.get("sha256", ""), listed.get("size", 0), listed.get("sop_instance_uid", ""))


def _ranges(numbers: frozenset[int]) -> list[list[int]]:
    """Write {1, 2, 3, 7} as [[1, 3], [7, 7]]."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(ranges: object) -> frozenset[int]:
    if not isinstance(ranges, list) or len(ranges) > PARCELS_MAX:
        raise RemoteProtocolError("parcel numbers are not given as ranges")
    found: set[int] = set()
    last = 0
    for pair in ranges:
        _need(isinstance(pair, list) and len(pair) == 2, "ranges")
        _need(all(_is_count(number, PARCELS_MAX) for number in pair) and last < pair[0] <= pair[1], "ranges")
        last = pair[1]  # ascending, so that all ranges together stay within PARCELS_MAX
        found.update(range(pair[0], pair[1] + 1))
    return frozenset(found)


def _is_count(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def _need(is_right: bool, what: str) -> None:
    if not is_right:
        raise RemoteProtocolError(f"the message's entry for {what} is missing or wrong")
