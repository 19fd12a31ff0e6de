"""Small synthetic DICOM files; no patient data."""

import io
import struct

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, JPEG_LS, JPEG_BASELINE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.50"
JPEG_2000, RLE, JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def smooth(rows, columns, samples=1, frames=1, bits=12, signed=False, seed=0):
    """Samples that compress well and use the range of the bits; words of the smallest width."""
    rng = np.random.default_rng(seed)
    shape = (frames, rows, columns, samples)
    y = np.arange(rows)[None, :, None, None]
    x = np.arange(columns)[None, None, :, None]
    top = (1 << bits) - 1
    found = (np.sin(x / 9) * np.cos(y / 7) * 0.45 + 0.5) * top + rng.normal(0, max(0.4, top / 400), shape)
    found = np.clip(np.rint(found), 0, top).astype(np.int64)
    if signed:
        found -= 1 << (bits - 1)
    return found


def make(
    pixels=None,
    *,
    allocated=16,
    stored=12,
    signed=False,
    photometric=None,
    planar=None,
    syntax=EXPLICIT,
    data=None,
    sequences=True,
    study="2.25.2",
    instance="2.25.1",
    **attributes,
):
    """Return a Part 10 file; `pixels` has the shape (frames, rows, columns, samples), `data` replaces the value."""
    pixels = smooth(48, 64, bits=stored, signed=signed) if pixels is None else pixels
    frames, rows, columns, samples = pixels.shape
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 100"
    one.SOPClassUID, one.SOPInstanceUID = UID(CT_IMAGE), instance
    one.StudyInstanceUID, one.SeriesInstanceUID = study, "2.25.3"
    one.StudyDate, one.StudyTime, one.Modality = "20260102", "101112.5", "CT"
    one.PatientName, one.PatientID = "M\u00fcller^J\u00f6rg", "P1"
    one.PatientBirthDate, one.PatientSex = "19500101", "O"
    one.StudyDescription, one.SeriesDescription, one.AccessionNumber = "Sch\u00e4del", "nativ", "A1"
    one.ImageType, one.BodyPartExamined = ["ORIGINAL", "PRIMARY"], "HEAD"
    one.SeriesNumber, one.InstanceNumber, one.SliceThickness = "2", "7", "1.25"
    if sequences:
        item = Dataset()
        item.ReferencedSOPInstanceUID = "2.25.9"
        item.add_new(0x00091001, "LO", "odd")
        one.ReferencedImageSequence = [item, Dataset()]
        one.add_new(0x00090010, "LO", "RAYPOST TEST")
        one.add_new(0x00091001, "SQ", [item])
        one.add_new(0x00091002, "OB", b"\0\1\2\3")
        one.add_new(0x00091003, "LO", "odd")
    one.Rows, one.Columns, one.SamplesPerPixel = rows, columns, samples
    one.PhotometricInterpretation = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = allocated, stored, stored - 1, int(signed)
    if frames > 1:
        one.NumberOfFrames = str(frames)
    if samples > 1:
        one.PlanarConfiguration = planar or 0
    width = {8: "1", 16: "2", 32: "4"}.get(allocated, "2")
    words = pixels.transpose(0, 3, 1, 2) if planar else pixels
    raw = words.astype(("i" if signed else "u") + width).astype(f"<u{width}").tobytes()
    raw = raw + b"\0" * (len(raw) & 1) if data is None else data
    for keyword, value in attributes.items():
        if value is None:
            delattr(one, keyword)
        else:
            setattr(one, keyword, value)
    one.add_new(0x7FE00010, "OB" if allocated == 8 else "OW", raw)
    one.add_new(0xFFFCFFFC, "OB", b"\0\0")
    return write(one, syntax)


def write(one, syntax=EXPLICIT):
    """Return a data set as a Part 10 file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    one.file_meta = meta
    if syntax == BIG_ENDIAN and one.BitsAllocated == 16:
        one["PixelData"].value = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, one, enforce_file_format=True)
    return out.getvalue()


def encapsulated(frames, syntax, *, fragments_per_frame=1, **layout):
    """Return a file whose Pixel Data are these encoded frames."""
    raw = make(**layout)
    one = pydicom.dcmread(io.BytesIO(raw))
    value = encapsulate(frames, fragments_per_frame=fragments_per_frame, has_bot=len(frames) > 1)
    one.add_new(0x7FE00010, "OB", value)
    one["PixelData"].is_undefined_length = True
    return write(one, syntax)


def element(number, vr, value, length=None):
    """Return one element in explicit VR, with a length that may lie."""
    head = struct.pack("<HH", number >> 16, number & 0xFFFF)
    length = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + vr + b"\0\0" + struct.pack("<I", length) + value
    return head + vr + struct.pack("<H", length) + value
