"""What peers need for the same study on the same machine: neither compresses, seals, nor sends by mail."""

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from raypost.lab.free_port import free_port

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def peer_seconds(name: str, study: Path) -> float:
    """Time one dcmsend of the study to a peer, in seconds."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = _storescp(port, folder) if "storescp" in name else _orthanc(port, folder)
        try:
            _wait(port)
            begin = time.perf_counter()
            dcmsend(study, port, "PEER", "BENCH")
            return time.perf_counter() - begin
        finally:
            server.terminate()
            server.wait(20)


def dcmsend(study: Path, port: int, called: str, calling: str) -> None:
    """Send a folder of DICOM files in the order of their names: a scanner's, which a folder does not keep."""
    command = [
        "dcmsend",
        "-aet",
        calling,
        "-aec",
        called,
        "--max-send-pdu",
        "131072",
        "127.0.0.1",
        str(port),
        *map(str, sorted(study.iterdir())),
    ]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)


def _storescp(port: int, folder: str) -> subprocess.Popen[bytes]:
    command = ["storescp", "-od", folder, "+B", "-pdu", "131072", str(port)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _orthanc(port: int, folder: str) -> subprocess.Popen[bytes]:
    configuration = Path(folder) / "orthanc.json"
    configuration.write_text(
        f'{{"DicomPort": {port}, "HttpServerEnabled": false, "StorageDirectory": "{folder}/db", '
        '"DicomCheckCalledAet": false, "DicomAlwaysAllowStore": true}'
    )
    return subprocess.Popen(
        ["/usr/sbin/Orthanc", str(configuration)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the peer does not listen")
