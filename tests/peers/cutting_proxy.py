"""A TCP proxy on loopback that cuts connections, or lets nothing through any more, when a test wants it.

Not a test; loaded by name.
"""

import contextlib
import select
import socket
import threading

CHUNK_BYTES = 1 << 14


class CuttingProxy:
    """A context manager that listens on `port`.

    Attributes:
        cut_after_bytes: A connection is cut when the client has sent more; None: never.
        cuts: So many connections were cut.
        is_hanging: Nothing passes, in either direction, and nobody is told.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.cut_after_bytes: int | None = None
        self.cuts = 0
        self.is_hanging = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stopping = threading.Event()

    def __enter__(self) -> "CuttingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if not select.select([self._listener], [], [], 0.2)[0]:
                continue
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", self.target_port), 10) as server:
                self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        sent_bytes = 0
        while not self._stopping.is_set():
            if self.is_hanging:
                self._stopping.wait(0.1)
                continue
            for source in select.select([client, server], [], [], 0.1)[0]:
                chunk = source.recv(CHUNK_BYTES)
                if not chunk:
                    return
                if source is server:
                    client.sendall(chunk)
                    continue
                sent_bytes += len(chunk)
                if self.cut_after_bytes is not None and sent_bytes > self.cut_after_bytes:
                    self.cuts += 1
                    return
                server.sendall(chunk)
