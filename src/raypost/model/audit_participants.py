"""Active participants of audit messages (DICOM PS3.15, A.5.3): who did it, with what, from where to where."""

from __future__ import annotations

from raypost.model import audit_forms as forms
from raypost.model.audit_forms import Code, Way
from raypost.model.audit_values import AuditedEvent, Party
from raypost.model.audit_xml import element

UNKNOWN = "unknown"
_IP_ADDRESS, _MAIL_ADDRESS = "2", "4"


def participants(event: AuditedEvent, way: Way) -> tuple[list[str], str, str]:
    """Return who takes part, who did it, and where; A.5.3 says for each message which roles there must be."""
    own = event.own
    person, partner = event.word("who") or event.word("person"), event.partner
    by = [_participant(person, is_requestor=True)] if person else []
    source, target = [forms.SOURCE_ROLE], [forms.DESTINATION_ROLE]
    others = [_site(partner)] if partner is not None and partner.name != own.name else []
    match way:
        case Way.TRANSFER if partner is not None:
            sender, receiver = (partner, own) if event.direction == "in" else (own, partner)
            return [_site(sender, source), _site(receiver, target), *by], person or sender.name, receiver.name
        case Way.PEER if event.direction and partner is not None:
            return [_site(partner, source), _site(own, target)], partner.name, own.name
        case Way.PEER:
            caller = event.word("calling") or UNKNOWN
            return [_peer(caller, event.word("host"), source), _site(own, target)], caller, own.name
        case Way.NODE:
            node = event.word("node") or UNKNOWN
            return [_site(own, source), _participant(node, target)], own.name, node
        case Way.MEDIA:
            by = by or [_site(own, is_requestor=True)]
            return [*by, _site(own), _media(forms.MEDIA_ROLE)], person or own.name, own.name
        case Way.IMPORT:
            return [*by, _site(own, target), _media(forms.SOURCE_MEDIA_ROLE)], person or own.name, own.name
        case Way.APPLICATION:
            return [_site(own, [forms.APPLICATION_ROLE]), *by], own.name, own.name
        case Way.PERSON:
            at = partner if partner is not None and event.direction == "out" else own
            system = [_site(own), *others]
            return [*(by or [_site(own, is_requestor=True)]), *system], person or own.name, at.name
        case _:
            named = [_site(own, is_requestor=not by), *by, *others]
            return named, person or own.name, partner.name if partner is not None else own.name


def _site(site: Party, roles: list[Code] | None = None, *, is_requestor: bool = False) -> str:
    return _participant(
        site.name, roles, name=site.display_name, access=(site.address, _MAIL_ADDRESS), is_requestor=is_requestor
    )


def _peer(ae_title: str, host: str, roles: list[Code]) -> str:
    access = (host, _IP_ADDRESS) if host else None
    return _participant(ae_title, roles, alternative=f"AETITLES={ae_title}", access=access)


def _media(role: Code) -> str:
    media = element("MediaIdentifier", {}, [coded("MediaType", forms.URI_MEDIA)])
    return _participant("DICOM files", [role], inside=media)


def _participant(
    user: str,
    roles: list[Code] | None = None,
    *,
    name: str | None = None,
    alternative: str | None = None,
    access: tuple[str, str] | None = None,
    is_requestor: bool = False,
    inside: str = "",
) -> str:
    attributes = {
        "UserID": user,
        "AlternativeUserID": alternative,
        "UserName": name,
        "UserIsRequestor": "true" if is_requestor else "false",
        "NetworkAccessPointID": access[0] if access else None,
        "NetworkAccessPointTypeCode": access[1] if access else None,
    }
    return element("ActiveParticipant", attributes, [*(coded("RoleIDCode", one) for one in roles or []), inside])


def coded(name: str, code: Code) -> str:
    """Return a coded value (A.5.1.1)."""
    return element(name, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})
