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
    RECEIPT_OUTDATED = "receipt outdated"
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
    ANNOUNCED = "announced"
    ANNOUNCED_ONLY = "announced only"
    TRANSFER_SILENT = "transfer silent"
    TRANSFER_STALLED = "transfer stalled"
    TRANSFER_LATE = "transfer late"
    TRANSFER_REROUTED = "transfer rerouted"
    TRANSFER_REDIRECTED = "transfer redirected"
    TRANSFER_RECALLED = "transfer recalled"
    RECALL_ANSWERED = "recall answered"
    RECALL_HONOURED = "recall honoured"
    LATE_RECEIPT = "late receipt"
    OPENED = "opened"
    TAKE_ASKED = "take asked"
    TAKE_DECIDED = "take decided"
    CORRECTED = "corrected"
    RELAY_SUSPECTED = "relay suspected"
    MESSAGE_MOVED = "message moved"
    HELLO_SENT = "hello sent"
    HELLO_HEARD = "hello heard"
    PARTNER_SILENT = "partner silent"
    PARTNER_HEARD_AGAIN = "partner heard again"
    SCANNER_SILENT = "scanner silent"
    UNKNOWN_MESSAGE = "unknown message"
    BACKED_UP = "backed up"
    RESTORED = "restored"
    KEY_ENDS = "key ends"
    KEYS_RENEWED = "keys renewed"
    KEYS_REFUSED = "keys refused"
    KEY_REVOKED = "key revoked"
    AUDIT_WENT_BACK = "audit went back"
    RULE_WITHOUT_TARGET = "rule without target"
    PERSON_CHANGED = "person changed"
    RIGHT_REFUSED = "right refused"
    USER_SIGNED_IN = "user signed in"
    USER_SIGN_IN_REFUSED = "user sign-in refused"
    STARTED = "started"
    STOPPED = "stopped"
    STUDY_SHOWN = "study shown"
    STUDIES_LISTED = "studies listed"
    AUDIT_USED = "audit used"
    SYSLOG_UNREACHABLE = "syslog unreachable"
    SYSLOG_REACHED = "syslog reached"


EVENT_TEXT: dict[EventKind, str] = {
    EventKind.RECEIVED: "An instance came in and is safe on disk and in the database.",
    EventKind.PACKED: "Instances were put into a parcel.",
    EventKind.SEALED: "The parcel was signed by this site and encrypted to the partner.",
    EventKind.SENT: "The relay accepted the mail. That is not yet delivery.",
    EventKind.FETCHED: "A mail was fetched and stored durably; only then it is deleted at the relay.",
    EventKind.VERIFIED: "Signature, signer, addressee and every hash were verified.",
    EventKind.FILED: "The instances of a parcel are in the archive.",
    EventKind.RECEIPTED: "The partner's signed receipt arrived.",
    EventKind.RECEIPT_OUTDATED: "A receipt from before the partner's restore from a backup: what it names may be gone.",
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
    EventKind.ANNOUNCED: "A transfer was announced: who, what, how urgent, from where. An emergency rings.",
    EventKind.ANNOUNCED_ONLY: "Images were announced and none came: telephone the sender.",
    EventKind.TRANSFER_SILENT: "The partner has confirmed nothing new for too long: telephone the partner.",
    EventKind.TRANSFER_STALLED: "Mails of the transfer cannot leave this site: a person must look.",
    EventKind.TRANSFER_LATE: "The transfer will not be complete before its deadline.",
    EventKind.TRANSFER_REROUTED: "The study goes to the next centre now.",
    EventKind.TRANSFER_REDIRECTED: "The sender now sends this study to another centre.",
    EventKind.TRANSFER_RECALLED: "The transfer was sent in error and is taken back.",
    EventKind.RECALL_ANSWERED: "The partner said what became of the recalled images.",
    EventKind.RECALL_HONOURED: "Images recalled by their sender are hidden here, or will not be filed.",
    EventKind.LATE_RECEIPT: "Good news: a centre that was silent has the images after all.",
    EventKind.OPENED: "A person opened the study.",
    EventKind.TAKE_ASKED: "A person at a centre asks to take the case.",
    EventKind.TAKE_DECIDED: "The sender said which centre is responsible for the case.",
    EventKind.CORRECTED: "Identity or order data of a case were corrected; old and new are kept.",
    EventKind.RELAY_SUSPECTED: "A relay took mails of which nothing was heard again: others are used first.",
    EventKind.MESSAGE_MOVED: "A mail goes by another relay now.",
    EventKind.HELLO_SENT: "A sign of life was sent to a partner.",
    EventKind.HELLO_HEARD: "A sign of life of a partner came.",
    EventKind.PARTNER_SILENT: "A partner gives no sign of life: telephone before a patient needs it.",
    EventKind.PARTNER_HEARD_AGAIN: "A silent partner gives signs of life again.",
    EventKind.SCANNER_SILENT: "A scanner that usually sends has sent nothing for long.",
    EventKind.UNKNOWN_MESSAGE: "A partner sent a message of a kind that this version does not know.",
    EventKind.BACKED_UP: "A backup was made.",
    EventKind.KEY_ENDS: "The certificate of a site ends soon, or has ended: nothing can be sealed with it then.",
    EventKind.KEYS_RENEWED: "A site renewed its keys under the same fingerprint.",
    EventKind.AUDIT_WENT_BACK: "A partner's audit trail is shorter than it was, or another one; it says of no restore.",
    EventKind.KEY_REVOKED: "The key of a site was revoked: nothing is sealed to it or believed of it any more.",
    EventKind.KEYS_REFUSED: "A hello brought a certificate that is not its sender's; nothing of it was taken over.",
    EventKind.RESTORED: "This site was restored from a backup.",
    EventKind.RULE_WITHOUT_TARGET: "A rule or a called AE title names a partner or node that is not there any more.",
    EventKind.PERSON_CHANGED: "A person was added, disabled or enabled, or has another role or password.",
    EventKind.RIGHT_REFUSED: "Somebody wanted to do what none of the person's roles allows.",
    EventKind.USER_SIGNED_IN: "A person signed in.",
    EventKind.USER_SIGN_IN_REFUSED: "Signing in was refused: name, password, or too many attempts.",
    EventKind.STARTED: "The program that does this site's work started.",
    EventKind.STOPPED: "The program that does this site's work was stopped.",
    EventKind.STUDY_SHOWN: "A person looked at the data of a study.",
    EventKind.STUDIES_LISTED: "A person listed or searched the studies.",
    EventKind.AUDIT_USED: "A person read the audit trail.",
    EventKind.SYSLOG_UNREACHABLE: "The audit receiver does not answer; audit messages wait and are sent when it does.",
    EventKind.SYSLOG_REACHED: "The audit receiver answers again.",
}
"""One plain sentence an event kind; the reference page is made from it."""
