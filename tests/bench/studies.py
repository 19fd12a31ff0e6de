"""The studies that cross in the benchmark: 512 x 512 CT, as a scanner sends it."""

from datetime import UTC, datetime
from pathlib import Path

from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.lab.stroke_set import StrokeSetSpec, stroke_set

STUDY_AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def make_series(folder: Path, slices: int) -> Path:
    """Write a head CT of so many slices."""
    folder.mkdir(parents=True)
    spec = HeadCtSpec(study_at=STUDY_AT, seed=slices, slices=slices, has_localizer=False)
    write_study(head_ct(spec), folder)
    return folder


def make_stroke_set(folder: Path, slices: int) -> Path:
    """Write a stroke set of about so many slices: plain CT thick and thin, CTA, perfusion, as reconstructed."""
    folder.mkdir(parents=True)
    spec = StrokeSetSpec.of_size(slices, STUDY_AT)
    write_study(stroke_set(spec), folder)
    return folder
