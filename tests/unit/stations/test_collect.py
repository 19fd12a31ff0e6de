"""A mail is stored and committed before it is deleted at the relay; one that cannot be had stops no other."""

import pytest

from raypost.errors import BadInputError, IntegrityError, UnreachableError
from raypost.mail.imap import ImapAccount, Listed
from raypost.stations.collect import Collect

ACCOUNT = ImapAccount("main", "localhost", 993, "tls", "user", "secret")


class Mailbox:
    """A mailbox in memory with the face of `ImapMailbox`; `faults` raise when a mail is fetched."""

    uid_validity = 7

    def __init__(self, **mails: bytes) -> None:
        self.mails = {int(name[1:]): mail for name, mail in mails.items()}
        self.faults: dict[int, Exception] = {}
        self.deletes_fail = False

    def list_messages(self, skip_count: int = 0) -> list[Listed]:
        return [Listed(imap_uid, len(mail), None) for imap_uid, mail in self.mails.items()]

    def fetch(self, imap_uid, target, size_max_bytes):
        if imap_uid in self.faults:
            raise self.faults[imap_uid]
        target.write_bytes(self.mails[imap_uid])
        return len(self.mails[imap_uid])

    def delete(self, imap_uids) -> None:
        if self.deletes_fail:
            raise UnreachableError("gone")
        for imap_uid in imap_uids:
            del self.mails[imap_uid]


@pytest.fixture
def station(ludwigshafen) -> Collect:
    return Collect(ludwigshafen.archive, ludwigshafen.clock, ACCOUNT, 1000, 1.0)


def states(site) -> list[tuple]:
    return [
        tuple(row) for row in site.rows("select imap_uid, state, removed_at is not null from rp_collected order by 1")
    ]


def test_stored_committed_then_deleted(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one", _2=b"two")
    assert station.collect(mailbox) == 2
    assert not mailbox.mails
    assert states(ludwigshafen) == [(1, "fetched", True), (2, "fetched", True)]
    assert station.collect(mailbox) == 0


def test_a_mail_that_could_not_be_deleted_is_only_deleted_later(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one")
    mailbox.deletes_fail = True
    with pytest.raises(UnreachableError):
        station.collect(mailbox)
    assert states(ludwigshafen) == [(1, "fetched", False)]
    mailbox.deletes_fail = False
    assert station.collect(mailbox) == 0, "it is known: nothing new, so the collector waits"
    assert not mailbox.mails
    assert states(ludwigshafen) == [(1, "fetched", True)]


def test_one_that_comes_short_stops_no_other_and_does_not_spin(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"one", _2=b"two")
    mailbox.faults[1] = IntegrityError("short")
    assert station.collect(mailbox) == 1
    assert list(mailbox.mails) == [1], "it stays at the relay"
    assert station.collect(mailbox) == 0
    del mailbox.faults[1]
    assert station.collect(mailbox) == 1


def test_a_too_large_one_is_noted_and_removed(station, ludwigshafen) -> None:
    mailbox = Mailbox(_1=b"x")
    mailbox.faults[1] = BadInputError("larger than allowed")
    assert station.collect(mailbox) == 1
    assert states(ludwigshafen) == [(1, "quarantined", True)]
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 1


def test_a_lost_database_leaves_the_mail_at_the_relay(station, ludwigshafen, monkeypatch) -> None:
    from raypost.archive import collected

    mailbox = Mailbox(_1=b"one")

    def fail(*_, **__):
        raise UnreachableError("the database does not answer")

    monkeypatch.setattr(collected, "note_fetched", fail)
    with pytest.raises(UnreachableError):
        station.collect(mailbox)
    assert list(mailbox.mails) == [1]
    assert states(ludwigshafen) == []
