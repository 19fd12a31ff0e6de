"""One message of every kind, with as little and with as much as it may say: what tests/golden/wire holds as bytes."""

from datetime import UTC, datetime

from raypost.model.manifest import ManifestEntry, ParcelEntry
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

NEUSTADT = "7ADE02E16679E6BC7D596B431997C3AEE2864A3D"
LUDWIGSHAFEN = "E2832D29AF89F8FC31E54DDBB0CD2B195CFB760A"
SITE_V6 = "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"
TRANSFER = "n5k7q2xw3m6r4j2m5a7c2dkepu"
STUDY = "2.25.192689969236403568319108537761514551515"
THICK = ManifestEntry(
    "50b1c61c7a6e4000664ace382e1f12d8b58999a5619f52e305a8843780d7d370",
    157_344,
    "2.25.164329012345678901234567890123456789",
)
THIN = ManifestEntry(
    "9f2feb0f1ef425b292f2f94bc8482494df430413b9ab9cf1d2ba1e5a4e6c1c2d",
    161_002,
    "2.25.164329012345678901234567890123456790",
)
ENHANCED = ManifestEntry("0b9c3f" + "5e" * 29, 11_681_654, "1.2.3")


def at(minute: int, second: int = 5, milliseconds: int = 120) -> datetime:
    """An instant of the night of the example."""
    return datetime(2026, 11, 24, 3, minute, second, milliseconds * 1000, tzinfo=UTC)


def head(kind: MessageKind, number: int = 1, *, back: bool = False, plain: bool = False, **changes) -> Head:
    """From Neustadt to Ludwigshafen, or back."""
    sender, recipient = (LUDWIGSHAFEN, NEUSTADT) if back else (NEUSTADT, LUDWIGSHAFEN)
    words = dict(
        transfer_key="abcdefghij" if plain else TRANSFER,
        kind=kind,
        number=number,
        sender=sender,
        recipient=SITE_V6 if plain and not back else recipient,
        priority=Priority.ROUTINE if plain else Priority.EMERGENCY,
        is_test=plain,
        written_at=at(11),
    )
    return Head(**words | changes)


ERIKA = Identity("Mustermann^Erika", "4711", "Neustadt", "19480312", "F", "A-2026-991")
MARTA = Identity("Mustermann^Marta", "4711", "Neustadt", "19480312", "F", "A-2026-991")

EXAMPLES: dict[str, Message] = {
    "announce-minimal": Announce(head(MessageKind.ANNOUNCE, plain=True), "1.2", 0, Identity(), "", "", "", 0),
    "announce-full": Announce(head(MessageKind.ANNOUNCE, 2), STUDY, 1, ERIKA, "CT Schädel nativ", "CT", "HEAD", 3),
    "parcel-minimal": Parcel(head(MessageKind.PARCEL, plain=True), "1.2", 0, (ParcelEntry(THICK, 0, 157_344),)),
    "parcel-full": Parcel(
        head(MessageKind.PARCEL, 4),
        STUDY,
        1,
        (ParcelEntry(THICK, 0, 157_344), ParcelEntry(THIN, 0, 161_002), ParcelEntry(ENHANCED, 6_000_000, 5_681_654)),
    ),
    "manifest-minimal": Manifest(head(MessageKind.MANIFEST, plain=True), "1.2", 0, 1, (THICK,)),
    "manifest-full": Manifest(head(MessageKind.MANIFEST), STUDY, 1, 7, (THICK, THIN, ENHANCED)),
    "receipt-minimal": Receipt(head(MessageKind.RECEIPT, back=True, plain=True), frozenset(), frozenset(), 0),
    "receipt-progress": Receipt(
        head(MessageKind.RECEIPT, 2, back=True),
        frozenset({1, 2, 3, 7}),
        frozenset({4, 5}),
        12,
        heard={MessageKind.ANNOUNCE: frozenset({1, 2})},
        first_arrival_at=at(10),
        last_filed_at=at(11, 4),
        parcels_seen=frozenset({6}),
    ),
    "receipt-full": Receipt(
        head(MessageKind.RECEIPT, 9, back=True),
        frozenset(range(1, 8)),
        frozenset(),
        2,
        frozenset({THICK.sha256, THIN.sha256}),
        frozenset({ENHANCED.sha256}),
        is_final=True,
        heard={MessageKind.ANNOUNCE: frozenset({1, 2}), MessageKind.TAKEN: frozenset({1})},
        first_arrival_at=at(10),
        last_filed_at=at(12, 40, 7),
        audit_head="317:" + "c4" * 32,
    ),
    "receipt-withdrawn": Receipt(
        head(MessageKind.RECEIPT, 3, back=True),
        frozenset({1}),
        frozenset(),
        1,
        heard={MessageKind.RECALL: frozenset({1})},
        is_withdrawn=True,
        first_arrival_at=at(10),
    ),
    "opened-minimal": Opened(head(MessageKind.OPENED, back=True, plain=True), "", at(0, 0, 0)),
    "opened-full": Opened(head(MessageKind.OPENED, 2, back=True), "Dr. M. Weber", at(13)),
    "take-minimal": Take(head(MessageKind.TAKE, back=True, plain=True), "", at(0, 0, 0)),
    "take-full": Take(head(MessageKind.TAKE, 2, back=True), "Dr. M. Weber", at(14)),
    "taken-minimal": Taken(head(MessageKind.TAKEN, plain=True), "", "", None),
    "taken-full": Taken(
        head(MessageKind.TAKEN, 3),
        LUDWIGSHAFEN,
        "Ludwigshafen Stroke Unit",
        at(14, 6),
        {MessageKind.OPENED: frozenset({1, 2}), MessageKind.TAKE: frozenset({1})},
    ),
    "recall-minimal": Recall(head(MessageKind.RECALL, plain=True), "", ""),
    "recall-full": Recall(head(MessageKind.RECALL), "MTRA K. Braun", "images of another patient"),
    "recalled-minimal": Recalled(head(MessageKind.RECALLED, back=True, plain=True), 0, (), (), at(0, 0, 0)),
    "recalled-full": Recalled(
        head(MessageKind.RECALLED, 2, back=True), 40, ("Dr. M. Weber", "Dr. A. Roth"), ("PACS",), at(20)
    ),
    "redirect-minimal": Redirect(head(MessageKind.REDIRECT, plain=True), "", ""),
    "redirect-full": Redirect(head(MessageKind.REDIRECT), "Heidelberg", "no receipt for 150 s"),
    "correct-minimal": Correct(
        head(MessageKind.CORRECT, plain=True), "abcdefghij", "", "", Identity(), Identity(patient_id="4712")
    ),
    "correct-full": Correct(
        head(MessageKind.CORRECT, 2),
        "c7q2xw3m6r4j2m5a7n5kdkepu2",
        "MTRA K. Braun",
        "first name was that of the sister",
        MARTA,
        ERIKA,
    ),
    "hello-minimal": Hello(head(MessageKind.HELLO, plain=True), "", (1,), (), 0, 1.0),
    "hello-full": Hello(
        head(MessageKind.HELLO, 288, back=True, priority=Priority.ROUTINE, transfer_key="h2r4j2m5a7c2dkepun5k7q2xw3"),
        "Raypost 0.1",
        (1,),
        tuple(kind.value for kind in MessageKind),
        35_882_577,
        300.0,
        Echo(287, at(9), at(9, 7)),
        at(2, 0, 0),
        1_250_000,
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ0==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n",
        (NEUSTADT, "1B2C" * 10),
        "5002:" + "0f" * 32,
    ),
}
"""By the name of the golden file."""
