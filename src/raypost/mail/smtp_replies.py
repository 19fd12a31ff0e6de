"""What an SMTP reply means for a message: one table, reply code to outcome, each row with its source."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Stage(enum.Enum):
    """Which command a reply answers."""

    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END = "END"


class Verdict(enum.Enum):
    """What becomes of the message."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    TOO_LARGE = "too large"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: the first row that fits decides.

    Args:
        reply_code: Regular expression for the whole three-digit code.
        enhanced: Regular expression for the whole enhanced status code (RFC 3463); None fits any and none.
        stages: Which commands it is about; None fits any.
        verdict: What it means.
        source: Where we know it from.
    """

    reply_code: str
    enhanced: str | None
    stages: frozenset[Stage] | None
    verdict: Verdict
    source: str


_END = frozenset({Stage.END})
_RCPT = frozenset({Stage.RCPT})

REPLIES: tuple[Row, ...] = (
    Row("2..", None, _END, Verdict.ACCEPTED, "RFC 5321, 4.2.1"),
    Row("422", None, None, Verdict.DEFERRED, "mailbox full at several providers; 4xx, RFC 5321, 4.2.1"),
    Row(
        "4..",
        "4\\.1\\.2",
        None,
        Verdict.DEFERRED,
        "Postfix says 450 4.1.2 while its DNS fails; chatmail/core smtp.rs, 2026-08",
    ),
    Row("4..", None, None, Verdict.DEFERRED, "RFC 5321, 4.2.1; 450 4.2.0 greylisting measured on Postfix 3.7, 2026-11"),
    Row(
        "5..",
        "5\\.2\\.2",
        None,
        Verdict.DEFERRED,
        "mailbox full, RFC 3463, 3.3; 552 5.2.2 at RCPT measured on Postfix + Dovecot, 2026-11; it empties itself",
    ),
    Row("5..", "5\\.3\\.1", None, Verdict.DEFERRED, "mail system full, RFC 3463, 3.4"),
    Row(
        "55.",
        "5\\.5\\.0",
        None,
        Verdict.DEFERRED,
        "misconfigured milters say 550 5.5.0 for a passing fault; chatmail/core smtp.rs, 2026-08",
    ),
    Row(
        "5..",
        "5\\.3\\.4|5\\.2\\.3",
        None,
        Verdict.TOO_LARGE,
        "message too big, RFC 3463, 3.3 and 3.4; 552 5.3.4 at MAIL measured on Postfix 3.7, 2026-11",
    ),
    Row(
        "552",
        None,
        _RCPT,
        Verdict.DEFERRED,
        "exceeded storage allocation of a mailbox when said of a recipient, RFC 5321, 4.2.3",
    ),
    Row("552", None, None, Verdict.TOO_LARGE, "RFC 1870, 6.1 and 6.3; measured on aiosmtpd 1.4, 2026-11"),
    Row(
        "5..",
        None,
        None,
        Verdict.REFUSED,
        "RFC 5321, 4.2.1; 550 5.1.1, 553 5.7.1, 554 5.7.1 measured on Postfix 3.7, 2026-11",
    ),
)

REPLY_TEXT_LENGTH_MAX = 500
RETRY_AFTER_MAX_S = 86_400.0

_ENHANCED = re.compile(r"\s*([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=\s|$)", re.ASCII)
_RETRY_AFTER = re.compile(r"\b(?:in|for|after) ([0-9]{1,5}) ?(?:s|sec|seconds?)\b", re.ASCII)


def enhanced_code(text: str) -> str:
    """Return the enhanced status code at the beginning of a reply's text (RFC 2034), or ""."""
    match = _ENHANCED.match(text)
    return "" if match is None else match[1]


def retry_after_s(text: str) -> float | None:
    """Return the pause in seconds that a greylisting reply names ("Greylisted for 300 seconds"), if it does."""
    match = _RETRY_AFTER.search(text)
    return None if match is None else min(float(match[1]), RETRY_AFTER_MAX_S)


def judge(reply_code: int, text: str, stage: Stage) -> Verdict | None:
    """Return what a reply means, or None for one that no row knows (1xx, 3xx, not a reply at all)."""
    enhanced = enhanced_code(text)
    for row in REPLIES:
        if (
            re.fullmatch(row.reply_code, str(reply_code))
            and (row.enhanced is None or re.fullmatch(row.enhanced, enhanced))
            and (row.stages is None or stage in row.stages)
        ):
            return row.verdict
    return None
