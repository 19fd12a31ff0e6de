"""A syslog receiver on loopback: RFC 5425 over TLS, or RFC 5426 datagrams. Not a test; loaded by name."""

import contextlib
import select
import socket
import ssl
import threading
import time
from pathlib import Path

WAIT_S = 10.0


class SyslogReceiver:
    """A context manager that takes messages; those of a connection count when it has ended in order.

    Attributes:
        messages: What came, framing removed.
        connections: So many were begun.
        is_rude: It closes its side without having read everything.
    """

    def __init__(self, certificate: Path | None = None, secret_key: Path | None = None, *, port: int = 0) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self.is_rude = False
        self._stopping = threading.Event()
        self._context: ssl.SSLContext | None = None
        if certificate is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind(("127.0.0.1", port))
        else:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate, secret_key)
            self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "SyslogReceiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(WAIT_S)
        self._socket.close()

    def wait_for(self, count: int) -> list[bytes]:
        """Return the messages when there are so many; fails after WAIT_S."""
        end = time.monotonic() + WAIT_S
        while len(self.messages) < count and time.monotonic() < end:
            self._stopping.wait(0.02)
        assert len(self.messages) >= count
        return list(self.messages)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            if self._context is None:
                self.messages.append(self._socket.recv(65_536))
                continue
            with contextlib.suppress(OSError):  # of a client that does not trust us, or goes
                client, _ = self._socket.accept()
                self._take(client)

    def _take(self, client: socket.socket) -> None:
        assert self._context is not None
        self.connections += 1
        client.settimeout(WAIT_S)
        with self._context.wrap_socket(client, server_side=True) as stream:
            if self.is_rude:
                stream.recv(10)
                return  # unread bytes: the kernel resets the connection
            held = b""
            while chunk := stream.recv(65_536):
                held += chunk
            self.messages += frames(held)
            with contextlib.suppress(OSError):
                stream.unwrap()


def frames(held: bytes) -> list[bytes]:
    """Return the messages of a stream (RFC 5425, 4.3); what is not such a stream fails."""
    found = []
    while held:
        length, _, held = held.partition(b" ")
        assert length.isdigit() and not length.startswith(b"0") and len(held) >= int(length)
        found.append(held[: int(length)])
        held = held[int(length) :]
    return found
