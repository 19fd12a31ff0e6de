"""Attacks on the Storage SCP: its memory and its spool stay flat, and the next honest sender is served."""

import contextlib
import pathlib
import struct
import subprocess
import sys
import time

import pytest

sys.path.append(str(pathlib.Path(__file__).parent))
from dicom_probes import associate, associate_rq, connect, dimse_status, fragment, pdu, read_pdu, store_rq  # noqa: E402

HONEST = b"2.25.329800735698586629295641978511506172918"
HOSTILE = [
    "../../etc/x",
    "/etc/cron.d/x",
    "..\\..\\x",
    "C:\\x",
    "1.2.3\n4",
    "1.2.3\r\nX-Injected: 1",
    "1.2.3/../4",
    "1." + "1" * 78,
    "1." + "1" * 4000,
    "",
    ".",
    "..",
    "1..2",
    "1.02.3",
    "1.2.3 ; rm x",
    "1.2.3' OR '1'='1",
    "<script>alert(1)</script>",
    "1.2.\x003",
    "\u0661.\u0662",
    "%2e%2e%2fx",
    "CON",
    "1.2.3*",
]
GROWTH_MAX_MIB = 8


class Listener:
    def __init__(self, spool: pathlib.Path):
        spool.mkdir()
        self.spool = spool
        here = pathlib.Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, here / "dicom_listener.py", spool],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())

    def peak_mib(self) -> int:
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) >> 10

    def assert_serves(self) -> None:
        with associate(self.port) as peer:
            peer.sendall(store_rq(HONEST) + fragment(b"12", 2))
            assert dimse_status(read_pdu(peer)[1]) == 0

    def stop(self) -> None:
        said = self.process.communicate(timeout=30)
        assert said[1] == "", said[1]  # no traceback of any thread
        assert list(self.spool.iterdir()) == []


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    one = Listener(tmp_path_factory.mktemp("listener") / "spool")
    one.assert_serves()
    yield one
    one.stop()


def push(peer, chunk: bytes, count: int) -> int:
    """Send a chunk so many times; return how many went before the peer hung up."""
    for sent in range(count):
        try:
            peer.sendall(chunk)
        except ConnectionError:
            return sent
    return count


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7, 99])
def test_stranger_announces_4_gib(listener, kind):
    before = listener.peak_mib()
    with connect(listener.port) as peer:
        peer.sendall(struct.pack(">BBI", kind, 0, 0xFFFFFFF0))
        assert push(peer, b"A" * (1 << 20), 200) < 20
    assert listener.peak_mib() - before <= GROWTH_MAX_MIB
    listener.assert_serves()


@pytest.mark.parametrize("kind", [1, 4, 5])
def test_caller_we_know_announces_4_gib(listener, kind):
    before = listener.peak_mib()
    with associate(listener.port) as peer:
        peer.sendall(struct.pack(">BBI", kind, 0, 0xFFFFFFF0))
        assert push(peer, b"A" * (1 << 20), 200) < 20
    assert listener.peak_mib() - before <= GROWTH_MAX_MIB
    listener.assert_serves()


def test_data_without_an_association(listener):
    with connect(listener.port) as peer:
        peer.sendall(fragment(bytes(1000), 2))
        assert read_pdu(peer)[0] in (0, 7)
    listener.assert_serves()


def test_endless_instance_fills_neither_memory_nor_disk(listener):
    before = listener.peak_mib()
    with associate(listener.port) as peer:
        peer.sendall(store_rq(HONEST))
        sent = push(peer, fragment(bytes(200_000), 0), 2000)
        assert sent < 200
    assert listener.peak_mib() - before <= GROWTH_MAX_MIB
    deadline_s = time.monotonic() + 10
    while list(listener.spool.iterdir()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    listener.assert_serves()


def test_sender_that_never_waits_is_held_back(listener):
    before = listener.peak_mib()
    one = store_rq(HONEST) + fragment(bytes(100_000), 2)
    with associate(listener.port) as peer:
        peer.settimeout(3)
        with contextlib.suppress(TimeoutError):
            push(peer, one, 3000)
        assert len(list(listener.spool.iterdir())) <= 1
    assert listener.peak_mib() - before <= GROWTH_MAX_MIB
    listener.assert_serves()


def test_endless_command(listener):
    with associate(listener.port) as peer:
        assert push(peer, fragment(bytes(16000), 1), 5000) < 500
    listener.assert_serves()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: repr(one)[:24])
def test_hostile_uid_is_answered_and_never_a_path(listener, hostile):
    raw = hostile.encode()
    with associate(listener.port) as peer:
        for dicom_uid, expected in ((raw, 0xC000), (HONEST, 0)):
            peer.sendall(store_rq(dicom_uid + b"\0" * (len(dicom_uid) & 1)) + fragment(b"12", 2))
            kind, body = read_pdu(peer)
            assert (kind, dimse_status(body)) == (4, expected)


@pytest.mark.parametrize(
    "request_",
    [
        pdu(1, b""),
        pdu(1, bytes(67)),
        pdu(1, bytes(68)),
        pdu(1, bytes(100_000)),
        associate_rq(calling="\\..\\x"),
        associate_rq(calling="\x00\x01"),
        associate_rq(contexts=128) + b"\1",
        associate_rq(contexts=400)[:-3],
        associate_rq() + associate_rq(),
        pdu(7, bytes(4)),
        pdu(6, bytes(4)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + bytes(200),
    ],
    ids=range(13),
)
def test_odd_beginnings(listener, request_):
    with connect(listener.port) as peer:
        peer.sendall(request_)
        peer.shutdown(1)
        while read_pdu(peer)[0]:
            continue
    listener.assert_serves()


def test_crowd_of_silent_connections_does_not_lock_out_for_good(listener):
    crowd = []
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            crowd.append(stack.enter_context(connect(listener.port)))
        crowd[-1].settimeout(5)
        assert crowd[-1].recv(1) == b""  # beyond the limit of connections: closed unheard
    deadline_s = time.monotonic() + 20
    while True:
        try:
            listener.assert_serves()
            return
        except (AssertionError, ConnectionError):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
