"""What matters is fetched first, stored and committed before it is deleted at the relay; one bad mail stops no other."""

import threading
from datetime import timedelta

import pytest

from raypost.archive import collected
from raypost.archive.database import AWAY
from raypost.errors import BadInputError, IntegrityError, NotNowError, UnreachableError
from raypost.mail.collecting_order import Listed
from raypost.mail.imap import ImapAccount
from raypost.mail.listing import Survey
from raypost.mail.tokens import Token
from raypost.mail.troubles import TRIES_MAX
from raypost.stations import collect as collect_station
from raypost.stations.collect import Collect, Collecting

ACCOUNT = ImapAccount("main", "localhost", 993, "tls", "user", "secret")
PARTNER, OTHER = "neustadt@raypost.test", "ludwigshafen@raypost.test"
RUNNING = threading.Event()
"""Never set."""
RANGE_BYTES = 400


class Mailbox:
    """A mailbox in memory with the face of `ImapMailbox`; `faults` raise when a mail is fetched."""

    def __init__(self, **mails: bytes) -> None:
        self.uid_validity = 7
        self.fetched_in_s = 0.5
        self.mails = {int(name[1:]): (mail, None, None) for name, mail in mails.items()}
        self.next_uid = 1 + max([0, *self.mails])
        self.faults: dict[int, Exception] = {}
        self.deletes_fail = self.is_lost = self.news_came = False
        self.fetched: list[int] = []
        self.listed = 0
        self.on_fetch = lambda imap_uid: None
        self.on_range = lambda: None

    def deliver(self, kind, sender, number=1, size_bytes=10) -> int:
        imap_uid, self.next_uid = self.next_uid, self.next_uid + 1
        self.mails[imap_uid] = (b"x" * size_bytes, kind and Token("abcdefghij", kind, number), sender)
        self.news_came = True
        return imap_uid

    def survey(self, step) -> Survey:
        there = sorted(self.mails)
        return Survey(sorted({*there[::step], *there[-1:]}), self.next_uid - 1)

    def list_range(self, first_uid, last_uid, *, and_newest=False) -> list[Listed]:
        there = sorted(self.mails)
        wanted = {*range(first_uid, min(last_uid, self.next_uid) + 1), *(there[-1:] if and_newest else [])}
        found = [
            Listed(one, len(self.mails[one][0]), self.mails[one][1], None, self.mails[one][2])
            for one in there
            if one in wanted
        ]
        self.listed += len(found)
        return found

    def look(self) -> bool:
        came, self.news_came = self.news_came, False
        return came

    def fetch(self, imap_uid, target, size_max_bytes, between=None):
        self.fetched.append(imap_uid)
        self.on_fetch(imap_uid)
        if imap_uid in self.faults:
            self.is_lost = isinstance(self.faults[imap_uid], UnreachableError)
            raise self.faults[imap_uid]
        if imap_uid not in self.mails:
            return None
        content = self.mails[imap_uid][0]
        with target.open("wb") as out:
            for start in range(0, len(content), RANGE_BYTES):
                out.write(content[start : start + RANGE_BYTES])
                self.on_range()
                if start + RANGE_BYTES < len(content) and between is not None:
                    between()
        return len(content)

    def delete(self, imap_uids) -> None:
        if self.deletes_fail:
            self.is_lost = True
            raise UnreachableError("gone")
        for imap_uid in imap_uids:
            self.mails.pop(imap_uid, None)


@pytest.fixture
def station(ludwigshafen) -> Collect:
    return Collect(ludwigshafen.archive, ludwigshafen.clock, ACCOUNT, 100_000, 1.0)


def collect(station, mailbox) -> int:
    """Take what is there, as after a fresh log-in."""
    mailbox.is_lost = False
    return Collecting(station, mailbox).collect(RUNNING)


def states(site) -> list[tuple]:
    return [
        tuple(row) for row in site.rows("select imap_uid, state, removed_at is not null from rp_collected order by 1")
    ]


def ranks(site) -> dict[int, int]:
    """Return the rank of the job that opens each mail, by IMAP UID."""
    sql = (
        "select c.imap_uid, j.priority from procrastinate_jobs j join rp_collected c"
        " on c.id = (j.args->>'collected_id')::bigint where j.task_name = 'open'"
    )
    return {row[0]: row[1] for row in site.rows(sql)}


def test_stored_committed_then_deleted(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one", _2=b"two")
    assert collect(station, mailbox) == 2
    assert not mailbox.mails
    assert states(ludwigshafen) == [(1, "fetched", True), (2, "fetched", True)]
    assert collect(station, mailbox) == 0


def test_a_mail_that_could_not_be_deleted_is_only_deleted_later(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one")
    mailbox.deletes_fail = True
    with pytest.raises(UnreachableError):
        collect(station, mailbox)
    assert states(ludwigshafen) == [(1, "fetched", False)]
    mailbox.deletes_fail = False
    assert collect(station, mailbox) == 0, "it is known: nothing new, so the collector waits"
    assert mailbox.fetched == [1] and not mailbox.mails
    assert states(ludwigshafen) == [(1, "fetched", True)]


def test_a_mail_that_came_back_at_the_relay_is_deleted_again(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one")
    collect(station, mailbox)
    mailbox.mails = {1: (b"one", None, None)}  # as after a restore of the relay from its backup
    assert collect(station, mailbox) == 0
    assert mailbox.fetched == [1] and not mailbox.mails


def test_a_lost_database_leaves_the_mail_at_the_relay(station, ludwigshafen, monkeypatch) -> None:
    mailbox = Mailbox(_1=b"one")

    def fail(*_, **__):
        raise UnreachableError(AWAY)

    monkeypatch.setattr(collected, "note_fetched", fail)
    for _ in range(TRIES_MAX + 1):
        with pytest.raises(UnreachableError):
            collect(station, mailbox)
    assert list(mailbox.mails) == [1]
    assert states(ludwigshafen) == [], "the mail is not blamed for it, however often"
    monkeypatch.undo()
    assert collect(station, mailbox) == 1


class TestFlood:
    """Ten thousand forged mails; what counts is how many are fetched before the genuine one."""

    COUNT = 10_000

    @pytest.fixture(params=["strangers", "a partner"])
    def flooded(self, request, ludwigshafen) -> Mailbox:
        mailbox = Mailbox()
        for number in range(self.COUNT):
            forger = OTHER if request.param == "a partner" else f"s{number}@evil.test"
            mailbox.deliver("announce", forger, size_bytes=3)
        return mailbox

    def until(self, mailbox, wanted) -> tuple[threading.Event, list[int]]:
        """Return an event that ends the collecting once a mail is fetched."""
        stop = threading.Event()
        mailbox.on_fetch = lambda imap_uid: stop.set() if imap_uid == wanted else None
        return stop

    def test_a_genuine_announcement_that_comes_last_is_fetched_first(self, station, flooded) -> None:
        genuine = flooded.deliver("announce", PARTNER)
        Collecting(station, flooded).collect(self.until(flooded, genuine))
        assert flooded.fetched[-1] == genuine and len(flooded.fetched) <= 2
        assert flooded.listed <= 1100, "only the newest windows were listed until then"

    def test_one_in_the_middle_is_found_while_the_mailbox_is_listed(self, station, flooded) -> None:
        content, _, _ = flooded.mails[5000]
        flooded.mails[5000] = (content, Token("abcdefghij", "announce", 1), PARTNER)
        Collecting(station, flooded).collect(self.until(flooded, 5000))
        assert flooded.fetched[-1] == 5000
        assert len(flooded.fetched) <= 2 + self.COUNT // 500, "one urgent mail between two windows, no bulk"

    def test_one_that_comes_meanwhile_is_not_behind_the_backlog(self, station, flooded, ludwigshafen) -> None:
        stop, genuine, before = threading.Event(), [], []

        def on_fetch(imap_uid) -> None:
            if len(flooded.fetched) == 200:
                genuine.append(flooded.deliver("announce", PARTNER))
            elif imap_uid in genuine:
                before.append(len(flooded.fetched) - 201)
                stop.set()

        flooded.on_fetch = on_fetch
        Collecting(station, flooded).collect(stop)
        [count] = before
        assert count <= collect_station.LOOK_AFTER_MAILS + 1, "the next look, and perhaps the turn of bulk"
        rank = ranks(ludwigshafen)
        assert rank.pop(genuine[0]) >= max(rank.values()), "and it is opened first, too"

    def test_nothing_is_left_and_each_is_fetched_once(self, station, ludwigshafen) -> None:
        mailbox = Mailbox()
        for number in range(120):
            mailbox.deliver("announce", f"s{number}@evil.test", size_bytes=3)
            mailbox.deliver("announce", OTHER)
        assert collect(station, mailbox) == 240
        assert len(mailbox.fetched) == 240 and not mailbox.mails
        rank = ranks(ludwigshafen)
        assert {rank[one] for one in range(1, 241, 2)} == {-10}
        assert min(rank[one] for one in range(2, 241, 2)) > 0

    def test_more_than_is_held_is_listed_anew(self, station, monkeypatch) -> None:
        monkeypatch.setattr("raypost.mail.collecting_order.HELD_MAX", 10)
        mailbox = Mailbox()
        for number in range(35):
            mailbox.deliver("announce", f"s{number}@evil.test")
        assert collect(station, mailbox) == 35 and len(mailbox.fetched) == 35 and not mailbox.mails


def test_an_urgent_mail_does_not_wait_for_the_end_of_a_large_one(station, ludwigshafen, monkeypatch) -> None:
    mailbox = Mailbox()
    large, stored, urgent = mailbox.deliver("parcel", OTHER, 2, 100 * RANGE_BYTES), [], []
    store = Collecting._store

    def note(self, chosen, *rest) -> None:
        stored.append(chosen.mail.imap_uid)
        store(self, chosen, *rest)

    def on_range() -> None:  # each takes half a second
        ludwigshafen.clock.pass_time(0.5)
        if mailbox.fetched == [large]:
            urgent.append(mailbox.deliver("announce", PARTNER))

    mailbox.on_range = on_range
    monkeypatch.setattr(Collecting, "_store", note)
    assert collect(station, mailbox) == 2
    assert stored == [urgent[0], large] and len(urgent) == 1 and not mailbox.mails


def test_a_partner_that_is_added_is_known_within_seconds(station, ludwigshafen) -> None:
    mailbox = Mailbox()
    collecting = Collecting(station, mailbox)
    assert collecting.collect(RUNNING) == 0
    ludwigshafen.rows("update rp_partner set address = 'new@raypost.test' where address = :a returning 1", a=PARTNER)
    ludwigshafen.rows("update rp_mailbox set address = 'new@raypost.test' where address = :a returning 1", a=PARTNER)
    ludwigshafen.clock.pass_time(11)
    first, second = mailbox.deliver("announce", PARTNER), mailbox.deliver("announce", "NEW@raypost.test".lower())
    assert collecting.collect(RUNNING) == 2
    assert mailbox.fetched == [second, first] and ranks(ludwigshafen)[first] == -10


def test_the_whole_mailbox_is_listed_anew_once_an_hour(station, ludwigshafen) -> None:
    mailbox = Mailbox()
    mailbox.next_uid = 5
    collecting = Collecting(station, mailbox)
    mailbox.deliver("announce", PARTNER)
    assert collecting.collect(RUNNING) == 1
    mailbox.mails[3] = (b"hidden", None, None)  # below what was listed: it cannot be, but nothing may stay behind
    mailbox.mails[5] = (b"again", None, None)
    assert collecting.collect(RUNNING) == 0
    ludwigshafen.clock.pass_time(3601)
    assert collecting.collect(RUNNING) == 1 and not mailbox.mails


class TestMailsThatCannotBeFetched:
    def test_one_that_comes_short_stops_no_other_and_is_tried_again_later(self, station, ludwigshafen) -> None:
        mailbox = Mailbox(_1=b"one", _2=b"two")
        mailbox.faults[1] = IntegrityError("short")
        collecting = Collecting(station, mailbox)
        assert collecting.collect(RUNNING) == 1
        assert list(mailbox.mails) == [1], "it stays at the relay"
        assert collecting.collect(RUNNING) == 0 and mailbox.fetched.count(1) == 1, "it is not tried at each pass"
        assert collecting.pause_s() == 1.0
        del mailbox.faults[1]
        ludwigshafen.clock.pass_time(5.1)
        assert collecting.collect(RUNNING) == 1 and not mailbox.mails

    @pytest.mark.parametrize("fault", [IntegrityError("short"), UnreachableError("answers unexpectedly")], ids=str)
    def test_after_so_many_tries_it_is_noted_and_left(self, station, ludwigshafen, fault) -> None:
        mailbox = Mailbox(_1=b"one")
        mailbox.faults[1] = fault
        for _ in range(TRIES_MAX + 3):
            try:
                assert collect(station, mailbox) == 0
            except UnreachableError as error:
                assert error is fault
            mailbox.deliver(None, None)
            assert collect(station, mailbox) == 1, "others go on"
            ludwigshafen.clock.pass_time(301)
        assert mailbox.fetched.count(1) == TRIES_MAX and list(mailbox.mails) == [1]
        assert states(ludwigshafen)[0] == (1, "quarantined", True)
        [row] = ludwigshafen.rows("select code, what, origin, quarantine_file from rp_quarantine")
        assert (row.code, row.origin, row.quarantine_file) == ("RP-400", "main", "")
        assert "stays at the relay" in row.what and fault.what in row.what
        assert ludwigshafen.kinds().count("quarantined") == 1
        fresh = Collect(station.archive, station.clock, ACCOUNT, 1000, 1.0)  # as after a restart of the process
        assert collect(fresh, mailbox) == 0 and mailbox.fetched.count(1) == TRIES_MAX
        with ludwigshafen.archive.database.transaction() as tx:
            collected.forget_old(tx, ludwigshafen.clock.now() + timedelta(days=1))
        del mailbox.faults[1]
        assert collect(fresh, mailbox) == 1, "after some weeks it is tried again"

    def test_a_connection_that_breaks_between_two_ranges_is_not_the_large_mails_fault(
        self, station, ludwigshafen
    ) -> None:
        mailbox = Mailbox()
        large = mailbox.deliver("parcel", OTHER, 2, 2 * RANGE_BYTES)

        def on_fetch(imap_uid) -> None:
            if imap_uid == large:
                mailbox.faults[mailbox.deliver("announce", PARTNER)] = UnreachableError("gone")

        mailbox.on_fetch = on_fetch
        mailbox.on_range = lambda: ludwigshafen.clock.pass_time(0.5)
        with pytest.raises(UnreachableError):
            collect(station, mailbox)
        now = station.clock.now()
        assert station.troubles.again_at((7, large)) is None
        assert station.troubles.again_at((7, large + 1)) > now

    def test_a_too_large_one_is_noted_and_removed(self, station, ludwigshafen) -> None:
        mailbox = Mailbox(_1=b"x")
        mailbox.faults[1] = BadInputError("larger than allowed")
        assert collect(station, mailbox) == 1
        assert states(ludwigshafen) == [(1, "quarantined", True)] and not mailbox.mails
        assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 1

    def test_one_that_vanished_is_no_trouble(self, station, ludwigshafen) -> None:
        mailbox = Mailbox(_1=b"x")
        mailbox.on_fetch = lambda imap_uid: mailbox.mails.clear()
        assert collect(station, mailbox) == 0
        assert states(ludwigshafen) == []


class TestFullDisk:
    @pytest.fixture
    def free(self, ludwigshafen, monkeypatch) -> dict[str, int]:
        free = {"bytes": 5000}
        monkeypatch.setattr(type(ludwigshafen.archive.blobs), "free_bytes", lambda self: free["bytes"])
        monkeypatch.setattr(collect_station, "URGENT_SIZE_MAX_BYTES", 1000)
        return free

    def test_a_large_mail_waits_and_small_ones_come(self, station, ludwigshafen, free) -> None:
        mailbox = Mailbox()
        large, small = mailbox.deliver("parcel", PARTNER, 2, 4000), mailbox.deliver("announce", PARTNER)
        collecting = Collecting(station, mailbox)
        assert collecting.collect(RUNNING) == 1 and mailbox.fetched == [small]
        free["bytes"] = 10_000
        ludwigshafen.clock.pass_time(31)
        assert collecting.collect(RUNNING) == 1 and mailbox.fetched == [small, large]

    def test_when_nothing_fits_it_is_said(self, station, free) -> None:
        free["bytes"] = 10
        mailbox = Mailbox()
        mailbox.deliver("announce", PARTNER)
        with pytest.raises(NotNowError, match="disk is full"):
            collect(station, mailbox)
        assert mailbox.mails and not mailbox.is_lost

    def test_strangers_do_not_fill_it(self, ludwigshafen, free) -> None:
        station = Collect(ludwigshafen.archive, ludwigshafen.clock, ACCOUNT, 1000, 1.0, disk_free_min_bytes=5000)
        mailbox = Mailbox()
        stranger, genuine = mailbox.deliver("announce", "x@evil.test"), mailbox.deliver("announce", PARTNER)
        assert collect(station, mailbox) == 1
        assert mailbox.fetched == [genuine] and list(mailbox.mails) == [stranger]

    def test_a_disk_that_fills_up_in_the_middle(self, station, monkeypatch) -> None:
        mailbox = Mailbox(_1=b"one")
        mailbox.faults[1] = OSError(28, "No space left on device")
        with pytest.raises(NotNowError, match="No space left"):
            collect(station, mailbox)
        assert list(mailbox.mails) == [1] and station.troubles.again_at((7, 1)) is None


class TestWhoIsToBlame:
    """Only what the relay did is noted of the relay."""

    @pytest.fixture
    def run(self, station, ludwigshafen, monkeypatch):
        def run_once(in_mailbox) -> list[str]:
            """Serve one connection, in which something fails; return the kinds of events."""
            stop = threading.Event()

            class Connection(Mailbox):
                def __init__(self, account) -> None:
                    super().__init__()
                    self.deliver("announce", PARTNER)

                def __enter__(self):
                    in_mailbox(self)
                    return self

                def __exit__(self, *_) -> None:
                    stop.set()

                def wait(self, timeout_s, wake) -> bool:
                    raise AssertionError("nothing failed")

            monkeypatch.setattr(collect_station, "ImapMailbox", Connection)
            station.run(stop)
            return ludwigshafen.kinds()

        return run_once

    def test_the_relay(self, run) -> None:
        def fail(mailbox) -> None:
            mailbox.faults[1] = UnreachableError("it hung up")

        assert "relay unreachable" in run(fail)

    def test_the_database(self, run, monkeypatch) -> None:
        def away(*_, **__):
            raise UnreachableError(AWAY)

        monkeypatch.setattr(collected, "known_mails", away)
        assert "relay unreachable" not in run(lambda mailbox: None)

    def test_the_disk(self, run, ludwigshafen, monkeypatch) -> None:
        monkeypatch.setattr(type(ludwigshafen.archive.blobs), "free_bytes", lambda self: 0)
        assert "relay unreachable" not in run(lambda mailbox: None)
