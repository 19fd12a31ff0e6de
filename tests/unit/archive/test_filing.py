"""Filing: what comes twice, what comes changed, and what a series remembers of its images."""

import datetime

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from raypost.lab.sample_studies import HeadCtSpec, head_ct

WHEN = datetime.datetime(2026, 11, 24, 3, 12, 5)


def undecodable(file, folder, stream: bytes, **attributes):
    """Write an image as one whose pixels nobody can decode."""
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


STREAM, OTHER_STREAM = b"\xff\xd8 this is no JPEG-LS stream \xff\xd9", b"\xff\xd8 nor is this a JPEG-LS one \xff\xd9"


@pytest.mark.parametrize(
    ("second", "standings", "kind"),
    [
        ({"stream": OTHER_STREAM}, ["conflict", "conflict"], "conflict"),
        ({"stream": OTHER_STREAM, "PatientID": "TST999"}, ["conflict", "conflict"], "conflict"),
        ({"stream": STREAM, "PatientID": "TST999"}, ["superseded", "current"], "new version"),
        ({"stream": STREAM}, ["current"], None),
    ],
    ids=["other pixels", "other pixels and patient", "same pixels, other patient", "the same"],
)
def test_pixels_that_cannot_be_decoded_are_told_apart(neustadt, head, tmp_path, second, standings, kind) -> None:
    """Not being able to read two images does not make them the same image."""
    first = undecodable(head[0], tmp_path, STREAM)
    again = undecodable(head[0], tmp_path, **second)
    assert neustadt.receive(first) == neustadt.receive(again) == 0
    assert [row[0] for row in neustadt.rows("select standing from rp_instance order by version")] == standings
    assert [one for one in neustadt.kinds() if one in ("conflict", "new version")] == ([kind] if kind else [])


def test_an_image_that_was_decoded_and_one_that_cannot_be_are_a_conflict(neustadt, head, tmp_path) -> None:
    assert neustadt.receive(head[0]) == neustadt.receive(undecodable(head[0], tmp_path, STREAM)) == 0
    assert [row[0] for row in neustadt.rows("select standing from rp_instance")] == ["conflict", "conflict"]


def described(neustadt) -> list[tuple]:
    return [
        tuple(row)
        for row in neustadt.rows(
            "select slice_thickness_mm, convolution_kernel, contrast_agent from rp_series order by series_number"
        )
    ]


def write(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def localizer_and_image():
    """A localiser and an axial image; both of the small kind."""
    spec = HeadCtSpec(study_at=WHEN, slices=1, size_px=64)
    return list(head_ct(spec))


def test_a_series_remembers_thickness_kernel_and_contrast(neustadt, localizer_and_image, tmp_path) -> None:
    scout, image = localizer_and_image
    image.ContrastBolusAgent = "Iomeprol 400"
    image.ConvolutionKernel = ["Hr38f", "3"]
    image.SliceThickness = "0.75"
    for number, dataset in enumerate((scout, image)):
        assert neustadt.receive(write(dataset, tmp_path / f"{number}.dcm")) == 0
    assert described(neustadt)[1] == (0.75, "Hr38f\\3", "Iomeprol 400")


def test_a_localizer_does_not_speak_for_its_series(neustadt, localizer_and_image, tmp_path) -> None:
    """Some scanners put the localiser into the series it belongs to: its thickness is not that of the slices."""
    scout, image = localizer_and_image
    scout.SeriesInstanceUID, scout.SeriesNumber = image.SeriesInstanceUID, image.SeriesNumber
    image.SliceThickness, image.InstanceNumber = "5", "2"
    assert neustadt.receive(write(scout, tmp_path / "scout.dcm")) == 0
    assert described(neustadt) == [(None, "", "")]
    assert neustadt.receive(write(image, tmp_path / "image.dcm")) == 0
    assert described(neustadt) == [(5.0, "H31s", "")]


def test_what_the_first_image_said_stays(neustadt, localizer_and_image, tmp_path) -> None:
    _, image = localizer_and_image
    image.SliceThickness = "5"
    assert neustadt.receive(write(image, tmp_path / "1.dcm")) == 0
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    image.SliceThickness, image.ConvolutionKernel = "2.5", "H60s"
    assert neustadt.receive(write(image, tmp_path / "2.dcm")) == 0
    assert described(neustadt) == [(5.0, "H31s", "")]
