import os
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "unit" / "dicom"))  # dicom_samples


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
    """DCMTK since 3.6.2 waits 40 ms for each answer unless it is told not to."""
    monkeypatch.setenv("TCP_NODELAY", "1")
    return os.environ
