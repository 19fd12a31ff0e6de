"""Audit messages: valid by the schema of PS3.15 for every kind of event, complete, and proof against injection."""

import base64
import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydicom.sr.codedict import codes

from raypost.model import audit_forms
from raypost.model.audit import EventKind, Level
from raypost.model.audit_forms import AUDIT_FORMS, Code, Outcome
from raypost.model.audit_message import build
from raypost.model.audit_values import AuditedEvent, Party, StudyIdentity
from raypost.model.audit_xml import VALUE_LENGTH_MAX
from raypost.model.syslog_message import SEQUENCE_MAX, octet_counted, syslog_message
from tests.peers.audit_schema import valid

OWN = Party("neustadt", "Krankenhaus Neustadt", "neustadt@stroke.example")
PARTNER = Party("ludwigshafen", "Schlaganfallzentrum", "ludwigshafen@stroke.example")
STUDY = StudyIdentity("k3v7qj2m4xw6a", "1.2.3", "A17", "4711", "KH", "Müller^Änne")
AT = datetime(2026, 11, 24, 4, 0, 7, 123456, tzinfo=timezone(timedelta(hours=1)))
PATIENT_WORDS = ("4711", "Müller", "1.2.3", "A17")


def event(kind: EventKind, **changes) -> AuditedEvent:
    fields = changes.pop("fields", {"who": "dr.weber", "bytes": 17, "is_final": True})
    made = AuditedEvent(7, 1, AT, kind, Level.INFO, fields, OWN, PARTNER, "n5k7q2", "out", STUDY)
    return dataclasses.replace(made, **changes)


def codes_of(root, tag: str) -> list[str]:
    return [one.get("csd-code") for one in root.iter(tag)]


def details(root) -> dict[str, str]:
    return {
        one.get("type"): base64.b64decode(one.get("value")).decode() for one in root.iter("ParticipantObjectDetail")
    }


@pytest.mark.parametrize("kind", EventKind, ids=lambda one: one.name)
def test_every_kind_is_a_valid_message(kind):
    for direction in ("in", "out", ""):
        for partner in (PARTNER, OWN, None):
            for study in (STUDY, None):
                for fields in (
                    {},
                    {"who": "x", "calling": "CT1", "host": "10.0.0.1", "node": "pacs", "message": "hello"},
                ):
                    made = event(kind, direction=direction, partner=partner, study=study, fields=fields)
                    valid(build(made).text)


def test_the_table_is_complete():
    assert AUDIT_FORMS.keys() == set(EventKind)


def test_codes_are_those_of_the_standard():
    named = {one for one in vars(audit_forms).values() if isinstance(one, Code) and one.system == "DCM"}
    known = {getattr(codes.DCM, name).value: getattr(codes.DCM, name).meaning for name in codes.DCM.dir()}
    assert named and {one.value: one.meaning for one in named}.items() <= known.items()


def test_received_by_c_store():
    fields = {"calling": "CT1", "host": "10.1.2.3", "bytes": 5}
    made = build(event(EventKind.RECEIVED, direction="", partner=None, transfer_key="", fields=fields, count=12))
    root = valid(made.text)
    assert codes_of(root, "EventID") == ["110104"] and codes_of(root, "RoleIDCode") == ["110153", "110152"]
    source, target = root.findall("ActiveParticipant")
    assert (source.get("UserID"), source.get("NetworkAccessPointID")) == ("CT1", "10.1.2.3")
    assert target.get("UserID") == "neustadt"
    study, patient = root.findall("ParticipantObjectIdentification")[:2]
    assert study.get("ParticipantObjectID") == "1.2.3" and patient.get("ParticipantObjectID") == "4711^^^KH"
    assert patient.find("ParticipantObjectName").text == "Müller^Änne"
    assert study.find(".//SOPClass").get("NumberOfInstances") == "12"
    assert root.find("EventIdentification").get("EventDateTime") == "2026-11-24T03:00:07.123Z"
    assert (made.who, made.place, made.outcome) == ("CT1", "neustadt", Outcome.SUCCESS)


def test_a_file_that_a_person_names_is_an_import():
    made = build(event(EventKind.RECEIVED, direction="", partner=None, fields={"who": "admin"}))
    assert codes_of(valid(made.text), "EventID") == ["110107"] and made.who == "admin"


@pytest.mark.parametrize(("direction", "source"), [("in", "ludwigshafen"), ("out", "neustadt")])
def test_a_transfer_names_its_ends_as_it_goes(direction, source):
    root = valid(build(event(EventKind.SENT, direction=direction, fields={"message": "parcel"})).text)
    assert codes_of(root, "EventID") == ["110102"]
    assert root.find("ActiveParticipant").get("UserID") == source


def test_a_mail_without_images_is_no_transfer():
    root = valid(build(event(EventKind.SENT, fields={"message": "receipt"})).text)
    assert codes_of(root, "EventID") == ["sent"] and root.find(".//EventID").get("codeSystemName") == "Raypost"


def test_a_failure_says_why():
    fields = {"code": "RP-200", "said": "552 5.3.4 too <big>", "message": "parcel"}
    made = build(event(EventKind.SENDING_REFUSED, fields=fields))
    root = valid(made.text)
    assert root.find("EventIdentification").get("EventOutcomeIndicator") == "8"
    assert root.find(".//EventOutcomeDescription").text == "RP-200: 552 5.3.4 too <big>"
    assert build(event(EventKind.QUARANTINED, level=Level.NOTICE)).outcome is Outcome.MINOR_FAILURE
    assert build(event(EventKind.QUARANTINED, level=Level.ALARM)).outcome is Outcome.SERIOUS_FAILURE
    assert build(event(EventKind.ANNOUNCED, level=Level.ALARM)).outcome is Outcome.SUCCESS, "it only rings"


def test_who_opened_it_where():
    here = build(event(EventKind.OPENED, direction="in"))
    there = build(event(EventKind.OPENED, direction="out"))
    assert (here.who, here.place) == ("dr.weber", "neustadt") and (there.who, there.place) == (
        "dr.weber",
        "ludwigshafen",
    )
    assert valid(here.text).find("ActiveParticipant").get("UserIsRequestor") == "true"


def test_patient_data_stand_only_where_the_standard_has_a_place():
    for kind in EventKind:
        root = valid(build(event(kind)).text)
        for one in list(root.iter("ParticipantObjectIdentification")):
            if one.find("ParticipantObjectIDTypeCode").get("csd-code") in ("2", "110180"):
                root.remove(one)
        told = " ".join([value for one in root.iter() for value in (*one.attrib.values(), one.text or "")])
        assert not any(word in told + " ".join(details(root).values()) for word in PATIENT_WORDS), kind


HOSTILE = "Evil^Patient\r\n<85>1 forged\x00\x1b[2J]]>&lt;\"/><AuditMessage>&xxe;\u2028\u202e\ufffe\x85 'x'"


def test_hostile_words_stay_words():
    study = dataclasses.replace(STUDY, patient_name=HOSTILE, patient_id=HOSTILE, accession_number=HOSTILE)
    party = Party(HOSTILE, HOSTILE, HOSTILE)
    fields = {"who": HOSTILE, "said": HOSTILE, "code": "RP-1", HOSTILE: HOSTILE, "node": HOSTILE, "calling": HOSTILE}
    for kind in EventKind:
        made = build(event(kind, study=study, partner=party, own=party, fields=fields, transfer_key=HOSTILE))
        root = valid(made.text)
        assert all(ord(one) >= 32 for one in made.text + made.who + made.place)
        assert not set(made.text) & set("\x7f\x85\u2028\u202e\ufffe")
        name = root.findall("ParticipantObjectIdentification")[1].find("ParticipantObjectName").text
        assert name.startswith("Evil^Patient\ufffd\ufffd<85>1 forged") and "<AuditMessage>&xxe;" in name
        assert len(list(root.iter("AuditMessage"))) == 1


def test_a_message_is_bounded_and_fits_into_a_datagram():
    long = "ä𝄞<" * 100_000
    study = StudyIdentity(*[long] * 6)
    fields = {f"{number}{long}": long for number in range(1000)}
    for kind in EventKind:
        made = build(event(kind, study=study, own=Party(*[long] * 3), partner=Party(*[long] * 3), fields=fields))
        valid(made.text)
        assert len(syslog_message(made.text, sequence=1, at=AT, host="h", is_failure=False)) < 65_000
    assert len(build(event(EventKind.OPENED, fields={"who": long})).who) == VALUE_LENGTH_MAX


def test_syslog_header():
    made = syslog_message("<x>ä</x>", sequence=SEQUENCE_MAX + 1, at=AT, host="ct server\n1", is_failure=False)
    assert made.startswith(b'<85>1 2026-11-24T03:00:07.123Z ctserver1 raypost - DICOM+RFC3881 [meta sequenceId="1"] ')
    assert made.endswith("\ufeff<x>ä</x>".encode())
    assert syslog_message("", sequence=3, at=AT, host="", is_failure=True).startswith(
        b"<84>1 2026-11-24T03:00:07.123Z - "
    )
    assert octet_counted("ä".encode()) == b"2 \xc3\xa4"
    assert syslog_message("", sequence=1, at=AT.astimezone(UTC), host="h", is_failure=False).count(b"03:00:07") == 1
