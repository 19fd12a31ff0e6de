"""6 Fetch from the relay, store durably, commit, only then delete there (invariant 2).

What matters comes first, even in a flood and even while a large mail is on its way. A crash between commit and deletion
finds the mail again and only deletes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from raypost.archive import collected, events, quarantine, relays
from raypost.archive.collected import MailPlace
from raypost.archive.site import Archive
from raypost.errors import BadInputError, IntegrityError, NotNowError, RaypostError, UnreachableError
from raypost.mail.collecting_order import URGENT_SIZE_MAX_BYTES, Chosen, CollectingOrder, Listed
from raypost.mail.imap import ImapAccount, ImapMailbox
from raypost.mail.listing import Listing
from raypost.mail.tokens import PARCEL_KIND
from raypost.mail.troubles import REMEMBERED_MAX, MailNumber, Troubles
from raypost.model.audit import EventKind
from raypost.model.clock import Clock
from raypost.stations.waiting import Waiting

DELETE_AFTER = 8
"""So many mails are committed before they are deleted at the relay in one command."""
LOOK_AFTER_MAILS = 8
LOOK_AFTER = timedelta(milliseconds=300)
"""New mails are looked for so often while older ones are fetched."""
PARTNERS_KNOWN_FOR = timedelta(seconds=10)
URGENT_BETWEEN_MAX = 7
"""So many urgent mails are fetched between two ranges of a large one."""
WINDOWS_BEFORE_BULK = 20
"""While a full mailbox is listed only what is urgent is fetched; after so many windows it is the turn of any mail."""
DISK_PAUSE = timedelta(seconds=30)
LIST_ANEW_AFTER = timedelta(hours=1)

log = structlog.get_logger("raypost.collect")


@dataclass(frozen=True, slots=True)
class Collect:
    """Empties our mailbox on one relay.

    Attributes:
        mail_size_max_bytes: A larger mail is not fetched; it is noted in quarantine and removed.
        idle_s: The mailbox is looked at after so long even when the relay tells of nothing.
        retry_max_s: Longest pause before the relay is tried again.
        disk_free_min_bytes: With less free disk, mails of strangers stay at the relay.
    """

    archive: Archive
    clock: Clock
    account: ImapAccount
    mail_size_max_bytes: int
    idle_s: float
    retry_max_s: float = 15.0
    disk_free_min_bytes: int = 0
    troubles: Troubles = field(default_factory=Troubles)

    def run(self, stop: threading.Event) -> None:
        """Collect until `stop` is set; a relay or database that is away is waited for."""
        pause_s = 0.5
        while not stop.is_set():
            mailbox = ImapMailbox(self.account)
            try:
                with mailbox:
                    with self.archive.database.transaction() as tx:
                        relays.note_reached(tx, self.account.relay, None, self.clock.now())
                    pause_s = 0.5
                    self._serve(mailbox, stop)
            except RaypostError as error:
                log.warning("collecting pauses", relay=self.account.relay, code=error.code, what=error.what)
                if mailbox.is_lost:  # disk and database are away for their own reasons
                    self._note_away(error)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, self.retry_max_s)

    def _serve(self, mailbox: ImapMailbox, stop: threading.Event) -> None:
        collecting = Collecting(self, mailbox)
        while not stop.is_set():
            collecting.collect(stop)
            mailbox.wait(collecting.pause_s(), stop)

    def _note_away(self, error: RaypostError) -> None:
        try:
            with self.archive.database.transaction() as tx:
                relays.note_unreachable(tx, self.account.relay, error.code, error.what, self.clock.now())
        except RaypostError:
            log.warning("the database is away too")


class Collecting:
    """One connection's work: what was listed, what waits and in which order, what is to be deleted."""

    def __init__(self, station: Collect, mailbox: ImapMailbox) -> None:
        """Begin with a mailbox of which nothing is known yet."""
        self.taken = 0
        self._station = station
        self._mailbox = mailbox
        self._listing = Listing(mailbox)
        self._order = CollectingOrder()
        self._removable: list[int] = []
        self._put_off: dict[int, Listed] = {}
        self._partners_at: datetime | None = None
        self._looked_at = self._begun_at = station.clock.now()
        self._mails_since_look = 0
        self._waiting = Waiting(station.account.relay, station.archive.database)
        self._taken_at_begin = -1
        self._anew_at: datetime | None = self._begun_at
        self._fault_between: RaypostError | None = None

    def collect(self, stop: threading.Event) -> int:
        """Take what is in the mailbox and what comes meanwhile; return how many mails were new here.

        Raises:
            UnreachableError: The relay (then the mailbox is lost) or the database.
            NotNowError: The disk is full.
        """
        taken_before = self.taken
        if not self._begin_anew():
            self._look(self._listing.news)
        windows = 0
        while not stop.is_set():
            if self._is_look_due():
                self._look(self._news)
            if not self._listing.is_complete and windows < WINDOWS_BEFORE_BULK:
                self._hold(self._listing.next_window())
                windows += 1
                chosen = self._order.choose_urgent(self._now())
            else:
                chosen = self._order.choose(self._now())
                windows = 0
            if chosen is not None:
                self._take(chosen, self._between)
            elif not len(self._order) and self._listing.is_complete and not self._begin_anew():
                break
        self._remove()
        return self.taken - taken_before

    def pause_s(self) -> float:
        """Return how long to wait for news, in seconds: less when a mail is to be tried again before."""
        due = [self._again_at(one) for one in self._put_off.values()]
        due += [self._anew_at] if self._anew_at is not None else []
        pause_s = self._station.idle_s
        return max(0.5, min([pause_s, *((one - self._now()).total_seconds() for one in due)]))

    def _now(self) -> datetime:
        return self._station.clock.now()

    def _number(self, one: Listed) -> MailNumber:
        return self._mailbox.uid_validity, one.imap_uid

    def _begin_anew(self) -> bool:
        """List the whole mailbox anew when more is there than was held, and once in a while: nothing stays behind."""
        now = self._now()
        if len(self._order) or not self._listing.is_complete:
            return False
        is_forgotten = self._order.has_forgotten and self.taken > self._taken_at_begin
        is_due = self._anew_at is not None and self._anew_at <= now
        if not is_forgotten and not is_due and timedelta() <= now - self._begun_at < LIST_ANEW_AFTER:
            return False
        self._remove()
        self._order.has_forgotten, self._anew_at = False, None
        self._begun_at, self._taken_at_begin = now, self.taken
        self._know_partners()
        self._listing.begin()
        return True

    def _is_look_due(self) -> bool:
        since = self._now() - self._looked_at
        return self._mails_since_look >= LOOK_AFTER_MAILS or not timedelta() <= since < LOOK_AFTER

    def _look(self, news: Callable[[], list[Listed]]) -> None:
        """Look for what is new: mails, partners, and mails to be tried again."""
        now = self._looked_at = self._now()
        self._mails_since_look = 0
        if self._partners_at is None or not timedelta() <= now - self._partners_at < PARTNERS_KNOWN_FOR:
            self._know_partners()
        self._hold(news())
        due = [one for one in self._put_off.values() if self._again_at(one) <= now]
        for one in due:
            del self._put_off[one.imap_uid]
        self._order.add(due)
        self._waiting.note(self._order, self._mailbox, now)

    def _news(self) -> list[Listed]:
        return self._listing.news() if self._mailbox.look() else []

    def _know_partners(self) -> None:
        with self._station.archive.database.transaction() as tx:
            self._order.know_partners(collected.partner_addresses(tx))
        self._partners_at = self._now()

    def _hold(self, listed: list[Listed]) -> None:
        """Let mails wait for their turn, all but those that are known here."""
        if not listed:
            return
        imap_uids = [one.imap_uid for one in listed]
        with self._station.archive.database.transaction() as tx:
            known = collected.known_mails(tx, self._station.account.relay, self._mailbox.uid_validity, imap_uids)
        self._removable.extend(sorted(known.to_remove))
        now, fresh = self._now(), []
        for one in listed:
            if one.imap_uid in known.to_remove or one.imap_uid in known.to_leave or one.imap_uid in self._put_off:
                continue
            if self._again_at(one) > now:
                self._put_aside(one)
            else:
                fresh.append(one)
        self._order.add(fresh)

    def _again_at(self, one: Listed) -> datetime:
        return self._station.troubles.again_at(self._number(one)) or self._begun_at

    def _put_aside(self, one: Listed) -> None:
        """Keep a mail in mind until it is tried again; of too many, the rest is found when all is listed anew."""
        if len(self._put_off) < REMEMBERED_MAX:
            self._put_off[one.imap_uid] = one
        elif self._anew_at is None:
            self._anew_at = self._now() + DISK_PAUSE

    def _between(self) -> None:
        """Do between two ranges of a large mail what cannot wait until it is here."""
        try:
            if self._is_look_due():
                self._look(self._news)
            if not self._listing.is_complete:
                self._hold(self._listing.next_window())
            for _ in range(URGENT_BETWEEN_MAX):
                chosen = self._order.choose_urgent(self._now())
                if chosen is None:
                    return
                self._take(chosen, None)
        except RaypostError as error:
            self._fault_between = error
            raise

    def _take(self, chosen: Chosen, between: Callable[[], None] | None) -> None:
        """Fetch one mail and commit it; or note why not."""
        station, one = self._station, chosen.mail
        self._mails_since_look += 1
        if not self._has_room(chosen):
            return
        place = MailPlace(station.account.relay, self._mailbox.uid_validity, one.imap_uid, one.taken_at)
        file = station.archive.spool.new_file("eml")
        try:
            size_bytes = self._mailbox.fetch(one.imap_uid, file, station.mail_size_max_bytes, between)
            if size_bytes is not None:  # otherwise somebody else took it
                self._store(chosen, place, file, size_bytes)
            station.troubles.forget(self._number(one))
        except BadInputError as error:
            self._note_not_fetched(error, one, place, is_left=False)
            self._removable.append(one.imap_uid)
            self.taken += 1
        except IntegrityError as error:  # the relay gives less than it announced: others go on, this one is tried again
            self._note_failure(error, one, place)
        except UnreachableError as error:
            if self._mailbox.is_lost and error is not self._fault_between:
                self._note_failure(error, one, place)
            raise
        except OSError as error:  # of the disk: what the network raises is an UnreachableError by now
            raise _disk_is_full(error.strerror or "it gives no reason") from error
        finally:
            file.unlink(missing_ok=True)
        if len(self._removable) >= DELETE_AFTER:
            self._remove()

    def _has_room(self, chosen: Chosen) -> bool:
        """Say whether a mail fits on the disk; a large one is put off, so that small ones still come."""
        free_bytes, one = self._station.archive.blobs.free_bytes(), chosen.mail
        reserve_bytes = self._station.disk_free_min_bytes if chosen.is_strangers else 0
        if free_bytes >= 2 * one.size_bytes + reserve_bytes:
            return True
        if one.size_bytes <= URGENT_SIZE_MAX_BYTES and not chosen.is_strangers:
            raise _disk_is_full(f"{free_bytes} bytes are free")
        log.warning("no room for a mail: it stays at the relay", relay=self._station.account.relay, free=free_bytes)
        self._station.troubles.put_off(self._number(one), self._now() + DISK_PAUSE)
        self._put_aside(one)
        return False

    def _store(self, chosen: Chosen, place: MailPlace, file: Path, size_bytes: int) -> None:
        archive, now, one = self._station.archive, self._now(), chosen.mail
        name = archive.spool.keep(file, "mail")
        is_parcel = one.token is not None and one.token.kind == PARCEL_KIND and not chosen.is_strangers
        with archive.database.transaction() as tx:
            fresh = collected.note_fetched(
                tx,
                place,
                mail_file=name,
                size_bytes=size_bytes,
                rank=chosen.open_rank,
                now=now,
                parcel=(one.token.transfer_token, one.token.number) if one.token and is_parcel else None,
            )
            self._waiting.note_fetched(tx, one, self._mailbox, size_bytes, now)
            if fresh is not None:
                kind = one.token.kind if one.token else "other"
                events.record(tx, now, EventKind.FETCHED, relay=place.relay, bytes=size_bytes, message=kind)
        if fresh is None:
            archive.spool.discard(name)
        self._removable.append(one.imap_uid)
        self.taken += 1

    def _note_failure(self, error: RaypostError, one: Listed, place: MailPlace) -> None:
        """Try a mail again later; after TRIES_MAX leave it at the relay and tell a person."""
        log.warning("a mail cannot be fetched now", relay=place.relay, code=error.code, what=error.what)
        if self._station.troubles.note_failure(self._number(one), self._now()):
            said = IntegrityError(
                f"a mail cannot be fetched, tried again and again, and stays at the relay: {error.what}",
                meaning="If it was a parcel, the sender gets no receipt for it and sends it again.",
                do="Ask the relay's administrator to look at this mailbox.",
            )
            self._note_not_fetched(said, one, place, is_left=True)
        else:
            self._put_aside(one)

    def _note_not_fetched(self, error: RaypostError, one: Listed, place: MailPlace, *, is_left: bool) -> None:
        archive, now = self._station.archive, self._now()
        with archive.database.transaction() as tx:
            if collected.note_not_fetched(tx, place, size_bytes=one.size_bytes, now=now, is_left=is_left):
                quarantine.put(tx, archive.spool, None, error, source="mail", origin=place.relay, now=now)
        self._station.troubles.forget(self._number(one))

    def _remove(self) -> None:
        if not self._removable:
            return
        self._mailbox.delete(self._removable)
        relay, now = self._station.account.relay, self._now()
        with self._station.archive.database.transaction() as tx:
            collected.note_removed(tx, relay, self._mailbox.uid_validity, self._removable, now)
        self._removable = []


def _disk_is_full(why: str) -> NotNowError:
    return NotNowError(f"the disk is full, mails stay at the relay: {why}", do="Make room on the disk of this machine.")
