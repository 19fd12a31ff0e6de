"""The embedded relay: SMTP in (aiosmtpd), IMAP out (pymap), TLS around both, in memory, in one asyncio process."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from raypost.relay.mailboxes import Mailboxes

SIZE_MAX_BYTES = 30_000_000
CHUNK_BYTES = 1 << 18
READ_BUFFER_BYTES = 1 << 18
END_OF_DATA = b"\r\n.\r\n"
PARENT_CHECK_S = 1.0

AcceptedCallback = Callable[[int, str, str], None]
"""Called with size in bytes, envelope sender and recipient of every accepted mail."""


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What an embedded relay needs to run; port 0 takes a free one.

    Args:
        users: Password by mail address; the address is the login.
        certificate_file: Server certificate, PEM.
        secret_key_file: Its secret key, PEM.
        host: Address to listen on.
        smtp_port: Submission, TLS from the first byte.
        imap_port: IMAP, TLS from the first byte.
        size_max_bytes: Largest mail, announced as SIZE.
    """

    users: Mapping[str, str] = field(repr=False)
    certificate_file: Path
    secret_key_file: Path
    host: str = "127.0.0.1"
    smtp_port: int = 0
    imap_port: int = 0
    size_max_bytes: int = SIZE_MAX_BYTES


class EmbeddedRelay:
    """A mail relay that lasts as long as its `async with` block; it sees only ciphertext and keeps nothing on disk."""

    def __init__(self, options: RelayOptions, on_accepted: AcceptedCallback | None = None) -> None:
        self.options = options
        self.smtp_port = options.smtp_port
        self.imap_port = options.imap_port
        self._on_accepted = on_accepted
        self._passwords = {address.lower(): password for address, password in options.users.items()}
        self._mailboxes = Mailboxes()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._smtp_connections: set[_RelaySmtp] = set()

    async def __aenter__(self) -> Self:
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd warns of its own deprecation at every login
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.load_cert_chain(self.options.certificate_file, self.options.secret_key_file)
        await self._mailboxes.open(self._passwords)
        loop = asyncio.get_running_loop()
        host = self.options.host
        smtp = await loop.create_server(self._smtp_protocol, host, self.smtp_port, ssl=tls)
        self._servers.append(smtp)
        imap = await asyncio.start_server(self._serve_imap, host, self.imap_port, ssl=tls)
        self._servers.append(imap)
        self.smtp_port = smtp.sockets[0].getsockname()[1]
        self.imap_port = imap.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()  # not wait_closed(): from Python 3.12 it waits for open clients
        for writer in list(self._writers):
            writer.close()
        for connection in list(self._smtp_connections):
            connection.hang_up()

    def _smtp_protocol(self) -> _RelaySmtp:
        return _RelaySmtp(self, self._smtp_connections, self.options.size_max_bytes, self._authenticate)

    async def _serve_imap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._mailboxes.serve_imap(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    def _authenticate(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        mechanism: str,
        data: object,
    ) -> AuthResult:
        good = False
        if isinstance(data, LoginPassword):
            wanted = self._passwords.get(data.login.decode("utf-8", "replace").lower())
            good = wanted is not None and hmac.compare_digest(wanted.encode(), data.password)
        # handled=True would send no 535 at all, and the client would wait for ever.
        return AuthResult(success=good, handled=False, auth_data=data if good else None)

    async def handle_MAIL(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Accept the envelope sender if it is the address that logged in."""
        login = session.auth_data.login.decode("utf-8", "replace") if session.auth_data else ""
        if address.lower() != login.lower():
            return f"553 5.7.1 <{address}>: Sender address rejected: not owned by user {login}"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Accept a recipient that has a mailbox here."""
        if not self._mailboxes.has(address):
            return f"550 5.1.1 <{address}>: Recipient address rejected: User unknown"
        envelope.rcpt_tos.append(address.lower())
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Put the mail into each recipient's mailbox."""
        mail = envelope.content
        assert isinstance(mail, bytes) and envelope.mail_from is not None
        for recipient in dict.fromkeys(envelope.rcpt_tos):
            await self._mailboxes.deliver(recipient, mail, datetime.fromtimestamp(time(), UTC))
            if self._on_accepted is not None:
                self._on_accepted(len(mail), envelope.mail_from, recipient)
        return "250 2.0.0 Ok: stored"


class _RelaySmtp(SMTP):
    """aiosmtpd, reading a mail in large pieces instead of line by line."""

    def __init__(
        self,
        relay: EmbeddedRelay,
        connections: set[_RelaySmtp],
        size_max_bytes: int,
        authenticator: Callable[..., AuthResult],
    ) -> None:
        super().__init__(
            relay,
            data_size_limit=size_max_bytes,
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
        size_max_bytes = self._size_max_bytes
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


def run_relay(
    options: RelayOptions,
    on_accepted: AcceptedCallback,
    on_up: Callable[[int, int], None] | None = None,
) -> None:
    """Run a relay until SIGTERM, SIGINT, or the death of the process that started this one.

    Args:
        options: What to serve.
        on_accepted: Called for every accepted mail.
        on_up: Called once with the SMTP and the IMAP port when both listen.
    """
    asyncio.run(_run(options, on_accepted, on_up, os.getppid()))


async def _run(
    options: RelayOptions,
    on_accepted: AcceptedCallback,
    on_up: Callable[[int, int], None] | None,
    parent_pid: int,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedRelay(options, on_accepted) as relay:
        if on_up is not None:
            on_up(relay.smtp_port, relay.imap_port)
        while not stop.is_set() and os.getppid() == parent_pid:
            try:
                await asyncio.wait_for(stop.wait(), PARENT_CHECK_S)
            except TimeoutError:
                continue
