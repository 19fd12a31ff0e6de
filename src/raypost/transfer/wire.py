"""The control part of every message as JSON bytes, and back.

The form is `docs/spec/transfer-protocol.md`, version 1. Reading is strict about what it knows: missing or mistyped
entries are a RemoteProtocolError. Entries it does not know are ignored, so that later versions can add some; a kind or
version it does not know is an UnknownMessageError, which is noted and harms nobody.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from raypost.errors import RemoteProtocolError, UnknownMessageError
from raypost.model.identifiers import is_fingerprint, is_raypost_key
from raypost.model.manifest import INSTANCES_MAX, PARCELS_MAX, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.control import (
    Announce,
    Correct,
    Echo,
    Head,
    Hello,
    Identity,
    Manifest,
    Message,
    Opened,
    Parcel,
    Recall,
    Recalled,
    Receipt,
    Redirect,
    Take,
    Taken,
)
from raypost.transfer.wire_entries import (
    armour,
    audit_head,
    cut,
    cut_all,
    dicom_uid,
    entries_of,
    entry_json,
    fingerprints,
    hashes,
    instance_of,
    instant,
    instant_or_none,
    is_count,
    need,
    numbers_by_kind,
    numbers_by_kind_json,
    numbers_from_ranges,
    ranges_from_numbers,
    text,
    words,
)

VERSION = 1
NUMBER_MAX = 1_000_000
HELLO_NUMBER_MAX = 999_999_999
"""Hellos are numbered for as long as two sites know each other; as many digits as the token has outside."""
SUPPLEMENTS_MAX = 1_000
INTERVAL_MAX_S = 86_400.0
MAIL_SIZE_MAX_BYTES = 1 << 40


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
        "written_at": _text(head.written_at),
    }
    match message:
        case Announce() | Parcel() | Manifest():
            body |= _of_study(message)
        case Receipt():
            body |= _of_receipt(message)
        case Hello():
            body |= _of_hello(message)
        case _:
            body |= _of_note(message)
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def decode(body: object) -> Message:
    """Read the control part of a verified message.

    Args:
        body: The parsed JSON object.

    Raises:
        UnknownMessageError: A kind or version that this version does not know.
        RemoteProtocolError: It is not a message of this protocol version.
    """
    if not isinstance(body, dict) or not is_count(body.get("raypost"), NUMBER_MAX) or body["raypost"] < 1:
        raise RemoteProtocolError("the message is not of the transfer protocol")
    if body["raypost"] > VERSION:
        raise UnknownMessageError("the message is of a newer version of the transfer protocol")
    head = _head(body)
    match head.kind:
        case MessageKind.ANNOUNCE | MessageKind.PARCEL | MessageKind.MANIFEST:
            return _study(head, body)
        case MessageKind.RECEIPT:
            return _receipt(head, body)
        case MessageKind.HELLO:
            return _hello(head, body)
        case _:
            return _note(head, body)


def _of_study(message: Announce | Parcel | Manifest) -> dict[str, Any]:
    body: dict[str, Any] = {"study_instance_uid": message.study_instance_uid, "supplement": message.supplement}
    match message:
        case Announce():
            body |= {"identity": identity_json(message.identity), "study_description": cut(message.study_description)}
            body |= {
                "modality": cut(message.modality),
                "body_part": cut(message.body_part),
                "instances": message.instances,
            }
        case Parcel():
            body["instances"] = [
                entry_json(one.instance) | {"offset": one.offset_bytes, "length": one.length_bytes}
                for one in message.entries
            ]
        case Manifest():
            body |= {"parcels": message.parcels, "instances": [entry_json(one) for one in message.instances]}
    return body


def _of_receipt(message: Receipt) -> dict[str, Any]:
    body = {
        "parcels_filed": ranges_from_numbers(message.parcels_filed),
        "parcels_missing": ranges_from_numbers(message.parcels_missing),
        "instances_filed": message.instances_filed,
        "final": message.is_final,
        "filed": sorted(message.filed),
        "refused": sorted(message.refused),
        "heard": numbers_by_kind_json(message.heard),
        "withdrawn": message.is_withdrawn,
    }
    if message.parcels_seen:
        body["parcels_seen"] = ranges_from_numbers(message.parcels_seen)
    if message.audit_head:
        body["audit_head"] = message.audit_head
    for name in ("first_arrival_at", "last_filed_at"):
        if (at := getattr(message, name)) is not None:
            body[name] = _text(at)
    return body


def _of_note(message: Opened | Take | Taken | Recall | Recalled | Redirect | Correct) -> dict[str, Any]:
    match message:
        case Opened() | Take():
            return {"who": cut(message.who), "at": _text(message.at)}
        case Taken():
            body = {"responsible": message.responsible, "responsible_name": cut(message.responsible_name)}
            at = {"at": _text(message.at)} if message.at is not None else {}
            return body | at | {"heard": numbers_by_kind_json(message.heard)}
        case Recall():
            return {"who": cut(message.who), "why": cut(message.why)}
        case Recalled():
            said = {"opened_by": cut_all(message.opened_by), "forwarded_to": cut_all(message.forwarded_to)}
            return {"instances_filed": message.instances_filed, "at": _text(message.at)} | said
        case Redirect():
            return {"to_name": cut(message.to_name), "why": cut(message.why)}
        case Correct():
            both = {"before": identity_json(message.before), "after": identity_json(message.after)}
            return {"correction": message.correction_key, "who": cut(message.who), "why": cut(message.why)} | both


def _of_hello(message: Hello) -> dict[str, Any]:
    body: dict[str, Any] = {
        "software": cut(message.software),
        "versions": list(message.versions),
        "kinds": list(message.kinds),
        "mail_size_max": message.mail_size_max_bytes,
        "interval_s": message.interval_s,
    }
    if (echo := message.echo) is not None:
        times = {"written_at": _text(echo.written_at), "heard_at": _text(echo.heard_at)}
        body["echo"] = {"number": echo.number} | times
    if message.restored_from is not None:
        body["restored_from"] = _text(message.restored_from)
    if message.fetch_bytes_per_s:
        body["fetch_rate"] = message.fetch_bytes_per_s
    if message.certificate:
        body["certificate"] = message.certificate
    if message.your_keys:
        body["your_keys"] = list(message.your_keys)
    if message.audit_head:
        body["audit_head"] = message.audit_head
    return body


def _head(body: dict[str, Any]) -> Head:
    kind_word = body.get("kind")
    if isinstance(kind_word, str) and kind_word not in {kind.value for kind in MessageKind}:
        raise UnknownMessageError("the message is of a kind that this version does not know")
    try:
        kind, priority = MessageKind(kind_word), Priority(body.get("priority"))
    except ValueError as error:
        raise RemoteProtocolError("the message has no kind or priority that this version knows") from error
    need(is_raypost_key(body.get("transfer")), "transfer")
    number_max = HELLO_NUMBER_MAX if kind is MessageKind.HELLO else NUMBER_MAX
    need(is_count(body.get("number"), number_max) and body["number"] > 0, "number")
    need(is_fingerprint(body.get("from")) and is_fingerprint(body.get("to")), "from, to")
    need(isinstance(body.get("test"), bool), "test")
    written_at = instant(body.get("written_at"), "written_at")
    return Head(body["transfer"], kind, body["number"], body["from"], body["to"], priority, body["test"], written_at)


def _study(head: Head, body: dict[str, Any]) -> Announce | Parcel | Manifest:
    study_instance_uid = dicom_uid(body.get("study_instance_uid"))
    supplement = body.get("supplement")
    need(is_count(supplement, SUPPLEMENTS_MAX), "supplement")
    if head.kind is MessageKind.ANNOUNCE:
        need(is_count(body.get("instances"), INSTANCES_MAX), "instances")
        return Announce(
            head,
            study_instance_uid,
            int(supplement or 0),
            identity_of(body.get("identity")),
            text(body, "study_description"),
            text(body, "modality"),
            text(body, "body_part"),
            body["instances"],
        )
    need(head.kind is not MessageKind.PARCEL or head.number <= PARCELS_MAX, "number")
    listed = entries_of(body.get("instances"))
    if head.kind is MessageKind.MANIFEST:
        need(is_count(body.get("parcels"), PARCELS_MAX), "parcels")
        instances = tuple(map(instance_of, listed))
        need(len({one.sha256 for one in instances}) == len(listed), "instances")
        return Manifest(head, study_instance_uid, int(supplement or 0), body["parcels"], instances)
    entries = tuple(ParcelEntry(instance_of(one), one.get("offset", -1), one.get("length", 0)) for one in listed)
    return Parcel(head, study_instance_uid, int(supplement or 0), entries)


def _receipt(head: Head, body: dict[str, Any]) -> Receipt:
    need(is_count(body.get("instances_filed"), INSTANCES_MAX), "instances_filed")
    need(isinstance(body.get("final"), bool), "final")
    need(isinstance(body.get("withdrawn", False), bool), "withdrawn")
    return Receipt(
        head,
        numbers_from_ranges(body.get("parcels_filed")),
        numbers_from_ranges(body.get("parcels_missing")),
        body["instances_filed"],
        hashes(body.get("filed")),
        hashes(body.get("refused")),
        body["final"],
        numbers_by_kind(body.get("heard", {})),
        body.get("withdrawn", False),
        instant_or_none(body.get("first_arrival_at"), "first_arrival_at"),
        instant_or_none(body.get("last_filed_at"), "last_filed_at"),
        numbers_from_ranges(body.get("parcels_seen", [])),
        audit_head(body),
    )


def _note(head: Head, body: dict[str, Any]) -> Message:
    match head.kind:
        case MessageKind.OPENED:
            return Opened(head, text(body, "who"), instant(body.get("at"), "at"))
        case MessageKind.TAKE:
            return Take(head, text(body, "who"), instant(body.get("at"), "at"))
        case MessageKind.TAKEN:
            responsible, name = text(body, "responsible"), text(body, "responsible_name")
            need(responsible == "" or is_fingerprint(responsible), "responsible")
            at = instant_or_none(body.get("at"), "at")
            return Taken(head, responsible, name, at, numbers_by_kind(body.get("heard", {})))
        case MessageKind.RECALL:
            return Recall(head, text(body, "who"), text(body, "why"))
        case MessageKind.RECALLED:
            need(is_count(body.get("instances_filed"), INSTANCES_MAX), "instances_filed")
            opened_by, forwarded_to = words(body.get("opened_by")), words(body.get("forwarded_to"))
            return Recalled(head, body["instances_filed"], opened_by, forwarded_to, instant(body.get("at"), "at"))
        case MessageKind.REDIRECT:
            return Redirect(head, text(body, "to_name"), text(body, "why"))
        case _:
            need(is_raypost_key(body.get("correction")), "correction")
            before, after = identity_of(body.get("before")), identity_of(body.get("after"))
            return Correct(head, body["correction"], text(body, "who"), text(body, "why"), before, after)


def _hello(head: Head, body: dict[str, Any]) -> Hello:
    versions, interval_s, echo = body.get("versions"), body.get("interval_s"), body.get("echo")
    if not isinstance(versions, list) or not 0 < len(versions) <= 100 or not all(is_count(v, 1000) for v in versions):
        raise RemoteProtocolError("the message's entry for versions is missing or wrong")
    if isinstance(interval_s, bool) or not isinstance(interval_s, int | float) or not 0 < interval_s <= INTERVAL_MAX_S:
        raise RemoteProtocolError("the message's entry for interval_s is missing or wrong")
    need(is_count(body.get("mail_size_max"), MAIL_SIZE_MAX_BYTES), "mail_size_max")
    need(is_count(body.get("fetch_rate", 0), MAIL_SIZE_MAX_BYTES), "fetch_rate")
    heard = None
    if echo is not None:
        need(isinstance(echo, dict) and is_count(echo.get("number"), HELLO_NUMBER_MAX), "echo")
        heard = Echo(echo["number"], instant(echo.get("written_at"), "echo"), instant(echo.get("heard_at"), "echo"))
    return Hello(
        head,
        text(body, "software"),
        tuple(versions),
        words(body.get("kinds")),
        body["mail_size_max"],
        float(interval_s),
        heard,
        instant_or_none(body.get("restored_from"), "restored_from"),
        int(body.get("fetch_rate", 0)),
        armour(body, "certificate"),
        fingerprints(body.get("your_keys", []), "your_keys"),
        audit_head(body),
    )


def identity_json(identity: Identity) -> dict[str, str]:
    """Return an identity as a plain object."""
    return {one.name: cut(getattr(identity, one.name)) for one in fields(Identity)}


def identity_of(found: object) -> Identity:
    """Read an identity.

    Raises:
        RemoteProtocolError: It is none.
    """
    if not isinstance(found, dict):
        raise RemoteProtocolError("the message's entry for an identity is missing or wrong")
    return Identity(**{one.name: text(found, one.name) for one in fields(Identity)})


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
