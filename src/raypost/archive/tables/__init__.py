"""The tables, commented. They are the truth; jobs and notifications are only wake-ups.

Words: a *case* is (origin site, study UID); a *patient* is (issuing site, issuer, patient ID): patients of different
sites are never merged. A *transfer* carries instances of one case to or from one partner; it is made of *messages*
(parcels, a manifest, receipts), each one mail. Every row that is not final has a `due` instant at which somebody
looks again.
"""

from __future__ import annotations

from raypost.archive.tables.audit import AuditDueRow, AuditRow, AuditStateRow
from raypost.archive.tables.base import Base, Xid8
from raypost.archive.tables.keys import KeyWarningRow
from raypost.archive.tables.mails import CollectedRow, EventRow, ForwardRow, ListedParcelRow, QuarantineRow
from raypost.archive.tables.people import PersonRoleRow, PersonRow, SignInFailuresRow
from raypost.archive.tables.sites import (
    ContactRow,
    DicomNodeRow,
    MailboxRow,
    PartnerRow,
    RelayRow,
    RestoreRow,
    RuleRow,
    ScannerRow,
    SiteRow,
)
from raypost.archive.tables.studies import CaseRow, CorrectionRow, InstanceRow, OpeningRow, PatientRow, SeriesRow
from raypost.archive.tables.transfers import MessageRow, ParcelEntryRow, TransferItemRow, TransferRow

__all__ = (
    "Xid8",
    "Base",
    "AuditRow",
    "AuditDueRow",
    "AuditStateRow",
    "KeyWarningRow",
    "CollectedRow",
    "ListedParcelRow",
    "QuarantineRow",
    "ForwardRow",
    "EventRow",
    "PersonRow",
    "PersonRoleRow",
    "SignInFailuresRow",
    "SiteRow",
    "PartnerRow",
    "MailboxRow",
    "ContactRow",
    "DicomNodeRow",
    "RuleRow",
    "RelayRow",
    "RestoreRow",
    "ScannerRow",
    "PatientRow",
    "CaseRow",
    "OpeningRow",
    "CorrectionRow",
    "SeriesRow",
    "InstanceRow",
    "TransferRow",
    "TransferItemRow",
    "MessageRow",
    "ParcelEntryRow",
)
