"""The relay's SMTP side: aiosmtpd, which reads a mail in large pieces here instead of line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult

CHUNK_BYTES = 1 << 18
READ_BUFFER_BYTES = 1 << 18
END_OF_DATA = b"\r\n.\r\n"


class Submission(SMTP):
    """One SMTP session; the relay's `handle_…` methods decide what becomes of it.

    Args:
        relay: Its hooks are called by aiosmtpd.
        connections: Where this session notes itself while it is connected.
        size_max_bytes: Asked for the largest mail at the greeting and at each mail.
        authenticator: Checks a log-in.
    """

    def __init__(
        self,
        relay: object,
        connections: set[Submission],
        size_max_bytes: Callable[[], int],
        authenticator: Callable[..., AuthResult],
    ) -> None:
        super().__init__(
            relay,
            data_size_limit=size_max_bytes(),
            enable_SMTPUTF8=False,
            decode_data=False,
            hostname="localhost",
            authenticator=authenticator,
            auth_require_tls=False,
            loop=asyncio.get_running_loop(),
        )
        # Given to the constructor, it would warn that there is no TLS; but TLS is around the socket already.
        self._auth_required = True
        self._connections = connections
        self._size_max_bytes = size_max_bytes

    def connection_made(self, transport: Any) -> None:
        """Note the connection, so that the relay can end it."""
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._connections.discard(self)
        super().connection_lost(error)

    def hang_up(self) -> None:
        """Cut the connection without a word, as a dying server does."""
        transport: Any = self.transport
        if transport is not None:
            transport.abort()

    async def smtp_MAIL(self, arg: str | None) -> None:
        """Begin a mail (RFC 5321, 4.1.1.2); the limit may have changed since the greeting."""
        self.data_size_limit = self._size_max_bytes()
        await super().smtp_MAIL(arg)

    async def smtp_DATA(self, arg: str) -> None:
        """Receive the content up to the line with a single dot (RFC 5321, 4.1.1.4), and hand it over."""
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        envelope, reader = self.envelope, self._reader
        assert envelope is not None
        if not envelope.rcpt_tos or arg:
            await self.push("501 5.5.4 Syntax: DATA" if arg else "503 5.5.1 Error: need RCPT command")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        # The reader's limit is for command lines; with it the transport would pause after every other kilobyte.
        _set_limit(reader, READ_BUFFER_BYTES)
        try:
            content, rest = await self._read_content()
        finally:
            _set_limit(reader, self.line_length_limit)
        if rest:
            await self.push("421 4.7.0 Commands sent before the reply; good-bye")
            self.hang_up()
            return
        if content is None:
            reply = "552 5.3.4 Error: message file too big"
        else:
            envelope.content = content
            reply = await self._call_handler_hook("DATA")
        self.envelope = self._create_envelope()
        await self.push(reply)

    async def _read_content(self) -> tuple[bytes | None, bool]:
        """Return the content with dots undoubled, or None if it is too long; and whether bytes followed it."""
        content = bytearray(b"\r\n")  # so that a dot on the first line is one after a line end, too
        size_bytes = 0
        size_max_bytes = self._size_max_bytes()
        while True:
            chunk = await self._reader.read(CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError
            self._reset_timeout()
            searched_from = max(len(content) - len(END_OF_DATA) + 1, 0)
            content += chunk
            size_bytes += len(chunk)
            end = content.find(END_OF_DATA, searched_from)
            if end >= 0:
                rest = len(content) > end + len(END_OF_DATA)
                too_long = size_bytes - len(b".\r\n") > size_max_bytes
                return None if too_long else _undoubled(content, end + 2), rest
            if size_bytes > size_max_bytes + len(END_OF_DATA):
                del content[: -len(END_OF_DATA)]


def _set_limit(reader: Any, limit_bytes: int) -> None:
    reader._limit = limit_bytes


def _undoubled(content: bytearray, end: int) -> bytes:
    del content[end:]
    return bytes(content.replace(b"\r\n.", b"\r\n")[2:])
