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
from typing import IO, Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from raypost.errors import UsageError
from raypost.relay.faults import ORDER_MAX_BYTES, FaultPlan
from raypost.relay.mailboxes import Mailboxes, with_return_path
from raypost.relay.submission import Submission

SIZE_MAX_BYTES = 30_000_000
LATE_MAX = 10_000
"""Mails that are held back at once when a delay was ordered; more are refused for the time being."""
PARENT_CHECK_S = 1.0

AcceptedCallback = Callable[[int, str, str, int], None]
"""Called for every accepted mail: size in bytes, envelope sender, recipient, copies kept (0: lost on order)."""


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
        seed: Of the chance by which ordered faults meet a mail.
    """

    users: Mapping[str, str] = field(repr=False)
    certificate_file: Path
    secret_key_file: Path
    host: str = "127.0.0.1"
    smtp_port: int = 0
    imap_port: int = 0
    size_max_bytes: int = SIZE_MAX_BYTES
    seed: int = 1


class EmbeddedRelay:
    """A mail relay that lasts as long as its `async with` block; it sees only ciphertext and keeps nothing on disk.

    Attributes:
        faults: What it does wrong; `faults.order` changes it at any time.
    """

    def __init__(self, options: RelayOptions, on_accepted: AcceptedCallback | None = None) -> None:
        self.options = options
        self.smtp_port = options.smtp_port
        self.imap_port = options.imap_port
        self.faults = FaultPlan(options.seed)
        self._on_accepted = on_accepted
        self._passwords = {address.lower(): password for address, password in options.users.items()}
        self._mailboxes = Mailboxes()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._smtp_connections: set[Submission] = set()
        self._late: set[asyncio.Task[None]] = set()

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
        for late in self._late:
            late.cancel()
        for writer in list(self._writers):
            writer.close()
        for connection in list(self._smtp_connections):
            connection.hang_up()

    def _smtp_protocol(self) -> Submission:
        return Submission(self, self._smtp_connections, self._size_max_bytes, self._authenticate)

    def _size_max_bytes(self) -> int:
        return self.faults.now.size_max_bytes or self.options.size_max_bytes

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
        if refusal := self.faults.reply("MAIL"):
            return refusal
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
        if refusal := self.faults.reply("RCPT", address):
            return refusal
        envelope.rcpt_tos.append(address.lower())
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Put the mail into each recipient's mailbox, as far as no fault is ordered."""
        assert isinstance(envelope.content, bytes) and envelope.mail_from is not None
        size_bytes = len(envelope.content)
        recipients = list(dict.fromkeys(envelope.rcpt_tos))
        for recipient in recipients:
            if refusal := self.faults.reply("DATA", recipient):
                return refusal
        if len(self._late) + len(recipients) > LATE_MAX:
            return "452 4.3.1 Insufficient system storage"
        mail = envelope.content = with_return_path(envelope.content, envelope.mail_from)  # the one without is let go
        for recipient in recipients:
            copies, delay_s = self.faults.copies(recipient), self.faults.delay_s(recipient)
            if delay_s:
                late = asyncio.create_task(self._deliver(recipient, mail, copies, delay_s))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
            else:
                await self._deliver(recipient, mail, copies)
            if self._on_accepted is not None:
                self._on_accepted(size_bytes, envelope.mail_from, recipient, copies)
        return "250 2.0.0 Ok: stored"

    async def _deliver(self, recipient: str, mail: bytes, copies: int, delay_s: float = 0.0) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        for _ in range(copies):
            await self._mailboxes.deliver(recipient, mail, datetime.fromtimestamp(time(), UTC))


def run_relay(
    options: RelayOptions,
    on_accepted: AcceptedCallback,
    on_up: Callable[[int, int], None] | None = None,
    orders: IO[bytes] | None = None,
    on_order: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run a relay until SIGTERM, SIGINT, or the death of the process that started this one.

    Args:
        options: What to serve.
        on_accepted: Called for every accepted mail.
        on_up: Called once with the SMTP and the IMAP port when both listen.
        orders: A pipe that brings orders for faults, one JSON object a line (see `faults.Faults`).
        on_order: Called after each of them: `{"faults": …}`, the faults in force, or `{"refused_order": why}`.
    """
    asyncio.run(_run(options, on_accepted, on_up, orders, on_order, os.getppid()))


async def _run(
    options: RelayOptions,
    on_accepted: AcceptedCallback,
    on_up: Callable[[int, int], None] | None,
    orders: IO[bytes] | None,
    on_order: Callable[[dict[str, Any]], None] | None,
    parent_pid: int,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedRelay(options, on_accepted) as relay:
        obeying = asyncio.create_task(_obey(relay.faults, orders, on_order)) if orders is not None else None
        if on_up is not None:
            on_up(relay.smtp_port, relay.imap_port)
        while not stop.is_set() and os.getppid() == parent_pid:
            try:
                await asyncio.wait_for(stop.wait(), PARENT_CHECK_S)
            except TimeoutError:
                continue
        if obeying is not None:
            obeying.cancel()


async def _obey(plan: FaultPlan, orders: IO[bytes], on_order: Callable[[dict[str, Any]], None] | None) -> None:
    """Follow orders to the end of the pipe; after it the faults stay as they are."""
    reader = asyncio.StreamReader(limit=ORDER_MAX_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), orders)
    while True:
        answer: dict[str, Any]
        try:
            line = await reader.readline()
            if not line:
                return
            answer = {"faults": plan.order(line).as_json()}
        except ValueError:  # the reader's word for a line that is too long; it is thrown away
            answer = {"refused_order": f"an order has at most {ORDER_MAX_BYTES} bytes"}
        except UsageError as error:
            answer = {"refused_order": error.what}
        if on_order is not None:
            on_order(answer)
