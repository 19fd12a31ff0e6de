"""The audit message schema of DICOM PS3.15, A.5.1.1 (RELAX NG compact there), written down a second time as patterns.

Not a test; loaded by name. Independent of the product: a message is parsed by the standard library and compared.
"""

import re
from xml.etree import ElementTree

TOKEN = r"\S(.*\S)?|"
OID = r"[0-2](\.(0|[1-9][0-9]*))+"
BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
CODED = {"csd-code": r".+", "codeSystemName": r".+", "originalText": r".+"}

# element: (required attributes, optional attributes, order of the children, text)
SCHEMA: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    "AuditMessage": (
        {},
        {},
        "(EventIdentification )(ActiveParticipant )+(AuditSourceIdentification )(ParticipantObjectIdentification )*",
        "",
    ),
    "EventIdentification": (
        {
            "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
            "EventOutcomeIndicator": "0|4|8|12",
        },
        {"EventActionCode": "[CRUDE]"},
        "(EventID )(EventTypeCode )*(EventOutcomeDescription )?",
        "",
    ),
    "EventID": (CODED, {"displayName": TOKEN}, "", ""),
    "EventTypeCode": (CODED, {"displayName": TOKEN}, "", ""),
    "EventOutcomeDescription": ({}, {}, "", ".*"),
    "ActiveParticipant": (
        {"UserID": ".*", "UserIsRequestor": "true|false|0|1"},
        {
            "AlternativeUserID": ".*",
            "UserName": ".*",
            "NetworkAccessPointID": TOKEN,
            "NetworkAccessPointTypeCode": "[1-5]",
        },
        "(RoleIDCode )*(MediaIdentifier )?",
        "",
    ),
    "RoleIDCode": (CODED, {"displayName": TOKEN}, "", ""),
    "MediaIdentifier": ({}, {}, "(MediaType )", ""),
    "MediaType": (CODED, {"displayName": TOKEN}, "", ""),
    "AuditSourceIdentification": (
        {"AuditSourceID": TOKEN},
        {"AuditEnterpriseSiteID": TOKEN},
        "(AuditSourceTypeCode )*",
        "",
    ),
    "AuditSourceTypeCode": ({"csd-code": "[1-9]"}, {}, "", ""),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID": TOKEN},
        {
            "ParticipantObjectTypeCode": "[1-4]",
            "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity": TOKEN,
        },
        "(ParticipantObjectIDTypeCode )(ParticipantObjectName |ParticipantObjectQuery )(ParticipantObjectDetail )*"
        "(ParticipantObjectDescription )*",
        "",
    ),
    "ParticipantObjectIDTypeCode": (CODED, {"displayName": TOKEN}, "", ""),
    "ParticipantObjectName": ({}, {}, "", TOKEN),
    "ParticipantObjectQuery": ({}, {}, "", BASE64),
    "ParticipantObjectDetail": ({"type": TOKEN, "value": BASE64}, {}, "", ""),
    "ParticipantObjectDescription": (
        {},
        {},
        "(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?(Encrypted )?(Anonymized )?",
        "",
    ),
    "Accession": ({"Number": TOKEN}, {}, "", ""),
    "SOPClass": ({"NumberOfInstances": r"\d+"}, {"UID": OID}, "(Instance )*", ""),
}


def valid(message: str) -> ElementTree.Element:
    """Return the root of a message; fails where the schema says otherwise."""
    assert "\n" not in message and "\r" not in message
    root = ElementTree.fromstring(message.encode())
    assert root.tag == "AuditMessage"
    for one in root.iter():
        required, optional, order, text = SCHEMA[one.tag]
        assert required.keys() <= one.attrib.keys(), (one.tag, one.attrib)
        for name, value in one.attrib.items():
            pattern = {**required, **optional}[name]
            assert re.fullmatch(pattern, value), (one.tag, name, value)
        children = "".join(f"{child.tag} " for child in one)
        assert re.fullmatch(order, children), (one.tag, children)
        assert re.fullmatch(text, one.text or ""), (one.tag, one.text)
        assert one.tail is None
    return root
