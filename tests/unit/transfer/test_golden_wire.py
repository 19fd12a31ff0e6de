"""The golden files of tests/golden/wire: test vectors of the specification, and examples in it."""

import json
import pathlib
import sys

import pytest

from raypost.errors import RaypostError
from raypost.mail.parcels import parse_control
from raypost.model.transfer import MessageKind
from raypost.transfer.wire import decode, encode

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_examples import EXAMPLES  # noqa: E402
from protocol_vectors import vectors  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "wire"
REFUSED = sorted([*GOLDEN.glob("malformed/*.json"), *GOLDEN.glob("later/*.json")])
TOLERATED = sorted(GOLDEN.glob("tolerated/*.json"))


def test_every_file_is_one_of_them_and_every_kind_has_two() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(EXAMPLES)
    assert {f"{kind.value}-{form}" for kind in MessageKind for form in ("minimal", "full")} <= set(EXAMPLES)
    assert len(REFUSED) > 80 and len(TOLERATED) > 15
    assert len([*GOLDEN.rglob("*")]) == len(EXAMPLES) + len(REFUSED) + len(TOLERATED) + 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_the_golden_file(name) -> None:
    """Byte for byte. A change here is a change of the protocol: other versions must still read it."""
    assert encode(EXAMPLES[name]) + b"\n" == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_golden_file_is_read(name) -> None:
    assert decode(parse_control((GOLDEN / f"{name}.json").read_bytes())) == EXAMPLES[name]


@pytest.mark.parametrize("path", TOLERATED, ids=lambda path: path.stem)
def test_what_is_tolerated_reads_as_the_golden_file(path) -> None:
    vector = json.loads(path.read_text())
    assert set(vector) == {"what", "message", "reads_as"}
    assert decode(vector["message"]) == EXAMPLES[vector["reads_as"]]


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_what_is_refused_is_refused_with_its_code(path) -> None:
    vector = json.loads(path.read_text())
    assert set(vector) == {"what", "error", "message"}
    with pytest.raises(RaypostError) as caught:
        decode(vector["message"])
    assert caught.value.code == vector["error"]
    assert (vector["error"] == "RP-601") == (path.parent.name == "later")


def test_the_vectors_are_what_they_are_made_of() -> None:
    """Each malformed one is an example with one entry changed: so it is that entry that is refused."""
    wanted = vectors()
    there = {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in GOLDEN.rglob("*.json")}
    stale = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    assert not stale, "run tests/unit/transfer/protocol_vectors.py, and read what changed"
