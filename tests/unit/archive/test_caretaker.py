"""A test process that is killed leaves no database server behind, and nothing that has its number later is touched."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypost.archive.embedded import EmbeddedPostgres
from tests.peers.caretaker import Caretaker

ROOT = Path(__file__).parents[3]
SESSION = """
import sys, time
from pathlib import Path
from raypost.archive.embedded import EmbeddedPostgres
from tests.peers.caretaker import Caretaker
folder = Path(sys.argv[1])
with Caretaker() as caretaker:
    server = EmbeddedPostgres(folder / "postgresql")
    caretaker.stop_server(server.data)
    caretaker.remove(folder, server.root)
    server.start()
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="raypost-care-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_killed_session_leaves_no_server(folder) -> None:
    path = os.pathsep.join([str(ROOT), *(one for one in sys.path if one)])
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
    )
    assert session.stdout.readline() == "up\n"
    server = EmbeddedPostgres(folder / "postgresql")
    assert server.processes()
    session.send_signal(signal.SIGKILL)
    session.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and (server.processes() or folder.exists()):
        time.sleep(0.1)
    assert not server.processes()
    assert not folder.exists()


def test_an_orderly_end_touches_nothing(folder) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        with Caretaker() as caretaker:
            caretaker.end_process(sleeping.pid)
            caretaker.remove(folder)
        assert sleeping.poll() is None and folder.exists()
        sleeping.kill()


def test_a_process_is_ended_and_no_other_that_has_its_number(folder) -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        caretaker = Caretaker().__enter__()
        caretaker.end_process(one.pid)
        caretaker._say(f"process {other.pid} 1")  # began with the machine: that was another one
        caretaker._process.stdin.close()
        caretaker._process.wait(30)
        assert one.wait(5) == -signal.SIGTERM
        assert other.poll() is None
        other.kill()
