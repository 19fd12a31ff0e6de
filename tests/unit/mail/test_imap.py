"""The parts of the IMAP client that need no server, and servers that misbehave."""

import re
import socket
import ssl
import threading
import time
from datetime import UTC, datetime

import pytest

from raypost.errors import (
    BadInputError,
    IntegrityError,
    LocalProtocolError,
    LoginRefusedError,
    SecurityError,
    UnreachableError,
)
from raypost.mail.imap import ImapAccount, ImapMailbox
from raypost.relay.certificates import make_test_authority

HAPPY = {
    "CAPABILITY": ["* CAPABILITY IMAP4rev1 IDLE UIDPLUS", "{tag} OK done"],
    "LOGIN": ["{tag} OK done"],
    "SELECT": ["* 1 EXISTS", "* OK [UIDVALIDITY 7] x", "{tag} OK [READ-WRITE] done"],
    "NOOP": ["{tag} OK done"],
    "LOGOUT": ["* BYE x", "{tag} OK done"],
    "IDLE": ["+ idling"],
}


class ScriptedServer:
    """Answers each IMAP command from a table of lines; an empty list hangs up; a float waits that long first."""

    def __init__(self, folder, replies, greeting="* OK hello", is_tls=True):
        self.ca_file, certificate, secret_key = make_test_authority(folder, ["localhost"], datetime.now(UTC))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, secret_key)
        self._replies, self._greeting, self._is_tls = {**HAPPY, **replies}, greeting, is_tls
        self.commands = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def mailbox(self, **changes):
        return ImapMailbox(
            ImapAccount(
                **{
                    **dict(
                        relay="test",
                        host="localhost",
                        port=self.port,
                        security="tls" if self._is_tls else "starttls",
                        username="u",
                        password="p",
                        ca_file=self.ca_file,
                        timeout_s=3.0,
                        connect_timeout_s=3.0,
                    ),
                    **changes,
                }
            )
        )

    def _serve(self):
        connection, _ = self._socket.accept()
        try:
            if self._is_tls:
                connection = self._context.wrap_socket(connection, server_side=True)
            connection.sendall(self._greeting.encode() + b"\r\n")
            tag = ""
            for line in connection.makefile("rb"):
                self.commands.append(line.decode().strip())
                words = self.commands[-1].split()
                if words[0] == "DONE":
                    connection.sendall(f"{tag} OK done\r\n".encode())
                    continue
                tag, verb = words[0], words[2] if words[1] == "UID" else words[1]
                lines = self._replies.get(verb.upper(), ["{tag} BAD what"])
                if not lines:
                    return
                for delay in (one for one in lines if isinstance(one, float)):
                    time.sleep(delay)
                text = "".join(one.replace("{tag}", tag) + "\r\n" for one in lines if isinstance(one, str))
                connection.sendall(text.encode("latin-1"))
        except OSError:
            pass
        finally:
            connection.close()


def test_news_in_one_piece_with_the_go_ahead_are_seen(tmp_path):
    server = ScriptedServer(tmp_path, {"IDLE": ["+ idling", "* 2 EXISTS"]})
    with server.mailbox() as mailbox:
        begin = time.monotonic()
        assert mailbox.wait(10) is True
        assert time.monotonic() - begin < 1


def test_keep_alive_lines_do_not_wake(tmp_path):
    server = ScriptedServer(tmp_path, {"IDLE": ["+ idling", "* OK Still here", "* 1 RECENT"]})
    with server.mailbox() as mailbox:
        assert mailbox.wait(0.4) is False


@pytest.mark.parametrize(
    "replies", [{"IDLE": []}, {"IDLE": ["+ idling", "* BYE shutting down"]}, {"IDLE": ["{tag} NO"]}], ids=str
)
def test_an_idle_that_breaks_is_unreachable(tmp_path, replies):
    with pytest.raises(UnreachableError), ScriptedServer(tmp_path, replies).mailbox() as mailbox:
        mailbox.wait(5)


def test_a_server_that_falls_silent_is_unreachable(tmp_path):
    server = ScriptedServer(tmp_path, {"SELECT": [2.0]})
    begin = time.monotonic()
    with pytest.raises(UnreachableError, match="in time"), server.mailbox(timeout_s=0.3):
        pass
    assert time.monotonic() - begin < 2


def ranges(server, content, announced_bytes):
    """Let a scripted server answer FETCH with ranges of a content."""

    class Fetches(dict):
        def get(self, verb, default=None):
            if verb != "FETCH":
                return super().get(verb, default)
            first, length = map(int, re.search(r"<(\d+)\.(\d+)>", server.commands[-1]).groups())
            piece = content[first : first + length]
            size = f"* 1 FETCH (UID 5 RFC822.SIZE {announced_bytes} BODY[]<{first}> {{{len(piece)}}}"
            return [size, piece + ")", "{tag} OK done"]

    server._replies = Fetches(server._replies)


def test_fewer_bytes_than_announced_are_an_integrity_error(tmp_path):
    server = ScriptedServer(tmp_path, {})
    ranges(server, "abc", 100)
    with server.mailbox() as mailbox, pytest.raises(IntegrityError):
        mailbox.fetch(5, tmp_path / "x", 1000)
    assert not mailbox.is_lost


def test_a_mail_that_goes_on_for_ever_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_FIRST_BYTES", 100)
    server = ScriptedServer(tmp_path, {})
    ranges(server, "a" * 5000, 50)
    with server.mailbox() as mailbox, pytest.raises(BadInputError, match="longer than"):
        mailbox.fetch(5, tmp_path / "x", 1000)


def test_a_small_mail_is_one_round_trip_and_a_large_one_leaves_room_between_its_ranges(tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_FIRST_BYTES", 100)
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_BYTES", 200)
    content = "".join(chr(97 + number % 26) for number in range(1000))
    server, calls = ScriptedServer(tmp_path, {}), []
    ranges(server, content, 1000)
    with server.mailbox() as mailbox:
        assert mailbox.fetch(5, tmp_path / "x", 1000, lambda: calls.append(mailbox.look())) == 1000
        assert (tmp_path / "x").read_text() == content
        assert calls == [False] * 5, "100, then 200 each; the last range is short and nothing comes after it"
        server.commands.clear()
        ranges(server, "abc", 3)
        assert mailbox.fetch(5, tmp_path / "x", 1000) == 3 and len(server.commands) == 1


def test_on_a_slow_line_the_ranges_become_small(tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_FIRST_BYTES", 400)
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_MIN_BYTES", 100)
    monkeypatch.setattr("raypost.mail.imap.FETCH_RANGE_S", 0.0)
    server = ScriptedServer(tmp_path, {})
    ranges(server, "a" * 1000, 1000)
    with server.mailbox() as mailbox:
        assert mailbox.fetch(5, tmp_path / "x", 1000) == 1000
    asked = [int(one.split(".")[-1].split(">")[0]) for one in server.commands if "FETCH" in one]
    assert asked == [400, 200, 100, 100, 100, 100, 100]


def test_a_relay_without_ranges_gives_the_whole(tmp_path):
    whole = ["* 1 FETCH (UID 5 RFC822.SIZE 3 BODY[] {3}", "abc)", "{tag} OK done"]
    with ScriptedServer(tmp_path, {"FETCH": whole}).mailbox() as mailbox:
        assert mailbox.fetch(5, tmp_path / "x", 1000) == 3


def test_a_mailbox_that_was_made_anew_ends_the_connection(tmp_path):
    server = ScriptedServer(tmp_path, {})
    with pytest.raises(UnreachableError), server.mailbox() as mailbox:
        assert mailbox.uid_validity == 7
        server._replies["SELECT"] = ["* 0 EXISTS", "* OK [UIDVALIDITY 8] x", "{tag} OK done"]
        mailbox.survey(10)
    assert mailbox.is_lost


def test_flags_of_others_and_gone_messages_are_no_listing(tmp_path):
    answer = [
        "* 2 FETCH (FLAGS (x))",
        '* 1 FETCH (UID 5 RFC822.SIZE 10 INTERNALDATE "24-Nov-2026 03:00:00 +0000" BODY[HEADER.FIELDS (FROM)]<0> {20}',
        "From: a@x.test\r\n\r\n  )",
        "{tag} OK done",
    ]
    with ScriptedServer(tmp_path, {"FETCH": answer}).mailbox() as mailbox:
        [listed] = mailbox.list_range(1, 9, and_newest=True)
    assert (listed.imap_uid, listed.size_bytes, listed.sender, listed.token) == (5, 10, "a@x.test", None)
    assert listed.taken_at == datetime(2026, 11, 24, 3, tzinfo=UTC)
    with ScriptedServer(tmp_path, {"FETCH": ["{tag} OK done"]}).mailbox() as mailbox:
        assert mailbox.list_range(1, 9) == [] and mailbox.list_messages() == []


def test_a_refused_fetch_is_unreachable_and_the_relays_fault(tmp_path):
    for call in (
        lambda one: one.list_range(1, 2),
        lambda one: one.survey(5),
        lambda one: one.fetch(5, tmp_path / "x", 9),
    ):
        with pytest.raises(UnreachableError), ScriptedServer(tmp_path, {"FETCH": ["{tag} NO x"]}).mailbox() as mailbox:
            call(mailbox)
        assert mailbox.is_lost


def test_what_is_told_while_nobody_asks_does_not_pile_up(tmp_path):
    server = ScriptedServer(tmp_path, {"NOOP": ["* 3 EXPUNGE", "* 4 FETCH (FLAGS (x))", "* 9 EXISTS", "{tag} OK x"]})
    with server.mailbox() as mailbox:
        assert [mailbox.look() for _ in range(3)] == [True] * 3
        assert not mailbox._client._imap.untagged_responses


@pytest.mark.parametrize(
    "answer",
    [
        ["* 1 FETCH (UID 5 RFC822.SIZE 10 BODY[]<0> NIL)", "{tag} OK done"],
        ["{tag} OK done"],
        ["* 1 FETCH (UID 6 RFC822.SIZE 10)", "{tag} OK done"],
    ],
    ids=["NIL", "nothing", "another"],
)
def test_vanished_messages_are_none(tmp_path, answer):
    with ScriptedServer(tmp_path, {"FETCH": answer}).mailbox() as mailbox:
        assert mailbox.fetch(5, tmp_path / "x", 1000) is None


def test_nonsense_is_unreachable_and_the_next_use_too(tmp_path):
    with ScriptedServer(tmp_path, {"FETCH": ["* 1 FETCH (UID", "{tag} OK done"]}).mailbox() as mailbox:
        with pytest.raises(UnreachableError, match="unexpectedly"):
            mailbox.fetch(5, tmp_path / "x", 1000)
        with pytest.raises(UnreachableError):
            mailbox.list_messages()
    with pytest.raises(UnreachableError), ScriptedServer(tmp_path, {}, greeting="SSH-2.0").mailbox():
        pass


def test_capabilities_before_the_login_are_not_believed(tmp_path):
    server = ScriptedServer(tmp_path, {}, greeting="* OK [CAPABILITY IMAP4rev1] hello")
    with server.mailbox() as mailbox:
        assert mailbox._capabilities >= {b"IDLE", b"UIDPLUS"} and mailbox.uid_validity == 7


def test_the_password_is_not_sent_in_clear_without_starttls(tmp_path):
    for capabilities in ("IMAP4rev1", "IMAP4rev1 STARTTLS"):
        server = ScriptedServer(
            tmp_path, {"CAPABILITY": [f"* CAPABILITY {capabilities}", "{tag} OK done"]}, is_tls=False
        )
        with pytest.raises(SecurityError, match="STARTTLS"), server.mailbox():
            pass
        assert not any("LOGIN" in one for one in server.commands)


@pytest.mark.parametrize(
    ("reply", "error"),
    [("{tag} NO [AUTHENTICATIONFAILED] bad", LoginRefusedError), ("{tag} NO [UNAVAILABLE] later", UnreachableError)],
)
def test_logins_that_fail(tmp_path, reply, error):
    mailbox = ScriptedServer(tmp_path, {"LOGIN": [reply]}).mailbox()
    with pytest.raises(error, match="bad|later"), mailbox:
        pass
    assert mailbox.is_lost


def test_a_password_that_login_cannot_carry_is_refused_here(tmp_path):
    with pytest.raises(LoginRefusedError, match="ASCII"), ScriptedServer(tmp_path, {}).mailbox(password="\u00e4"):
        pass


def test_outside_its_context_it_is_our_bug(tmp_path):
    account = ImapAccount("r", "localhost", 1, "tls", "u", "hidden")
    with pytest.raises(LocalProtocolError):
        ImapMailbox(account).list_messages()
    assert "hidden" not in repr(account)
