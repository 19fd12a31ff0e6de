"""Audit messages of DICOM PS3.15, A.5: an event and what belongs to it in, XML of the standard's schema out.

Data of a patient stand where the standard has a place for them and nowhere else: in the participant objects "Patient"
and "Study" (A.5.2). What the event itself tells, numbers and keys of ours, is in an object of its own, Base64 as the
schema wants it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from raypost.model import audit_forms as forms
from raypost.model.audit import EVENT_TEXT, Level
from raypost.model.audit_forms import Code, Form, Outcome, Way, form_of, own_code
from raypost.model.audit_participants import UNKNOWN, coded, participants
from raypost.model.audit_values import MERGED, AuditedEvent, StudyIdentity
from raypost.model.audit_xml import Encoded, clean, element

FIELDS_MAX = 20
"""Of one event; with the length of a value it keeps a message below what one UDP datagram holds."""

APPLICATION_SERVER = "4"
"""AuditSourceTypeCode (A.5.1.2.1)."""

_PERSON, _SYSTEM = "1", "2"
_PATIENT, _REPORT, _SECURITY_RESOURCE, _JOB, _QUERIED = "1", "3", "13", "20", "24"
_WHY = ("code", "what", "said", "why")
"""Fields that say why something failed; they are EventOutcomeDescription."""


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """An audit message, and what of it is searched for: who did it, and to or at which site or node."""

    text: str
    outcome: Outcome
    who: str
    place: str


def build(event: AuditedEvent) -> AuditMessage:
    """Write the audit message of an event."""
    form = form_of(event.kind, is_from_file=not event.fields.get("calling"))
    is_step = form.event_id is None or (form.is_of_parcels and event.fields.get("message", "parcel") != "parcel")
    outcome = form.outcome
    if outcome is Outcome.MINOR_FAILURE and event.level is Level.ALARM:
        outcome = Outcome.SERIOUS_FAILURE
    way = Way.US if is_step else form.way
    active, who, place = participants(event, way)
    text = '<?xml version="1.0" encoding="UTF-8"?>' + element(
        "AuditMessage",
        {},
        [
            _event_identification(event, form, outcome, is_step=is_step),
            *active,
            element(
                "AuditSourceIdentification",
                {"AuditEnterpriseSiteID": event.own.display_name, "AuditSourceID": event.own.name},
                [element("AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})],
            ),
            *_objects(event, form, is_step=is_step),
        ],
    )
    return AuditMessage(text, outcome, clean(who), clean(place))


def _event_identification(event: AuditedEvent, form: Form, outcome: Outcome, *, is_step: bool) -> str:
    kind = own_code(event.kind)
    types = [form.event_type, kind] if form.event_type is not None else [kind]
    children = [coded("EventID", kind if is_step or form.event_id is None else form.event_id)]
    children += [coded("EventTypeCode", one) for one in types]
    if outcome is not Outcome.SUCCESS:
        reasons = [str(event.fields[name]) for name in _WHY if event.fields.get(name)]
        children.append(element("EventOutcomeDescription", {}, text=": ".join(reasons) or EVENT_TEXT[event.kind]))
    attributes = {
        "EventActionCode": form.action,
        "EventDateTime": event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "EventOutcomeIndicator": str(outcome.value),
    }
    return element("EventIdentification", attributes, children)


def _objects(event: AuditedEvent, form: Form, *, is_step: bool) -> Iterator[str]:
    """Yield what the event is about: study, patient, and the event itself."""
    if event.study is not None:
        yield _study_object(event, event.study, form.life_cycle or None)
        yield _patient_object(event.study)
    if is_step or form.event_id not in (forms.ACTIVITY, forms.AUTHENTICATION):
        yield _event_object(event, None if is_step else form.event_id)


def _study_object(event: AuditedEvent, study: StudyIdentity, life_cycle: str | None) -> str:
    instances = event.fields.get("instances", event.count if event.kind in MERGED else None)
    told = [element("Accession", {"Number": study.accession_number})] if study.accession_number else []
    if isinstance(instances, int) and not isinstance(instances, bool):
        told.append(element("SOPClass", {"NumberOfInstances": str(instances)}))
    return _object(
        study.study_instance_uid,
        forms.STUDY_ID,
        study.study_key,
        [element("ParticipantObjectDescription", {}, told)] if told else [],
        kind=_SYSTEM,
        role=_REPORT,
        life_cycle=life_cycle,
    )


def _patient_object(study: StudyIdentity) -> str:
    number = study.patient_id or UNKNOWN
    if study.issuer_of_patient_id:
        number += f"^^^{study.issuer_of_patient_id}"
    return _object(number, forms.PATIENT_NUMBER, study.patient_name or UNKNOWN, [], kind=_PERSON, role=_PATIENT)


def _event_object(event: AuditedEvent, event_id: Code | None) -> str:
    """Return the object with what the event itself tells: the alert's subject, the log, the query, or our record."""
    details = [("Event", str(event.number)), ("Transfer", event.transfer_key), *_details(event.fields)]
    if event.count > 1:
        details.append(("Events", str(event.count)))
    if event_id == forms.ALERT:
        details.append(("Alert Description", EVENT_TEXT[event.kind]))
    inside = [_detail(name, value) for name, value in details if value]
    if event_id == forms.LOG_USED:
        return _object("raypost:audit", forms.URI, "Security Audit Log", inside, kind=_SYSTEM, role=_SECURITY_RESOURCE)
    if event_id == forms.QUERY:
        query = element("ParticipantObjectQuery", {}, text=_base64(event.kind.value))
        return _object("raypost:studies", forms.URI, None, [query, *inside], kind=_SYSTEM, role=_QUERIED)
    if event_id == forms.ALERT:
        named = event.word("person") or event.word("name") or event.own.name
        name = event.partner.name if event.partner is not None else named
        return _object(name, forms.NODE_ID, name, inside, kind=_SYSTEM, role=_SECURITY_RESOURCE)
    code = own_code(event.kind)
    return _object(event.transfer_key or str(event.number), code, event.kind.value, inside, kind=_SYSTEM, role=_JOB)


def _object(
    object_id: str,
    id_type: Code,
    name: str | None,
    inside: list[str],
    *,
    kind: str,
    role: str,
    life_cycle: str | None = None,
) -> str:
    """Return a ParticipantObjectIdentification; without a name the first thing inside is the query (A.5.1.1)."""
    named = [] if name is None else [element("ParticipantObjectName", {}, text=name)]
    attributes = {
        "ParticipantObjectID": object_id,
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
        "ParticipantObjectDataLifeCycle": life_cycle,
    }
    children = [coded("ParticipantObjectIDTypeCode", id_type), *named, *inside]
    return element("ParticipantObjectIdentification", attributes, children)


def _details(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in list(fields.items())[:FIELDS_MAX]:
        if value is not None and value != "":
            yield name, clean(str(value).lower() if isinstance(value, bool) else str(value))


def _detail(name: str, value: str) -> str:
    return element("ParticipantObjectDetail", {"type": name, "value": _base64(value)})


def _base64(value: str) -> Encoded:
    return Encoded(base64.b64encode(value.encode()).decode("ascii"))
