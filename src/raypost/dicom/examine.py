"""The sandbox's functions on DICOM files: examine one at intake, convert one for a peer, name its frames.

They run in a worker under limits (`sandbox/`); what they return is plain JSON. Callers know them by `jobs.py`.
"""

from __future__ import annotations

import hashlib
import io
import logging
from typing import BinaryIO

import imagecodecs
import numpy as np
import pydicom.config
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from raypost.dicom import header
from raypost.dicom.instance_file import InstanceFile, content_digest, pixel_digest, read_file
from raypost.dicom.pixel_layout import UndecodableError
from raypost.dicom.pixels import frame_digests, write_compressed, write_native, written
from raypost.dicom.transfer_syntaxes import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_LS_LOSSLESS,
    transfer_syntax_name,
)
from raypost.errors import BadInputError
from raypost.model.identifiers import is_dicom_uid

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

INFLATED_SIZE_MAX_BYTES = 128 << 20
_UIDS = {
    "sop_instance_uid": 0x00080018,
    "sop_class_uid": 0x00080016,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
}


def load() -> None:
    """Load what the libraries load late, by using all of it once: a confined worker may be unable to open files."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    header.load_codecs()
    for codec in ("jpegls_encode", "jpegls_decode", "jpeg2k_decode", "ljpeg_decode", "dicomrle_decode"):
        getattr(imagecodecs, codec)
    for implicit in (True, False):
        examine(memoryview(_specimen(implicit)), io.BytesIO(), compress=True)
    transfer_syntax_name(JPEG_LS_LOSSLESS)


def examine(source: memoryview, target: BinaryIO | None, *, compress: bool) -> dict[str, Json]:
    """Return the `InstanceFacts` of a file as JSON; with `compress` also write the file to be kept to `target`.

    The file to be kept is the proven JPEG-LS form, or the file as it came but for its preamble, which is zeroed: it
    can make a DICOM file a program as well.

    Raises:
        BadInputError: Not DICOM, truncated, hostile, or one of the UIDs is none.
    """
    file = read_file(source, INFLATED_SIZE_MAX_BYTES)
    found: dict[str, Json] = {**_identity(file)}
    found.update(file.header.facts())  # type: ignore[arg-type]  # its values are texts and numbers
    pixel_sha256, undecodable = pixel_digest(file)
    kept_because, kept, syntax = undecodable, source, file.transfer_syntax_uid
    if compress:
        if target is None:
            raise ValueError("compressing needs a target")
        kept_because = _write_kept(file, target, undecodable)
        kept = written(target)
        syntax = syntax if kept_because else JPEG_LS_LOSSLESS
    found.update(
        transfer_syntax_uid=syntax,
        file_sha256=hashlib.sha256(kept).hexdigest(),
        content_sha256=content_digest(file, pixel_sha256),
        pixel_sha256=pixel_sha256,
        size_bytes=len(kept),
        raw_size_bytes=len(source),
        kept_because=kept_because,
    )
    return found


def native(source: memoryview, target: BinaryIO | None, *, transfer_syntax_uid: str) -> dict[str, Json]:
    """Write the Explicit or Implicit VR Little Endian form of a file for a peer that accepts nothing else.

    Raises:
        BadInputError: The file cannot be read, or not be converted without loss.
    """
    if target is None or transfer_syntax_uid not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        raise ValueError("native needs a target and a native transfer syntax")
    write_native(read_file(source), target, implicit=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN)
    return {"size_bytes": len(written(target))}


def pixel_digests(source: memoryview, target: BinaryIO | None) -> dict[str, Json]:
    """Return the SHA-256 of the decoded pixels of every frame.

    Raises:
        BadInputError: The file cannot be read, or its pixels not be decoded without loss.
    """
    return {"frames": [*frame_digests(read_file(source))]}


def _identity(file: InstanceFile) -> dict[str, str]:
    """Return the four UIDs, each checked before anything else is believed (PS3.5, 9.1)."""
    found = {name: file.header.dicom_uid(number) for name, number in _UIDS.items()}
    for name, dicom_uid in found.items():
        if not is_dicom_uid(dicom_uid):
            raise BadInputError(f"{name} is no UID (PS3.5, 9.1)")
    for said, stands in (
        (file.meta.sop_instance_uid, found["sop_instance_uid"]),
        (file.meta.sop_class_uid, found["sop_class_uid"]),
    ):
        if said and said != stands:
            raise BadInputError("the file meta group names another instance than the data set")
    return found


def _write_kept(file: InstanceFile, target: BinaryIO, undecodable: str) -> str:
    """Write the file to be kept and return why it kept its transfer syntax; '' when it was compressed."""
    if not undecodable:
        try:
            write_compressed(file, target)
        except UndecodableError as error:
            undecodable = str(error)
        else:
            return ""
    target.seek(0)
    target.truncate()
    target.write(bytes(128))
    target.write(file.raw[128:])
    return undecodable


def _specimen(implicit: bool) -> bytes:
    """Return a small colour image with a sequence, to be examined once while loading."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.7"), UID("2.25.1")
    meta.TransferSyntaxUID = UID(IMPLICIT_VR_LITTLE_ENDIAN if implicit else EXPLICIT_VR_LITTLE_ENDIAN)
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.SOPClassUID, data_set.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.2", "2.25.3"
    data_set.PatientName, data_set.SliceThickness, data_set.SeriesNumber = "Specimen^\u00c4", "1.0", "1"
    data_set.ReferencedImageSequence = [Dataset()]
    data_set.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "2.25.4"
    data_set.Rows = data_set.Columns = 32
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 16, 12, 11
    data_set.PixelRepresentation = 0
    data_set.PixelData = np.zeros((32, 32), "<u2").tobytes()
    data_set.file_meta = meta
    out = io.BytesIO()
    pydicom.dcmwrite(out, data_set, enforce_file_format=True)
    return out.getvalue()
