"""The main job with real parts: DCMTK, Postfix, Dovecot, gpg, PostgreSQL; and what a person sees of it."""

import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
from e2e_sites import ENVIRONMENT, Pair, Study, assert_at_rest, assert_same_pixels, make_study, raypost, settle, until
from pydicom.uid import ImplicitVRLittleEndian

from raypost.lab.free_port import free_port

pytestmark = [pytest.mark.slow, pytest.mark.interop]


class Storescp:
    """A DCMTK storescp that accepts Implicit VR Little Endian and nothing else."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        command = ["storescp", "+xi", "-aet", "WORKSTATION", "-od", str(folder), "+uf", str(self.port)]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def received(self) -> dict[str, pathlib.Path]:
        return {str(pydicom.dcmread(one).SOPInstanceUID): one for one in self.folder.iterdir()}


@pytest.fixture(scope="module")
def workstation(open_folder: pathlib.Path, real_pair: Pair) -> Iterator[Storescp]:
    scp = Storescp(open_folder / "workstation")
    centre = real_pair.centre
    centre.cli("node", "add", "ws", "--ae-title", "WORKSTATION", "--host", "127.0.0.1", "--port", scp.port)
    centre.cli("rule", "add", "--forward", "ws", "--name", "to-ws")
    yield scp
    centre.cli("rule", "remove", "to-ws")
    scp.process.terminate()
    scp.process.wait(10)


def _storescu(port: int, called: str, files: list[pathlib.Path], calling: str = "CT1") -> str:
    command = ["storescu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(port), *map(str, files)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def _forwarded(pair: Pair, study: Study, workstation: Storescp) -> None:
    """Every instance stands on the workstation in Implicit VR Little Endian with the pixels that were sent."""
    wanted = set(study.sop_instance_uids)
    sql = (
        "select count(*) from rp_forward f join rp_instance i on i.id = f.instance_id join rp_case c on c.id ="
        " i.case_id where f.state = 'sent' and c.study_instance_uid = :one"
    )
    until("forwarded", lambda: pair.centre.one(sql, one=study.study_instance_uid) == len(wanted))
    there = workstation.received()
    for file, sop_instance_uid in zip(study.files, study.sop_instance_uids, strict=True):
        copy = there[sop_instance_uid]
        assert pydicom.dcmread(copy).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert_same_pixels(file, copy)
        assert pydicom.dcmread(copy).PatientName == pydicom.dcmread(file).PatientName


def test_a_ct_crosses_from_storescu_to_storescp(real_pair: Pair, workstation: Storescp, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path / "ct", seed=1, slices=12, size_px=256)
    said = _storescu(real_pair.referrer.site.dicom_port, "LUDWIGSHAFEN_N", study.files)
    assert said.startswith("0\n"), said
    assert said.count("(Success)") == len(study.files), said
    settle(real_pair, study)
    _forwarded(real_pair, study, workstation)
    for file, sop_instance_uid in zip(study.files[:2], study.sop_instance_uids[:2], strict=True):
        native = tmp_path / "native.dcm"  # decoded by DCMTK, independently of us and of pydicom
        kept = real_pair.centre.blob(sop_instance_uid)
        assert pydicom.dcmread(kept).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"
        subprocess.run(["dcmdjpls", str(kept), str(native)], env=ENVIRONMENT, check=True, timeout=60)
        assert_same_pixels(file, native)


def test_a_rule_routes_and_a_person_sees_it_on_both_sides(real_pair: Pair, tmp_path: pathlib.Path) -> None:
    referrer, centre = real_pair.houses
    rule = referrer.cli(
        "rule",
        "add",
        "--to",
        "ludwigshafen",
        "--modality",
        "CT",
        "--priority",
        "urgent",
        "--calling",
        "CT1",
        "--called",
        "RAYPOST",
        "--name",
        "head-ct",
    )
    assert rule["target"] == "ludwigshafen"
    study = make_study(tmp_path / "ct", seed=2, slices=4)
    assert _storescu(referrer.site.dicom_port, "RAYPOST", study.files).startswith("0\n")
    settle(real_pair, study)
    keys = {}
    for house in real_pair.houses:
        listed = house.cli("study", "list")
        mine = next(one for one in listed if one["study_instance_uid"] == study.study_instance_uid)
        assert mine["instances"] == 4 and mine["patient_name"] == "Müller-Lüdenscheidt^Jürgen"
        shown = house.cli("study", "show", mine["study_key"])
        keys[house.name] = shown["transfers"][0]["transfer_key"]
        folder = tmp_path / house.name
        house.cli("study", "export", mine["study_key"], folder, "--native")
        exported = {str(pydicom.dcmread(one).SOPInstanceUID): one for one in folder.iterdir()}
        for file, sop_instance_uid in zip(study.files, study.sop_instance_uids, strict=True):
            assert_same_pixels(file, exported[sop_instance_uid])
    assert keys["neustadt"] == keys["ludwigshafen"]
    sent = referrer.cli("transfer", "show", keys["neustadt"])
    assert sent["ordered_by"] == "rule:head-ct" and sent["priority"] == "urgent" and sent["state"] == "delivered"
    steps = [one["kind"] for one in sent["events"]] + [
        one["kind"] for one in centre.cli("transfer", "show", keys["neustadt"])["events"]
    ]
    assert {"packed", "sealed", "sent", "verified", "filed", "receipted"} <= set(steps)
    assert {one["state"] for one in sent["messages"]} == {"filed"}
    referrer.cli("rule", "remove", "head-ct")


def test_a_person_sends_files_and_sends_them_again(real_pair: Pair, tmp_path: pathlib.Path) -> None:
    referrer, centre = real_pair.houses
    study = make_study(tmp_path / "ct", seed=3, slices=3)
    (tmp_path / "ct" / "readme.txt").write_text("not DICOM")
    said = referrer.cli(
        "send", tmp_path / "ct", "--to", "ludwigshafen", "--priority", "emergency", "--wait", "90", exit_code=1
    )
    (transfer,) = said["transfers"]
    assert transfer["state"] == "delivered" and transfer["instances_filed"] == 3
    assert [pathlib.Path(one["file"]).name for one in said["left_out"]] == ["readme.txt"]
    again = referrer.cli("transfer", "resend", transfer["transfer_key"])
    assert again["messages"] >= 2
    until(
        "delivered again",
        lambda: referrer.one(
            "select count(*) from rp_transfer where transfer_key = :one and state = 'delivered'",
            one=transfer["transfer_key"],
        ),
    )
    settle(real_pair, study)
    assert centre.one("select count(*) from rp_event where kind = 'duplicate'") > 0
    assert transfer["transfer_key"] in {one["transfer_key"] for one in centre.cli("transfer", "list")}


def _noise(folder: pathlib.Path, like: pathlib.Path) -> Study:
    """A study of one image that no codec makes smaller: 2048 x 2048 of 16 bits, 8.4 MB."""
    one = pydicom.dcmread(like)
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    one.Rows = one.Columns = 2048
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (2048, 2048), dtype="<u2")
    one.add_new("PixelData", "OW", pixels.tobytes())
    folder.mkdir()
    one.save_as(folder / "1.dcm", enforce_file_format=True)
    return Study([folder / "1.dcm"], str(one.StudyInstanceUID))


def test_an_image_larger_than_a_parcel_comes_in_slices(
    real_pair: Pair, workstation: Storescp, tmp_path: pathlib.Path
) -> None:
    (like,) = make_study(tmp_path / "ct", seed=4, slices=1).files
    study = _noise(tmp_path / "noise", like)
    assert _storescu(real_pair.referrer.site.dicom_port, "LUDWIGSHAFEN_R", study.files).startswith("0\n")
    settle(real_pair, study)
    parcels = real_pair.referrer.one(
        "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id where kind = 'parcel' and"
        " m.direction = 'out' and t.study_instance_uid = :one",
        one=study.study_instance_uid,
    )
    assert parcels > 40
    _forwarded(real_pair, study, workstation)


def test_a_relay_with_a_small_limit_gets_smaller_parcels(
    real_pair: Pair, real_relay: object, tmp_path: pathlib.Path
) -> None:
    """Last of this module: the relay stays small. It shrinks while mails wait, so that they are refused by size."""
    referrer = real_pair.referrer
    study = make_study(tmp_path / "ct", seed=5, slices=30, size_px=128)  # more than fits into one parcel
    refused_before = len(real_pair.centre.quarantine())
    real_relay.stop()
    assert _storescu(referrer.site.dicom_port, "LUDWIGSHAFEN_N", study.files).startswith("0\n")
    until(
        "a large parcel waits",
        lambda: referrer.one(
            "select count(*) from rp_message where state in ('queued', 'sending') and size_bytes > 50_000"
        ),
    )
    main_cf = real_relay.folder / "postfix" / "main.cf"
    main_cf.write_text(re.sub(r"(?m)^message_size_limit *=.*$", "message_size_limit = 50000", main_cf.read_text()))
    assert "50000" in main_cf.read_text()
    real_relay.start()
    settle(real_pair, study)
    assert len(real_pair.centre.quarantine()) == refused_before
    largest = referrer.one(
        "select max(size_bytes) from rp_message m join rp_transfer t on t.id = m.transfer_id"
        " where t.study_instance_uid = :one and m.state <> 'replaced'",
        one=study.study_instance_uid,
    )
    assert largest <= 50_000
    assert "too large" in {fields.get("why") for _, fields in referrer.events("sending deferred")}


def test_everything_is_at_rest(real_pair: Pair) -> None:
    assert shutil.which("storescp")
    for house in real_pair.houses:
        assert_at_rest(house)
        assert raypost("events", config=house.site.config)
