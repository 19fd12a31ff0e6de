"""Jobs that fail: what is expected in one line, what is a fault of ours with its place; both come again."""

import pytest
from structlog.testing import capture_logs

from raypost.archive.queue import _quiet
from raypost.errors import NotNowError


@pytest.mark.parametrize(
    ("error", "level", "has_place"),
    [(NotNowError("the disk is full"), "warning", False), (KeyError("a fault"), "error", True)],
)
def test_no_failure_is_silent(error, level, has_place) -> None:
    def fail(**_: int | str) -> None:
        raise error

    with capture_logs() as lines, pytest.raises(type(error)):
        _quiet("open", fail)(collected_id=7)
    (line,) = lines
    assert (line["log_level"], line["job"], line["collected_id"]) == (level, "open", 7)
    assert bool(line.get("exc_info")) is has_place
