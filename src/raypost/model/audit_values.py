"""What an audit message is made of: an event, the sites, the study and the patient it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raypost.model.audit import EventKind, Level

MERGED = frozenset({EventKind.RECEIVED, EventKind.FORWARDED, EventKind.DUPLICATE})
"""One event an instance: several in a row of one study are one message, with their number (A.5.3.7)."""


@dataclass(frozen=True, slots=True)
class Party:
    """A site as it takes part."""

    name: str
    display_name: str
    address: str


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """Whose study an event is about."""

    study_key: str
    study_instance_uid: str
    accession_number: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str


@dataclass(frozen=True, slots=True)
class AuditedEvent:
    """An event with everything that its audit message names.

    Attributes:
        number: Of the first event.
        count: Events of the same kind and study in a row that one message tells.
        direction: Of its transfer: in, out, or empty where there is none.
    """

    number: int
    count: int
    at: datetime
    kind: EventKind
    level: Level
    fields: Mapping[str, Any]
    own: Party
    partner: Party | None = None
    transfer_key: str = ""
    direction: str = ""
    study: StudyIdentity | None = None

    def word(self, name: str) -> str:
        """Return a field as text; empty where there is none."""
        return str(self.fields.get(name) or "")
