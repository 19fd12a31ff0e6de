"""A rejection note: tells an archive in the house that images it was sent are not to be used any more.

A Key Object Selection document (PS3.3, A.35.4; template TID 2010, PS3.16) with the title "Rejected for Patient Safety
Reasons", as the IHE profile Imaging Object Change Management describes. It is written by us from checked values.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
TITLE = ("113037", "DCM", "Rejected for Patient Safety Reasons")
"""CID 7011 of PS3.16."""
DESCRIPTION_LENGTH_MAX = 1_000
IMPLEMENTATION_VERSION = "RAYPOST"


@dataclass(frozen=True, slots=True)
class RejectedInstance:
    """One image that is not to be used."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class RejectedStudy:
    """What the note says of the study: as the images say it, so that an archive finds it.

    Attributes:
        why: The sender's reason, as people read it.
    """

    study_instance_uid: str
    patient_name: str
    patient_id: str
    issuer_of_patient_id: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    accession_number: str
    why: str


def write_rejection_note(
    file: Path, study: RejectedStudy, instances: Sequence[RejectedInstance], seed: str, now: datetime
) -> None:
    """Write the note as a DICOM file; the same seed gives the same UIDs, so that it is made once.

    Args:
        seed: What the note is about, such as the key of the recalled transfer.
    """
    note = Dataset()
    note.file_meta = FileMetaDataset()
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    note.file_meta.MediaStorageSOPClassUID = UID(KEY_OBJECT_SELECTION)
    note.file_meta.MediaStorageSOPInstanceUID = _made_uid(seed, "instance")
    note.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    note.SpecificCharacterSet = "ISO_IR 192"
    note.SOPClassUID = KEY_OBJECT_SELECTION
    note.SOPInstanceUID = _made_uid(seed, "instance")
    _identify(note, study)
    note.SeriesInstanceUID = _made_uid(seed, "series")
    note.SeriesNumber, note.InstanceNumber, note.Modality = 9999, 1, "KO"
    note.SeriesDescription = "Recalled by its sender"
    note.Manufacturer = "Raypost"
    note.ReferencedPerformedProcedureStepSequence = []
    note.ContentDate, note.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    note.ReferencedRequestSequence = []
    by_series: dict[str, list[RejectedInstance]] = {}
    for one in instances:
        by_series.setdefault(one.series_instance_uid, []).append(one)
    note.CurrentRequestedProcedureEvidenceSequence = [_evidence(study.study_instance_uid, by_series)]
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    note.ConceptNameCodeSequence = [_code(*TITLE)]
    note.ContentTemplateSequence = [_template()]
    note.ContentSequence = [_reason(study.why), *(_reference(one) for one in instances)]
    note.save_as(file, enforce_file_format=True)


def _identify(note: Dataset, study: RejectedStudy) -> None:
    note.PatientName, note.PatientID = study.patient_name, study.patient_id
    if study.issuer_of_patient_id:
        note.IssuerOfPatientID = study.issuer_of_patient_id
    note.PatientBirthDate, note.PatientSex = study.birth_date, study.sex
    note.StudyInstanceUID, note.StudyID, note.ReferringPhysicianName = study.study_instance_uid, "", ""
    note.StudyDate, note.StudyTime, note.AccessionNumber = study.study_date, study.study_time, study.accession_number


def _evidence(study_instance_uid: str, by_series: Mapping[str, Sequence[RejectedInstance]]) -> Dataset:
    """Say which images are meant (PS3.3, C.17.2.1)."""
    evidence = Dataset()
    evidence.StudyInstanceUID = study_instance_uid
    evidence.ReferencedSeriesSequence = []
    for series_instance_uid, instances in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedSOPSequence = [_sop(one) for one in instances]
        evidence.ReferencedSeriesSequence.append(series)
    return evidence


def _sop(one: RejectedInstance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item


def _reference(one: RejectedInstance) -> Dataset:
    """Refer to one object in the content tree; COMPOSITE fits every class (TID 2010, row 9)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "COMPOSITE"
    item.ReferencedSOPSequence = [_sop(one)]
    return item


def _reason(why: str) -> Dataset:
    """Give the sender's reason: Key Object Description (TID 2010, row 7)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = [_code("113012", "DCM", "Key Object Description")]
    item.TextValue = why[:DESCRIPTION_LENGTH_MAX] or "recalled by its sender"
    return item


def _template() -> Dataset:
    item = Dataset()
    item.MappingResource, item.TemplateIdentifier = "DCMR", "2010"
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _made_uid(seed: str, what: str) -> UID:
    """Make a UID from a UUID (PS3.5, B.2) that is the same for the same seed."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'raypost rejection {what} {seed}').int}")
