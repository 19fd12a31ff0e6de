"""Bounded JSON messages with file descriptors over a Unix socket, between the pool and its workers."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence

MESSAGE_SIZE_MAX_BYTES = 4 << 20
_HEAD = struct.Struct("!I")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class BrokenMessageError(Exception):
    """The other side sent something that is no message; never leaves this package."""


def send_message(peer: socket.socket, message: Mapping[str, Json], descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors travel with its first byte.

    Raises:
        BrokenMessageError: The message is larger than `MESSAGE_SIZE_MAX_BYTES` or no JSON.
        OSError: The other side is gone.
    """
    try:
        body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BrokenMessageError("not JSON") from error
    if len(body) > MESSAGE_SIZE_MAX_BYTES:
        raise BrokenMessageError("message too large")
    frame = _HEAD.pack(len(body)) + body
    sent = socket.send_fds(peer, [frame], list(descriptors)) if descriptors else 0
    peer.sendall(memoryview(frame)[sent:])


def receive_message(
    peer: socket.socket,
    descriptors_max: int = 0,
    deadline_s: float | None = None,
) -> tuple[dict[str, Json], list[int]]:
    """Return the next message and the descriptors that came with it.

    Args:
        peer: Connected Unix stream socket.
        descriptors_max: More descriptors than this are closed by the kernel.
        deadline_s: On the clock of `time.monotonic`; None waits for ever.

    Raises:
        EOFError: The other side closed the socket.
        TimeoutError: The deadline passed.
        BrokenMessageError: Too large, or not one JSON object.
    """
    _set_timeout(peer, deadline_s)
    if descriptors_max:
        head, descriptors, _flags, _address = socket.recv_fds(peer, _HEAD.size, descriptors_max)
    else:
        head, descriptors = peer.recv(_HEAD.size), []
    try:
        if not head:
            raise EOFError
        head += _receive_exactly(peer, _HEAD.size - len(head), deadline_s)
        (size,) = _HEAD.unpack(head)
        if size > MESSAGE_SIZE_MAX_BYTES:
            raise BrokenMessageError("message too large")
        message = json.loads(_receive_exactly(peer, size, deadline_s))
        if not isinstance(message, dict):
            raise BrokenMessageError("not an object")
    except (ValueError, RecursionError) as error:
        _close_all(descriptors)
        raise BrokenMessageError("not JSON") from error
    except (EOFError, OSError, BrokenMessageError):
        _close_all(descriptors)
        raise
    return message, list(descriptors)


def _receive_exactly(peer: socket.socket, size: int, deadline_s: float | None) -> bytes:
    found = bytearray(size)
    view, got = memoryview(found), 0
    while got < size:
        _set_timeout(peer, deadline_s)
        count = peer.recv_into(view[got:])
        if not count:
            raise EOFError
        got += count
    return bytes(found)


def _set_timeout(peer: socket.socket, deadline_s: float | None) -> None:
    if deadline_s is None:
        peer.settimeout(None)
        return
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    peer.settimeout(left_s)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
