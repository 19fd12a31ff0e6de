"""Sample studies made by code: a CT of the head with a bleed, and a tiny one for self-tests. No patient behind them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from raypost.errors import UsageError
from raypost.lab.head_images import (
    FIELD_OF_VIEW_MM,
    SCAN_LENGTH_MM,
    SCAN_START_MM,
    SCOUT_LEFT_MM,
    SCOUT_SIZE_PX,
    SCOUT_SPACING_MM,
    SCOUT_TOP_MM,
    HeadImages,
    scout,
)
from raypost.lab.head_phantom import Bleed, HeadPhantom
from raypost.lab.head_shapes import Field

SLICES_MAX = 5000
SIZE_MIN_PX, SIZE_MAX_PX = 64, 1024
TINY_SIZE_PX = 64
TEST_MARK = "RAYPOST TEST"
"""Study description of the self-test's study: whoever meets it anywhere can tell what it is."""

_INTERCEPT_HU = -1024
_STORED_MAX = 4095


@dataclass(frozen=True, slots=True)
class HeadCtSpec:
    """What the scanner is told.

    Attributes:
        study_at: Date and time of the study, in the hospital's local time; a naive one is taken as it is.
        seed: The same seed gives the same study, byte for byte and UID for UID.
        slices: Axial images; the localiser is one instance more. 39 are 4 mm thick, 200 are 0.8 mm.
        size_px: Rows and columns of the axial images.
        noise_hu: Standard deviation within the brain.
        has_localizer: With a localiser as series 1.
        has_bleed: With an intracerebral haemorrhage on the left.
        kind: Studies that differ in nothing else have other UIDs when they differ in this.
        patient_name: DICOM person name, within Latin-1.
    """

    study_at: datetime
    seed: int = 1
    slices: int = 39
    size_px: int = 512
    noise_hu: float = 13.0
    has_localizer: bool = True
    has_bleed: bool = True
    kind: str = ""
    patient_name: str = "Müller-Lüdenscheidt^Jürgen"
    patient_id: str = "TST000001"
    patient_birth_date: str = "19520229"
    patient_sex: str = "M"
    accession_number: str = "TSTA00001"
    institution_name: str = "Krankenhaus Neustadt (Testdaten)"
    study_description: str = "CT Schädel nativ"
    referring_physician_name: str = "Schäfer^Änne^^Dr."

    def __post_init__(self) -> None:
        if not 1 <= self.slices <= SLICES_MAX or not SIZE_MIN_PX <= self.size_px <= SIZE_MAX_PX:
            raise UsageError(f"A sample study has 1 to {SLICES_MAX} slices of {SIZE_MIN_PX} to {SIZE_MAX_PX} pixels.")

    @property
    def instance_count(self) -> int:
        """Return how many instances the study has."""
        return self.slices + self.has_localizer


def head_ct(spec: HeadCtSpec) -> Iterator[Dataset]:
    """Yield the instances of a plain CT of the head, one at a time: localiser first, then upwards from the base.

    Memory stays flat whatever the number of slices.
    """
    phantom = HeadPhantom(spec.seed, Bleed() if spec.has_bleed else None)
    if spec.has_localizer:
        yield localizer(spec, phantom)
    images = HeadImages(phantom, spec.size_px, spec.noise_hu, spec.seed)
    thickness_mm = SCAN_LENGTH_MM / spec.slices
    series = AxialSeries(2, f"Schädel nativ {thickness_mm:.1f} mm H31s", "H31s", thickness_mm)
    for number in range(spec.slices):
        z_mm = SCAN_START_MM + (number + 0.5) * thickness_mm
        yield axial_image(spec, series, number + 1, z_mm, images.image(number, z_mm, thickness_mm))


@dataclass(frozen=True, slots=True)
class AxialSeries:
    """How a series of axial images is called and reconstructed (PS3.3, C.8.2.1)."""

    series_number: int
    series_description: str
    convolution_kernel: str
    slice_thickness_mm: float
    contrast_agent: str = ""


def axial_image(spec: HeadCtSpec, series: AxialSeries, instance_number: int, z_mm: float, hu: Field) -> Dataset:
    """Return one axial image of a series; `hu` fills the field of view."""
    dataset = _header(spec, series.series_number, instance_number)
    spacing_mm = FIELD_OF_VIEW_MM / spec.size_px
    corner_mm = -(spec.size_px - 1) / 2 * spacing_mm
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesDescription = series.series_description
    dataset.ConvolutionKernel = series.convolution_kernel
    dataset.SliceThickness = _decimal(series.slice_thickness_mm)
    if series.contrast_agent:
        dataset.ContrastBolusAgent = series.contrast_agent
    dataset.ImagePositionPatient = [_decimal(corner_mm), _decimal(corner_mm), _decimal(z_mm)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = _decimal(z_mm)
    dataset.PixelSpacing = [_decimal(spacing_mm)] * 2
    dataset.WindowCenter, dataset.WindowWidth = "40", "80"
    _set_pixels(dataset, hu)
    return dataset


def localizer(spec: HeadCtSpec, phantom: HeadPhantom) -> Dataset:
    """Return the lateral localiser of a study, its series 1."""
    dataset = _header(spec, series_number=1, instance_number=1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesDescription = "Topogramm lateral"
    dataset.ConvolutionKernel = "T20s"
    dataset.SliceThickness = "0.6"
    # Seen from the left: columns run from the face backwards, rows from the vertex downwards.
    dataset.ImagePositionPatient = ["0", _decimal(SCOUT_LEFT_MM), _decimal(SCOUT_TOP_MM)]
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    dataset.PixelSpacing = [_decimal(SCOUT_SPACING_MM)] * 2
    dataset.WindowCenter, dataset.WindowWidth = "300", "1400"
    _set_pixels(dataset, scout(phantom, spec.seed))
    dataset.RescaleType = "US"  # the grey of a projection is no Hounsfield unit (PS3.3, C.8.2.1.1.7)
    assert dataset.Rows == SCOUT_SIZE_PX
    return dataset


def tiny_ct(study_at: datetime, seed: int) -> list[Dataset]:
    """Return the study of the self-test: two instances of 64x64 pixels, marked as what they are in every text."""
    spec = HeadCtSpec(
        study_at=study_at,
        seed=seed,
        slices=2,
        size_px=TINY_SIZE_PX,
        has_localizer=False,
        patient_name="RAYPOST^TEST",
        patient_id="RAYPOST-TEST",
        accession_number="RAYPOST-TEST",
        patient_sex="O",
        patient_birth_date="19000101",
        institution_name=TEST_MARK,
        study_description=TEST_MARK,
        referring_physician_name="RAYPOST^TEST",
    )
    datasets = []
    for dataset in head_ct(spec):
        dataset.SeriesDescription = TEST_MARK
        datasets.append(dataset)
    return datasets


def write_study(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write instances as Part 10 files (PS3.10) 0001.dcm, 0002.dcm … into a folder; make it when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _header(spec: HeadCtSpec, series_number: int, instance_number: int) -> Dataset:
    """Return the attributes of patient, study, series and equipment (PS3.3, A.3)."""
    date, time = f"{spec.study_at:%Y%m%d}", f"{spec.study_at:%H%M%S}"
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = _make_dicom_uid(spec, "instance", series_number, instance_number)
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = date
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = time
    dataset.AccessionNumber = spec.accession_number
    dataset.Modality = "CT"
    dataset.Manufacturer = "Raypost lab"
    dataset.InstitutionName = spec.institution_name
    dataset.StationName = "LABCT1"
    dataset.ManufacturerModelName = "Simulated CT"
    dataset.SoftwareVersions = "1"
    dataset.ReferringPhysicianName = spec.referring_physician_name
    dataset.StudyDescription = spec.study_description
    dataset.PatientName = spec.patient_name
    dataset.PatientID = spec.patient_id
    dataset.PatientBirthDate = spec.patient_birth_date
    dataset.PatientSex = spec.patient_sex
    dataset.BodyPartExamined = "HEAD"
    dataset.KVP = "120"
    dataset.ProtocolName = "Kopf nativ"
    dataset.GantryDetectorTilt = "0"
    dataset.ExposureTime = "1000"
    dataset.XRayTubeCurrent = "300"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = _make_dicom_uid(spec, "study")
    dataset.SeriesInstanceUID = _make_dicom_uid(spec, "series", series_number)
    dataset.StudyID = "1"
    dataset.SeriesNumber = series_number
    dataset.AcquisitionNumber = series_number
    dataset.InstanceNumber = instance_number
    dataset.FrameOfReferenceUID = _make_dicom_uid(spec, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    return dataset


def _set_pixels(dataset: Dataset, hu: Field) -> None:
    """Store Hounsfield units as 12 bits in 16, unsigned (PS3.3, C.8.2.1)."""
    stored = np.clip(np.rint(hu - _INTERCEPT_HU), 0, _STORED_MAX).astype("<u2")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = str(_INTERCEPT_HU), "1", "HU"
    dataset.add_new("PixelData", "OW", stored.tobytes())


def _make_dicom_uid(spec: HeadCtSpec, *names: object) -> UID:
    """Return a UID below 2.25 (PS3.5, B.2) that follows from seed and time alone."""
    made_of = (spec.seed, spec.study_at.isoformat(), spec.slices, spec.size_px, *([spec.kind] if spec.kind else []))
    text = "|".join(map(str, ("raypost-lab", *made_of, *names)))
    digest = hashlib.sha256(text.encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def _decimal(value: float) -> str:
    # VR DS has at most 16 characters (PS3.5, 6.2).
    return f"{value:.5f}".rstrip("0").rstrip(".")
