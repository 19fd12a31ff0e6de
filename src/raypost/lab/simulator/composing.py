"""What a planned message says, from what is committed now; as `archive/composing.py`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from raypost.lab.simulator.desk import Desk
from raypost.lab.simulator.rows import ContactRow, Incoming, MessageRow, Outgoing
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer import receipts
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
from raypost.transfer.taking import ItemState
from raypost.transfer.wire import decode, encode

NOBODY = Identity(patient_name="DOE^JANE", patient_id="1")
KINDS = tuple(kind.value for kind in MessageKind)


def instant(now_s: float) -> datetime:
    """Return a site's time as messages carry it."""
    return datetime.fromtimestamp(now_s, UTC)


def seconds(at: datetime) -> float:
    """Return an instant of a message as the machines want it."""
    return at.timestamp()


def fingerprint(site: str) -> str:
    """Return a fingerprint that names a site."""
    return site.encode().hex().upper().rjust(40, "0")


def site_of(fingerprint_text: str) -> str:
    """Return the site that a fingerprint names."""
    return bytes.fromhex(fingerprint_text).lstrip(b"\0").decode()


def compose(desk: Desk, row: MessageRow, transfer_key: str) -> Message:
    """Say what a planned message says."""
    transfer, now_s = row.transfer, desk.now()
    priority = Priority.ROUTINE if transfer is None else transfer.priority
    head = Head(
        transfer_key,
        row.kind,
        row.number,
        fingerprint(desk.name),
        fingerprint(row.partner),
        priority,
        False,
        instant(now_s),
    )
    if isinstance(transfer, Outgoing):
        return _from_sender(desk, transfer, row, head)
    if isinstance(transfer, Incoming):
        return _from_receiver(desk, transfer, row, head)
    return _hello(desk, desk.ledger.contacts[row.partner], head)


def _from_sender(desk: Desk, transfer: Outgoing, row: MessageRow, head: Head) -> Message:
    match row.kind:
        case MessageKind.ANNOUNCE:
            count = len(transfer.items)
            return Announce(head, transfer.study, transfer.supplement, NOBODY, "CT head", "CT", "HEAD", count)
        case MessageKind.PARCEL:
            return Parcel(head, transfer.study, transfer.supplement, row.entries)
        case MessageKind.MANIFEST:
            parcels = max((r.number for r in transfer.messages if r.kind is MessageKind.PARCEL), default=0)
            return Manifest(head, transfer.study, transfer.supplement, parcels, tuple(transfer.items.values()))
        case MessageKind.TAKEN:
            responsible = desk.ledger.cases[transfer.study].responsible
            heard = {kind: frozenset(numbers) for kind, numbers in transfer.heard.items()}
            print_of = "" if responsible is None else fingerprint(responsible)
            return Taken(head, print_of, responsible or "", head.written_at, heard)
        case MessageKind.RECALL:
            return Recall(head, "Dr Weiss", "wrong patient")
        case MessageKind.REDIRECT:
            return Redirect(head, str(row.body.get("to_name", "")), "no answer")
        case _:
            return Correct(head, "a" * 16, "Dr Weiss", "wrong birth date", NOBODY, NOBODY)


def _from_receiver(desk: Desk, transfer: Incoming, row: MessageRow, head: Head) -> Message:
    match row.kind:
        case MessageKind.OPENED:
            return Opened(head, "Dr Schwarz", head.written_at)
        case MessageKind.TAKE:
            return Take(head, "Dr Schwarz", head.written_at)
        case MessageKind.RECALLED:
            filed = sum(state is ItemState.FILED for state in transfer.items.values())
            return Recalled(head, filed, (), (), head.written_at)
        case _:
            return _receipt(desk, transfer, row, head)


def _receipt(desk: Desk, transfer: Incoming, row: MessageRow, head: Head) -> Receipt:
    filed = frozenset(one for one, state in transfer.items.items() if state is ItemState.FILED)
    refused = frozenset(one for one, state in transfer.items.items() if state is ItemState.REFUSED)
    return receipts.write_receipt(
        head,
        state=transfer.state,
        parcels=transfer.parcels,
        manifest_parcels=transfer.manifest_parcels,
        filed=filed,
        refused=refused,
        heard={kind: frozenset(numbers) for kind, numbers in transfer.heard.items()},
        asks=bool(row.body.get("asks")),
        seen=desk.seen(transfer),
    )


def _hello(desk: Desk, contact: ContactRow, head: Head) -> Hello:
    echo = None
    if contact.heard_hello_s is not None and contact.heard_written_s is not None:
        echo = Echo(contact.heard_number, instant(contact.heard_written_s), instant(contact.heard_hello_s))
    restored_s = desk.ledger.restored_from_s
    return Hello(
        head,
        "simulator",
        (1,),
        KINDS,
        50_000_000,
        desk.times.limits.hello.interval_s,
        echo,
        None if restored_s is None else instant(restored_s),
        desk.fetch_bytes_per_s(),
    )


def by_wire(message: Message) -> Message:
    """Return what the other side reads of a message: written as JSON and read again."""
    return decode(json.loads(encode(message)))


def listed_count(message: Message) -> int:
    """Return how many instances a message names: what makes it large besides its payload."""
    match message:
        case Parcel():
            return len(message.entries)
        case Manifest():
            return len(message.instances)
        case Receipt():
            return len(message.filed)
        case _:
            return 0
