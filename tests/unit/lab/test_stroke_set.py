"""The stroke set looks like one to whoever reads the headers, in numbers, thickness, kernels and contrast."""

import datetime
import itertools
import shutil
import subprocess
import sysconfig
from collections import Counter

import numpy as np
import pytest

from raypost.errors import UsageError
from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.lab.stroke_set import AS_RECONSTRUCTED, CONTRAST_AGENT, StrokeSeries, StrokeSetSpec, stroke_set

WHEN = datetime.datetime(2026, 11, 24, 3, 12, 5)
SMALL = StrokeSetSpec(WHEN, plain_thick=4, plain_thin=5, cta=6, perfusion=40, size_px=64)


@pytest.fixture(scope="module")
def study():
    """A small set."""
    return list(stroke_set(SMALL))


def of(study, series: StrokeSeries):
    return [one for one in study if one.SeriesNumber == series.value]


def hu(dataset) -> np.ndarray:
    return dataset.pixel_array.astype(np.float64) + float(dataset.RescaleIntercept)


@pytest.mark.parametrize("slices", [1, 2, 8, 40, 200, 2400])
def test_sizes_in_all(slices) -> None:
    spec = StrokeSetSpec.of_size(slices, WHEN, size_px=64)
    counts = [spec.count(series) for series in StrokeSeries]
    assert spec.slices == sum(counts) == slices
    assert counts[0] == max(1, min(40, slices // 4))
    if slices == 2400:
        assert counts == [StrokeSetSpec(WHEN).count(series) for series in StrokeSeries]
    if slices >= 40:
        assert all(counts) and counts[1:] == sorted(counts[1:])


def test_numbers_and_identity(study) -> None:
    assert Counter(one.SeriesNumber for one in study) == {1: 1, 2: 4, 3: 5, 4: 6, 5: 40}
    assert len({one.SOPInstanceUID for one in study}) == len(study) == SMALL.slices + 1
    assert len({one.SeriesInstanceUID for one in study}) == 5 and len({one.StudyInstanceUID for one in study}) == 1
    for series in StrokeSeries:
        assert [one.InstanceNumber for one in of(study, series)] == list(range(1, SMALL.count(series) + 1))


def test_it_comes_in_the_order_that_was_asked_for(study) -> None:
    assert [number for number, _ in itertools.groupby(one.SeriesNumber for one in study)] == [1, 3, 2, 4, 5]
    order = tuple(reversed(AS_RECONSTRUCTED))
    spec = StrokeSetSpec(WHEN, plain_thick=1, plain_thin=1, cta=1, perfusion=1, size_px=64, order=order)
    assert [one.SeriesNumber for one in stroke_set(spec)] == [1, 5, 4, 2, 3]


def test_headers_tell_the_series_apart(study) -> None:
    def head(series):
        first = of(study, series)[0]
        return float(first.SliceThickness), first.ConvolutionKernel, first.get("ContrastBolusAgent", "")

    assert head(StrokeSeries.PLAIN_THICK) == (4.0, "H31s", "")
    assert head(StrokeSeries.PLAIN_THIN) == (0.75, "H31s", "")
    assert head(StrokeSeries.CTA) == (0.75, "H20f", CONTRAST_AGENT)
    assert head(StrokeSeries.PERFUSION) == (10.0, "H20f", CONTRAST_AGENT)
    many = StrokeSetSpec(WHEN, plain_thick=78, plain_thin=2000, cta=1, perfusion=1, size_px=64)
    firsts = {one.SeriesNumber: float(one.SliceThickness) for one in itertools.islice(stroke_set(many), 2002)}
    assert firsts[3] == 0.078 and firsts[2] == 2.0


def test_agent_in_the_arteries_and_its_passage(study) -> None:
    row, column = 28, 28  # an internal carotid artery
    plain, cta = of(study, StrokeSeries.PLAIN_THICK)[2], of(study, StrokeSeries.CTA)[3]
    assert hu(cta)[row - 1 : row + 2, column - 1 : column + 2].max() > hu(plain)[20:40, 24:40].mean() + 150
    middle = of(study, StrokeSeries.PERFUSION)[8::16]
    assert len(middle) == 2 and len({str(one.ImagePositionPatient) for one in middle}) == 1
    passing = StrokeSetSpec(WHEN, plain_thick=0, plain_thin=0, cta=0, perfusion=160, size_px=64, noise_hu=1.0)
    curve = [hu(one)[27:30, 27:30].max() for one in list(stroke_set(passing))[1 + 8 :: 16]]
    assert (
        len(curve) == 10
        and 2 <= int(np.argmax(curve)) <= 4
        and max(curve) > curve[0] + 50
        and max(curve) > curve[-1] + 50
    )


def test_the_same_seed_gives_the_same_bytes_and_another_set_other_uids(study, tmp_path) -> None:
    again = write_study(itertools.islice(stroke_set(SMALL), 20), tmp_path / "a")
    first = write_study(study[:20], tmp_path / "b")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]
    others = [
        next(stroke_set(StrokeSetSpec(WHEN, plain_thick=5, plain_thin=4, cta=6, perfusion=40, size_px=64))),
        next(head_ct(HeadCtSpec(WHEN, slices=SMALL.slices, size_px=64))),
    ]
    assert len({one.StudyInstanceUID for one in [study[0], *others]}) == 3
    assert len({one.SOPInstanceUID for one in [study[0], *others]}) == 3


def test_dciodvfy_has_nothing_to_say(study, tmp_path) -> None:
    program = shutil.which("dciodvfy", path=sysconfig.get_path("scripts")) or shutil.which("dciodvfy")
    assert program, "dicom3tools belongs to the development requirements"
    for path in write_study([study[0], *(of(study, series)[0] for series in StrokeSeries)], tmp_path):
        said = subprocess.run([program, path], capture_output=True, text=True, timeout=60, check=False)
        assert (said.stdout + said.stderr).strip() == "CTImage", path.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"plain_thick": 79},
        {"plain_thick": -1},
        {"cta": -1},
        {"perfusion": 10**6},
        {"plain_thick": 0, "plain_thin": 0, "cta": 0, "perfusion": 0},
        {"size_px": 8},
        {"order": AS_RECONSTRUCTED[:3]},
        {"order": AS_RECONSTRUCTED[:3] * 2},
    ],
    ids=str,
)
def test_limits(wrong) -> None:
    with pytest.raises(UsageError):
        StrokeSetSpec(WHEN, **wrong)
