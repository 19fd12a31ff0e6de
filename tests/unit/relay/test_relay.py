"""The embedded relay: what the contract tests do not see."""

import asyncio
import datetime
import gc
import json
import signal
import smtplib
import ssl
import subprocess
import sys
import time
import weakref

import pytest
from cryptography import x509
from pymap.mime import MessageContent

from raypost.mail.imap import ImapAccount, ImapMailbox
from raypost.relay.certificates import make_test_authority
from raypost.relay.mailboxes import Mailboxes, coarse_content, coarse_lines, with_return_path
from raypost.relay.server import EmbeddedRelay, RelayOptions

NOW = datetime.datetime.now(datetime.UTC)
USERS = {"alpha@raypost.test": "secret-a", "Beta@raypost.test": "secret-b"}
MAIL = (
    b"From: a\r\nContent-Type: multipart/encrypted;\r\n boundary=q\r\n\r\npreamble\r\n"
    b"--q\r\nContent-Type: application/pgp-encrypted\r\n\r\n"
    b"Version: 1\r\n\r\n--q\r\nContent-Type: application/octet-stream\r\n\r\n"
    + (b"A" * 64 + b"\r\n") * 1000
    + b"\r\n--q--\r\n"
)


def structure(content):
    return [(bytes(one.header), one.body.content_type.content_type, len(one.body.nested)) for one in content.walk()]


@pytest.mark.parametrize(
    "mail",
    [
        MAIL,
        MAIL.replace(b"\r\n", b"\n"),
        b"",
        b"\r\n",
        b"A: b",
        b"A: b\r\n",
        b"A: b\r\n\r\n",
        b"A: b\r\n\r\nbody",
        b"A: b\r\n\r\n\r\n\r\nx\r\n",
        b"A: b\r\n\r\n--no\r\nx\r\n\r\ny\r\nz",
        MAIL.replace(b"--q--", b"--q"),
    ],
    ids=range(11),
)
def test_coarse_parsing_sees_what_pymap_sees(mail):
    assert bytes(coarse_content(mail)) == bytes(MessageContent.parse(mail))
    assert structure(coarse_content(mail)) == structure(MessageContent.parse(mail))
    lines = coarse_lines(mail)
    assert lines[0][0] == 0 and lines[-1][2] == len(mail)
    assert all(one[2] == other[0] for one, other in zip(lines, lines[1:], strict=False))
    assert len(lines) < 40


def test_deleted_mails_are_freed():
    async def run():
        mailboxes = Mailboxes()
        await mailboxes.open({"a@x.test": "p"})
        await mailboxes.deliver("A@x.test", MAIL, NOW)
        mailbox = await mailboxes._config.set_cache["a@x.test"][0].get_mailbox("INBOX")
        [message] = mailbox._messages.values()
        content = weakref.ref(message._content)
        imap_uid = message.uid
        del message
        await mailbox.delete([imap_uid])
        gc.collect()
        assert content() is None and mailboxes.has("a@X.test") and not mailboxes.has("b@x.test")

    asyncio.run(run())


def test_data_in_odd_pieces_and_dots(tmp_path):
    """The content must come out right however the network cuts it."""
    ca_file, certificate, secret_key = make_test_authority(tmp_path, ["localhost"], NOW)

    async def run():
        accepted = []
        options = RelayOptions(USERS, certificate, secret_key, size_max_bytes=2000)
        async with EmbeddedRelay(options, lambda *event: accepted.append(event)) as relay:
            await asyncio.to_thread(talk, relay.smtp_port)
            return accepted, await asyncio.to_thread(read, relay.imap_port)

    def talk(port):
        context = ssl.create_default_context(cafile=ca_file)
        with smtplib.SMTP_SSL("localhost", port, context=context, timeout=5) as client:
            client.login("alpha@raypost.test", "secret-a")
            for content in (b"..\r\nA: b\r\n\r\n..x\r\n\r\n..\r\n.\r\n", b".\r\n", b"x" * 3000 + b"\r\n.\r\n"):
                client.mail("alpha@raypost.test")
                client.rcpt("BETA@raypost.test")
                assert client.docmd("DATA")[0] == 354
                for position in range(len(content)):
                    client.sock.sendall(content[position : position + 1])
                reply = client.getreply()
                assert reply[0] == (552 if len(content) > 2000 else 250), reply
            client.mail("alpha@raypost.test")
            client.rcpt("beta@raypost.test")
            client.docmd("DATA")
            client.sock.sendall(
                b"A: b\r\n\r\n.\r\nMAIL FROM:<alpha@raypost.test>\r\n"
            )  # smuggled: sent before the reply
            assert client.getreply()[0] == 421
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.noop()

    def read(port):
        account = ImapAccount("r", "localhost", port, "tls", "beta@raypost.test", "secret-b", ca_file)
        with ImapMailbox(account) as mailbox:
            for one in mailbox.list_messages():
                mailbox.fetch(one.imap_uid, tmp_path / str(one.imap_uid), 1000)
        return [(tmp_path / str(number)).read_bytes() for number in (101, 102)]

    accepted, mails = asyncio.run(run())
    sent = [b".\r\nA: b\r\n\r\n.x\r\n\r\n.\r\n", b""]
    path = b"Return-Path: <alpha@raypost.test>\r\n"
    assert mails[0] == path + sent[0]
    assert mails[1].strip() == path.strip()  # pymap cuts the line end of a header that no empty line ends
    assert accepted == [(len(mail), "alpha@raypost.test", "beta@raypost.test", 1) for mail in sent]


@pytest.mark.parametrize(
    ("mail", "delivered"),
    [
        (b"A: b\r\n\r\nx", b"A: b\r\n\r\nx"),
        (b"Return-Path: <f@y>\r\nA: b\r\n\r\nx", b"A: b\r\n\r\nx"),
        (b"A: b\r\nreturn-path:\r\n <f@y>\r\n\t(z)\r\nC: d\r\n\r\nx", b"A: b\r\nC: d\r\n\r\nx"),
        (b"A: b\r\nReturn-Path : <f@y>\r\n\r\nx", b"A: b\r\n\r\nx"),
        (b"Return-Path: <f@y>\nRETURN-PATH: <g@y>\nA: b\n\nx", b"A: b\n\nx"),
        (b"Return-Path: <f@y>\r\n\r\nx", b"\r\nx"),
        (b"A: b\r\n\r\nReturn-Path: of the body\r\n", b"A: b\r\n\r\nReturn-Path: of the body\r\n"),
        (b"\r\nReturn-Path: of the body\r\n", b"\r\nReturn-Path: of the body\r\n"),
        (b"X-Return-Path: <f@y>\r\n\r\n", b"X-Return-Path: <f@y>\r\n\r\n"),
        (b"A: b\r\nReturn-Path: <f@y>", b"A: b\r\n"),
        (b"Return-Path: <f@y>", b""),
        (b"", b""),
    ],
)
def test_the_envelope_sender_stands_on_top_and_nothing_else_claims_to_be_it(mail, delivered):
    assert with_return_path(mail, "a@x.test") == b"Return-Path: <a@x.test>\r\n" + delivered


def test_many_return_paths_cost_no_time():
    """Linear in the size, however it is made."""
    for mail in (b"Return-Path: <f@y>\r\n" * 200_000, b"Return-Path:\r\n" + b" \r\n" * 1_000_000, b"\r" * 4_000_000):
        begin = time.process_time()
        assert with_return_path(mail, "a@x.test").startswith(b"Return-Path: <a@x.test>\r\n")
        assert time.process_time() - begin < 5


def test_the_authority_and_its_certificate(tmp_path):
    ca_file, certificate, secret_key = make_test_authority(tmp_path, ["localhost", "127.0.0.1"], NOW, valid_days=2)
    assert secret_key.stat().st_mode & 0o777 == 0o600
    ca, server = (x509.load_pem_x509_certificate(one.read_bytes()) for one in (ca_file, certificate))
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert server.not_valid_before_utc < NOW < server.not_valid_after_utc < NOW + datetime.timedelta(days=3)
    strict = ssl.create_default_context(cafile=ca_file)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by default
    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, secret_key)
    client = strict.wrap_bio(inside, outside, server_hostname="localhost")
    peer = server_context.wrap_bio(outside, inside, server_side=True)
    for _ in range(4):
        for side in (client, peer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("ending", ["signal", "parent"])
def test_as_a_process_it_tells_what_happens_and_ends(tmp_path, ending):
    ca_file, certificate, secret_key = make_test_authority(tmp_path, ["localhost"], NOW)
    (tmp_path / "password").write_text("secret-b\n")
    command = [
        sys.executable,
        "-m",
        "raypost.relay",
        "--cert",
        certificate,
        "--key",
        secret_key,
        "--users-from-stdin",
        "--user",
        f"beta@raypost.test:{tmp_path / 'password'}",
    ]
    if ending == "parent":  # a shell that starts it and can be killed
        command = ["sh", "-c", f'"$@" < {tmp_path / "users.json"} & wait', "sh", *map(str, command)]
    (tmp_path / "users.json").write_text(json.dumps({"alpha@raypost.test": "secret-a"}))
    with (tmp_path / "users.json").open() as users:
        process = subprocess.Popen(command, stdin=users, stdout=subprocess.PIPE, text=True)
    try:
        up = json.loads(process.stdout.readline())["up"]
        context = ssl.create_default_context(cafile=ca_file)
        with smtplib.SMTP_SSL("localhost", up["smtp_port"], context=context, timeout=5) as client:
            client.login("alpha@raypost.test", "secret-a")
            client.sendmail("alpha@raypost.test", ["beta@raypost.test"], b"A: b\r\n\r\n")
        assert json.loads(process.stdout.readline()) == {
            "accepted_bytes": 8,
            "from": "alpha@raypost.test",
            "to": "beta@raypost.test",
            "copies": 1,
        }
    finally:
        process.send_signal(signal.SIGTERM if ending == "signal" else signal.SIGKILL)
    assert process.stdout.read() == "", "standard output ends only when the relay has"
    assert process.wait(10) == (0 if ending == "signal" else -signal.SIGKILL)
    process.stdout.close()


def test_without_users_or_with_a_bad_file_it_does_not_start(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "raypost.relay", "--cert", "x", "--key", "y"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "no users" in done.stderr
