"""The studies that cross in the benchmark: 512 x 512 CT, as a scanner sends it."""

from datetime import UTC, datetime
from pathlib import Path

from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study


def make_series(folder: Path, slices: int) -> Path:
    """Write a head CT of so many slices."""
    folder.mkdir(parents=True)
    spec = HeadCtSpec(study_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), seed=slices, slices=slices, has_localizer=False)
    write_study(head_ct(spec), folder)
    return folder
