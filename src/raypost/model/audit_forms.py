"""Which audit message of DICOM PS3.15, A.5.3 each kind of event becomes: a table, complete for every kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from raypost.model.audit import EVENT_TEXT, EventKind


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value (PS3.15, A.5.1.1): DCM unless another system is named."""

    value: str
    meaning: str
    system: str = "DCM"


OWN_SYSTEM = "Raypost"
"""Code system of what the standard has no code for; PS3.15, A.5 allows such extensions."""


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15, A.5.1.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


class Way(Enum):
    """Who takes part, and in which roles."""

    US = "this application, and the partner if one is concerned"
    TRANSFER = "from us to the partner or back, as the transfer goes"
    PEER = "from a DICOM peer, or a partner, to us"
    NODE = "from us to a DICOM node of the house"
    PERSON = "a person, by means of this application"
    MEDIA = "a person, by means of this application, onto media"
    IMPORT = "a person, by means of this application, from media"
    APPLICATION = "this application, started or stopped"


ACTIVITY = Code("110100", "Application Activity")
LOG_USED = Code("110101", "Audit Log Used")
BEGIN = Code("110102", "Begin Transferring DICOM Instances")
ACCESSED = Code("110103", "DICOM Instances Accessed")
TRANSFERRED = Code("110104", "DICOM Instances Transferred")
DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
IMPORT = Code("110107", "Import")
QUERY = Code("110112", "Query")
ALERT = Code("110113", "Security Alert")
AUTHENTICATION = Code("110114", "User Authentication")

START = Code("110120", "Application Start")
STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
NETWORK_CONFIGURATION = Code("110128", "Network Configuration")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
USER_CHANGED = Code("110137", "User Security Attributes Changed")

APPLICATION_ROLE = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")
MEDIA_ROLE = Code("110154", "Destination Media")
SOURCE_MEDIA_ROLE = Code("110155", "Source Media")
URI_MEDIA = Code("110037", "URI")
STUDY_ID = Code("110180", "Study Instance UID")
NODE_ID = Code("110182", "Node ID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

LOGICAL_DELETION, EXPORTED_COPY = "14", "10"
"""ParticipantObjectDataLifeCycle of a study."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an event of one kind looks like as an audit message.

    Attributes:
        event_id: The message; None for a step inside this program, which gets an EventID of our own.
        action: Create, Read, Update, Delete, Execute.
        event_type: A further code beside ours.
        outcome: Of the event as it stands; a failure of the level alarm counts as serious.
        is_of_parcels: Only where the event's mail is a parcel: other mails carry no instances.
        life_cycle: What became of the study.
    """

    event_id: Code | None
    action: str = "E"
    way: Way = Way.US
    event_type: Code | None = None
    outcome: Outcome = Outcome.SUCCESS
    is_of_parcels: bool = False
    life_cycle: str = ""


def _came(way: Way, action: str = "C", outcome: Outcome = Outcome.SUCCESS) -> Form:
    return Form(TRANSFERRED, action, way, outcome=outcome, is_of_parcels=True)


def _begun() -> Form:
    return Form(BEGIN, "E", Way.TRANSFER, is_of_parcels=True)


def _alert(event_type: Code | None = None, outcome: Outcome = Outcome.MINOR_FAILURE, way: Way = Way.US) -> Form:
    return Form(ALERT, "E", way, event_type, outcome)


_DONE, _MINOR, _SERIOUS = Outcome.SUCCESS, Outcome.MINOR_FAILURE, Outcome.SERIOUS_FAILURE
_STEP, _TROUBLE = Form(None), Form(None, outcome=_MINOR)

AUDIT_FORMS: dict[EventKind, Form] = {
    # instances come, go, are looked at
    EventKind.RECEIVED: _came(Way.PEER),
    EventKind.DUPLICATE: _came(Way.PEER, "R"),
    EventKind.FILED: _came(Way.TRANSFER),
    EventKind.TRANSFER_OPENED: _begun(),
    EventKind.ANNOUNCED: _begun(),
    EventKind.SENT: _begun(),
    EventKind.SENT_AGAIN: _begun(),
    EventKind.TRANSFER_DELIVERED: _came(Way.TRANSFER),
    EventKind.TRANSFER_COMPLETE: _came(Way.TRANSFER),
    EventKind.LATE_RECEIPT: _came(Way.TRANSFER),
    EventKind.TRANSFER_UNCONFIRMED: _came(Way.TRANSFER, outcome=_SERIOUS),
    EventKind.TRANSFER_INCOMPLETE: _came(Way.TRANSFER, outcome=_SERIOUS),
    EventKind.ANNOUNCED_ONLY: _came(Way.TRANSFER, outcome=_SERIOUS),
    EventKind.SENDING_DEFERRED: _came(Way.TRANSFER, outcome=_MINOR),
    EventKind.SENDING_REFUSED: _came(Way.TRANSFER, outcome=_SERIOUS),
    EventKind.BOUNCED: _came(Way.TRANSFER, outcome=_MINOR),
    EventKind.FORWARDED: _came(Way.NODE),
    EventKind.FORWARD_DEFERRED: _came(Way.NODE, outcome=_MINOR),
    EventKind.FORWARD_REFUSED: _came(Way.NODE, outcome=_SERIOUS),
    EventKind.OPENED: Form(ACCESSED, "R", Way.PERSON),
    EventKind.STUDY_SHOWN: Form(ACCESSED, "R", Way.PERSON),
    EventKind.CORRECTED: Form(ACCESSED, "U", Way.PERSON),
    EventKind.NEW_VERSION: Form(ACCESSED, "U"),
    EventKind.RECALL_HONOURED: Form(DELETED, "D", life_cycle=LOGICAL_DELETION),
    EventKind.EXPORTED: Form(EXPORT, "R", Way.MEDIA, life_cycle=EXPORTED_COPY),
    EventKind.STUDIES_LISTED: Form(QUERY, "E", Way.PERSON),
    # the machine, its people, its partners, its keys
    EventKind.STARTED: Form(ACTIVITY, "E", Way.APPLICATION, START),
    EventKind.STOPPED: Form(ACTIVITY, "E", Way.APPLICATION, STOP),
    EventKind.AUDIT_USED: Form(LOG_USED, "R", Way.PERSON),
    EventKind.USER_SIGNED_IN: Form(AUTHENTICATION, "E", Way.PERSON, LOGIN),
    EventKind.USER_SIGN_IN_REFUSED: Form(AUTHENTICATION, "E", Way.PERSON, LOGIN, _MINOR),
    EventKind.PERSON_CHANGED: _alert(USER_CHANGED, _DONE, Way.PERSON),
    EventKind.RIGHT_REFUSED: _alert(RESTRICTED_FUNCTION, way=Way.PERSON),
    EventKind.PARTNER_CHANGED: _alert(NETWORK_CONFIGURATION, _DONE, Way.PERSON),
    EventKind.NODE_CHANGED: _alert(NETWORK_CONFIGURATION, _DONE, Way.PERSON),
    EventKind.RULE_CHANGED: _alert(SOFTWARE_CONFIGURATION, _DONE, Way.PERSON),
    EventKind.RULE_WITHOUT_TARGET: _alert(SOFTWARE_CONFIGURATION),
    EventKind.BACKED_UP: _alert(RESTRICTED_FUNCTION, _DONE),
    EventKind.RESTORED: _alert(RESTRICTED_FUNCTION, _DONE),
    EventKind.KEY_ENDS: _alert(SECURITY_CONFIGURATION),
    EventKind.KEYS_RENEWED: _alert(SECURITY_CONFIGURATION, _DONE),
    EventKind.KEY_REVOKED: _alert(SECURITY_CONFIGURATION, _DONE),
    EventKind.KEYS_REFUSED: _alert(NODE_AUTHENTICATION, _SERIOUS),
    EventKind.AUDIT_WENT_BACK: _alert(NODE_AUTHENTICATION, _SERIOUS),
    # what was turned away, or let nobody in
    EventKind.ASSOCIATION_REFUSED: _alert(NODE_AUTHENTICATION, way=Way.PEER),
    EventKind.RELAY_UNREACHABLE: _alert(NODE_AUTHENTICATION),
    EventKind.RELAY_REACHED: _alert(NODE_AUTHENTICATION, _DONE),
    EventKind.SYSLOG_UNREACHABLE: _alert(NODE_AUTHENTICATION),
    EventKind.SYSLOG_REACHED: _alert(NODE_AUTHENTICATION, _DONE),
    EventKind.QUARANTINED: _alert(),
    EventKind.MAIL_IGNORED: _alert(),
    EventKind.UNKNOWN_MESSAGE: _alert(),
    EventKind.CONFLICT: _alert(),
    # steps inside this program and signs of life: the standard has no message for them
    EventKind.PACKED: _STEP,
    EventKind.SEALED: _STEP,
    EventKind.FETCHED: _STEP,
    EventKind.VERIFIED: _STEP,
    EventKind.RECEIPTED: _STEP,
    EventKind.RECEIPT_WRITTEN: _STEP,
    EventKind.RECEIPT_OUTDATED: _TROUBLE,
    EventKind.TRANSFER_CLOSED: _STEP,
    EventKind.TRANSFER_SILENT: _TROUBLE,
    EventKind.TRANSFER_STALLED: _TROUBLE,
    EventKind.TRANSFER_LATE: _TROUBLE,
    EventKind.TRANSFER_REROUTED: _STEP,
    EventKind.TRANSFER_REDIRECTED: _STEP,
    EventKind.TRANSFER_RECALLED: _STEP,
    EventKind.RECALL_ANSWERED: _STEP,
    EventKind.TAKE_ASKED: _STEP,
    EventKind.TAKE_DECIDED: _STEP,
    EventKind.MESSAGE_MOVED: _STEP,
    EventKind.RELAY_SUSPECTED: _TROUBLE,
    EventKind.HELLO_SENT: _STEP,
    EventKind.HELLO_HEARD: _STEP,
    EventKind.PARTNER_SILENT: _TROUBLE,
    EventKind.PARTNER_HEARD_AGAIN: _STEP,
    EventKind.SCANNER_SILENT: _TROUBLE,
}


IMPORT_FORM = Form(IMPORT, "C", Way.IMPORT)
"""Of an instance that came from a file, not by C-STORE."""


def form_of(kind: EventKind, *, is_from_file: bool) -> Form:
    """Return the form of an event."""
    return IMPORT_FORM if is_from_file and kind is EventKind.RECEIVED else AUDIT_FORMS[kind]


def own_code(kind: EventKind) -> Code:
    """Return our own code of an event kind; it stands in every message beside those of the standard."""
    return Code(kind.value.replace(" ", "-"), EVENT_TEXT[kind], OWN_SYSTEM)
