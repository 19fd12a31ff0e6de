"""What reaches the log of an exception: where it was raised, never its words."""

import json
from collections.abc import Iterator

import pytest
import structlog

from raypost.node import logs

QUOTES = "Key (patient_name)=(Meier^Anna) already exists."


@pytest.fixture
def log() -> Iterator[structlog.stdlib.BoundLogger]:
    before = structlog.get_config()
    logs.configure("test")
    yield structlog.get_logger("raypost.test")
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)


def break_a_key(words: str) -> None:
    try:
        raise ValueError(words)
    except ValueError as error:
        raise RuntimeError(words) from error


def test_an_exception_is_logged_with_its_place_and_without_its_words(log, capsys) -> None:
    try:
        break_a_key(QUOTES)
    except RuntimeError:
        log.exception("job failed", job="file")
    said = capsys.readouterr().err
    line = json.loads(said)
    assert line["event"] == "job failed" and line["job"] == "file" and line["process"] == "test"
    assert "builtins.RuntimeError" in line["exception"] and "builtins.ValueError" in line["exception"]
    assert "in break_a_key" in line["exception"] and "test_logs.py" in line["exception"]
    assert "Meier" not in said


def test_a_line_without_an_exception_has_none(log, capsys) -> None:
    log.warning("relay away", relay="main")
    assert "exception" not in json.loads(capsys.readouterr().err)
