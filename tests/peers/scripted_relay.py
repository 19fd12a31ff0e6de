"""An SMTP relay that does what a test tells it to: replies, cuts, silence; many connections, TLS from the first byte.

Not a test; loaded by name. It keeps what it took: the test carries it on, or does not.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

HAPPY = {
    "EHLO": "250-test\r\n250-SIZE 30000000\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
    "AUTH": "235 ok",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go",
    ".": "250 2.0.0 queued",
    "RSET": "250 ok",
    "QUIT": "221 bye",
}


class ScriptedRelay:
    """One relay.

    Attributes:
        replies: Reply by command; "." is the end of the content. None hangs up, "silence" says nothing more.
        cut_after_bytes: The connection is cut in the middle of a content that is larger.
        mails: What was taken: recipient and content.
        offered: (command, recipient) of every mail that was begun.
    """

    def __init__(self, certificate: Path, secret_key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, secret_key)
        self.replies: dict[str, str | None | Callable[[str], str | None]] = {}
        self.cut_after_bytes: int | None = None
        self.mails: list[tuple[str, bytes]] = []
        self.offered: list[str] = []
        self.sessions = 0
        self.port = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()

    def start(self) -> "ScriptedRelay":
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener, self._stopping), daemon=True).start()
        return self

    def stop(self) -> None:
        """Go away at once, connections included."""
        self._stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def take(self) -> list[tuple[str, bytes]]:
        """Return what was taken since the last call."""
        taken, self.mails = self.mails, []
        return taken

    def _accept(self, listener: socket.socket, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, stopping), daemon=True).start()

    def _serve(self, raw: socket.socket, stopping: threading.Event) -> None:
        self._open.add(raw)
        with contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as connection:
            self._open.add(connection)
            self.sessions += 1
            self._talk(connection, connection.makefile("rb"), stopping)
            self._open.discard(connection)
        self._open.discard(raw)

    def _reply(self, verb: str, line: str) -> str | None:
        found = self.replies.get(verb, HAPPY.get(verb, "500 what"))
        return found(line) if callable(found) else found

    def _talk(self, connection, lines, stopping) -> None:
        greeting = self._reply("greeting", "") if "greeting" in self.replies else "220 test"
        if greeting == "silence":
            stopping.wait(60)
            return
        connection.sendall(greeting.encode() + b"\r\n")
        recipient = ""
        for line in lines:
            text = line.decode().strip()
            verb = text.split(" ")[0].split(":")[0].upper()
            if verb == "RCPT":
                recipient = text.partition("<")[2].partition(">")[0]
                self.offered.append(recipient)
            reply = self._reply(verb, text)
            if reply == "silence":
                stopping.wait(60)
                return
            if reply is None:
                return
            connection.sendall(reply.encode() + b"\r\n")
            if verb == "QUIT":
                return
            if verb == "DATA" and reply.startswith("354") and not self._content(connection, lines, recipient, stopping):
                return

    def _content(self, connection, lines, recipient, stopping) -> bool:
        content = bytearray()
        for line in lines:
            if line == b".\r\n":
                break
            content += line[1:] if line.startswith(b".") else line
            if self.cut_after_bytes is not None and len(content) > self.cut_after_bytes:
                return False
        else:
            return False
        reply = self._reply(".", recipient)
        if reply == "silence":
            stopping.wait(60)
            return False
        if reply is None:
            return False
        if reply.startswith("250"):
            self.mails.append((recipient, bytes(content)))
        connection.sendall(reply.encode() + b"\r\n")
        return True
