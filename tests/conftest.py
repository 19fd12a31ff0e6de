"""For all tests: those that share running servers stay in one process when tests run side by side."""

import pathlib

import pytest

HERE = pathlib.Path(__file__).parent
TOGETHER = ("e2e", "contract/mail", "unit/archive/test_embedded.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group what shares a network or a relay (pytest-xdist, --dist loadgroup)."""
    for item in items:
        place = item.path.relative_to(HERE).as_posix()
        for one in TOGETHER:
            if place.startswith(one):
                item.add_marker(pytest.mark.xdist_group(one))
