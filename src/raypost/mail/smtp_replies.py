"""What an SMTP reply or a bounce means for a message: two tables, each row with what helps and with its source."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from raypost.transfer.refusals import Remedy


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
        remedy: What helps; None for a message that was taken.
        source: Where we know it from.
        words: Regular expression for words in the text; None fits any.
        within_limit: Only for a message that is within the SIZE which the relay announces.
    """

    reply_code: str
    enhanced: str | None
    stages: frozenset[Stage] | None
    verdict: Verdict
    remedy: Remedy | None
    source: str
    words: str | None = None
    within_limit: bool = False


_END = frozenset({Stage.END})
_RCPT = frozenset({Stage.RCPT})
_SIZE_WORDS = r"\b(?:size|big|large|much)\b"
_FULL_WORDS = r"quota|\bfull\b|storage|allocation"

REPLIES: tuple[Row, ...] = (
    Row("2..", None, _END, Verdict.ACCEPTED, None, "RFC 5321, 4.2.1"),
    Row(
        "422",
        None,
        None,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "mailbox full at several providers; 4xx, RFC 5321, 4.2.1",
    ),
    Row("4..", "4\\.2\\.2", None, Verdict.DEFERRED, Remedy.OTHER_RELAY, "mailbox full for now, RFC 3463, 3.3"),
    Row(
        "452",
        None,
        None,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "insufficient system storage, RFC 5321, 4.2.3; 452 4.3.1 is Postfix with a full disk",
    ),
    Row(
        "4..",
        "4\\.1\\.2",
        None,
        Verdict.DEFERRED,
        Remedy.RETRY,
        "Postfix says 450 4.1.2 while its DNS fails; chatmail/core smtp.rs, 2026-08",
    ),
    Row(
        "4..",
        None,
        None,
        Verdict.DEFERRED,
        Remedy.RETRY,
        "RFC 5321, 4.2.1; 450 4.2.0 greylisting measured on Postfix 3.7, 2026-11",
    ),
    Row(
        "5..",
        "5\\.2\\.2",
        None,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "mailbox full, RFC 3463, 3.3; 552 5.2.2 at RCPT measured on Postfix + Dovecot, 2026-11; it empties itself",
    ),
    Row("5..", "5\\.3\\.1", None, Verdict.DEFERRED, Remedy.OTHER_RELAY, "mail system full, RFC 3463, 3.4"),
    Row(
        "55.",
        "5\\.5\\.0",
        None,
        Verdict.DEFERRED,
        Remedy.RETRY,
        "misconfigured milters say 550 5.5.0 for a passing fault; chatmail/core smtp.rs, 2026-08",
    ),
    Row(
        "5..",
        "5\\.3\\.4|5\\.2\\.3",
        None,
        Verdict.TOO_LARGE,
        Remedy.CUT_SMALLER,
        "message too big, RFC 3463, 3.3 and 3.4; 552 5.3.4 at MAIL measured on Postfix 3.7, 2026-11",
    ),
    Row(
        "552",
        None,
        _RCPT,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "exceeded storage allocation of a mailbox when said of a recipient, RFC 5321, 4.2.3",
    ),
    Row(
        "552",
        None,
        None,
        Verdict.TOO_LARGE,
        Remedy.CUT_SMALLER,
        "RFC 1870, 6.1 and 6.3, in the servers' words; measured on aiosmtpd 1.4, 2026-11",
        words=_SIZE_WORDS,
    ),
    Row(
        "552",
        None,
        None,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "exceeded storage allocation, RFC 5321, 4.2.3, in the servers' words",
        words=_FULL_WORDS,
    ),
    Row(
        "552",
        None,
        _END,
        Verdict.DEFERRED,
        Remedy.OTHER_RELAY,
        "a mail within the announced SIZE (RFC 1870, 6.1) is not too big: the mailbox must be full",
        within_limit=True,
    ),
    Row("552", None, None, Verdict.TOO_LARGE, Remedy.CUT_SMALLER, "RFC 1870, 6.1 and 6.3"),
    Row(
        "5..",
        "5\\.1\\.[0-9]+|5\\.2\\.[01]|5\\.4\\.[0-9]+",
        None,
        Verdict.REFUSED,
        Remedy.OTHER_RELAY,
        "no such mailbox, or no way to it, RFC 3463, 3.2, 3.3 and 3.5; 550 5.1.1 measured on Postfix 3.7, 2026-11",
    ),
    Row(
        "55[01]",
        "",
        _RCPT,
        Verdict.REFUSED,
        Remedy.OTHER_RELAY,
        "mailbox unavailable, user not local, RFC 5321, 4.2.3",
    ),
    Row(
        "5..",
        None,
        None,
        Verdict.REFUSED,
        Remedy.PERSON,
        "RFC 5321, 4.2.1; 553 5.7.1, 554 5.7.1 measured on Postfix 3.7, 2026-11",
    ),
)


@dataclass(frozen=True, slots=True)
class BounceRow:
    """One rule for a delivery status notification (RFC 3464): the first row that fits decides.

    Args:
        action: Regular expression for the whole action field (RFC 3464, 2.3.3), which may be empty.
        enhanced: Regular expression for the whole status (RFC 3463), which may be empty; None fits any.
        remedy: What helps; None where nothing is wrong yet.
        source: Where we know it from.
        words: Regular expression for words of the diagnostic; None fits any.
    """

    action: str
    enhanced: str | None
    remedy: Remedy | None
    source: str
    words: str | None = None


_FAILED = "failed|"
_VAGUE = "|5\\.0\\.0"

BOUNCES: tuple[BounceRow, ...] = (
    BounceRow("delayed", None, None, "the relay goes on trying, RFC 3464, 2.3.3; receipts decide"),
    BounceRow("delivered|relayed|expanded", None, None, "RFC 3464, 2.3.3; only a receipt says that it is filed"),
    BounceRow(_FAILED, "2\\..*", None, "a status of success, RFC 3463, 2"),
    BounceRow(
        _FAILED,
        "[45]\\.2\\.2",
        Remedy.OTHER_RELAY,
        "mailbox full, RFC 3463, 3.3; Dovecot says it after Postfix took the mail, measured, 2026-11",
    ),
    BounceRow(
        _FAILED, "[45]\\.(?:3\\.4|2\\.3)", Remedy.CUT_SMALLER, "too big for a relay on the way, RFC 3463, 3.3 and 3.4"
    ),
    BounceRow(_FAILED, "[45]\\.4\\.7", Remedy.OTHER_RELAY, "delivery time expired in a queue, RFC 3463, 3.5"),
    BounceRow(
        _FAILED,
        "[45]\\.1\\.[0-9]+|[45]\\.2\\.[01]",
        Remedy.OTHER_RELAY,
        "no such mailbox there, RFC 3463, 3.2 and 3.3; 5.1.1 measured on Postfix + Dovecot, 2026-11",
    ),
    BounceRow(_FAILED, "[45]\\.[34]\\.[0-9]+", Remedy.OTHER_RELAY, "system or way out of order, RFC 3463, 3.4 and 3.5"),
    BounceRow(_FAILED, "[45]\\.7\\.[0-9]+", Remedy.PERSON, "policy or security, RFC 3463, 3.8"),
    BounceRow(_FAILED, "[45]\\.6\\.[0-9]+", Remedy.PERSON, "somebody on the way dislikes the content, RFC 3463, 3.7"),
    BounceRow(_FAILED, "4\\..*", Remedy.OTHER_RELAY, "a passing fault that lasted too long, RFC 3463, 2"),
    BounceRow(_FAILED, _VAGUE, Remedy.OTHER_RELAY, "no status, but the servers' words for a full mailbox", _FULL_WORDS),
    BounceRow(_FAILED, _VAGUE, Remedy.CUT_SMALLER, "no status, but the servers' words for too big", _SIZE_WORDS),
    BounceRow("failed", None, Remedy.PERSON, "RFC 3464, 2.3.3"),
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


def judge(reply_code: int, text: str, stage: Stage, *, within_limit: bool = False) -> Row | None:
    """Return the rule for a reply, or None for one that no row knows (1xx, 3xx, not a reply at all).

    Args:
        within_limit: The relay announces a SIZE and the message is not larger.
    """
    enhanced = enhanced_code(text)
    for row in REPLIES:
        if (
            re.fullmatch(row.reply_code, str(reply_code))
            and (row.enhanced is None or re.fullmatch(row.enhanced, enhanced))
            and (row.stages is None or stage in row.stages)
            and (row.words is None or re.search(row.words, text, re.IGNORECASE))
            and (within_limit or not row.within_limit)
        ):
            return row
    return None


def judge_bounce(action: str, enhanced: str, diagnostic: str) -> BounceRow | None:
    """Return the rule for a bounce, or None for one that says nothing.

    Args:
        action: Of the recipient (RFC 3464, 2.3.3), or "".
        enhanced: Its status, or "".
        diagnostic: The other server's words.
    """
    for row in BOUNCES:
        if (
            re.fullmatch(row.action, action)
            and (row.enhanced is None or re.fullmatch(row.enhanced, enhanced))
            and (row.words is None or re.search(row.words, diagnostic, re.IGNORECASE))
        ):
            return row
    return None
