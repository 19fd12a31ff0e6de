"""Outcomes of submissions, against a scripted server that misbehaves on purpose."""

import base64
import os
import re
import socket
import ssl
import threading
import time
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import LocalProtocolError, LoginRefusedError, SecurityError, UnreachableError, UsageError
from raypost.mail.smtp import (
    Accepted,
    BrokenOff,
    Deferred,
    Refused,
    SmtpAccount,
    SmtpSession,
    TooLarge,
    Unknown,
    relay_error,
    stuffed_chunks,
)
from raypost.mail.smtp_replies import (
    BOUNCES,
    REPLIES,
    Stage,
    Verdict,
    enhanced_code,
    judge,
    judge_bounce,
    retry_after_s,
)
from raypost.mail.tls import CERTIFICATE_FAULTS, client_context, connection_error
from raypost.relay.certificates import make_test_authority
from raypost.transfer.refusals import Remedy

EHLO = "250-test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN"
HAPPY = {
    "EHLO": EHLO,
    "AUTH": "235 ok",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go",
    ".": "250 2.0.0 queued",
    "RSET": "250 ok",
    "QUIT": "221 bye",
}


class ScriptedServer:
    """Answers each SMTP command from a table; None hangs up without a word."""

    def __init__(self, folder, replies, greeting="220 test", is_tls=True):
        self.ca_file, certificate, secret_key = make_test_authority(folder, ["localhost"], datetime.now(UTC))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, secret_key)
        self._replies, self._greeting, self._is_tls = {**HAPPY, **replies}, greeting, is_tls
        self.commands = []
        self.content = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def account(self, **changes):
        return SmtpAccount(
            **{
                **dict(
                    relay="test",
                    host="localhost",
                    port=self.port,
                    security="tls" if self._is_tls else "starttls",
                    username="u",
                    password="p",
                    address="a@x.test",
                    ca_file=self.ca_file,
                    timeout_s=1.0,
                    connect_timeout_s=3.0,
                ),
                **changes,
            }
        )

    def _serve(self):
        connection, _ = self._socket.accept()
        try:
            if self._is_tls:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._talk(connection, connection.makefile("rb"))
        except OSError:
            pass
        finally:
            connection.close()

    def _talk(self, connection, lines):
        connection.sendall(self._greeting.encode() + b"\r\n")
        for line in lines:
            self.commands.append(line.decode().strip())
            verb = line.split()[0].decode().upper() if line.split() else ""
            reply = self._replies.get(verb, "500 what")
            if reply is None:
                return
            if reply == "silence":
                lines.readline()
                return
            connection.sendall(reply.encode() + b"\r\n")
            if verb == "DATA" and reply.startswith("354"):
                if not self._receive(connection, lines):
                    return

    def _receive(self, connection, lines):
        if self._replies.get("cut") == "silence":
            time.sleep(5)
            return False
        if self._replies.get("cut"):
            lines.read(self._replies["cut"])
            return False
        for line in lines:
            if line == b".\r\n":
                break
            self.content += line[1:] if line.startswith(b".") else line
        if self._replies["."] is None:
            return False
        if self._replies["."] == "silence":
            lines.readline()
            return False
        connection.sendall(self._replies["."].encode() + b"\r\n")
        return True


@pytest.fixture
def submit(tmp_path):
    """Submit a message to a scripted server; return the outcome and the server."""
    mail = tmp_path / "mail"
    mail.write_bytes(b"From: a@x.test\r\n\r\nhello\r\n.\r\n..two\r\nend\r\n")

    def run(replies=None, message=mail, **server_options):
        server = ScriptedServer(tmp_path, replies or {}, **server_options)
        with SmtpSession(server.account()) as session:
            return session.submit("b@x.test", message), server

    run.mail = mail
    return run


def test_the_happy_way(submit):
    outcome, server = submit()
    assert outcome == Accepted("250 2.0.0 queued")
    assert server.content == submit.mail.read_bytes()
    size_bytes = len(server.content)
    login = base64.b64encode(b"\0u\0p").decode()
    assert server.commands[:5] == [
        "ehlo x.test",
        f"AUTH PLAIN {login}",
        f"MAIL FROM:<a@x.test> SIZE={size_bytes}",
        "RCPT TO:<b@x.test>",
        "DATA",
    ]


def test_a_message_without_a_last_line_end_gets_one(submit, tmp_path):
    (tmp_path / "m").write_bytes(b"From: a\r\n\r\nno end")
    outcome, server = submit(message=tmp_path / "m")
    assert isinstance(outcome, Accepted) and server.content == b"From: a\r\n\r\nno end\r\n"


def test_eight_bit_bytes_are_announced_and_need_the_extension(submit, tmp_path):
    (tmp_path / "m").write_bytes(b"From: a\r\n\r\n\xe4\r\n")
    _, server = submit(message=tmp_path / "m")
    assert any("BODY=8BITMIME" in one for one in server.commands)
    outcome, server = submit({"EHLO": "250-test\r\n250 AUTH PLAIN"}, message=tmp_path / "m")
    assert isinstance(outcome, Refused) and not any(one.startswith("MAIL") for one in server.commands)


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"RCPT": "450 4.2.0 Greylisted for 300 seconds"}, Deferred(450, "4.2.0 Greylisted for 300 seconds", 300.0)),
        ({"RCPT": "450 4.1.2 Domain not found"}, Deferred(450, "4.1.2 Domain not found", None)),
        ({"MAIL": "421 4.3.2 going down"}, Deferred(421, "4.3.2 going down", None)),
        ({"RCPT": "552 5.2.2 Mailbox is full"}, Deferred(552, "5.2.2 Mailbox is full", None, Remedy.OTHER_RELAY)),
        ({"RCPT": "422 mailbox full"}, Deferred(422, "mailbox full", None, Remedy.OTHER_RELAY)),
        ({".": "550 5.5.0 milter"}, Deferred(550, "5.5.0 milter", None)),
        ({".": "452 4.3.1 no space"}, Deferred(452, "4.3.1 no space", None, Remedy.OTHER_RELAY)),
        ({".": "552 over quota"}, Deferred(552, "over quota", None, Remedy.OTHER_RELAY)),
        ({".": "552 action aborted"}, Deferred(552, "action aborted", None, Remedy.OTHER_RELAY)),
        ({"EHLO": EHLO.replace("1000000", "0"), ".": "552 action aborted"}, TooLarge(None, "action aborted")),
        ({"MAIL": "552 5.3.4 too big"}, TooLarge(1_000_000, "5.3.4 too big")),
        ({".": "552 Error: Too much mail data"}, TooLarge(1_000_000, "Error: Too much mail data")),
        ({"RCPT": "550 5.1.1 unknown"}, Refused(550, "5.1.1", "5.1.1 unknown", Remedy.OTHER_RELAY)),
        ({"RCPT": "550 no such user"}, Refused(550, "", "no such user", Remedy.OTHER_RELAY)),
        ({"RCPT": "553 5.7.1 not owned"}, Refused(553, "5.7.1", "5.7.1 not owned")),
        ({"DATA": "554 no"}, Refused(554, "", "no")),
        ({".": "554 5.6.0 content\x1b[31m"}, Refused(554, "5.6.0", "5.6.0 content?[31m")),
        ({".": None}, Unknown),
        ({".": "silence"}, Unknown),
        ({".": "354 what"}, Unknown),
        ({"RCPT": None}, BrokenOff),
        ({"DATA": None}, BrokenOff),
        ({"DATA": "250 what"}, BrokenOff),
    ],
    ids=str,
)
def test_outcomes(submit, replies, expected):
    outcome, _ = submit(replies)
    assert isinstance(outcome, expected) if isinstance(expected, type) else outcome == expected


def test_a_251_is_as_good_as_a_250(submit):
    assert isinstance(submit({"RCPT": "251 will forward"})[0], Accepted)


def test_after_a_refusal_the_session_goes_on(submit, tmp_path):
    server = ScriptedServer(tmp_path, {"RCPT": "550 5.1.1 unknown"})
    with SmtpSession(server.account()) as session:
        assert isinstance(session.submit("b@x.test", submit.mail), Refused)
        assert isinstance(session.submit("b@x.test", submit.mail), Refused)
    assert server.commands.count("RSET") == 2


def test_a_cut_in_the_middle_is_told_apart_from_a_reply_that_is_missing(submit, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b"From: a\r\n\r\n" + (b"x" * 70 + b"\r\n") * 600_000)
    ehlo = {"EHLO": EHLO.replace("1000000", "0")}
    outcome, _ = submit({**ehlo, "cut": 1000}, message=large)
    assert isinstance(outcome, BrokenOff) and "in the middle" in outcome.text


def test_a_connection_lost_between_commands_is_unreachable(submit, tmp_path):
    with pytest.raises(UnreachableError):
        submit({"MAIL": None})
    server = ScriptedServer(tmp_path, {".": None})
    with SmtpSession(server.account()) as session:
        assert isinstance(session.submit("b@x.test", submit.mail), Unknown)
        assert not session.is_open
        with pytest.raises(UnreachableError):
            session.submit("b@x.test", submit.mail)


@pytest.mark.parametrize(
    ("replies", "size_bytes", "expected"),
    [
        ({".": "silence"}, 100, Unknown),
        ({"RCPT": "silence"}, 100, BrokenOff),
        ({"cut": "silence"}, 40_000_000, BrokenOff),
    ],
    ids=["last reply", "command", "content"],
)
def test_a_relay_that_falls_silent_is_given_up_when_the_caller_wants(submit, tmp_path, replies, size_bytes, expected):
    mail = tmp_path / "m"
    mail.write_bytes(b"From: a\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size_bytes // 72))
    server = ScriptedServer(tmp_path, {"EHLO": EHLO.replace("1000000", "0"), **replies})
    asked = []

    def on_stall():
        asked.append(True)
        return len(asked) == 2

    with SmtpSession(server.account(timeout_s=30.0, stall_timeout_s=0.3), on_stall) as session:
        begin = time.monotonic()
        assert isinstance(session.submit("b@x.test", mail), expected)
    assert len(asked) == 2 and 0.5 < time.monotonic() - begin < 10


def test_a_slow_link_is_no_silence(submit, tmp_path):
    """What the kernel still has on its way is progress, also after the last byte was written."""
    mail = tmp_path / "m"
    mail.write_bytes(b"From: a\r\n\r\n" + (b"x" * 70 + b"\r\n") * 60_000)
    server = ScriptedServer(tmp_path, {"EHLO": EHLO.replace("1000000", "0")})

    def slowly(connection, lines):
        end = b""
        while not end.endswith(b"\r\n.\r\n"):
            end = (end + lines.read1(1 << 16))[-5:]
            time.sleep(0.02)
        connection.sendall(b"250 ok\r\n")
        return True

    server._receive = slowly
    asked = []
    with SmtpSession(server.account(timeout_s=30.0, stall_timeout_s=0.5), lambda: bool(asked.append(1))) as session:
        outcome = session.submit("b@x.test", mail)
    assert isinstance(outcome, Accepted) and outcome.content_s > 0.5 and not asked


def test_nothing_is_said_in_clear_when_starttls_is_stripped(submit, tmp_path):
    server = ScriptedServer(tmp_path, {}, is_tls=False)
    with pytest.raises(SecurityError, match="STARTTLS"), SmtpSession(server.account()):
        pass
    refusing = ScriptedServer(tmp_path, {"EHLO": EHLO + "\r\n250 STARTTLS", "STARTTLS": "454 not now"}, is_tls=False)
    with pytest.raises((SecurityError, UnreachableError)), SmtpSession(refusing.account()):
        pass
    for one in (server, refusing):
        assert not any(command.upper().startswith(("AUTH", "MAIL")) for command in one.commands)


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ({"AUTH": "535 5.7.8 bad password"}, LoginRefusedError, "535 5.7.8 bad password"),
        ({"AUTH": "454 4.7.0 try later"}, UnreachableError, "454"),
        ({"EHLO": "250 test"}, LoginRefusedError, "no login"),
        ({"EHLO": "502 no"}, UnreachableError, "ESMTP"),
        ({"EHLO": None}, UnreachableError, "localhost"),
        ({"AUTH": "nonsense"}, UnreachableError, "SMTP"),
    ],
    ids=str,
)
def test_logins_that_fail(tmp_path, replies, error, words):
    server = ScriptedServer(tmp_path, replies)
    with pytest.raises(error, match=re.escape(words)), SmtpSession(server.account()):
        pass


def test_a_server_that_is_busy_is_unreachable(tmp_path):
    server = ScriptedServer(tmp_path, {}, greeting="421 too many connections")
    with pytest.raises(UnreachableError, match="421"), SmtpSession(server.account()):
        pass


def test_login_in_two_steps(tmp_path):
    class Steps(dict):
        def get(self, verb, default=None):
            return {"AUTH": "334 user", base64.b64encode(b"u").decode().upper(): "334 pw"}.get(verb) or super().get(
                verb, "235 ok" if verb == base64.b64encode(b"p").decode().upper() else default
            )

    server = ScriptedServer(tmp_path, {"EHLO": "250-test\r\n250 AUTH LOGIN"})
    server._replies = Steps(server._replies)
    with SmtpSession(server.account()) as session:
        assert session.size_max_bytes is None


def test_wrong_use_is_our_bug(tmp_path, submit):
    account = SmtpAccount("r", "localhost", 1, "tls", "u", "hidden", "a@x.test")
    with pytest.raises(LocalProtocolError):
        SmtpSession(account).submit("b@x.test", submit.mail)
    with pytest.raises(ValueError):
        SmtpSession(SmtpAccount("r", "localhost", 1, "tls", "u", "p", "a@x.test>\r\nDATA"))
    with pytest.raises(ValueError):
        SmtpSession(account).submit("b@x.test>\r\nRCPT TO:<c@x.test", submit.mail)
    assert "hidden" not in repr(account)


def test_nobody_listens(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        pytest.raises(UnreachableError, match=f"localhost:{port}"),
        SmtpSession(SmtpAccount("r", "localhost", port, "tls", "u", "p", "a@x.test")),
    ):
        pass


@given(st.lists(st.sampled_from([b".", b"\r\n", b"x", b"..", b"\n", b"\r"])).map(b"".join), st.integers(1, 9))
def test_stuffing_does_not_depend_on_chunks(content, chunk_bytes):
    import pathlib
    import tempfile
    from unittest import mock

    with tempfile.TemporaryDirectory() as name, mock.patch("raypost.mail.smtp.CHUNK_BYTES", chunk_bytes):
        (pathlib.Path(name) / "m").write_bytes(content)
        stuffed = b"".join(stuffed_chunks(pathlib.Path(name) / "m"))
    assert stuffed == re.sub(rb"(?m)^\.", b"..", content)
    assert b"\r\n.\r\n" not in stuffed and b"\n.\n" not in stuffed and not stuffed.startswith(b".\r\n")


def test_memory_stays_flat(submit, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b"From: a\r\n\r\n" + (b"x" * 70 + b"\r\n") * 400_000)
    server = ScriptedServer(tmp_path, {"EHLO": EHLO.replace("1000000", "0")})
    server._receive = lambda connection, lines: [
        connection.sendall(b"250 ok\r\n") for line in lines if line == b".\r\n"
    ][:1]
    with SmtpSession(server.account(timeout_s=20.0)) as session:
        tracemalloc.start()
        outcome = session.submit("b@x.test", large)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert isinstance(outcome, Accepted) and peak < 4 << 20


def test_every_row_of_the_table_decides_something():
    texts = [
        "",
        "quota",
        "too big",
        "4.1.2 x",
        "4.2.2 x",
        "5.1.1 x",
        "5.2.2 x",
        "5.3.1 x",
        "5.5.0 x",
        "5.3.4 x",
        "5.7.1 x",
    ]
    deciding = {
        judge(code, text, stage, within_limit=within_limit)
        for code in (250, 421, 422, 450, 452, 500, 550, 551, 552, 554)
        for text in texts
        for stage in Stage
        for within_limit in (False, True)
    } - {None}
    assert deciding == set(REPLIES)
    assert all(row.source and (row.remedy is None) is (row.verdict is Verdict.ACCEPTED) for row in REPLIES)
    assert {row.remedy for row in REPLIES} == {None, *Remedy}


@pytest.mark.parametrize(
    ("action", "enhanced", "diagnostic", "remedy"),
    [
        ("delayed", "4.4.1", "connection refused", None),
        ("delivered", "2.1.5", "", None),
        ("failed", "5.2.2", "552 5.2.2 Quota exceeded", Remedy.OTHER_RELAY),
        ("failed", "5.3.4", "message size exceeds limit", Remedy.CUT_SMALLER),
        ("failed", "5.2.3", "", Remedy.CUT_SMALLER),
        ("failed", "4.4.7", "delivery time expired", Remedy.OTHER_RELAY),
        ("failed", "5.1.1", "user unknown", Remedy.OTHER_RELAY),
        ("failed", "5.4.6", "loop", Remedy.OTHER_RELAY),
        ("failed", "5.7.1", "policy", Remedy.PERSON),
        ("failed", "5.6.0", "virus", Remedy.PERSON),
        ("failed", "4.5.1", "", Remedy.OTHER_RELAY),
        ("failed", "5.0.0", "552 mailbox is full", Remedy.OTHER_RELAY),
        ("failed", "", "552 message too large", Remedy.CUT_SMALLER),
        ("failed", "5.0.0", "no", Remedy.PERSON),
        ("", "", "", None),
        ("failed", "2.0.0", "", None),
    ],
)
def test_bounces(action, enhanced, diagnostic, remedy):
    row = judge_bounce(action, enhanced, diagnostic)
    assert (row.remedy if row else None) is remedy


def test_every_row_for_bounces_decides_something():
    statuses = ["", "2.0.0", "5.0.0", *(f"{a}.{b}.{c}" for a in (4, 5) for b in range(8) for c in range(9))]
    texts = ("", "quota", "too big")
    tried = [(a, e, d) for a in ("", "failed", "delayed", "relayed") for e in statuses for d in texts]
    assert {judge_bounce(*one) for one in tried} - {None} == set(BOUNCES)
    assert all(row.source for row in BOUNCES) and judge_bounce("", "", "") is None


def test_parts_of_a_reply():
    assert (enhanced_code("5.1.1 unknown"), enhanced_code("unknown 5.1.1"), enhanced_code("5.1.1x")) == (
        "5.1.1",
        "",
        "",
    )
    assert (retry_after_s("try again in 60 seconds"), retry_after_s("later"), retry_after_s("in 99999 s")) == (
        60.0,
        None,
        86_400.0,
    )
    assert judge(250, "", Stage.MAIL) is None and judge(354, "", Stage.END) is None
    assert judge(250, "", Stage.END).verdict is Verdict.ACCEPTED
    assert relay_error(Refused(550, "5.1.1", "unknown")).peer_code == 550


def test_certificate_faults_are_told_apart():
    for number, (fault, _) in CERTIFICATE_FAULTS.items():
        error = ssl.SSLCertVerificationError()
        error.verify_code, error.verify_message = number, "x"
        assert fault in connection_error("h:1", error).what
    unknown = ssl.SSLCertVerificationError()
    unknown.verify_code, unknown.verify_message = 99, "strange"
    assert "strange" in connection_error("h:1", unknown).what
    assert isinstance(connection_error("h:1", TimeoutError()), UnreachableError)
    assert "name" in connection_error("h:1", socket.gaierror()).what


def test_a_ca_file_that_is_none_is_wrong_use(tmp_path):
    with pytest.raises(UsageError):
        client_context(tmp_path / "missing.pem")
    (tmp_path / "noise.pem").write_bytes(os.urandom(100))
    with pytest.raises(UsageError):
        client_context(tmp_path / "noise.pem")
