import os
import socket
import struct
import time

import pytest

from raypost.sandbox import messages


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_message_comes_over_with_its_descriptor(pair, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    with path.open("rb") as file:
        messages.send_message(pair[0], {"a": [1, None]}, [file.fileno()])
    message, descriptors = messages.receive_message(pair[1], 2)
    assert message == {"a": [1, None]}
    with os.fdopen(descriptors[0], "rb") as received:
        assert received.read() == b"hello"


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("!I", messages.MESSAGE_SIZE_MAX_BYTES + 1),
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 3) + b"{a}",
        struct.pack("!I", 200_000) + b"[" * 200_000,
    ],
)
def test_what_is_no_message_is_refused(pair, frame):
    pair[0].settimeout(5)
    pair[0].sendall(frame)
    with pytest.raises(messages.BrokenMessageError):
        messages.receive_message(pair[1])


def test_end_and_deadline(pair):
    with pytest.raises(TimeoutError):
        messages.receive_message(pair[1], deadline_s=time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        messages.receive_message(pair[1], deadline_s=time.monotonic() - 1)
    pair[0].sendall(b"\0")
    pair[0].close()
    with pytest.raises(EOFError):
        messages.receive_message(pair[1])


def test_too_large_and_unfit_messages_are_not_sent(pair):
    for message in ({"a": "x" * messages.MESSAGE_SIZE_MAX_BYTES}, {"a": float("inf")}, {"a": b""}):
        with pytest.raises(messages.BrokenMessageError):
            messages.send_message(pair[0], message)
