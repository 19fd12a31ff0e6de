"""Our accounts on the relays, from the settings."""

from __future__ import annotations

from raypost.mail.imap import ImapAccount
from raypost.mail.smtp import SmtpAccount
from raypost.mail.submission import LOGIN_TIMEOUT_S
from raypost.node.site import read_password
from raypost.settings import Settings

FINAL_REPLY_MIN_S = 120.0
"""A relay may need long for its last word on a large mail; ending earlier makes doubles (RFC 5321, 4.5.3.2.6)."""


def smtp_account(settings: Settings, relay: str) -> SmtpAccount:
    """Return the account by which mail leaves.

    Beside other relays one that is slow to greet is soon left; the only one is waited for.
    """
    it = settings.relay[relay]
    is_only = len(settings.relay) == 1
    return SmtpAccount(
        relay=relay,
        host=it.smtp_host,
        port=it.smtp_port,
        security=it.smtp_security,
        username=it.username,
        password=read_password(it.password_file),
        address=settings.address_on(relay),
        ca_file=it.ca_file,
        timeout_s=max(it.timeout_s, FINAL_REPLY_MIN_S),
        connect_timeout_s=it.connect_timeout_s,
        login_timeout_s=max(it.stall_timeout_s, LOGIN_TIMEOUT_S) if is_only else it.stall_timeout_s,
        stall_timeout_s=it.stall_timeout_s,
    )


def imap_account(settings: Settings, relay: str) -> ImapAccount:
    """Return the account by which mail is fetched."""
    it = settings.relay[relay]
    return ImapAccount(
        relay=relay,
        host=it.imap_host,
        port=it.imap_port,
        security=it.imap_security,
        username=it.username,
        password=read_password(it.password_file),
        ca_file=it.ca_file,
        timeout_s=it.timeout_s,
    )
