"""Our account for submission, and what can become of a message that is handed to a relay: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from raypost.transfer.refusals import Remedy

FINAL_REPLY_TIMEOUT_S = 600.0
"""RFC 5321, 4.5.3.2.6: who waits less for the reply after the last byte makes doubles."""
CONNECT_TIMEOUT_S = 5.0
LOGIN_TIMEOUT_S = 20.0
STALL_TIMEOUT_S = 10.0


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
        connect_timeout_s: How long a TCP connection may take: a black hole costs no more.
        login_timeout_s: How long each answer up to the login may take.
        stall_timeout_s: After so long without any progress the caller is asked whether to go on (see SmtpSession).
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
    login_timeout_s: float = LOGIN_TIMEOUT_S
    stall_timeout_s: float = STALL_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Accepted:
    """The relay has it. It is not delivered: only a receipt says that.

    Args:
        reply: The relay's words.
        content_s: Seconds from the first byte of the content to this reply.
    """

    reply: str
    content_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: the same message may be accepted later."""

    reply_code: int
    text: str
    retry_after_s: float | None
    remedy: Remedy = Remedy.RETRY


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The relay takes no message of this size; the limit if it is known, in bytes."""

    limit_bytes: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this message, ever; what helps is another relay, or a person."""

    reply_code: int
    enhanced: str
    text: str
    remedy: Remedy = Remedy.PERSON


@dataclass(frozen=True, slots=True)
class BrokenOff:
    """The connection broke after the relay had heard of the message and before the last byte: it was not delivered."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The last byte went out and no reply came: send it again, the receiver drops the double."""

    text: str


Outcome = Accepted | Deferred | TooLarge | Refused | BrokenOff | Unknown
