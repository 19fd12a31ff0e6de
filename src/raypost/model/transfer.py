"""Priorities, directions and the states of messages, as plain values."""

from __future__ import annotations

from enum import Enum


class Priority(Enum):
    """How urgent a transfer is; `emergency` rings at the receiver."""

    EMERGENCY = "emergency"
    URGENT = "urgent"
    ROUTINE = "routine"

    @property
    def rank(self) -> int:
        """Return the number that queues sort by: higher goes first."""
        return {"emergency": 100, "urgent": 50, "routine": 0}[self.value]


class Direction(Enum):
    """Seen from this site."""

    OUT = "out"
    IN = "in"


class MessageKind(Enum):
    """Kinds of messages of the transfer protocol that this version knows.

    From the sender: announce, parcel, manifest, taken, recall, redirect, correct. From the receiver: receipt, opened,
    take, recalled. From both: hello, which belongs to no transfer.
    """

    ANNOUNCE = "announce"
    PARCEL = "parcel"
    MANIFEST = "manifest"
    RECEIPT = "receipt"
    OPENED = "opened"
    TAKE = "take"
    TAKEN = "taken"
    RECALL = "recall"
    RECALLED = "recalled"
    REDIRECT = "redirect"
    CORRECT = "correct"
    HELLO = "hello"


BULK_KINDS = frozenset({MessageKind.PARCEL})
"""What is heavy; everything else is small, goes first and is fetched first."""

TO_RECEIVER = frozenset(
    {
        MessageKind.ANNOUNCE,
        MessageKind.PARCEL,
        MessageKind.MANIFEST,
        MessageKind.TAKEN,
        MessageKind.RECALL,
        MessageKind.REDIRECT,
        MessageKind.CORRECT,
    }
)
"""Said by the site whose transfer it is; the rest but hello is said by the site that receives it."""


class MessageState(Enum):
    """Where one message is on its way.

    Outgoing: planned (its content is decided) ▸ queued (packed and sealed) ▸ sending ▸ accepted (by the relay)
    ▸ filed (named in the partner's receipt); refused (a person must look); replaced (cut into smaller parcels).
    Incoming: verified (opened, content in the blob store) ▸ filed (in the archive).
    """

    PLANNED = "planned"
    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    FILED = "filed"
    REFUSED = "refused"
    REPLACED = "replaced"
    VERIFIED = "verified"


STEPS = ("received", "packed", "sealed", "sent", "fetched", "verified", "filed", "receipted")
"""The chain of a transfer: eight steps, the same words everywhere."""
