"""The readers that bytes from outside reach, what they are begun with, and what they may do with them.

A reader may give a value, or raise an error of ours that says what is wrong. Anything else is a find.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raypost.errors import RaypostError
from raypost.mail.envelope_fields import read_fields
from raypost.mail.mime_message import OuterHeaders, read_outer, write_message
from raypost.mail.parcels import EntityItem, parse_control, read_entity, write_entity
from raypost.mail.tokens import parse_token
from raypost.sealing import revocation
from raypost.sealing.certificates import CardAddress, SiteCard, read_card, write_card
from raypost.sealing.message_shape import look_at_message
from raypost.sealing.openpgp import KeyRing, OpenRefusedError
from raypost.transfer.wire import decode

WIRE = Path(__file__).parents[1] / "golden" / "wire"
CONTENT = b"Content-Type: text/plain\r\n\r\nwhat was sealed\r\n"
CONTENT_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: Valid inputs; mutations begin there.
        read: Raises an error of ours or nothing; an AssertionError when something bad was believed.
        share: So many times as many tries as the slowest.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[bytes], None]
    share: int = 50


def make_targets(place: Path) -> list[Target]:
    """Make a key, sealed mails and whatever else the readers are begun with, in a folder of their own."""
    ring = KeyRing(place / "ring")
    own = ring.make_site_key("Neustadt", "ris@neustadt.example", 30, 30)
    other = KeyRing(place / "other")
    theirs = other.make_site_key("Worms", "ris@worms.example", 30, 30)
    other.import_certificate(ring.export_certificate(own), own)
    ring.import_certificate(other.export_certificate(theirs), theirs)
    sealed = _sealed(place, other, theirs, own)
    controls = [one.read_bytes() for one in sorted(WIRE.rglob("*.json"))]
    mail, entity = _mail(place, sealed), _entity(place, controls[0])
    card = write_card(
        SiteCard(
            "worms",
            "Klinikum Worms",
            "WORMS",
            (CardAddress("ris@worms.example", "main"),),
            theirs,
            other.export_certificate(theirs),
        )
    ).encode()
    target = place / "target"

    def open_sealed(data: bytes) -> None:
        file = place / "sealed"
        file.write_bytes(data)
        target.unlink(missing_ok=True)
        try:
            ring.open_sealed(file, target, {theirs}, CONTENT_MAX_BYTES)
        except OpenRefusedError:
            assert not target.exists(), "something of a refused message is there"
        else:
            assert target.read_bytes() == CONTENT, "something else than what was signed was believed"

    def import_certificate(data: bytes) -> None:
        before = ring.facts(own)
        try:
            ring.import_certificate(data.decode("utf-8", "replace"), theirs)
        finally:
            assert ring.facts(own) == before, "a partner's certificate changed our own"

    def look(data: bytes) -> None:
        file = place / "shape"
        file.write_bytes(data)
        look_at_message(file)

    def revoke(data: bytes) -> None:
        revocation.read_armour(data.decode("utf-8", "replace"))
        revocation.issuer_of(data.decode("utf-8", "replace"))

    return [
        Target("control", controls, lambda data: void(decode(parse_control(data)))),
        Target("mail", [mail, _bounce(mail)], lambda data: void(read_outer(memoryview(data), io.BytesIO()))),
        Target("entity", [entity], lambda data: void(read_entity(memoryview(data), None))),
        Target("envelope", [mail[:1024]], lambda data: void(read_fields(data), parse_token(data[:300]))),
        Target("shape", [sealed], look),
        Target("card", [card], lambda data: void(read_card(data.decode("utf-8", "replace")))),
        Target("revocation", [ring.revocation_certificate(own).encode()], revoke),
        Target("opener", [sealed], open_sealed, share=1),
        Target("certificate", [other.export_certificate(theirs).encode()], import_certificate, share=1),
    ]


def void(*_: object) -> None:
    """Forget what a reader gave."""


def is_ours(error: Exception) -> bool:
    """Say whether a reader may raise this."""
    return isinstance(error, RaypostError)


def _sealed(place: Path, ring: KeyRing, signer: str, recipient: str) -> bytes:
    plain, file = place / "plain", place / "first"
    plain.write_bytes(CONTENT)
    ring.seal(plain, file, signer, [recipient])
    return file.read_bytes()


def _mail(place: Path, sealed: bytes) -> bytes:
    ciphertext, target = place / "ciphertext", place / "mail"
    ciphertext.write_bytes(sealed)
    headers = OuterHeaders(
        sender="ris@worms.example",
        recipient="ris@neustadt.example",
        date=datetime(2026, 11, 24, 3, 0, tzinfo=UTC),
        message_id="<abcdefghijklmnop@worms.example>",
        transfer_token="abcdefghij",
        kind="parcel",
        number=1,
    )
    write_message(headers, ciphertext, "abcdefghijklmnop", target)
    return b"Return-Path: <ris@worms.example>\r\n" + target.read_bytes()


def _bounce(mail: bytes) -> bytes:
    head = mail.split(b"\r\n\r\n")[0]
    return (
        b"From: MAILER-DAEMON@relay.example\r\nTo: ris@worms.example\r\nSubject: Undelivered\r\n"
        b"Message-ID: <1@relay.example>\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="BBBB"\r\n\r\n'
        b"--BBBB\r\nContent-Type: text/plain\r\n\r\nsorry\r\n"
        b"--BBBB\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; relay.example\r\n\r\n"
        b"Final-Recipient: rfc822; ris@neustadt.example\r\nAction: failed\r\nStatus: 5.2.2\r\n"
        b"Diagnostic-Code: smtp; 552 5.2.2 mailbox full\r\n\r\n"
        b"--BBBB\r\nContent-Type: text/rfc822-headers\r\n\r\n" + head + b"\r\n\r\n--BBBB--\r\n"
    )


def _entity(place: Path, control: bytes) -> bytes:
    item, target = place / "item", place / "entity"
    item.write_bytes(b"DICM" * 100)
    json.loads(control)
    write_entity(control, [EntityItem(item, 0, 400, "000001.dcm", "application/dicom")], "abcdefghijklmnop", target)
    return target.read_bytes()
