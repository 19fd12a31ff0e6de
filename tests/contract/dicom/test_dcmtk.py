"""Our SCP, SCU and JPEG-LS files against DCMTK, and against Orthanc."""

import contextlib
import io
import json
import pathlib
import socket
import subprocess
import time

import pydicom
import pytest
from dicom_samples import CT_IMAGE, EXPLICIT, IMPLICIT, JPEG_LS, make, smooth

from raypost.dicom.instance_file import read_file
from raypost.dicom.pixels import Compressed, frame_digests, to_native, try_compress
from raypost.dicom.scp import StorageSCP, StorageSCPOptions
from raypost.dicom.scu import DicomNode, StoreItem, echo, store
from raypost.errors import RefusedError, UnreachableError
from raypost.lab.free_port import free_port

pytestmark = pytest.mark.interop

LAYOUTS = {
    "12-in-16": {},
    "16-bit signed": {"stored": 16, "signed": True},
    "12-in-16 signed": {"signed": True},
    "16-bit": {"stored": 16},
    "8-bit": {"allocated": 8, "stored": 8},
    "7-in-8": {"allocated": 8, "stored": 7},
    "odd": {"pixels": smooth(45, 45, frames=3, bits=8), "allocated": 8, "stored": 8},
    "frames": {"pixels": smooth(40, 40, frames=4)},
    "RGB": {"pixels": smooth(40, 50, 3, bits=8), "allocated": 8, "stored": 8},
    "RGB planar": {"pixels": smooth(40, 50, 3, 2, bits=8), "allocated": 8, "stored": 8, "planar": 1},
}


def run(*command: object, check: bool = True) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def until_listening(port: int, process: subprocess.Popen) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        assert process.poll() is None and time.monotonic() < deadline_s
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)


@contextlib.contextmanager
def storescp(folder: pathlib.Path, *options: str):
    port = free_port()
    process = subprocess.Popen(
        ["storescp", *options, "-od", str(folder), "-aet", "PACS", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_listening(port, process)
        yield DicomNode("pacs", "PACS", "127.0.0.1", port, "RAYPOST", answer_timeout_s=20)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def site(tmp_path):
    """Our SCP; `found` are the received files."""
    spool, found, ends = tmp_path / "spool", [], []
    spool.mkdir()
    callers = {"DCMSEND": frozenset(), "STORESCU": frozenset()}

    def receive(received):
        found.append(received.path.read_bytes())
        return 0

    options = StorageSCPOptions(spool, lambda: frozenset({"RAYPOST"}), callers)
    scp = StorageSCP(options, receive, ends.append, lambda refusal: None)
    scp.port, scp.found, scp.ends = scp.start(), found, ends
    yield scp
    scp.stop()


def items_of(folder: pathlib.Path, files: dict[str, bytes]) -> list[StoreItem]:
    folder.mkdir(exist_ok=True)
    found = []
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        one = pydicom.dcmread(io.BytesIO(raw), stop_before_pixels=True)
        found.append(
            StoreItem(folder / name, one.SOPClassUID, one.SOPInstanceUID, str(one.file_meta.TransferSyntaxUID))
        )
    return found


@pytest.fixture
def convert(tmp_path):
    made = []

    def convert(item, syntax):
        made.append(tmp_path / f"converted{len(made)}")
        made[-1].write_bytes(to_native(item.path.read_bytes(), implicit=syntax == IMPLICIT))
        return made[-1]

    convert.made = made
    return convert


def compressed(raw: bytes) -> bytes:
    found = try_compress(raw)
    assert isinstance(found, Compressed)
    return found.data


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_dcmdjpls_gets_the_very_same_pixels_out_of_our_files(tmp_path, layout, syntax):
    raw = make(**layout, syntax=syntax)
    (tmp_path / "in.dcm").write_bytes(compressed(raw))
    run("dcmdjpls", "--planar-auto", tmp_path / "in.dcm", tmp_path / "out.dcm")
    assert frame_digests(read_file((tmp_path / "out.dcm").read_bytes())) == frame_digests(read_file(raw))


@pytest.mark.parametrize("layout", [LAYOUTS["12-in-16"], LAYOUTS["16-bit"], LAYOUTS["8-bit"], LAYOUTS["RGB"]])
@pytest.mark.parametrize("options", [[], ["+il"], ["+is"]])
def test_jpeg_ls_of_dcmtk_is_decoded_or_said_to_be_not(tmp_path, layout, options):
    raw = make(**layout)
    (tmp_path / "in.dcm").write_bytes(raw)
    run("dcmcjpls", *options, "+un", tmp_path / "in.dcm", tmp_path / "out.dcm")
    assert frame_digests(read_file((tmp_path / "out.dcm").read_bytes())) == frame_digests(read_file(raw))


def test_echoscu_and_rejections(site):
    run("echoscu", "-aet", "STORESCU", "-aec", "RAYPOST", "127.0.0.1", site.port)
    assert "Called AE Title Not Recognized" in run(
        "echoscu", "-aet", "STORESCU", "-aec", "OTHER", "127.0.0.1", site.port, check=False
    )
    assert "Calling AE Title Not Recognized" in run(
        "echoscu", "-aet", "NOBODY", "-aec", "RAYPOST", "127.0.0.1", site.port, check=False
    )


@pytest.mark.parametrize(
    "program",
    [
        ["dcmsend", "-aec", "RAYPOST", "--max-send-pdu", "131072"],
        ["dcmsend", "-aec", "RAYPOST", "-d"],
        ["storescu", "-aec", "RAYPOST", "-xi"],
        ["storescu", "-aec", "RAYPOST", "--max-pdu", "4096"],
    ],
)
def test_dcmtk_sends_to_us(site, tmp_path, program):
    files = {f"{k}.dcm": make(instance=f"2.25.{k}", pixels=smooth(64, 64, seed=k)) for k in range(1, 9)}
    items = items_of(tmp_path / "in", files)
    run(*program, "127.0.0.1", site.port, *(item.path for item in items))
    assert len(site.found) == 8
    sent = {frame_digests(read_file(raw))[0] for raw in files.values()}
    assert {frame_digests(read_file(raw))[0] for raw in site.found} == sent


def test_dcmtk_sends_jpeg_ls_to_us(site, tmp_path):
    (item,) = items_of(tmp_path / "in", {"a": compressed(make())})
    run("storescu", "-aec", "RAYPOST", "-xt", "127.0.0.1", site.port, item.path)
    assert read_file(site.found[0]).transfer_syntax_uid == JPEG_LS


def test_echo_to_storescp(tmp_path):
    with storescp(tmp_path) as node:
        echo(node)
    with storescp(tmp_path, "--refuse") as node, pytest.raises(RefusedError):
        echo(node)


@pytest.mark.parametrize(
    ("options", "syntax"),
    [
        (["+xi"], IMPLICIT),
        (["+x="], EXPLICIT),
        (["+xa"], JPEG_LS),
        (["+xt"], JPEG_LS),
    ],
)
def test_storescp_gets_what_it_accepts(tmp_path, convert, options, syntax):
    folder = tmp_path / "out"
    folder.mkdir()
    raws = {name: make(**layout, instance=f"2.25.{k}") for k, (name, layout) in enumerate(LAYOUTS.items(), 1)}
    items = items_of(tmp_path / "in", {name: compressed(raw) for name, raw in raws.items()})
    with storescp(folder, "+B", *options) as node:
        results = list(store(node, items, convert))
    assert {(result.dimse_status, result.transfer_syntax_uid) for result in results} == {(0, syntax)}
    assert len(convert.made) == (0 if syntax == JPEG_LS else len(items))
    expected = {name: frame_digests(read_file(raw)) for name, raw in raws.items()}
    stored = [path.read_bytes() for path in folder.iterdir()]
    assert sorted(frame_digests(read_file(raw)) for raw in stored) == sorted(expected.values())
    digests = {read_file(raw).data_set.digest for raw in raws.values()}
    assert {read_file(raw).data_set.digest for raw in stored} == digests


def test_peer_that_aborts(tmp_path, convert):
    items = items_of(tmp_path / "in", {"a": make()})
    with storescp(tmp_path, "--abort-after") as node, pytest.raises(UnreachableError):
        list(store(node, items, convert))


def test_orthanc_takes_our_jpeg_ls_and_sends_it_back(tmp_path, convert, site):
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "Plugins": [],
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowGet": True,
        "ExecuteLuaEnabled": False,
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["/usr/sbin/Orthanc", str(tmp_path / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    raw = make()
    try:
        until_listening(port, process)
        node = DicomNode("orthanc", "ORTHANC", "127.0.0.1", port, "RAYPOST", answer_timeout_s=20)
        echo(node)
        results = list(store(node, items_of(tmp_path / "in", {"a": compressed(raw)}), convert))
        assert [(result.dimse_status, result.transfer_syntax_uid) for result in results] == [(0, JPEG_LS)]
        (tmp_path / "got").mkdir()
        run(
            "getscu",
            "-S",
            "-aec",
            "ORTHANC",
            "+xt",
            "-od",
            tmp_path / "got",
            "-k",
            "QueryRetrieveLevel=STUDY",
            "-k",
            "StudyInstanceUID=2.25.2",
            "127.0.0.1",
            port,
        )
        (path,) = (tmp_path / "got").iterdir()
        back = path.read_bytes()
        assert frame_digests(read_file(back)) == frame_digests(read_file(raw))
        assert read_file(back).meta.sop_class_uid == CT_IMAGE
    finally:
        process.terminate()
        process.wait(20)
