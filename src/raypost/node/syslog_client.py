"""Brings audit messages to a syslog receiver: over TLS (RFC 5425), or as UDP datagrams (RFC 5426)."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raypost.errors import SecurityError, UnreachableError
from raypost.mail.tls import client_context
from raypost.model.syslog_message import octet_counted

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 15.0
"""Patience with one write, and with the receiver's close."""
REFUSAL_WAIT_S = 0.2
"""So long an ICMP "port unreachable" is waited for."""
_MEANING = "Audit messages are kept here, none is lost; images come and go as before."


@dataclass(frozen=True, slots=True)
class SyslogReceiver:
    """Where audit messages go."""

    host: str
    port: int
    transport: Literal["tls", "udp"]
    ca_file: Path | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages in order; when it returns, a receiver by TLS has read them all.

        Syslog has no answer. But who closes a TCP connection before having read everything resets it: so we say that
        nothing more comes, and take the orderly end of the receiver's side as the proof that everything was read.

        Raises:
            UnreachableError: It does not answer; it may have some of the messages.
            SecurityError: Its certificate is not right; it got nothing.
            UsageError: ca_file cannot be read.
        """
        try:
            if self.transport == "udp":
                self._send_datagrams(messages)
            else:
                self._send_stream(messages)
        except ssl.SSLCertVerificationError as error:
            raise SecurityError(
                f"the certificate of the audit receiver {self._where} is refused: {error.verify_message}",
                meaning=_MEANING,
                do="Check syslog_host and ca_file of [audit] in raypost.toml with the receiver's administrator.",
            ) from error
        except OSError as error:
            words = error.strerror or type(error).__name__
            raise UnreachableError(
                f"the audit receiver {self._where} does not take messages: {words}",
                meaning=_MEANING,
                do="Nothing, if it comes back by itself; else check [audit] in raypost.toml and the receiver.",
            ) from error

    @property
    def _where(self) -> str:
        return f"{self.host}:{self.port}"

    def _send_stream(self, messages: Sequence[bytes]) -> None:
        context = client_context(self.ca_file)
        with socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S) as plain:
            plain.settimeout(ANSWER_TIMEOUT_S)
            with context.wrap_socket(plain, server_hostname=self.host) as stream:
                for message in messages:
                    stream.sendall(octet_counted(message))
                # close_notify (RFC 5425, 4.4), and the receiver's; some just close
                with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    stream.unwrap()

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as datagrams:
            datagrams.connect(address)
            datagrams.settimeout(REFUSAL_WAIT_S)
            for message in messages:
                datagrams.send(message)
            with contextlib.suppress(TimeoutError):  # nobody answers a datagram, but a machine says that nobody listens
                datagrams.recv(1)
