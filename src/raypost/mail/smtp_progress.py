"""Waits for a relay during a message, and notices when nothing moves any more."""

from __future__ import annotations

import array
import contextlib
import fcntl
import selectors
import socket
import ssl
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Watch:
    """Watches one connection.

    Attributes:
        stall_timeout_s: After so long without progress, and again each time, `on_stall` is asked.
        on_stall: True gives the relay up. Meanwhile it may tell others that this relay hangs.
    """

    stall_timeout_s: float
    on_stall: Callable[[], bool]

    def readable(self, sock: socket.socket, patience_s: float) -> None:
        """Wait until there is something to read.

        Raises:
            TimeoutError: Nothing moved for `patience_s`, or `on_stall` gave the relay up.
        """
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return
        self._wait(sock, selectors.EVENT_READ, patience_s)

    def writable(self, sock: socket.socket, patience_s: float) -> None:
        """Wait until something can be written.

        Raises:
            TimeoutError: As for `readable`.
        """
        self._wait(sock, selectors.EVENT_WRITE, patience_s)

    def _wait(self, sock: socket.socket, event: int, patience_s: float) -> None:
        with selectors.PollSelector() as selector:
            selector.register(sock, event)
            if selector.select(0):
                return
            moved_s = asked_s = time.monotonic()
            left_bytes = unacknowledged_bytes(sock)
            while not selector.select(min(LOOK_S, patience_s)):
                now_s = time.monotonic()
                if (still_left := unacknowledged_bytes(sock)) != left_bytes:
                    left_bytes, moved_s, asked_s = still_left, now_s, now_s
                if now_s - moved_s >= patience_s:
                    raise TimeoutError
                if now_s - asked_s >= self.stall_timeout_s:
                    asked_s = now_s
                    if self.on_stall():
                        raise TimeoutError


def unacknowledged_bytes(sock: socket.socket) -> int:
    """Return how much of what was sent the other side has not confirmed; 0 where the system does not say.

    On a slow link the kernel holds megabytes that are still on their way: that is progress, and no silence.
    """
    found = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, found, True)
    return found[0]
