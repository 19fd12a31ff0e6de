"""The outer message: written with nothing but addresses outside, read from anything."""

import base64
import email
import email.policy
import io
import os
import quopri
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import BadInputError, LocalProtocolError
from raypost.mail.mime_message import OuterHeaders, one_address, read_outer, write_message
from raypost.mail.tokens import Token, parse_token

HEADERS = OuterHeaders(
    "alpha@raypost.test",
    "beta@raypost.test",
    datetime(2026, 11, 24, 4, 30, tzinfo=UTC),
    "<r4nd0m@raypost.test>",
    "abcdefghijklmnop",
    "parcel",
    3,
)
ARMOUR = (
    b"-----BEGIN PGP MESSAGE-----\n\n"
    + base64.encodebytes(random.Random(4).randbytes(4000))
    + b"-----END PGP MESSAGE-----\n"
)
BOUNDARY = "b" * 32


def written(tmp_path, armour=ARMOUR, headers=HEADERS):
    (tmp_path / "armour").write_bytes(armour)
    size_bytes = write_message(headers, tmp_path / "armour", BOUNDARY, tmp_path / "mail")
    mail = (tmp_path / "mail").read_bytes()
    assert size_bytes == len(mail)
    return mail


def seen(mail):
    target = io.BytesIO()
    return read_outer(memoryview(mail), target), target.getvalue()


def sealed_mail(
    body=ARMOUR,
    encoding="7bit",
    *,
    second_type="application/octet-stream",
    first="Version: 1",
    order=1,
    root='multipart/encrypted; protocol="application/pgp-encrypted"',
    extra="",
):
    control = f"--B\nContent-Type: application/pgp-encrypted\n\n{first}\n".encode()
    sealed = f"--B\nContent-Type: {second_type}\nContent-Transfer-Encoding: {encoding}\n\n".encode() + body + b"\n"
    parts = control + sealed if order == 1 else sealed + control
    head = "From: A <a@x.test>\nTo: b@x.test\nMessage-ID: <1@x.test>\nDate: today\n"
    head += f"{extra}Content-Type: {root}; boundary=B\n\n"
    return head.encode() + b"preamble\n" + parts + b"--B--\nepilogue\n"


def test_outside_there_is_only_what_may_be_outside(tmp_path):
    mail = written(tmp_path)
    head = mail[: mail.index(b"\r\n\r\n")].decode("ascii")
    names = [line.split(":")[0] for line in head.split("\r\n") if not line.startswith(" ")]
    assert names == [
        "From",
        "To",
        "Date",
        "Message-ID",
        "Subject",
        "Auto-Submitted",
        "Raypost-Token",
        "MIME-Version",
        "Content-Type",
    ]
    assert "Raypost-Token: abcdefghijklmnop; kind=parcel; number=3" in head
    assert "Subject: Raypost\r\n" in head and "Auto-Submitted: auto-generated\r\n" in head
    assert b"\n" not in mail.replace(b"\r\n", b"") and b"\r" not in mail.replace(b"\r\n", b"")


def test_pythons_email_reads_it_as_pgp_mime(tmp_path):
    message = email.message_from_bytes(written(tmp_path), policy=email.policy.default)
    assert message.get_content_type() == "multipart/encrypted" and not message.defects
    control, sealed = message.iter_parts()
    assert control.get_content_type() == "application/pgp-encrypted" and b"Version: 1" in control.get_payload(
        decode=True
    )
    assert sealed.get_content_type() == "application/octet-stream"
    assert sealed.get_payload(decode=True).replace(b"\r\n", b"\n") == ARMOUR


@pytest.mark.parametrize(
    "armour", [ARMOUR, ARMOUR.replace(b"\n", b"\r\n"), ARMOUR.rstrip(b"\n")], ids=["LF", "CRLF", "no end"]
)
def test_what_is_written_is_read_again(tmp_path, armour):
    found, ciphertext = seen(written(tmp_path, armour))
    assert found == {
        "form": "openpgp",
        "sender": "alpha@raypost.test",
        "recipient": "beta@raypost.test",
        "message_id": "<r4nd0m@raypost.test>",
        "date": "Tue, 24 Nov 2026 04:30:00 +0000",
        "token": {"transfer_token": "abcdefghijklmnop", "kind": "parcel", "number": 3},
        "ciphertext_bytes": len(ciphertext),
    }
    assert ciphertext.replace(b"\r\n", b"\n") == ARMOUR


def test_line_ends_across_chunks_stay_single(tmp_path, monkeypatch):
    for chunk_bytes in (1, 2, 3, 64, 65):
        monkeypatch.setattr(
            "raypost.mail.mime_message.CHUNK_BYTES", max(chunk_bytes, len("-----BEGIN PGP MESSAGE-----"))
        )
        mail = written(tmp_path, ARMOUR.replace(b"\n", b"\r\n"))
        assert b"\r\r" not in mail and b"\n" not in mail.replace(b"\r\n", b"")
        assert seen(mail)[1].replace(b"\r\n", b"\n") == ARMOUR


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "a@x.test\r\nBcc: c@x.test"},
        {"recipient": "b@x.test, c@x.test"},
        {"sender": "\u00e4@x.test"},
        {"message_id": "<1@x.test>\r\nSubject: x"},
        {"message_id": "1@x.test"},
        {"transfer_token": "short"},
        {"transfer_token": "abcdefghij\nX: y"},
        {"kind": "parcel; number=1"},
        {"kind": "Parcel"},
        {"number": -1},
        {"number": 10**9},
        {"date": datetime(2026, 1, 1)},
    ],
    ids=str,
)
def test_a_header_that_would_inject_cannot_exist(change):
    values = {name: getattr(HEADERS, name) for name in HEADERS.__slots__}
    with pytest.raises(ValueError):
        OuterHeaders(**{**values, **change})


@pytest.mark.parametrize(
    "bad", [b"", b"plain text", b"-----BEGIN PGP MESSAGE-----\n\xff"], ids=["empty", "no armour", "8bit"]
)
def test_nothing_but_armour_goes_out(tmp_path, bad):
    with pytest.raises(LocalProtocolError):
        written(tmp_path, bad)
    with pytest.raises(ValueError):
        write_message(HEADERS, tmp_path / "armour", "b\r\nx", tmp_path / "mail")


@pytest.mark.parametrize(
    "mail",
    [
        sealed_mail(),
        sealed_mail(order=2),
        sealed_mail(first=""),
        sealed_mail(second_type="application/pgp-message; name=x"),
        sealed_mail(base64.encodebytes(ARMOUR), "base64"),
        sealed_mail(base64.encodebytes(ARMOUR), "BASE64"),
        sealed_mail(quopri.encodestring(ARMOUR), "quoted-printable"),
        sealed_mail(root="multipart/mixed"),
        sealed_mail(root="multipart/encrypted"),
        sealed_mail().replace(b"\n", b"\r\n"),
    ],
    ids=["LF", "turned round", "no version", "other label", "base64", "BASE64", "qp", "mixed", "no protocol", "CRLF"],
)
def test_forms_that_gateways_make_are_read(mail):
    found, ciphertext = seen(mail)
    assert found["form"] == "openpgp" and found["sender"] == "a@x.test" and found["token"] is None
    assert ciphertext.replace(b"\r\n", b"\n").rstrip() == ARMOUR.rstrip()


def test_binary_ciphertext_comes_out_of_base64_byte_for_byte():
    ciphertext = os.urandom(3 << 20)
    found, read = seen(sealed_mail(base64.encodebytes(ciphertext), "base64"))
    assert read == ciphertext and found["ciphertext_bytes"] == len(ciphertext)


def test_quoted_printable_in_many_chunks(monkeypatch):
    monkeypatch.setattr("raypost.mail.mime_scan.CHUNK_BYTES", 100)
    assert seen(sealed_mail(quopri.encodestring(ARMOUR), "quoted-printable"))[1].rstrip() == ARMOUR.rstrip()


@pytest.mark.parametrize(
    "mail",
    [
        b"From: a@x.test\r\nSubject: buy\r\n\r\nhello",
        b"From: a@x.test\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n\r\na\r\n--B\r\n\r\nb\r\n--B--\r\n",
        sealed_mail(root='multipart/encrypted; protocol="application/other"'),
        b"From: a@x.test\r\nContent-Type: multipart/signed; boundary=B\r\n\r\n--B\r\n\r\na\r\n--B--\r\n",
        # An encrypted part among others is a frame somebody put around it (EFAIL): not ours.
        b"From: a@x.test\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n"
        b"--B\r\nContent-Type: text/html\r\n\r\n<img src='\r\n"
        b"--B\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--B\r\n\r\nx\r\n--B--\r\n",
        b"Subject: only a header\r\n",
    ],
    ids=["plain", "mixed", "other protocol", "signed only", "framed", "no body"],
)
def test_anything_else_is_other_and_says_nothing(mail):
    assert seen(mail) == ({"form": "other"}, b"")


@pytest.mark.parametrize(
    ("mail", "why"),
    [
        (sealed_mail(b"!!!!", "base64"), "base64"),
        (sealed_mail(b"QUJD", "x-uuencode"), "unknown"),
        (sealed_mail(b""), "no ciphertext"),
        (sealed_mail().replace(b"--B--", b""), "cut off"),
        (sealed_mail(extra="From: c@x.test\n"), "from twice"),
        (sealed_mail(extra="Content-Type : text/plain\n"), "content-type twice"),
        (sealed_mail(extra="Raypost-Token: a\nRaypost-Token: b\n"), "raypost-token twice"),
        (sealed_mail(extra="X: a\rFrom: c@x.test\n"), "bare CR"),
        (sealed_mail().replace(b"From: A <a@x.test>", b"From: a@x.test, c@x.test"), "single sender"),
        (sealed_mail().replace(b"boundary=B", b'boundary=""'), "boundary"),
        (sealed_mail().replace(b"--B--", b"--B\n\nthird\n--B--"), "exactly two"),
    ],
    ids=str,
)
def test_broken_and_ambiguous_mails_are_refused(mail, why):
    with pytest.raises(BadInputError, match=why):
        seen(mail)


def test_the_subject_is_never_returned():
    found, _ = seen(sealed_mail(extra="Subject: Mustermann, Erika\nRaypost-Token: abcdefghij; kind=hello; number=0\n"))
    assert "Mustermann" not in repr(found)
    assert found["token"] == {"transfer_token": "abcdefghij", "kind": "hello", "number": 0}


@given(st.binary(max_size=600))
def test_no_bytes_do_anything_but_be_read_or_be_refused(noise):
    for mail in (
        noise,
        b"Content-Type: multipart/encrypted; boundary=B\r\n\r\n--B\r\n" + noise,
        sealed_mail().replace(b"Version: 1", noise),
    ):
        try:
            found, _ = seen(mail)
        except BadInputError:
            continue
        assert found["form"] in ("openpgp", "delivery-status", "other")


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("a@x.test", "a@x.test"),
        ("<a@x.test>", "a@x.test"),
        ("Dr. A <a@x.test>", "a@x.test"),
        ('"A, B" <a@x.test>', "a@x.test"),
        ("a@x.test, b@x.test", ""),
        ("a@x.test <b@x.test>", ""),
        ("a@x.test)b@y.test", ""),
        ("", ""),
        ("A", ""),
        ('"' + "\\" * 900, ""),
        ("<a@x.test> b", ""),
    ],
)
def test_one_address(value, address):
    assert one_address(value) == address


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("abcdefghij; kind=parcel; number=3", Token("abcdefghij", "parcel", 3)),
        (b"Raypost-Token: abcdefghij; kind=parcel;\r\n number=3\r\n\r\n", Token("abcdefghij", "parcel", 3)),
        (b"RAYPOST-TOKEN: abcdefghij;kind=hello;number=0\r\n", Token("abcdefghij", "hello", 0)),
        ("abcdefghij; kind=parcel; number=03", None),
        ("abcdefghij; kind=parcel; number=-1", None),
        ("abcdefghij; kind=parcel; number=1; x=y", None),
        (b"\r\n", None),
        (None, None),
        ("abcdefghij; kind=\u00e4; number=1", None),
        ("abcdefghij; kind=parcel; number=9999999999", None),
        ("x" * 10_000, None),
    ],
    ids=str,
)
def test_token_of_a_header(header, token):
    assert parse_token(header) == token
    if token is not None:
        assert parse_token(token.as_field()) == token
