"""Bounces to values."""

import io

import pytest

from raypost.errors import BadInputError
from raypost.mail.mime_message import read_outer

BOUNCE = """\
From: MAILER-DAEMON@raypost.test (Mail Delivery System)
To: alpha@raypost.test
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="q/z"

--q/z
Content-Type: text/plain

I'm sorry.

--q/z
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; localhost
X-Postfix-Queue-ID: 0

Final-Recipient: rfc822; beta@raypost.test
Original-Recipient: rfc822;beta@raypost.test
Action: failed
Status: 5.2.2
Diagnostic-Code: smtp; 552 5.2.2 <beta@raypost.test> Quota exceeded
 (mailbox for user is full)

--q/z
Content-Type: text/rfc822-headers

From: alpha@raypost.test
Subject: Raypost
Message-ID: <m1@raypost.test>
Raypost-Token: abcdefghij; kind=parcel; number=3

--q/z--
"""


def seen(text):
    return read_outer(memoryview(text.encode()), io.BytesIO())


@pytest.mark.parametrize("bounce", [BOUNCE, BOUNCE.replace("\n", "\r\n")], ids=["LF", "CRLF"])
def test_a_postfix_bounce(bounce):
    assert seen(bounce) == {
        "form": "delivery-status",
        "original_message_id": "<m1@raypost.test>",
        "recipient": "beta@raypost.test",
        "action": "failed",
        "enhanced_code": "5.2.2",
        "diagnostic": "smtp; 552 5.2.2 <beta@raypost.test> Quota exceeded (mailbox for user is full)",
        "token": {"transfer_token": "abcdefghij", "kind": "parcel", "number": 3},
    }


def test_without_the_returned_header_the_status_is_still_read():
    found = seen(BOUNCE[: BOUNCE.index("--q/z\nContent-Type: text/rfc822-headers")] + "--q/z--\n")
    assert (found["original_message_id"], found["token"], found["enhanced_code"]) == ("", None, "5.2.2")


def test_hostile_texts_are_cut_and_made_printable():
    found = seen(
        BOUNCE.replace("Quota exceeded", "\x1b[31m" + "A" * 9000).replace("Action: failed", "Action: <script>")
    )
    assert len(found["diagnostic"]) <= 500 and found["diagnostic"].isprintable() and found["action"] == ""


@pytest.mark.parametrize(
    "bounce",
    [
        BOUNCE[: BOUNCE.index("Final-Recipient")] + "\n--q/z--\n",
        BOUNCE.replace("message/delivery-status", "text/plain"),
        BOUNCE.replace("X-Postfix-Queue-ID: 0", "X: " + "y" * 70_000),
        BOUNCE.replace("--q/z--\n", ""),
    ],
    ids=["no recipient", "no status", "too long", "cut off"],
)
def test_a_broken_bounce_is_refused(bounce):
    with pytest.raises(BadInputError):
        seen(bounce)
