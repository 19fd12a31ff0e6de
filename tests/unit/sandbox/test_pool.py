import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from raypost.errors import BadInputError, LocalProtocolError, SandboxCrashError, TransientError
from raypost.sandbox.pool import Sandbox, SandboxLimits

LIMITS = SandboxLimits(memory_max_bytes=256 << 20, cpu_max_s=1, wall_max_s=6, output_max_bytes=1 << 20)


@pytest.fixture(scope="module")
def pool():
    with Sandbox(LIMITS, 2, ["sandbox_jobs"]) as sandbox:
        yield sandbox


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"abc")
    return path


def is_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_job_gets_bytes_and_arguments_and_writes_target(pool, source, tmp_path):
    target = tmp_path / "target"
    found = pool.run("sandbox_jobs:measure", source, target, {"deep": [1, {"a": None}]})
    assert (found["size"], found["arguments"]) == (3, {"deep": [1, {"a": None}]})
    assert target.read_bytes() == b"cba"
    assert target.stat().st_mode & 0o777 == 0o600


def test_empty_source(pool, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    assert pool.run("sandbox_jobs:measure", empty)["size"] == 0


def test_worker_has_given_up_what_it_does_not_need(pool, source, monkeypatch):
    found = pool.run("sandbox_jobs:identity", source)
    assert found["no_new_privs"] == "1"
    assert found["core"] == 0
    assert found["uid"] != 0
    assert found["descriptors"] < 12
    assert "SECRET" not in found["environment"]
    assert 256 << 20 < found["memory"] < 2 << 30


def test_environment_of_the_pool_is_not_handed_on(source, monkeypatch):
    monkeypatch.setenv("RAYPOST_SECRET", "x")
    with Sandbox(LIMITS, 1, ["sandbox_jobs"]) as sandbox:
        assert "RAYPOST_SECRET" not in sandbox.run("sandbox_jobs:identity", source)["environment"]


def test_worker_has_no_network(pool, source):
    pool.run("sandbox_jobs:measure", source)
    if not pool._zygote.has_private_network:
        pytest.skip("this kernel lets nobody have a network of his own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(BadInputError, match="OSError|ConnectionRefusedError"):
            pool.run("sandbox_jobs:use_network", source, None, {"port": server.getsockname()[1]})


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        ("refuse", BadInputError, "not an image"),
        ("refuse_harder", BadInputError, "bomb"),
        ("blame", BadInputError, "^the parser failed with IntegrityError$"),
        ("leak", BadInputError, "^the parser failed with ValueError$"),
        ("eat_memory", SandboxCrashError, "memory limit"),
        ("spin", SandboxCrashError, "CPU time limit"),
        ("hang", SandboxCrashError, "wall time limit"),
        ("crash", SandboxCrashError, r"crashed \(signal 11\)"),
        ("leave", SandboxCrashError, "crashed"),
        ("write_much", SandboxCrashError, "output limit"),
        ("answer_much", BadInputError, "too large"),
        ("answer_nothing", BadInputError, "no result"),
        ("answer_nan", BadInputError, "too large|not JSON"),
    ],
)
def test_failure_is_named_target_removed_and_pool_goes_on(pool, source, tmp_path, job, error, text):
    target = tmp_path / "target"
    with pytest.raises(error, match=text):
        pool.run(f"sandbox_jobs:{job}", source, target)
    assert not target.exists()
    assert pool.run("sandbox_jobs:measure", source)["size"] == 3


def test_failure_of_one_does_not_touch_the_other(pool, source):
    errors = []

    def fail():
        try:
            pool.run("sandbox_jobs:hang", source)
        except SandboxCrashError as error:
            errors.append(error)

    thread = threading.Thread(target=fail)
    thread.start()
    for _ in range(20):
        assert pool.run("sandbox_jobs:measure", source)["size"] == 3
    thread.join()
    assert len(errors) == 1


def test_existing_target_is_never_overwritten(pool, source, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    with pytest.raises(TransientError):
        pool.run("sandbox_jobs:measure", source, target)
    assert target.read_bytes() == b"precious"


def test_missing_source(pool, tmp_path):
    with pytest.raises(TransientError):
        pool.run("sandbox_jobs:measure", tmp_path / "nothing", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_unknown_function_is_our_bug(pool, source):
    with pytest.raises(LocalProtocolError):
        pool.run("sandbox_jobs:nothing", source)
    with pytest.raises(LocalProtocolError):
        pool.run("antigravity:geohash", source)


def test_many_threads_share_few_workers(source):
    with Sandbox(LIMITS, 2, ["sandbox_jobs"]) as sandbox:
        pids, lock = set(), threading.Lock()

        def work():
            for _ in range(10):
                pid = sandbox.run("sandbox_jobs:measure", source)["pid"]
                with lock:
                    pids.add(pid)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= len(pids) <= 2


def test_grown_worker_is_replaced(source):
    with Sandbox(SandboxLimits(memory_max_bytes=1 << 30), 1, ["sandbox_jobs"]) as sandbox:
        assert sandbox.run("sandbox_jobs:hoard", source)["pid"] != sandbox.run("sandbox_jobs:hoard", source)["pid"]


def test_close_ends_all_processes_and_running_jobs(source):
    sandbox = Sandbox(SandboxLimits(wall_max_s=60), 2, ["sandbox_jobs"])
    found = sandbox.run("sandbox_jobs:identity", source)
    pid = sandbox.run("sandbox_jobs:measure", source)["pid"]
    errors = []

    def hang():
        try:
            sandbox.run("sandbox_jobs:hang", source)
        except SandboxCrashError as error:
            errors.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    deadline_s = time.monotonic() + 5
    while not sandbox._busy and time.monotonic() < deadline_s:
        time.sleep(0.01)
    sandbox.close()
    thread.join(10)
    assert errors and not thread.is_alive()
    assert is_gone(pid) and is_gone(found["parent"])
    with pytest.raises(LocalProtocolError):
        sandbox.run("sandbox_jobs:measure", source)


def test_zygote_that_was_killed_is_replaced(source):
    with Sandbox(LIMITS, 1, ["sandbox_jobs"]) as sandbox:
        first = sandbox.run("sandbox_jobs:identity", source)
        os.kill(first["parent"], 9)
        assert is_gone(first["parent"])
        assert sandbox.run("sandbox_jobs:measure", source)  # its worker died with it; the job is run again
        assert sandbox.run("sandbox_jobs:identity", source)["parent"] != first["parent"]


def test_death_of_the_pools_process_ends_all(source):
    program = (
        "import sys, pathlib; sys.path.append(sys.argv[2])\n"
        "from raypost.sandbox.pool import *\n"
        "pool = Sandbox(SandboxLimits(), 1, ['sandbox_jobs']); source = pathlib.Path(sys.argv[1])\n"
        "pids = pool.run('sandbox_jobs:identity', source)['parent'], pool.run('sandbox_jobs:measure', source)['pid']\n"
        "print(*pids, flush=True)\n"
        "pool.run('sandbox_jobs:hang', source)\n"
    )
    here = str(pathlib.Path(__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", program, str(source), here], stdout=subprocess.PIPE, text=True)
    pids = [int(one) for one in child.stdout.readline().split()]
    child.kill()
    child.wait()
    child.stdout.close()
    assert len(pids) == 2 and all(is_gone(pid) for pid in pids)


def test_preload_that_fails_is_said(source):
    with Sandbox(LIMITS, 1, ["no_such_module"]) as sandbox, pytest.raises(LocalProtocolError, match="no_such_module"):
        sandbox.run("sandbox_jobs:measure", source)


def test_starts_nothing_before_the_first_job():
    with Sandbox(LIMITS, 1, ["sandbox_jobs"]) as sandbox:
        assert sandbox._zygote is None


@pytest.mark.parametrize("wrong", [{"cpu_max_s": 0}, {"wall_max_s": 0}, {"memory_max_bytes": -1}])
def test_limits_are_positive(wrong):
    with pytest.raises(ValueError):
        SandboxLimits(**wrong)
