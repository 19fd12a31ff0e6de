"""The fuzzer finds what is planted, and finds nothing in a few seconds of the real readers."""

import pathlib
import random
import time

import pytest

from raypost.errors import BadInputError
from tests.fuzz.__main__ import fuzz, mutate, try_one
from tests.fuzz.targets import Target, make_targets

SECONDS = 4.0


def _refuses(data: bytes) -> None:
    raise BadInputError("never good")


def _breaks(data: bytes) -> None:
    if b"\xff" in data:
        raise KeyError("planted")


def test_an_error_of_ours_is_no_find_and_any_other_is() -> None:
    assert try_one(Target("x", [b"x"], _refuses), b"x") == ""
    assert "planted" in try_one(Target("x", [b"x"], _breaks), b"\xff")


def test_a_planted_fault_is_found_and_handed_over() -> None:
    found = []
    target = Target("x", [b"harmless"], _breaks)
    counts = fuzz([target], 1, time.monotonic() + 0.5, lambda one, data, said: found.append((one, data)))
    assert counts["x"] > 50 and found and all(one is target and b"\xff" in data for one, data in found)


def test_the_same_seed_gives_the_same_inputs() -> None:
    one, other = (random.Random(7) for _ in range(2))
    assert [mutate(b"a" * 50, one, [b"b"]) for _ in range(50)] == [mutate(b"a" * 50, other, [b"b"]) for _ in range(50)]


@pytest.mark.slow
def test_nothing_is_found_in_the_real_readers(tmp_path: pathlib.Path) -> None:
    targets = make_targets(tmp_path)
    for target in targets:
        for seed in target.seeds:
            said = try_one(target, seed)
            assert not said, (target.name, said)
    found = []
    counts = fuzz(targets, 41, time.monotonic() + SECONDS, lambda one, data, said: found.append((one.name, data, said)))
    assert not found
    assert all(counts[one.name] > 0 for one in targets)
