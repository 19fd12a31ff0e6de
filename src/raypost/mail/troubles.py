"""Mails that could not be fetched: when each is tried again, and that some day it is enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

TRIES_MAX = 8
TRY_AGAIN_FIRST = timedelta(seconds=5)
TRY_AGAIN_MAX = timedelta(minutes=5)
REMEMBERED_MAX = 1000

MailNumber = tuple[int, int]
"""UIDVALIDITY and IMAP UID: what names a mail of one mailbox for ever."""


@dataclass(slots=True)
class _Trouble:
    tries: int
    again_at: datetime


class Troubles:
    """What went wrong with single mails of one mailbox; outlives a connection, since a mail can be what breaks it."""

    def __init__(self) -> None:
        self._troubles: dict[MailNumber, _Trouble] = {}

    def note_failure(self, mail: MailNumber, now: datetime) -> bool:
        """Note a failed try; True when it was the last one. Of too many mails in trouble the first are forgotten."""
        known = self._troubles.get(mail)
        tries = 1 if known is None else known.tries + 1
        self._note(mail, tries, now + min(TRY_AGAIN_FIRST * 2 ** (tries - 1), TRY_AGAIN_MAX))
        return tries >= TRIES_MAX

    def put_off(self, mail: MailNumber, until: datetime) -> None:
        """Note that a mail is to wait for a reason that is not its own."""
        known = self._troubles.get(mail)
        self._note(mail, 0 if known is None else known.tries, until)

    def again_at(self, mail: MailNumber) -> datetime | None:
        """Return when a mail in trouble is to be tried again, None when it is in none."""
        trouble = self._troubles.get(mail)
        return None if trouble is None else trouble.again_at

    def _note(self, mail: MailNumber, tries: int, again_at: datetime) -> None:
        self._troubles.pop(mail, None)
        while len(self._troubles) >= REMEMBERED_MAX:
            del self._troubles[next(iter(self._troubles))]
        self._troubles[mail] = _Trouble(tries, again_at)

    def forget(self, mail: MailNumber) -> None:
        """Note that a mail is no trouble any more."""
        self._troubles.pop(mail, None)
