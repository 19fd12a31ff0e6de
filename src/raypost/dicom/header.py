"""Reads attributes of a data set as text and numbers, with the character set it declares."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Mapping

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from raypost.dicom.elements import DataSet
from raypost.model.study import TEXT_LENGTH_MAX, TEXT_LENGTHS_MAX

CHARACTER_SETS_MAX = 16
VALUE_SIZE_MAX_BYTES = 4 * TEXT_LENGTH_MAX
NUMBER_LENGTH_MAX = 16

_SPECIFIC_CHARACTER_SET = 0x00080005
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)
_FALL_BACK = "iso8859"

TEXTS: Mapping[str, int] = {
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "study_description": 0x00081030,
    "accession_number": 0x00080050,
    "modality": 0x00080060,
    "series_description": 0x0008103E,
    "body_part_examined": 0x00180015,
    "image_type": 0x00080008,
    "convolution_kernel": 0x00181210,
    "contrast_agent": 0x00180010,
}
_PATIENT_NAME = 0x00100010


class Header:
    """The attributes at the top level of one data set.

    Whatever is missing or unreadable reads as '' or None: a header is a courtesy to people, the file is kept anyway.
    """

    def __init__(self, data_set: DataSet) -> None:
        self._elements = data_set.elements
        self._order = "<" if data_set.is_little_endian else ">"
        declared = self._raw(_SPECIFIC_CHARACTER_SET).decode("ascii", "replace").split("\\")[:CHARACTER_SETS_MAX]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._encodings = convert_encodings([one.strip() for one in declared])
            except (LookupError, ValueError):
                self._encodings = [_FALL_BACK]

    def dicom_uid(self, number: int) -> str:
        """Return a UID without its padding; not checked."""
        return self._raw(number).rstrip(b"\0 ").decode("ascii", "replace")

    def text(self, number: int) -> str:
        """Return a value as Unicode; several values are joined by a backslash, as they stand in the file."""
        return self._clean(self._decode(self._raw(number)))

    def person_name(self, number: int) -> str:
        """Return a person name (PS3.5, 6.2.1) as Unicode, with ^ and = as they stand in the file."""
        raw = self._raw(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._clean(str(PersonName(raw, self._encodings).decode()))
            except (LookupError, UnicodeError, ValueError):
                return self._clean(raw.decode("latin-1"))

    def integer(self, number: int) -> int | None:
        """Return the first value of an IS or US attribute; None if it is absent or no integer."""
        element = self._elements.get(number)
        if element is None:
            return None
        if element.vr.startswith((b"US", b"SS")):
            if len(element.value) < 2:
                return None
            return int(struct.unpack_from(self._order + ("h" if element.vr == b"SS" else "H"), element.value)[0])
        first = self._first(number)
        return int(first) if _INTEGER.fullmatch(first) else None

    def decimal(self, number: int) -> float | None:
        """Return the first value of a DS attribute; None if it is absent or no finite number."""
        first = self._first(number)
        try:
            found = float(first) if len(first) <= NUMBER_LENGTH_MAX and "_" not in first else math.nan
        except ValueError:
            return None
        return found if math.isfinite(found) else None

    def facts(self) -> dict[str, object]:
        """Return the descriptive entries of `InstanceFacts`."""
        found: dict[str, object] = {
            name: self.text(number)[: TEXT_LENGTHS_MAX.get(name, TEXT_LENGTH_MAX)] for name, number in TEXTS.items()
        }
        found["patient_name"] = self.person_name(_PATIENT_NAME)
        found["series_number"] = self.integer(0x00200011)
        found["instance_number"] = self.integer(0x00200013)
        found["slice_thickness_mm"] = self.decimal(0x00180050)
        found["number_of_frames"] = max(1, self.integer(0x00280008) or 1)
        return found

    def _raw(self, number: int) -> bytes:
        element = self._elements.get(number)
        return bytes(element.value[:VALUE_SIZE_MAX_BYTES]) if element else b""

    def _first(self, number: int) -> str:
        return self._raw(number).decode("latin-1").split("\\")[0].strip(" \0")

    def _decode(self, raw: bytes) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return decode_bytes(raw, self._encodings, TEXT_VR_DELIMS)
            except (LookupError, UnicodeError, ValueError):
                return raw.decode("latin-1")

    @staticmethod
    def _clean(text: str) -> str:
        return _CONTROL.sub("", text).strip()[:TEXT_LENGTH_MAX]


def load_codecs() -> None:
    """Import every text codec that `pydicom` may ask for: a confined worker may be unable to read Python's files."""
    from pydicom.charset import python_encoding

    for name in {*python_encoding.values(), "latin-1", "utf-8", "ascii"}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                b"A".decode(name)  # of nothing at all Python decodes without the codec
            except LookupError:
                continue
