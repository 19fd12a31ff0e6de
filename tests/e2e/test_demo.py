"""`raypost demo` with each of its faults: the study arrives, and the story says how."""

import json
import pathlib

import pytest
from e2e_sites import raypost

from raypost.node.demo_faults import FAULTS
from raypost.node.demo_network import CENTRE, SECOND_CENTRE

pytestmark = pytest.mark.slow

KEYS = (
    *("state", "study_instance_uid", "instances", "raw_bytes", "stored_bytes", "wire_bytes", "mails", "announce_s"),
    *("first_image_s", "delivered_s", "pixels_identical", "peak_rss_mb", "refused_by_scp", "alarms"),
    *("faults", "final_site", "story"),
)
TELLING = {
    "relay-dies": "relay main is killed",
    "lossy": "although it had answered 250",
    "site-killed": "are killed (kill -9)",
    "centre-silent": "REROUTED",
}
"""What the story must have in it, or the fault did not happen."""


def _demo(folder: pathlib.Path, *arguments: str) -> tuple[dict, str]:
    figures = folder / "figures.json"
    printed = raypost("demo", "--once", "--json-file", figures, *arguments)
    return json.loads(figures.read_text()), printed


def test_without_faults(tmp_path: pathlib.Path) -> None:
    it, printed = _demo(tmp_path)
    assert tuple(it) == KEYS
    assert (it["state"], it["final_site"], it["faults"], it["alarms"]) == ("delivered", CENTRE, "", [])
    assert it["pixels_identical"] and it["instances"] == 40 and it["refused_by_scp"] == 0
    assert 0 < it["announce_s"] <= it["first_image_s"] < it["delivered_s"]
    assert all(line in printed for line in it["story"]), "the story is what was printed"
    assert "DELIVERED" in "".join(it["story"][-3:])
    assert not any("FAULT" in line for line in it["story"])


@pytest.mark.parametrize("name", FAULTS)
def test_in_spite_of(name: str, tmp_path: pathlib.Path) -> None:
    """The helper gives each of them 180 s."""
    it, printed = _demo(tmp_path, "--faults", name)
    assert (it["state"], it["faults"]) == (FAULTS[name].state, name)
    assert it["final_site"] == (SECOND_CENTRE if name == "centre-silent" else CENTRE)
    assert it["pixels_identical"] and it["instances"] == 40 and it["refused_by_scp"] == 0
    assert any(TELLING[name] in line for line in it["story"])
    assert all(line in printed for line in it["story"])
    if name == "relay-dies":
        dead = next(number for number, line in enumerate(it["story"]) if "FAULT" in line)
        assert any("over relay reserve" in line for line in it["story"][dead:])


def test_an_unknown_fault_is_named(tmp_path: pathlib.Path) -> None:
    said = raypost("demo", "--once", "--json", "--faults", "relay-sleeps", exit_code=2)
    assert "relay-dies" in said["error"]["do"]
