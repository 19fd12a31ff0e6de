"""The parts of the IMAP client that need no server, and servers that misbehave."""

import socket
import ssl
import threading
import time
from datetime import UTC, datetime

import pytest

from raypost.errors import IntegrityError, LocalProtocolError, LoginRefusedError, SecurityError, UnreachableError
from raypost.mail.imap import ImapAccount, ImapMailbox, Listed, collecting_order
from raypost.mail.tokens import Token
from raypost.relay.certificates import make_test_authority

HAPPY = {
    "CAPABILITY": ["* CAPABILITY IMAP4rev1 IDLE UIDPLUS", "{tag} OK done"],
    "LOGIN": ["{tag} OK done"],
    "SELECT": ["* 1 EXISTS", "* OK [UIDVALIDITY 7] x", "{tag} OK [READ-WRITE] done"],
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


def test_the_order_of_collecting():
    def listed(imap_uid, size_bytes, kind):
        return Listed(imap_uid, size_bytes, None if kind is None else Token("abcdefghij", kind, 1))

    wanted = [
        listed(9, 90, "announce"),
        listed(2, 10, "receipt"),
        listed(8, 30, "manifest"),
        listed(1, 20, None),
        listed(3, 500, "parcel"),
        listed(4, 500, "parcel"),
        listed(5, 900, "parcel"),
    ]
    assert sorted(reversed(wanted), key=collecting_order) == wanted


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


def test_fewer_bytes_than_announced_are_an_integrity_error(tmp_path):
    class Fetches(dict):
        def get(self, verb, default=None):
            if verb == "FETCH":
                if "SIZE" in server.commands[-1]:
                    return ["* 1 FETCH (UID 5 RFC822.SIZE 100)", "{tag} OK done"]
                return ["* 1 FETCH (UID 5 BODY[]<0> {3}", "abc)", "{tag} OK done"]
            return super().get(verb, default)

    server = ScriptedServer(tmp_path, {})
    server._replies = Fetches(server._replies)
    with server.mailbox() as mailbox, pytest.raises(IntegrityError):
        mailbox.fetch(5, tmp_path / "x", 1000)


@pytest.mark.parametrize(
    "answer",
    [
        ["* 1 FETCH (UID 5 RFC822.SIZE 10)", "* 1 FETCH (UID 5 BODY[]<0> NIL)", "{tag} OK done"],
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
    with pytest.raises(error, match="bad|later"), ScriptedServer(tmp_path, {"LOGIN": [reply]}).mailbox():
        pass


def test_a_password_that_login_cannot_carry_is_refused_here(tmp_path):
    with pytest.raises(LoginRefusedError, match="ASCII"), ScriptedServer(tmp_path, {}).mailbox(password="\u00e4"):
        pass


def test_outside_its_context_it_is_our_bug(tmp_path):
    account = ImapAccount("r", "localhost", 1, "tls", "u", "hidden")
    with pytest.raises(LocalProtocolError):
        ImapMailbox(account).list_messages()
    assert "hidden" not in repr(account)
