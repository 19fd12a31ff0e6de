"""What of a mailbox was listed already, so that each look costs only what is new, however full it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raypost.mail.collecting_order import Listed

LISTED_AT_ONCE_MAX = 500
"""Messages of one answer: some hundred kilobytes, some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Where the messages of a mailbox lie.

    Attributes:
        landmarks: IMAP UID of the oldest message, of every so many-th after it, of the newest, and perhaps of more;
            ascending.
        newest_uid: No message that was there has a higher IMAP UID.
    """

    landmarks: Sequence[int]
    newest_uid: int


class ListableMailbox(Protocol):
    """What is needed of a mailbox."""

    def survey(self, step: int) -> Survey:
        """Find where the messages lie."""

    def list_range(self, first_uid: int, last_uid: int, *, and_newest: bool = False) -> list[Listed]:
        """List the messages of a range of IMAP UIDs; the newest of all in any case where wished."""


class Listing:
    """Lists a mailbox window by window, the newest first, then from both ends; for the life of one connection."""

    def __init__(self, mailbox: ListableMailbox) -> None:
        """Begin; nothing is asked of the relay yet."""
        self._mailbox = mailbox
        self._windows: deque[tuple[int, int]] = deque()
        self._newest_uid = 0
        self._is_newest_next = True

    @property
    def is_complete(self) -> bool:
        """Say whether every message that is known to be there was listed."""
        return not self._windows

    def begin(self) -> None:
        """Survey the mailbox and forget what was listed before."""
        survey = self._mailbox.survey(LISTED_AT_ONCE_MAX)
        self._newest_uid = survey.newest_uid
        self._windows = deque(_windows(survey.landmarks, 0))
        self._is_newest_next = True

    def next_window(self) -> list[Listed]:
        """List at most LISTED_AT_ONCE_MAX messages more, by turns the newest and the oldest that were not listed."""
        if not self._windows:
            return []
        first_uid, last_uid = self._windows.pop() if self._is_newest_next else self._windows.popleft()
        self._is_newest_next = not self._is_newest_next
        return self._mailbox.list_range(first_uid, last_uid)

    def news(self) -> list[Listed]:
        """List what came since the last time; what is more than one window waits for `next_window`."""
        begin, end = self._newest_uid + 1, self._newest_uid + LISTED_AT_ONCE_MAX
        # IMAP UIDs ascend and are given once (RFC 9051, 2.3.1.1): a range of 500 holds at most 500 messages.
        found = [one for one in self._mailbox.list_range(begin, end, and_newest=True) if one.imap_uid >= begin]
        if not found:
            return []
        newest_uid = max(one.imap_uid for one in found)
        if newest_uid > end + 1:
            survey = self._mailbox.survey(LISTED_AT_ONCE_MAX)
            self._windows.extend(_windows(survey.landmarks, end))
            found = [one for one in found if one.imap_uid <= end]
            newest_uid = survey.newest_uid
            self._is_newest_next = True
        self._newest_uid = newest_uid
        return found


def _windows(landmarks: Sequence[int], after_uid: int) -> list[tuple[int, int]]:
    """Return ranges of IMAP UIDs above a limit; each holds at most as many messages as lie between two landmarks."""
    ends = [following - 1 for following in landmarks[1:-1]] + list(landmarks[-1:])
    starts = landmarks[: len(ends)]
    found = zip(starts, ends, strict=True)
    return [(max(first, after_uid + 1), last) for first, last in found if last > after_uid]
