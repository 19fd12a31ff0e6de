"""Opens an encrypted, logged-in SMTP connection; nothing is ever sent in clear."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator

from raypost.errors import LoginRefusedError, UnreachableError
from raypost.mail.mime_scan import printable
from raypost.mail.smtp_replies import REPLY_TEXT_LENGTH_MAX
from raypost.mail.submission import SmtpAccount
from raypost.mail.tls import client_context, connection_error, starttls_missing

_CONGESTION_CONTROL = b"bbr"


class _Connection(smtplib.SMTP):
    """A connection whose first step, which a black hole swallows, has a short time-out of its own."""

    def __init__(self, account: SmtpAccount, context: ssl.SSLContext) -> None:
        self._account, self._context = account, context
        name = account.address.rpartition("@")[2]  # smtplib would ask DNS for this machine's name and tell it
        super().__init__(account.host, account.port, local_hostname=name, timeout=account.login_timeout_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.create_connection((host, port), self._account.connect_timeout_s)
        try:
            sock.settimeout(timeout)
            _tune(sock)
            return (
                sock if self._account.security == "starttls" else self._context.wrap_socket(sock, server_hostname=host)
            )
        except BaseException:
            sock.close()
            raise


def connect(account: SmtpAccount) -> smtplib.SMTP:
    """Return a connection that is encrypted and logged in.

    Raises:
        UnreachableError: The relay does not answer, or not as it should.
        LoginRefusedError: It refuses account or password.
        SecurityError: Certificate, or STARTTLS is missing.
        UsageError: `ca_file` cannot be read.
    """
    where = where_of(account)
    context = client_context(account.ca_file)
    try:
        with _translated(where):
            connection = _Connection(account, context)
    except UnreachableError as error:
        if isinstance(cause := error.__cause__, smtplib.SMTPResponseException):
            reply = f"{cause.smtp_code} {reply_text(cause.smtp_error)}"
            raise UnreachableError(f"{where} does not greet: {reply}") from cause
        raise
    try:
        with _translated(where):
            _secure(connection, account, context)
        _log_in(connection, account)
    except BaseException:
        connection.close()
        raise
    return connection


def where_of(account: SmtpAccount) -> str:
    """Return host and port, as errors name them."""
    return f"{account.host}:{account.port}"


def reply_text(reply: bytes | str) -> str:
    """Return a server's words, printable and cut."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return printable(text, REPLY_TEXT_LENGTH_MAX)


def _secure(connection: smtplib.SMTP, account: SmtpAccount, context: ssl.SSLContext) -> None:
    where = where_of(account)
    if connection.ehlo()[0] != 250:
        raise UnreachableError(f"{where} does not speak ESMTP.")
    if account.security == "starttls":
        if not connection.has_extn("starttls"):
            raise starttls_missing(where)
        # starttls() may return a refusal instead of raising it.
        if connection.starttls(context=context)[0] != 220:
            raise starttls_missing(where)
        if connection.ehlo()[0] != 250:
            raise UnreachableError(f"{where} does not speak ESMTP after STARTTLS.")


def _log_in(connection: smtplib.SMTP, account: SmtpAccount) -> None:
    where = where_of(account)
    offered = connection.esmtp_features.get("auth", "").upper().split()
    username, password = account.username.encode(), account.password.encode()
    if "PLAIN" in offered:
        initial = base64.b64encode(b"\0" + username + b"\0" + password).decode("ascii")
        reply_code, text = _command(connection, where, f"AUTH PLAIN {initial}")
    elif "LOGIN" in offered:
        reply_code, text = _command(connection, where, "AUTH LOGIN")
        for secret in (username, password):
            if reply_code == 334:
                reply_code, text = _command(connection, where, base64.b64encode(secret).decode("ascii"))
    else:
        raise LoginRefusedError(f"{where} offers no login by password.")
    if reply_code == 235:
        return
    if reply_code < 500:
        raise UnreachableError(f"{where} cannot check the login now: {reply_code} {text}")
    raise LoginRefusedError(
        f"{where} refuses the login of {account.username}: {reply_code} {text}", peer_code=reply_code, peer_text=text
    )


def _command(connection: smtplib.SMTP, where: str, command: str) -> tuple[int, str]:
    with _translated(where):
        reply_code, text = connection.docmd(command)
    if reply_code < 0:
        raise UnreachableError(f"{where} does not speak SMTP.")
    return reply_code, reply_text(text)


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn what smtplib and the socket raise into our errors."""
    try:
        yield
    except smtplib.SMTPException as error:
        raise UnreachableError(f"{where} broke off the conversation.") from error
    except OSError as error:
        raise connection_error(where, error) from error


def _tune(connection: socket.socket) -> None:
    """Set what slow and lossy links need; every part of it may be missing."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
