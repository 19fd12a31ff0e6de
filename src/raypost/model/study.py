"""Patient, study, series and SOP instance as the archive and the rules see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from raypost.errors import BadInputError
from raypost.model.identifiers import is_dicom_uid, is_sha256

TEXT_LENGTH_MAX = 1024
"""Longest text taken over from a DICOM attribute into a row; longer values are cut, the file keeps the whole."""

TEXT_LENGTHS_MAX: Mapping[str, int] = {"convolution_kernel": 64, "contrast_agent": 64}
"""Shorter bounds of single entries: VR SH, of which a kernel has one or two, and VR LO (PS3.5, 6.2)."""

ENCODED_MARK = "encoded:"
"""Before the SHA-256 of pixels that could not be decoded: it is over what stands in the file."""


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the sandbox found in one DICOM file. Texts are Unicode, dates as in DICOM (YYYYMMDD), '' means absent.

    Attributes:
        content_sha256: Over all attributes but group 2, group lengths and the way pixels are packed, and over the
            decoded pixels: equal for the same instance in any transfer syntax.
        pixel_sha256: Over the decoded pixel bytes alone; over the encoded ones, behind `ENCODED_MARK`, when they could
            not be decoded; '' without Pixel Data.
        file_sha256: Over the bytes of the file to be kept.
        size_bytes: Of the file to be kept.
        raw_size_bytes: Of the Part 10 file as it came.
        kept_because: Why the file kept its transfer syntax; '' when it was compressed.
        slice_thickness_mm: (0018,0050), as it stands there (PS3.3, C.7.6.2).
        convolution_kernel: (0018,1210), several values joined by a backslash (PS3.3, C.8.2.1).
        contrast_agent: (0018,0010), in the scanner's own words; often '' although there was one (PS3.3, C.7.6.4).
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    file_sha256: str
    content_sha256: str
    size_bytes: int
    raw_size_bytes: int
    pixel_sha256: str = ""
    kept_because: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    accession_number: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part_examined: str = ""
    instance_number: int | None = None
    image_type: str = ""
    slice_thickness_mm: float | None = None
    convolution_kernel: str = ""
    contrast_agent: str = ""
    number_of_frames: int = 1

    def __post_init__(self) -> None:
        for name in (
            "sop_instance_uid",
            "sop_class_uid",
            "study_instance_uid",
            "series_instance_uid",
            "transfer_syntax_uid",
        ):
            if not is_dicom_uid(getattr(self, name)):
                raise BadInputError(f"{name} is not a DICOM UID (PS3.5, 9.1)")
        for name in ("file_sha256", "content_sha256"):
            if not is_sha256(getattr(self, name)):
                raise BadInputError(f"{name} is not a SHA-256")
        if self.pixel_sha256 and not is_sha256(self.pixel_sha256.removeprefix(ENCODED_MARK)):
            raise BadInputError("pixel_sha256 is not a SHA-256")
        if self.size_bytes <= 0 or self.raw_size_bytes <= 0:
            raise BadInputError("a DICOM file cannot be empty")

    @classmethod
    def from_json(cls, found: Mapping[str, object]) -> InstanceFacts:
        """Make the value from what the sandbox returned; unknown or mistyped entries are an error, texts are cut.

        Raises:
            BadInputError: An entry is missing, unknown or of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if not set(found) <= set(fields):
            raise BadInputError("unexpected entries from the parser")
        values: dict[str, object] = {}
        for name, value in found.items():
            expected = str(fields[name].type)
            if expected == "str" and isinstance(value, str):
                values[name] = value.replace("\0", "")[: TEXT_LENGTHS_MAX.get(name, TEXT_LENGTH_MAX)]
            elif (value is None and "None" in expected) or (type(value) is int and "int" in expected):
                values[name] = value
            elif type(value) in (int, float) and "float" in expected:
                values[name] = value
            else:
                raise BadInputError(f"{name} has the wrong type")
        try:
            return cls(**values)  # type: ignore[arg-type]  # types were compared with the fields above
        except TypeError:
            raise BadInputError("entries are missing") from None

    def as_json(self) -> dict[str, object]:
        """Return the plain dictionary that `from_json` reads."""
        return dataclasses.asdict(self)
