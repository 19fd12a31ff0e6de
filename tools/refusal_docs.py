"""The generated page of what each refusal and each bounce means: drawn from the tables that the product decides by.

`tools/generate_docs.py` writes it.
"""

from __future__ import annotations

from protocol_docs import table

from raypost.mail.smtp_replies import BOUNCES, REPLIES
from raypost.transfer.refusals import REMEDY_TEXT, RefusalLimits

INTRODUCTION = """# Refusals and bounces

What a mail relay says of a mail decides what becomes of it. There are four classes; the first rule that fits decides.
Images are safe here all the while, and a receipt of the partner is the only proof that they arrived.

"""


def refusals_text() -> str:
    """Return the page behind its first line: classes, rules for replies, rules for bounces, each with its source."""
    it = RefusalLimits()
    classes = table(("class", "what is done"), [(one.value, text) for one, text in REMEDY_TEXT.items()])
    pauses = (
        f"Pauses begin with {it.retry_first_s:.0f} s and double up to {it.retry_max_s:.0f} s, a little spread. While "
        f"another relay would take the mail, one relay is asked {it.tries_before_move} times, and not at all after a "
        f"pause of more than {it.patience_s:.0f} s. After {it.tell_after_tries} tries in vain a person is told, and it "
        "goes on. Copies for further relays, and signs of life, are given up silently: nobody misses them.\n"
    )
    replies = table(
        ("reply", "status", "to", "words", "class", "source"),
        [
            (
                f"`{row.reply_code}`",
                "any" if row.enhanced is None else f"`{row.enhanced}`" if row.enhanced else "none",
                "any" if row.stages is None else ", ".join(sorted(one.value for one in row.stages)),
                f"`{row.words}`" if row.words else ("within SIZE" if row.within_limit else ""),
                row.remedy.value if row.remedy else "taken",
                row.source,
            )
            for row in REPLIES
        ],
    )
    bounces = table(
        ("action", "status", "words", "class", "source"),
        [
            (
                f"`{row.action}`" if not row.action.endswith("|") else f"`{row.action[:-1]}` or none",
                "any" if row.enhanced is None else f"`{row.enhanced}`",
                f"`{row.words}`" if row.words else "",
                row.remedy.value if row.remedy else "nothing",
                row.source,
            )
            for row in BOUNCES
        ],
    )
    return (
        f"{INTRODUCTION}{classes}\n{pauses}\n"
        "## Replies\n\nReply codes (RFC 5321) and status codes (RFC 3463) are regular expressions for the whole code; "
        "END is the line with the single dot.\n\n"
        f"{replies}\n## Bounces\n\nA bounce (RFC 3464) is not signed: it is a hint. The mail that it names by its "
        "random Message-ID is sent again sooner, a few times at most; receipts decide as before.\n\n"
        f"{bounces}"
    )
