"""Submits messages to a relay; every reply becomes an outcome, nothing is ever sent in clear."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from raypost.errors import LocalProtocolError, RefusedError, UnreachableError
from raypost.mail.smtp_login import connect, reply_text, where_of
from raypost.mail.smtp_progress import Watch
from raypost.mail.smtp_replies import Stage, Verdict, enhanced_code, judge, retry_after_s
from raypost.mail.submission import Accepted, BrokenOff, Deferred, Outcome, Refused, SmtpAccount, TooLarge, Unknown
from raypost.mail.tls import connection_error
from raypost.model.identifiers import is_address
from raypost.transfer.refusals import Remedy

__all__ = (
    "Accepted",
    "BrokenOff",
    "Deferred",
    "Outcome",
    "Refused",
    "SmtpAccount",
    "SmtpSession",
    "TooLarge",
    "Unknown",
    "relay_error",
    "stuffed_chunks",
)

CHUNK_BYTES = 1 << 18
PIECE_BYTES = 1 << 14
"""Written at once: about one TLS record, so that a writable socket takes it without blocking."""
COMMAND_TIMEOUT_S = 60.0
CONTENT_TIMEOUT_S = 180.0
"""RFC 5321, 4.5.3.2.5."""
QUIT_TIMEOUT_S = 2.0


class SmtpSession:
    """One logged-in connection; a context manager. Messages go out one after another.

    Entering raises UnreachableError, LoginRefusedError or SecurityError (certificate, missing STARTTLS).

    Args:
        account: Ours on the relay.
        on_stall: Asked whenever nothing moved for the account's `stall_timeout_s` during a message; True ends the
            session: the message in hand is BrokenOff or Unknown. A slow relay that is the only one is waited for.
    """

    def __init__(self, account: SmtpAccount, on_stall: Callable[[], bool] = lambda: False) -> None:
        if not is_address(account.address):
            raise ValueError("the account's address is not a plain address")
        self.account = account
        self._where = where_of(account)
        self._watch = Watch(account.stall_timeout_s, on_stall)
        self._connection: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        self._connection = connect(self.account)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(OSError, smtplib.SMTPException):
            if connection.sock is not None:
                connection.sock.settimeout(QUIT_TIMEOUT_S)
                connection.quit()
        connection.close()

    @property
    def size_max_bytes(self) -> int | None:
        """The largest message the relay announces (RFC 1870); None where it announces none, or no limit."""
        announced = self._open()[0].esmtp_features.get("size", "")
        return int(announced) if announced.isdigit() and int(announced) > 0 else None

    @property
    def is_open(self) -> bool:
        """Say whether the connection can be used for another message, as far as is known here."""
        return self._connection is not None and self._connection.sock is not None

    def submit(self, recipient: str, message: Path) -> Outcome:
        """Hand one message to the relay, to one recipient, streamed from its file.

        Args:
            recipient: Plain address of the envelope.
            message: A whole message with CRLF line ends.

        Returns:
            What the relay says of it; BrokenOff or Unknown if the connection broke before or after the last byte.

        Raises:
            UnreachableError: The connection was dead before the relay heard of this message.
        """
        if not is_address(recipient):
            raise ValueError("the recipient is not a plain address")
        connection, _ = self._open()
        size_bytes = message.stat().st_size
        limit = self.size_max_bytes
        if limit is not None and size_bytes > limit:
            return TooLarge(limit, f"{size_bytes} bytes; the relay announces {limit}")
        options = [f"SIZE={size_bytes}"] if "size" in connection.esmtp_features else []
        if not _is_seven_bit(message):
            if "8bitmime" not in connection.esmtp_features:
                refusal = "the message has 8-bit bytes and the relay does not take them"
                return Refused(554, "5.6.3", refusal, Remedy.OTHER_RELAY)
            options.append("BODY=8BITMIME")
        commands = (
            (Stage.MAIL, " ".join([f"MAIL FROM:<{self.account.address}>", *options]), 250),
            (Stage.RCPT, f"RCPT TO:<{recipient}>", 250),
            (Stage.DATA, "DATA", 354),
        )
        for stage, command, wanted in commands:
            try:
                reply_code, text = self._command(command)
            except UnreachableError as error:
                if stage is Stage.MAIL:
                    raise
                return BrokenOff(error.what)
            # 251: will be forwarded (RFC 5321, 4.2.2)
            if reply_code != wanted and not (stage is Stage.RCPT and reply_code == 251):
                outcome = self._outcome(reply_code, text, stage)
                self._reset()
                return outcome
        return self._send_content(message)

    def _open(self) -> tuple[smtplib.SMTP, socket.socket]:
        if self._connection is None:
            raise LocalProtocolError("An SMTP session is used outside its context.")
        if self._connection.sock is None:
            raise UnreachableError(f"{self._where} closed the connection.")
        return self._connection, self._connection.sock

    def _command(self, command: str) -> tuple[int, str]:
        connection, sock = self._open()
        try:
            sock.settimeout(COMMAND_TIMEOUT_S)
            connection.putcmd(command)
            self._watch.readable(sock, COMMAND_TIMEOUT_S)
            reply_code, text = connection.getreply()
        except smtplib.SMTPException as error:
            connection.close()
            raise UnreachableError(f"{self._where} broke off the conversation.") from error
        except OSError as error:
            connection.close()
            raise connection_error(self._where, error) from error
        if reply_code < 0:
            connection.close()
            raise UnreachableError(f"{self._where} does not speak SMTP.")
        return reply_code, reply_text(text)

    def _reset(self) -> None:
        """Make the next message start clean; a relay that has hung up shows at the next command."""
        with contextlib.suppress(UnreachableError):
            self._command("RSET")

    def _outcome(
        self, reply_code: int, text: str, stage: Stage, *, within_limit: bool = False, content_s: float = 0.0
    ) -> Outcome:
        row = judge(reply_code, text, stage, within_limit=within_limit)
        if row is None:
            if stage is Stage.END:
                return Unknown(f"{reply_code} {text}")
            return BrokenOff(f"{self._where} answers {stage.value} with {reply_code}.")
        match row.verdict:
            case Verdict.ACCEPTED:
                return Accepted(f"{reply_code} {text}", content_s)
            case Verdict.DEFERRED:
                return Deferred(reply_code, text, retry_after_s(text), row.remedy or Remedy.RETRY)
            case Verdict.TOO_LARGE:
                return TooLarge(self.size_max_bytes if self.is_open else None, text)
            case Verdict.REFUSED:
                return Refused(reply_code, enhanced_code(text), text, row.remedy or Remedy.PERSON)

    def _send_content(self, message: Path) -> Outcome:
        """Send the content after 354 (RFC 5321, 4.1.1.4) and wait for the last reply."""
        connection, sock = self._open()
        limit = self.size_max_bytes
        begin_s = time.monotonic()
        try:
            sock.settimeout(CONTENT_TIMEOUT_S)
            ended = True
            for chunk in stuffed_chunks(message):
                self._write(sock, chunk)
                ended = chunk.endswith(b"\r\n")
        except (smtplib.SMTPException, OSError) as error:
            connection.close()
            return BrokenOff(f"{self._where} broke off in the middle of a message ({type(error).__name__}).")
        try:
            # From here on the relay may have it all.
            self._write(sock, b".\r\n" if ended else b"\r\n.\r\n")
            sock.settimeout(self.account.timeout_s)
            self._watch.readable(sock, self.account.timeout_s)
            reply_code, reply = connection.getreply()
        except (smtplib.SMTPException, OSError) as error:
            connection.close()
            return Unknown(f"no reply after the last byte ({type(error).__name__})")
        within_limit = limit is not None and message.stat().st_size <= limit
        content_s = time.monotonic() - begin_s
        return self._outcome(reply_code, reply_text(reply), Stage.END, within_limit=within_limit, content_s=content_s)

    def _write(self, sock: socket.socket, content: bytes) -> None:
        view = memoryview(content)
        while view:
            self._watch.writable(sock, CONTENT_TIMEOUT_S)
            view = view[sock.send(view[:PIECE_BYTES]) :]


def relay_error(outcome: Refused) -> RefusedError:
    """Return a refusal as the error a person sees."""
    return RefusedError(
        f"The relay refuses the message: {outcome.reply_code} {outcome.text}",
        peer_code=outcome.reply_code,
        peer_text=outcome.text,
    )


def stuffed_chunks(message: Path) -> Iterator[bytes]:
    """Yield a message's bytes with dots at line beginnings doubled (RFC 5321, 4.5.2), in constant memory."""
    at_line_start = True
    with message.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            stuffed = chunk.replace(b"\n.", b"\n..")
            yield b"." + stuffed if at_line_start and chunk.startswith(b".") else stuffed
            at_line_start = chunk.endswith(b"\n")


def _is_seven_bit(message: Path) -> bool:
    with message.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            if not chunk.isascii():
                return False
    return True
