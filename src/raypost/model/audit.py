"""Names and levels of the events that a site records."""

from __future__ import annotations

from enum import Enum


class Level(Enum):
    """Who should notice: nobody in particular, an operator, or a person now."""

    INFO = "info"
    NOTICE = "notice"
    ALARM = "alarm"


class EventKind(Enum):
    """Every kind of event; the value is what stands in the row, the page and the log.

    The first eight are the chain of a transfer.
    """

    RECEIVED = "received"
    PACKED = "packed"
    SEALED = "sealed"
    SENT = "sent"
    FETCHED = "fetched"
    VERIFIED = "verified"
    FILED = "filed"
    RECEIPTED = "receipted"
    TRANSFER_OPENED = "transfer opened"
    TRANSFER_CLOSED = "transfer closed"
    TRANSFER_DELIVERED = "transfer delivered"
    TRANSFER_UNCONFIRMED = "transfer unconfirmed"
    TRANSFER_COMPLETE = "transfer complete"
    TRANSFER_INCOMPLETE = "transfer incomplete"
    RECEIPT_WRITTEN = "receipt written"
    SENT_AGAIN = "sent again"
    SENDING_DEFERRED = "sending deferred"
    SENDING_REFUSED = "sending refused"
    BOUNCED = "bounced"
    DUPLICATE = "duplicate"
    NEW_VERSION = "new version"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"
    MAIL_IGNORED = "mail ignored"
    ASSOCIATION_REFUSED = "association refused"
    FORWARDED = "forwarded"
    FORWARD_DEFERRED = "forward deferred"
    FORWARD_REFUSED = "forward refused"
    PARTNER_CHANGED = "partner changed"
    RULE_CHANGED = "rule changed"
    NODE_CHANGED = "node changed"
    RELAY_UNREACHABLE = "relay unreachable"
    RELAY_REACHED = "relay reached"
    EXPORTED = "exported"


EVENT_TEXT: dict[EventKind, str] = {
    EventKind.RECEIVED: "An instance came in and is safe on disk and in the database.",
    EventKind.PACKED: "Instances were put into a parcel.",
    EventKind.SEALED: "The parcel was signed by this site and encrypted to the partner.",
    EventKind.SENT: "The relay accepted the mail. That is not yet delivery.",
    EventKind.FETCHED: "A mail was fetched and stored durably; only then it is deleted at the relay.",
    EventKind.VERIFIED: "Signature, signer, addressee and every hash were verified.",
    EventKind.FILED: "The instances of a parcel are in the archive.",
    EventKind.RECEIPTED: "The partner's signed receipt arrived.",
    EventKind.TRANSFER_OPENED: "A transfer to or from a partner began.",
    EventKind.TRANSFER_CLOSED: "Nothing new came for a while: the manifest was written.",
    EventKind.TRANSFER_DELIVERED: "A receipt signed by the partner names every instance by hash.",
    EventKind.TRANSFER_UNCONFIRMED: "No receipt came in spite of everything: telephone the partner.",
    EventKind.TRANSFER_COMPLETE: "Everything the sender's manifest names is filed here.",
    EventKind.TRANSFER_INCOMPLETE: "Something the sender sent did not arrive, and asking for it did not help.",
    EventKind.RECEIPT_WRITTEN: "A receipt for the partner was written from what is committed here.",
    EventKind.SENT_AGAIN: "Mails without receipt are sent again.",
    EventKind.SENDING_DEFERRED: "The relay could not take a mail now; it is tried again.",
    EventKind.SENDING_REFUSED: "The relay refused a mail for good: a person must look.",
    EventKind.BOUNCED: "The relay reported that it could not deliver a mail.",
    EventKind.DUPLICATE: "The same instance was here already; nothing was filed twice.",
    EventKind.NEW_VERSION: "The same pixels with other patient or order attributes: both versions are kept.",
    EventKind.CONFLICT: "Other pixels under the same SOP Instance UID: both are kept, a person must look.",
    EventKind.QUARANTINED: "Something could not be used and is kept apart.",
    EventKind.MAIL_IGNORED: "A mail that is not for Raypost was set aside unanswered.",
    EventKind.ASSOCIATION_REFUSED: "A DICOM peer was turned away.",
    EventKind.FORWARDED: "An instance was sent on to a DICOM node, which confirmed it.",
    EventKind.FORWARD_DEFERRED: "A DICOM node did not answer; it is tried again.",
    EventKind.FORWARD_REFUSED: "A DICOM node refused an instance: a person must look.",
    EventKind.PARTNER_CHANGED: "A partner was added or removed.",
    EventKind.RULE_CHANGED: "A rule was added or removed.",
    EventKind.NODE_CHANGED: "A DICOM node was added or removed.",
    EventKind.RELAY_UNREACHABLE: "A relay does not answer; mails wait and are sent when it does.",
    EventKind.RELAY_REACHED: "A relay answers again.",
    EventKind.EXPORTED: "A study was written out as DICOM files.",
}
"""One plain sentence an event kind; the reference page is made from it."""
