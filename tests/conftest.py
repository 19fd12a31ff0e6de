"""For all tests: those that share running servers stay in one process when tests run side by side."""

import pathlib

import pytest

HERE = pathlib.Path(__file__).parent
TOGETHER = ("e2e/test_setup.py", "e2e", "contract/mail", "unit/archive/test_embedded.py")
"""Beginnings of paths; the first that fits counts."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group what shares a network or a relay, before pytest-xdist looks at the groups (--dist loadgroup)."""
    for item in items:
        place = item.path.relative_to(HERE).as_posix()
        group = next((one for one in TOGETHER if place.startswith(one)), None)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
