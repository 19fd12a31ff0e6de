"""What listing and choosing promise of a full mailbox, on the embedded relay and on Postfix with Dovecot."""

import imaplib
import os
import pathlib
import ssl
from datetime import UTC, datetime

import pytest

from raypost.errors import BadInputError
from raypost.mail import listing
from raypost.mail.collecting_order import CollectingOrder
from raypost.mail.imap import ImapMailbox
from raypost.mail.listing import Listing
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.smtp import Accepted, SmtpSession
from raypost.mail.tokens import Token

ALPHA, BETA, GAMMA = (f"{name}@raypost.test" for name in ("alpha", "beta", "gamma"))
DATE = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)


def make_mail(folder: pathlib.Path, kind: str, number: int = 1, sender: str = ALPHA, lines: int = 1) -> pathlib.Path:
    """Write a message of ours under any From."""
    armour = folder / "armour.asc"
    armour.write_bytes(
        b"-----BEGIN PGP MESSAGE-----\n\n" + (b"A" * 64 + b"\n") * lines + b"-----END PGP MESSAGE-----\n"
    )
    headers = OuterHeaders(sender, BETA, DATE, f"<m{os.urandom(8).hex()}@raypost.test>", "abcdefghij", kind, number)
    target = folder / f"mail-{os.urandom(4).hex()}"
    write_message(headers, armour, "b" + os.urandom(12).hex(), target)
    return target


def put(bench, *mails: bytes) -> None:
    """Put mails into the mailbox as they are."""
    context = ssl.create_default_context(cafile=bench.relay.ca_file)
    account = bench.imap()
    with imaplib.IMAP4_SSL("localhost", account.port, ssl_context=context) as client:
        client.authenticate("PLAIN", lambda _: f"\0{account.username}\0{account.password}".encode())
        for mail in mails:
            assert client.append("INBOX", None, None, mail)[0] == "OK"


def mail_of(
    sender: str, kind: str = "announce", number: int = 1, return_path: bool = True, body: bytes = b"x"
) -> bytes:
    head = f"Return-Path: <{sender}>\r\n" if return_path else ""
    head += f"From: {sender}\r\nRaypost-Token: abcdefghij; kind={kind}; number={number}\r\n\r\n"
    return head.encode() + body + b"\r\n"


@pytest.fixture
def mailbox(bench):
    """An emptied mailbox."""
    with ImapMailbox(bench.imap()) as mailbox:
        while found := mailbox.list_messages():
            mailbox.delete([one.imap_uid for one in found])
        yield mailbox


def listed_all(mailbox) -> list:
    found, one = [], Listing(mailbox)
    one.begin()
    while not one.is_complete:
        found.extend(one.next_window())
    return found


def test_an_empty_mailbox(mailbox):
    assert mailbox.survey(500).landmarks == ()
    assert mailbox.list_range(1, 500, and_newest=True) == [] and mailbox.list_messages() == []
    assert mailbox.look() is False
    one = Listing(mailbox)
    one.begin()
    assert one.is_complete and one.news() == []


def test_sender_token_size_and_time_are_known_before_anything_is_fetched(bench, mailbox, tmp_path):
    put(
        bench,
        mail_of(ALPHA, "recall", 7),
        b"Return-Path: <>\r\nFrom: MAILER-DAEMON@raypost.test\r\n\r\nbounce\r\n",
        mail_of(GAMMA, return_path=False),
        b"From: " + b"x" * 100_000 + b"@y.test\r\nRaypost-Token: abcdefghij; kind=announce; number=1\r\n\r\nx\r\n",
        b"Subject: nothing\r\n\r\nx\r\n",
    )
    found = listed_all(mailbox)
    assert [one.sender for one in found] == [ALPHA, "", GAMMA, None, None]
    assert [one.token for one in found] == [
        Token("abcdefghij", "recall", 7),
        None,
        Token("abcdefghij", "announce", 1),
        None,
        None,
    ]
    assert abs((found[0].taken_at - datetime.now(UTC)).total_seconds()) < 60
    for one in found:
        assert mailbox.fetch(one.imap_uid, tmp_path / "x", 1_000_000) == one.size_bytes


def test_a_listing_of_long_fields_stays_short(bench, mailbox):
    """A forger's fields of 100 kB each must not fill the memory of the collector."""
    put(bench, *[b"From: " + b"x" * 100_000 + b"\r\n\r\nx\r\n"] * 20)
    answers = []
    read_line = mailbox._client._imap._get_response
    mailbox._client._imap._get_response = lambda *words: answers.append(read_line(*words)) or answers[-1]
    before = mailbox._client._imap.read
    read = []
    mailbox._client._imap.read = lambda size: read.append(size) or before(size)
    assert len(listed_all(mailbox)) == 20
    assert sum(read) <= 20 * 1024 and len(read) == 20


def test_a_full_mailbox_is_listed_once_in_bounded_windows_and_news_are_seen_at_once(bench, mailbox, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_AT_ONCE_MAX", 20)
    put(bench, *(mail_of(ALPHA, "parcel", number) for number in range(1, 91)))
    one, found = Listing(mailbox), []
    one.begin()
    newest = one.next_window()
    assert 90 in [mail.token.number for mail in newest]
    mailbox.delete([mail.imap_uid for mail in newest[:3]])  # sequence numbers move; IMAP UIDs do not
    put(bench, *(mail_of(ALPHA, "parcel", number) for number in range(91, 96)))
    assert mailbox.look() is True and mailbox.look() is False
    found += [*newest, *one.news()]
    assert sorted(mail.token.number for mail in found)[-5:] == [91, 92, 93, 94, 95]
    assert one.news() == []
    put(bench, *(mail_of(ALPHA, "parcel", number) for number in range(96, 151)))
    assert mailbox.look() is True
    found += one.news()
    while not one.is_complete:
        window = one.next_window()
        assert len(window) <= 21
        found += window
    assert sorted(mail.token.number for mail in found) == [*range(1, 151)]


def test_a_genuine_announcement_is_chosen_first(bench, mailbox, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_AT_ONCE_MAX", 50)
    forged = [mail_of(GAMMA if number % 2 else f"s{number}@evil.test") for number in range(200)]
    put(bench, *forged[:100], mail_of(ALPHA, "announce", 9), *forged[100:])
    one, order, chosen = Listing(mailbox), CollectingOrder({ALPHA, GAMMA}), []
    one.begin()
    while not one.is_complete:
        order.add(one.next_window())
        chosen.append(order.choose_urgent(NOW))
    assert 9 in [one.mail.token.number for one in [*chosen, order.choose(NOW)]]


def test_a_large_mail_can_be_interrupted_for_an_urgent_one(bench, mailbox, tmp_path):
    large = mail_of(ALPHA, "parcel", 2, body=b"y" * 70 + b"\r\n" * 3 + b"z\r\n" * 700_000)
    put(bench, large)
    [listed] = listed_all(mailbox)
    news = Listing(mailbox)
    news.begin()
    came = []

    def between() -> None:
        if not came:
            put(bench, mail_of(GAMMA, "announce", 5))
            assert mailbox.look()
            [urgent] = news.news()
            came.append(mailbox.fetch(urgent.imap_uid, tmp_path / "urgent", 10_000))
            mailbox.delete([urgent.imap_uid])

    assert mailbox.fetch(listed.imap_uid, tmp_path / "large", 10_000_000, between) == len(large)
    assert came and (tmp_path / "large").read_bytes() == large
    assert b"kind=announce; number=5" in (tmp_path / "urgent").read_bytes()


def test_a_mail_of_just_a_range_or_two(bench, mailbox, tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_BYTES", 1000)
    for size in (999, 1000, 1001, 2000, 2001):
        head = mail_of(ALPHA)[:-3]
        put(bench, head + b"q" * (size - len(head) - 2) + b"\r\n")
        mailbox._range_bytes = 1000
        [listed] = listed_all(mailbox)
        assert mailbox.fetch(listed.imap_uid, tmp_path / "x", 10_000) == size == (tmp_path / "x").stat().st_size
        with pytest.raises(BadInputError):
            mailbox.fetch(listed.imap_uid, tmp_path / "x", size - 1)
        mailbox.delete([listed.imap_uid])


@pytest.mark.interop
def test_the_sender_is_who_logged_in_not_who_a_mail_says_it_is_from(real_bench, tmp_path):
    """Relays bind the log-in to the envelope, not to From; so what they write into Return-Path decides."""
    forged = make_mail(tmp_path, "announce", sender=GAMMA)
    forged.write_bytes(f"Return-Path: <{GAMMA}>\r\n".encode() + forged.read_bytes())
    with ImapMailbox(real_bench.imap()) as mailbox, SmtpSession(real_bench.smtp("alpha")) as session:
        news = Listing(mailbox)
        news.begin()
        assert isinstance(session.submit(BETA, forged), Accepted)
        assert mailbox.wait(10)
        assert [(one.sender, one.token.kind) for one in news.news()] == [(ALPHA, "announce")]
