"""Submits messages to a relay; every reply becomes an outcome, nothing is ever sent in clear."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from raypost.errors import LocalProtocolError, LoginRefusedError, RefusedError, UnreachableError
from raypost.mail.mime_scan import printable
from raypost.mail.smtp_replies import REPLY_TEXT_LENGTH_MAX, Stage, Verdict, enhanced_code, judge, retry_after_s
from raypost.mail.tls import client_context, connection_error, starttls_missing
from raypost.model.identifiers import is_address

CHUNK_BYTES = 1 << 18
FINAL_REPLY_TIMEOUT_S = 600.0
"""RFC 5321, 4.5.3.2.6: who waits less for the reply after the last byte makes doubles."""
CONNECT_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 60.0
QUIT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class SmtpAccount:
    """Our account on one relay, for submission.

    Args:
        relay: The relay's name in settings and events.
        host: Host name as its certificate says it, or an IP address.
        port: TCP port.
        security: TLS from the first byte, or STARTTLS; there is no third.
        username: Login.
        password: Password; never shown.
        address: Our mail address there: envelope sender and From.
        ca_file: Authority to trust instead of the system's.
        timeout_s: How long the last reply of a message is waited for.
        connect_timeout_s: How long a connection may take.
    """

    relay: str
    host: str
    port: int
    security: Literal["tls", "starttls"]
    username: str
    password: str = field(repr=False)
    address: str
    ca_file: Path | None = None
    timeout_s: float = FINAL_REPLY_TIMEOUT_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Accepted:
    """The relay has it. It is not delivered: only a receipt says that."""

    reply: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: the same message may be accepted later."""

    reply_code: int
    text: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The relay takes no message of this size; the limit if it is known, in bytes."""

    limit_bytes: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this message, ever; a person must look."""

    reply_code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The last byte went out and no reply came: send it again, the receiver drops the double."""

    text: str


Outcome = Accepted | Deferred | TooLarge | Refused | Unknown


class SmtpSession:
    """One logged-in connection; a context manager. Messages go out one after another.

    Entering raises UnreachableError, LoginRefusedError or SecurityError (certificate, missing STARTTLS).
    """

    def __init__(self, account: SmtpAccount) -> None:
        if not is_address(account.address):
            raise ValueError("the account's address is not a plain address")
        self.account = account
        self._where = f"{account.host}:{account.port}"
        self._connection: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        self._connection = self._connect()
        try:
            self._log_in(self._connection)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
        announced = self._open().esmtp_features.get("size", "")
        return int(announced) if announced.isdigit() and int(announced) > 0 else None

    def submit(self, recipient: str, message: Path) -> Outcome:
        """Hand one message to the relay, to one recipient, streamed from its file.

        Args:
            recipient: Plain address of the envelope.
            message: A whole message with CRLF line ends.

        Returns:
            What the relay says of it; Unknown if nothing came after the last byte.

        Raises:
            UnreachableError: The connection broke before the last byte; nothing was delivered.
        """
        if not is_address(recipient):
            raise ValueError("the recipient is not a plain address")
        connection = self._open()
        size_bytes = message.stat().st_size
        limit = self.size_max_bytes
        if limit is not None and size_bytes > limit:
            return TooLarge(limit, f"{size_bytes} bytes; the relay announces {limit}")
        options = [f"SIZE={size_bytes}"] if "size" in connection.esmtp_features else []
        if not _is_seven_bit(message):
            if "8bitmime" not in connection.esmtp_features:
                return Refused(554, "5.6.3", "the message has 8-bit bytes and the relay does not take them")
            options.append("BODY=8BITMIME")
        commands = (
            (Stage.MAIL, " ".join([f"MAIL FROM:<{self.account.address}>", *options]), 250),
            (Stage.RCPT, f"RCPT TO:<{recipient}>", 250),
            (Stage.DATA, "DATA", 354),
        )
        for stage, command, wanted in commands:
            reply_code, text = self._command(command)
            # 251: will be forwarded (RFC 5321, 4.2.2)
            if reply_code != wanted and not (stage is Stage.RCPT and reply_code == 251):
                outcome = self._outcome(reply_code, text, stage)
                self._reset()
                return outcome
        return self._send_content(connection, message)

    def _open(self) -> smtplib.SMTP:
        if self._connection is None:
            raise LocalProtocolError("An SMTP session is used outside its context.")
        if self._connection.sock is None:
            raise UnreachableError(f"{self._where} closed the connection.")
        return self._connection

    def _connect(self) -> smtplib.SMTP:
        account = self.account
        context = client_context(account.ca_file)
        host, port, timeout_s = account.host, account.port, account.connect_timeout_s
        name = account.address.rpartition("@")[2]  # smtplib would ask DNS for this machine's name and tell it
        try:
            if account.security == "tls":
                connection: smtplib.SMTP = smtplib.SMTP_SSL(
                    host, port, local_hostname=name, timeout=timeout_s, context=context
                )
            else:
                connection = smtplib.SMTP(host, port, local_hostname=name, timeout=timeout_s)
        except smtplib.SMTPResponseException as error:
            reply = f"{error.smtp_code} {_text(error.smtp_error)}"
            raise UnreachableError(f"{self._where} does not greet: {reply}") from error
        except smtplib.SMTPException as error:
            raise UnreachableError(f"{self._where} closed the connection.") from error
        except OSError as error:
            raise connection_error(self._where, error) from error
        try:
            self._secure(connection, context)
        except BaseException:
            connection.close()
            raise
        return connection

    def _secure(self, connection: smtplib.SMTP, context: ssl.SSLContext) -> None:
        with self._translated():
            if connection.ehlo()[0] != 250:
                raise UnreachableError(f"{self._where} does not speak ESMTP.")
            if self.account.security == "starttls":
                if not connection.has_extn("starttls"):
                    raise starttls_missing(self._where)
                # starttls() returns a refusal instead of raising it.
                if connection.starttls(context=context)[0] != 220:
                    raise starttls_missing(self._where)
                if connection.ehlo()[0] != 250:
                    raise UnreachableError(f"{self._where} does not speak ESMTP after STARTTLS.")
            assert connection.sock is not None
            connection.sock.settimeout(COMMAND_TIMEOUT_S)
            _tune(connection.sock)

    def _log_in(self, connection: smtplib.SMTP) -> None:
        offered = connection.esmtp_features.get("auth", "").upper().split()
        username, password = self.account.username.encode(), self.account.password.encode()
        if "PLAIN" in offered:
            initial = base64.b64encode(b"\0" + username + b"\0" + password).decode("ascii")
            reply_code, text = self._command(f"AUTH PLAIN {initial}")
        elif "LOGIN" in offered:
            reply_code, text = self._command("AUTH LOGIN")
            for secret in (username, password):
                if reply_code == 334:
                    reply_code, text = self._command(base64.b64encode(secret).decode("ascii"))
        else:
            raise LoginRefusedError(f"{self._where} offers no login by password.")
        if reply_code == 235:
            return
        if reply_code < 500:
            raise UnreachableError(f"{self._where} cannot check the login now: {reply_code} {text}")
        raise LoginRefusedError(
            f"{self._where} refuses the login of {self.account.username}: {reply_code} {text}",
            peer_code=reply_code,
            peer_text=text,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what smtplib and the socket raise into our errors."""
        try:
            yield
        except smtplib.SMTPException as error:
            raise UnreachableError(f"{self._where} broke off the conversation.") from error
        except OSError as error:
            raise connection_error(self._where, error) from error

    def _command(self, command: str) -> tuple[int, str]:
        connection = self._connection
        assert connection is not None
        with self._translated():
            reply_code, text = connection.docmd(command)
        if reply_code < 0:
            raise UnreachableError(f"{self._where} does not speak SMTP.")
        return reply_code, _text(text)

    def _reset(self) -> None:
        """Make the next message start clean; a relay that has hung up shows at the next command."""
        connection = self._connection
        with contextlib.suppress(smtplib.SMTPException, OSError):
            if connection is not None and connection.sock is not None:
                connection.docmd("RSET")

    def _outcome(self, reply_code: int, text: str, stage: Stage) -> Outcome:
        match judge(reply_code, text, stage):
            case Verdict.ACCEPTED:
                return Accepted(f"{reply_code} {text}")
            case Verdict.DEFERRED:
                return Deferred(reply_code, text, retry_after_s(text))
            case Verdict.TOO_LARGE:
                return TooLarge(self.size_max_bytes, text)
            case Verdict.REFUSED:
                return Refused(reply_code, enhanced_code(text), text)
            case None if stage is Stage.END:
                return Unknown(f"{reply_code} {text}")
            case None:
                raise UnreachableError(f"{self._where} answers {stage.value} with {reply_code}.")

    def _send_content(self, connection: smtplib.SMTP, message: Path) -> Outcome:
        """Send the content after 354 (RFC 5321, 4.1.1.4) and wait for the last reply."""
        try:
            ended = True
            for chunk in stuffed_chunks(message):
                connection.send(chunk)
                ended = chunk.endswith(b"\r\n")
        except (smtplib.SMTPException, OSError) as error:
            connection.close()
            raise UnreachableError(f"{self._where} broke off in the middle of a message.") from error
        try:
            # From here on the relay may have it all.
            connection.send(b".\r\n" if ended else b"\r\n.\r\n")
            if connection.sock is not None:
                connection.sock.settimeout(self.account.timeout_s)
            reply_code, reply = connection.getreply()
        except (smtplib.SMTPException, OSError) as error:
            connection.close()
            return Unknown(f"no reply after the last byte ({type(error).__name__})")
        if connection.sock is not None:
            connection.sock.settimeout(COMMAND_TIMEOUT_S)
        return self._outcome(reply_code, _text(reply), Stage.END)


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


def _tune(connection: socket.socket) -> None:
    """Set what slow and lossy links need; every part of it may be missing."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


def _text(reply: bytes | str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return printable(text, REPLY_TEXT_LENGTH_MAX)
