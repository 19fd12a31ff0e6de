"""What SmtpSession and ImapMailbox promise, on the embedded relay and on Postfix with Dovecot."""

import dataclasses
import io
import os
import pathlib
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from raypost.errors import BadInputError, LoginRefusedError, SecurityError, UnreachableError
from raypost.mail.imap import ImapMailbox
from raypost.mail.mime_message import OuterHeaders, read_outer, write_message
from raypost.mail.smtp import Accepted, Deferred, Refused, SmtpSession, TooLarge
from raypost.mail.tokens import Token
from raypost.relay.certificates import make_test_authority

ALPHA, BETA, SMALL = (f"{name}@raypost.test" for name in ("alpha", "beta", "small"))
DATE = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)
ARMOUR_LINE = b"A" * 64 + b"\n"
PLENTY_BYTES = 10_000_000


def make_mail(folder: pathlib.Path, number: int = 1, kind: str = "parcel", payload_bytes: int = 3000) -> pathlib.Path:
    """Write a message whose armour has dots at line beginnings, which real armour never has but SMTP must bear."""
    armour = folder / "armour.asc"
    lines = payload_bytes // len(ARMOUR_LINE)
    armour.write_bytes(
        b"-----BEGIN PGP MESSAGE-----\n\n.\n..x\n" + ARMOUR_LINE * lines + b".end\n-----END PGP MESSAGE-----\n"
    )
    headers = OuterHeaders(ALPHA, BETA, DATE, f"<m{os.urandom(8).hex()}@raypost.test>", "abcdefghij", kind, number)
    target = folder / f"mail-{kind}-{number}"
    write_message(headers, armour, "b" + os.urandom(12).hex(), target)
    return target


def empty(bench) -> None:
    with ImapMailbox(bench.imap()) as mailbox:
        mailbox.delete([one.imap_uid for one in mailbox.list_messages()])


def wait_for_messages(mailbox: ImapMailbox, count: int = 1) -> list:
    deadline = time.monotonic() + 15
    while len(listed := mailbox.list_messages()) < count:
        assert time.monotonic() < deadline, f"{len(listed)} of {count} messages came"
        mailbox.wait(1)
    return listed


@pytest.fixture(autouse=True)
def clean(bench):
    empty(bench)


def test_a_message_arrives_byte_for_byte_and_is_deleted(bench, tmp_path):
    mail = make_mail(tmp_path, payload_bytes=4_000_000)  # two ranges of a fetch
    with ImapMailbox(bench.imap()) as mailbox, SmtpSession(bench.smtp()) as session:
        assert session.size_max_bytes == 5_000_000
        woken = []
        listener = threading.Thread(target=lambda: woken.append(mailbox.wait(15)))
        listener.start()
        assert isinstance(session.submit(BETA, mail), Accepted)
        listener.join(20)
        assert woken == [True]
        [listed] = wait_for_messages(mailbox)
        assert listed.token == Token("abcdefghij", "parcel", 1)
        target = tmp_path / "fetched"
        assert mailbox.fetch(listed.imap_uid, target, PLENTY_BYTES) == listed.size_bytes == target.stat().st_size
        sent, fetched = mail.read_bytes(), target.read_bytes()
        assert fetched.endswith(sent[sent.index(b"\r\n\r\n") :]), "the body came changed"
        ciphertext = io.BytesIO()
        seen = read_outer(memoryview(fetched), ciphertext)
        assert (seen["form"], seen["sender"], seen["recipient"]) == ("openpgp", ALPHA, BETA)
        assert ciphertext.getvalue().replace(b"\r\n", b"\n") == (tmp_path / "armour.asc").read_bytes()
        mailbox.delete([listed.imap_uid])
        assert mailbox.list_messages() == []


def test_what_is_too_large_is_said_before_the_upload(bench, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b"From: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 80_000)
    with SmtpSession(bench.smtp()) as session:
        begin = time.monotonic()
        assert session.submit(BETA, large) == TooLarge(
            5_000_000, f"{large.stat().st_size} bytes; the relay announces 5000000"
        )
        # Without the announced limit the server's own reply to SIZE= says the same.
        session._connection.esmtp_features["size"] = ""
        outcome = session.submit(BETA, large)
        assert isinstance(outcome, TooLarge) and "size" in outcome.text.lower()
        assert time.monotonic() - begin < 5
        assert isinstance(session.submit(BETA, make_mail(tmp_path)), Accepted), "the session goes on"


def test_what_is_too_large_without_size_is_refused_after_the_upload(bench, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b"From: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 80_000)
    with SmtpSession(bench.smtp()) as session:
        del session._connection.esmtp_features["size"]
        assert isinstance(session.submit(BETA, large), TooLarge)


def test_an_unknown_recipient_is_refused_and_the_session_goes_on(bench, tmp_path):
    mail = make_mail(tmp_path)
    with SmtpSession(bench.smtp()) as session:
        outcome = session.submit("nobody@raypost.test", mail)
        assert isinstance(outcome, Refused) and (outcome.reply_code, outcome.enhanced) == (550, "5.1.1")
        elsewhere = session.submit("somebody@elsewhere.test", mail)
        assert isinstance(elsewhere, Refused), "the relay must not be open, not even to its own sites"
        assert isinstance(session.submit(BETA, mail), Accepted)


def test_the_login_is_bound_to_the_sender_address(bench, tmp_path):
    with SmtpSession(bench.smtp(address=BETA)) as session:
        outcome = session.submit(BETA, make_mail(tmp_path))
    assert isinstance(outcome, Refused) and (outcome.reply_code, outcome.enhanced) == (553, "5.7.1")


def test_the_collector_sees_the_envelope_sender_whatever_the_mail_says(bench, tmp_path):
    """The fairness of the order in which mails are collected rests on it (RFC 5321, 4.4)."""
    forged = tmp_path / "forged"
    made = make_mail(tmp_path).read_bytes()
    assert f"From: {ALPHA}".encode() in made
    made = made.replace(f"From: {ALPHA}".encode(), b"From: somebody@else.test")
    forged.write_bytes(b"Return-Path: <victim@raypost.test>\r\n" + made)
    with SmtpSession(bench.smtp()) as session:
        assert isinstance(session.submit(BETA, forged), Accepted)
        assert isinstance(session.submit(BETA, make_mail(tmp_path, number=2)), Accepted)
    with ImapMailbox(bench.imap()) as mailbox:
        listed = wait_for_messages(mailbox, 2)
        assert [one.sender for one in listed] == [ALPHA, ALPHA]
        assert mailbox.fetch(listed[0].imap_uid, tmp_path / "fetched", PLENTY_BYTES)
    header, _, body = (tmp_path / "fetched").read_bytes().partition(b"\r\n\r\n")
    assert header.lower().startswith(b"return-path: <alpha@raypost.test>\r\n")
    assert header.lower().count(b"return-path:") == 1
    assert body == made.partition(b"\r\n\r\n")[2], "nothing else is changed"


def test_a_message_expunged_elsewhere_is_none(bench, tmp_path):
    with SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        session.submit(BETA, make_mail(tmp_path))
        [listed] = wait_for_messages(mailbox)
        empty(bench)
        mailbox.look()  # until it told of it, a relay may still give the message (RFC 9051, 7.5.1)
        assert mailbox.fetch(listed.imap_uid, tmp_path / "x", PLENTY_BYTES) is None
        assert mailbox.fetch(999_999, tmp_path / "x", PLENTY_BYTES) is None
        mailbox.delete([listed.imap_uid, 999_999])
        assert mailbox.list_messages() == []


def test_a_message_larger_than_allowed_is_not_fetched(bench, tmp_path):
    with SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        session.submit(BETA, make_mail(tmp_path))
        [listed] = wait_for_messages(mailbox)
        with pytest.raises(BadInputError):
            mailbox.fetch(listed.imap_uid, tmp_path / "x", listed.size_bytes - 1)
        assert not (tmp_path / "x").exists()


def test_waiting_ends_by_time_and_by_the_event(bench):
    with ImapMailbox(bench.imap()) as mailbox:
        mailbox.list_messages()
        begin = time.monotonic()
        assert mailbox.wait(0.5) is False
        assert 0.4 < time.monotonic() - begin < 3
        wake = threading.Event()
        threading.Timer(0.3, wake.set).start()
        begin = time.monotonic()
        assert mailbox.wait(30, wake) is False
        assert time.monotonic() - begin < 3


def test_news_that_came_between_listing_and_waiting_are_not_slept_over(bench, tmp_path):
    with SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        mailbox.list_messages()
        session.submit(BETA, make_mail(tmp_path))
        with ImapMailbox(bench.imap()) as other:
            wait_for_messages(other)
        mailbox.fetch(1, tmp_path / "x", PLENTY_BYTES)  # a command whose answer brings the untagged EXISTS along
        begin = time.monotonic()
        assert mailbox.wait(10) is True
        assert time.monotonic() - begin < 3


def test_without_idle_and_uidplus_it_polls_and_expunges(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.mail.imap.POLL_INTERVAL_S", 0.1)
    with SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        mailbox._capabilities -= {b"IDLE", b"UIDPLUS"}
        mailbox.list_messages()
        session.submit(BETA, make_mail(tmp_path))
        assert mailbox.wait(10) is True
        mailbox.delete([one.imap_uid for one in wait_for_messages(mailbox)])
        assert mailbox.list_messages() == []


def test_certificates_that_are_not_in_order_are_named(bench, tmp_path):
    other_ca, _, _ = make_test_authority(tmp_path, ["localhost"], datetime.now(UTC))
    for enter in (lambda **x: SmtpSession(bench.smtp(**x)), lambda **x: ImapMailbox(bench.imap(**x))):
        with pytest.raises(SecurityError, match="authority this site does not trust"), enter(ca_file=other_ca):
            pass
        with pytest.raises(SecurityError, match="another IP address"), enter(host="127.0.0.1"):
            pass


def test_an_outage_is_unreachable_and_afterwards_all_is_as_before(bench, tmp_path):
    mail = make_mail(tmp_path)
    with pytest.raises(UnreachableError), SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        bench.relay.stop()
        try:
            with pytest.raises(UnreachableError):
                mailbox.wait(5)
            with pytest.raises(UnreachableError):
                mailbox.list_messages()
            with pytest.raises(UnreachableError), SmtpSession(bench.smtp()):
                pass
            with pytest.raises(UnreachableError), ImapMailbox(bench.imap()):
                pass
        finally:
            bench.relay.start()
        session.submit(BETA, mail)
    with SmtpSession(bench.smtp()) as session, ImapMailbox(bench.imap()) as mailbox:
        assert isinstance(session.submit(BETA, mail), Accepted)
        wait_for_messages(mailbox)


def test_a_lost_connection_ends_a_running_wait(bench):
    with ImapMailbox(bench.imap()) as mailbox:
        mailbox.list_messages()
        stopper = threading.Timer(0.5, bench.relay.stop)
        stopper.start()
        try:
            with pytest.raises(UnreachableError):
                mailbox.wait(20)
        finally:
            stopper.join()
            bench.relay.start()


def test_an_expired_certificate_is_named(bench):
    bench.relay.stop()
    bench.relay.new_certificate(datetime.now(UTC) - timedelta(days=60))
    bench.relay.start()
    try:
        with pytest.raises(SecurityError, match="has expired"), SmtpSession(bench.smtp()):
            pass
        with pytest.raises(SecurityError, match="has expired"), ImapMailbox(bench.imap()):
            pass
    finally:
        bench.relay.stop()
        bench.relay.new_certificate(datetime.now(UTC))
        bench.relay.start()


@pytest.mark.interop
class TestOnPostfixAndDovecotOnly:
    """Ways that the embedded relay has not."""

    @pytest.fixture
    def bench(self, real_bench):
        return real_bench

    def test_starttls_for_both(self, bench, tmp_path):
        with SmtpSession(bench.smtp(port=bench.relay.submission_port, security="starttls")) as session:
            assert isinstance(session.submit(BETA, make_mail(tmp_path)), Accepted)
        with ImapMailbox(bench.imap(port=bench.relay.imap_starttls_port, security="starttls")) as mailbox:
            wait_for_messages(mailbox)

    def test_tls_toward_a_starttls_port_is_unreachable(self, bench):
        with pytest.raises(UnreachableError, match="TLS"), SmtpSession(bench.smtp(port=bench.relay.submission_port)):
            pass

    def test_a_full_mailbox_defers(self, bench, tmp_path):
        with SmtpSession(bench.smtp()) as session:
            outcome = session.submit(SMALL, make_mail(tmp_path, payload_bytes=2_000_000))
            assert isinstance(outcome, Deferred) and (outcome.reply_code, "5.2.2" in outcome.text) == (552, True)
            assert isinstance(session.submit(SMALL, make_mail(tmp_path)), Accepted)

    def test_a_bounce_comes_back_and_is_read(self, bench, tmp_path):
        with ImapMailbox(bench.imap("alpha")) as mailbox:
            mailbox.delete([one.imap_uid for one in mailbox.list_messages()])
        bench.relay.add_address_without_mailbox("ghost@raypost.test")
        mail = make_mail(tmp_path, number=7)
        deadline = time.monotonic() + 10
        with SmtpSession(bench.smtp()) as session:
            while not isinstance(session.submit("ghost@raypost.test", mail), Accepted):
                assert time.monotonic() < deadline  # Postfix takes the new table up a moment after its reload
        with ImapMailbox(bench.imap("alpha")) as mailbox:
            [listed] = wait_for_messages(mailbox)
            assert mailbox.fetch(listed.imap_uid, tmp_path / "bounce", PLENTY_BYTES)
        bounce = (tmp_path / "bounce").read_bytes()
        seen = read_outer(memoryview(bounce), io.BytesIO())
        message_id = next(line for line in mail.read_bytes().split(b"\r\n") if line.startswith(b"Message-ID"))
        assert seen["form"] == "delivery-status"
        assert seen["original_message_id"] == message_id.decode().removeprefix("Message-ID: ")
        assert (seen["recipient"], seen["action"], seen["enhanced_code"]) == ("ghost@raypost.test", "failed", "5.1.1")
        assert "doesn't exist" in seen["diagnostic"]
        assert seen["token"] == {"transfer_token": "abcdefghij", "kind": "parcel", "number": 7}

    def test_no_login_no_mail(self, bench, tmp_path):
        import smtplib
        import ssl

        context = ssl.create_default_context(cafile=bench.relay.ca_file)
        with smtplib.SMTP_SSL("localhost", bench.relay.smtp_port, context=context, timeout=10) as plain:
            plain.ehlo()
            plain.mail(ALPHA)
            assert plain.rcpt(BETA)[0] == 554
        with smtplib.SMTP("localhost", bench.relay.submission_port, timeout=10) as plain:
            plain.ehlo()
            assert "auth" not in plain.esmtp_features, "no password over an open line"
            assert plain.mail(ALPHA)[0] == 530

    def test_messages_survive_a_restart_of_the_relay(self, bench, tmp_path):
        with SmtpSession(bench.smtp()) as session:
            session.submit(BETA, make_mail(tmp_path))
        with ImapMailbox(bench.imap()) as mailbox:
            [before] = wait_for_messages(mailbox)
            uid_validity = mailbox.uid_validity
        bench.relay.stop()
        bench.relay.start()
        with ImapMailbox(bench.imap()) as mailbox:
            assert mailbox.list_messages() == [before] and mailbox.uid_validity == uid_validity

    def test_a_password_hashed_as_the_guide_says_logs_in(self, bench):
        bench.relay.add_user("hashed@raypost.test", "secret-h", scheme="ARGON2ID")
        with ImapMailbox(dataclasses.replace(bench.imap("alpha"), username="hashed@raypost.test", password="secret-h")):
            pass


def test_a_refused_login_is_named_with_the_servers_words(bench):
    """Last in this file: after a wrong password Dovecot makes the same address wait for its next logins."""
    with pytest.raises(LoginRefusedError) as smtp_error, SmtpSession(bench.smtp(password="wrong")):
        pass
    assert smtp_error.value.peer_code == 535 and "535" in smtp_error.value.what and ALPHA in smtp_error.value.what
    with pytest.raises(LoginRefusedError) as imap_error, ImapMailbox(bench.imap(password="wrong")):
        pass
    assert "AUTHENTICATIONFAILED" in imap_error.value.peer_text
    assert "wrong" not in smtp_error.value.what + imap_error.value.what
