"""6 Fetch from the relay, store durably, commit, only then delete there (invariant 2).

Small and urgent mails come first. A crash between commit and deletion finds the mail again and only deletes it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import structlog

from raypost.archive import collected, events, quarantine, relays
from raypost.archive.collected import MailPlace
from raypost.archive.site import Archive
from raypost.errors import BadInputError, IntegrityError, NotNowError, RaypostError
from raypost.mail.imap import ImapAccount, ImapMailbox, Listed
from raypost.model.audit import EventKind
from raypost.model.clock import Clock

DELETE_AFTER = 8
"""So many mails are committed before they are deleted at the relay in one command."""

log = structlog.get_logger("raypost.collect")


@dataclass(frozen=True, slots=True)
class Collect:
    """Empties our mailbox on one relay.

    Attributes:
        mail_size_max_bytes: A larger mail is not fetched; it is noted in quarantine and removed.
        idle_s: The mailbox is looked at after so long even when the relay tells of nothing.
        retry_max_s: Longest pause before the relay is tried again.
    """

    archive: Archive
    clock: Clock
    account: ImapAccount
    mail_size_max_bytes: int
    idle_s: float
    retry_max_s: float = 15.0

    def run(self, stop: threading.Event) -> None:
        """Collect until `stop` is set; a relay or database that is away is waited for."""
        pause_s = 0.5
        while not stop.is_set():
            try:
                with ImapMailbox(self.account) as mailbox:
                    with self.archive.database.transaction() as tx:
                        relays.note_reached(tx, self.account.relay, None, self.clock.now())
                    pause_s = 0.5
                    self._serve(mailbox, stop)
            except RaypostError as error:
                log.warning("collecting pauses", relay=self.account.relay, code=error.code, what=error.what)
                self._note_away(error)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, self.retry_max_s)

    def _serve(self, mailbox: ImapMailbox, stop: threading.Event) -> None:
        while not stop.is_set():
            while self.collect(mailbox):
                if stop.is_set():
                    return
            mailbox.wait(self.idle_s, stop)

    def collect(self, mailbox: ImapMailbox) -> int:
        """Take what is in the mailbox now; return how many mails were new here, 0 when it is time to wait for more."""
        listed = mailbox.list_messages()
        if not listed:
            return 0
        with self.archive.database.transaction() as tx:
            known = collected.known_mails(
                tx, self.account.relay, mailbox.uid_validity, [one.imap_uid for one in listed]
            )
        removable: list[int] = sorted(known)
        taken = 0
        for one in listed:
            if one.imap_uid not in known and self._take(mailbox, one):
                removable.append(one.imap_uid)
                taken += 1
            if len(removable) >= DELETE_AFTER:
                self._remove(mailbox, removable)
                removable = []
        if removable:
            self._remove(mailbox, removable)
        return taken

    def _take(self, mailbox: ImapMailbox, one: Listed) -> bool:
        """Fetch one mail and commit it; True when it may be deleted at the relay."""
        spool, now = self.archive.spool, self.clock.now()
        if self.archive.blobs.free_bytes() < 2 * one.size_bytes:
            raise NotNowError("the disk is full: mails stay at the relay", do="Make room on the disk of this machine.")
        file = spool.new_file("eml")
        place = MailPlace(self.account.relay, mailbox.uid_validity, one.imap_uid, one.taken_at)
        is_control = one.token is not None and one.token.kind != "parcel"
        try:
            size_bytes = mailbox.fetch(one.imap_uid, file, self.mail_size_max_bytes)
            if size_bytes is None:
                return False  # somebody else took it
            name = spool.keep(file, "mail")
            with self.archive.database.transaction() as tx:
                rank = 100 if is_control else 50
                fresh = collected.note_fetched(
                    tx,
                    place,
                    mail_file=name,
                    size_bytes=size_bytes,
                    rank=rank,
                    now=now,
                )
                if fresh is not None:
                    kind = one.token.kind if one.token else "other"
                    events.record(tx, now, EventKind.FETCHED, relay=self.account.relay, bytes=size_bytes, message=kind)
            if fresh is None:
                spool.discard(name)
        except BadInputError as error:
            self._note_unfetchable(error, one, place)
        except IntegrityError as error:  # the relay gives less than it announced: others go on, this one is tried again
            log.warning("a mail cannot be fetched now", relay=self.account.relay, code=error.code, what=error.what)
            return False
        finally:
            file.unlink(missing_ok=True)
        return True

    def _note_unfetchable(self, error: BadInputError, one: Listed, place: MailPlace) -> None:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            quarantine.put(tx, self.archive.spool, None, error, source="mail", origin=self.account.relay, now=now)
            fresh = collected.note_fetched(
                tx,
                place,
                mail_file="",
                size_bytes=one.size_bytes,
                rank=0,
                now=now,
            )
            if fresh is not None:
                collected.note_done(tx, fresh, "quarantined")

    def _remove(self, mailbox: ImapMailbox, imap_uids: list[int]) -> None:
        mailbox.delete(imap_uids)
        with self.archive.database.transaction() as tx:
            collected.note_removed(tx, self.account.relay, mailbox.uid_validity, imap_uids, self.clock.now())

    def _note_away(self, error: RaypostError) -> None:
        try:
            with self.archive.database.transaction() as tx:
                relays.note_unreachable(tx, self.account.relay, error.code, error.what, self.clock.now())
        except RaypostError:
            log.warning("the database is away too")
