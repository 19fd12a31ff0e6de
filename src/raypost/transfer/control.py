"""What every message of the transfer protocol says, as frozen values; `transfer/wire.py` writes and reads them.

Everything with meaning stands here, under the signature: intended recipient, transfer, kind, number, priority, time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority

Numbers = Mapping[MessageKind, frozenset[int]]
"""Which small messages of the other side were heard, by kind."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every message says of itself.

    Attributes:
        transfer_key: Of a hello: a random key of its own.
        sender: Fingerprint of the sending site; must be the signer's.
        recipient: Fingerprint of the site it is meant for; anybody else quarantines it.
        number: Of its kind within the transfer (of a hello: to this partner), from 1.
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
class Identity:
    """Who a study is of, and its order: what a correction changes. Words as in DICOM (PS3.3, C.7.1.1 and C.7.2.1)."""

    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""


@dataclass(frozen=True, slots=True)
class Announce:
    """First, small, at the first image: who, what, how urgent. A higher number replaces a lower one.

    Attributes:
        instances: So many were there when it was written; how many will come nobody knows before the manifest.
    """

    head: Head
    study_instance_uid: str
    supplement: int
    identity: Identity
    study_description: str
    modality: str
    body_part: str
    instances: int


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
        heard: Which small messages of the sender arrived.
        is_withdrawn: The transfer was recalled: what still comes is dropped.
        first_arrival_at: When the first message of the transfer was verified, by the receiver's clock.
        last_filed_at: When instances were filed last, by the receiver's clock.
        parcels_seen: Numbers that are here and not filed yet, or lie in a mailbox of the receiver and will be fetched:
            not lost, not to be sent again.
        audit_head: SEQUENCE:HASH, the end of the receiver's audit trail as this was written.
    """

    head: Head
    parcels_filed: frozenset[int]
    parcels_missing: frozenset[int]
    instances_filed: int
    filed: frozenset[str] = field(default_factory=frozenset)
    refused: frozenset[str] = field(default_factory=frozenset)
    is_final: bool = False
    heard: Numbers = field(default_factory=dict)
    is_withdrawn: bool = False
    first_arrival_at: datetime | None = None
    last_filed_at: datetime | None = None
    parcels_seen: frozenset[int] = field(default_factory=frozenset)
    audit_head: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A person at the receiver opened the study."""

    head: Head
    who: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Take:
    """A person at the receiver asks to be responsible for the case."""

    head: Head
    who: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """The sender says who is responsible: the answer to `take`, and to `opened`; told to every centre of the case.

    Attributes:
        responsible: Fingerprint of the centre; empty while nobody is.
        responsible_name: Its name as people read it.
        heard: Which messages of the receiver arrived.
    """

    head: Head
    responsible: str
    responsible_name: str
    at: datetime | None
    heard: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recall:
    """Sent in error: what is not filed is dropped, what is filed is hidden, never erased."""

    head: Head
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """The receiver's answer to a recall: what became of the images until then."""

    head: Head
    instances_filed: int
    opened_by: tuple[str, ...]
    forwarded_to: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class Redirect:
    """The study goes to another centre now; nothing more is to be expected here."""

    head: Head
    to_name: str
    why: str


@dataclass(frozen=True, slots=True)
class Correct:
    """Identity or order data were corrected; both are shown."""

    head: Head
    correction_key: str
    who: str
    why: str
    before: Identity
    after: Identity


@dataclass(frozen=True, slots=True)
class Echo:
    """What the sender of a hello heard last from the other side: lets the clocks be compared.

    Attributes:
        number: Of the hello that was heard.
        written_at: As that hello says, by the other clock.
        heard_at: When it was verified, by the clock of the one who echoes.
    """

    number: int
    written_at: datetime
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class Hello:
    """A sign of life: clock, versions, capabilities, limits.

    Attributes:
        versions: Protocol versions that are read here.
        kinds: Kinds of messages that are understood here; others are not sent here.
        mail_size_max_bytes: Largest mail that is fetched here.
        interval_s: The next one comes after so long.
        restored_from: This site was restored from a backup of this instant: what was received after it is gone.
        fetch_bytes_per_s: What the line carries when mails are fetched here, as measured; 0: it was not measured yet.
        certificate: The writer's certificate in ASCII armour, when the reader does not hold all keys of it.
        your_keys: Fingerprints of the reader's keys, primary and subkeys, that the writer holds and that work.
        audit_head: SEQUENCE:HASH, the end of the writer's audit trail: kept by the reader, it proves what it was.
    """

    head: Head
    software: str
    versions: tuple[int, ...]
    kinds: tuple[str, ...]
    mail_size_max_bytes: int
    interval_s: float
    echo: Echo | None = None
    restored_from: datetime | None = None
    fetch_bytes_per_s: int = 0
    certificate: str = ""
    your_keys: tuple[str, ...] = ()
    audit_head: str = ""


Message = (
    Announce | Parcel | Manifest | Receipt | Opened | Take | Taken | Recall | Recalled | Redirect | Correct | Hello
)
