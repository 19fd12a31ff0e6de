"""Mails made to break a MIME parser are refused quickly and in little memory."""

import io
import pathlib
import time
import tracemalloc

import pytest

from raypost.errors import BadInputError
from raypost.mail.mime_message import read_outer
from raypost.mail.parcels import read_entity

TIME_MAX_S = 1.0
MEMORY_MAX_BYTES = 64 << 20
HEAD = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: x\r\nMessage-ID: <1@example.org>\r\nMIME-Version: 1.0\r\n"


def nested(depth, leaves=1, inner=b"multipart/mixed"):
    opening = b"".join(
        b'Content-Type: %b; boundary="b%d"\r\n\r\n--b%d\r\n' % (inner, level, level) for level in range(depth)
    )
    last = depth - 1
    parts = b"".join(
        (b"--b%d\r\n" % last if number else b"") + b"Content-Type: text/plain\r\n\r\n%d\r\n" % number
        for number in range(leaves)
    )
    closing = b"".join(b"--b%d--\r\n" % level for level in range(last, -1, -1))
    return HEAD + opening + parts + closing


def encrypted(parts):
    return HEAD + b"Content-Type: multipart/encrypted; boundary=B\r\n\r\n" + parts + b"--B--\r\n"


def doubled(name, second):
    head = HEAD if name in HEAD else HEAD + name + b": y\r\n"
    return head + name + b": " + second + b"\r\n\r\nhello"


HOSTILE = {
    "3000 multiparts inside each other": nested(3000),
    "100,000 multiparts inside each other": nested(100_000),
    "21 multiparts": nested(21),
    "folded content types": nested(3000).replace(b"Content-Type: ", b"content-TYPE:\r\n "),
    "bare LF": nested(3000).replace(b"\r\n", b"\n"),
    "100,000 parts": nested(1, 100_000),
    "100,000 parts of an encrypted mail": encrypted(b"--B\r\n\r\nx\r\n" * 100_000),
    "100,000 parts of a bounce": HEAD
    + b"Content-Type: multipart/report; report-type=delivery-status; boundary=B\r\n\r\n"
    + b"--B\r\n\r\nx\r\n" * 100_000
    + b"--B--\r\n",
    "two From": doubled(b"From", b"c@example.net"),
    "two To": doubled(b"To", b"c@example.net"),
    "two Subject": doubled(b"Subject", b"Raypost recall"),
    "two Message-ID": doubled(b"Message-ID", b"<2@example.net>"),
    "two Date": doubled(b"Date", b"x"),
    "two from, other case": doubled(b"From", b"c@example.net").replace(b"From: c", b"fROM : c"),
    "a second From behind a bare CR": HEAD + b"X: y\rFrom: c@example.net\r\n\r\nhello",
    "NUL in the header": HEAD + b"X: \0\r\n\r\nhello",
    "header of 30 MB in one field": HEAD + b"X: " + b"y" * (30 << 20) + b"\r\n\r\nhello",
    "header of 300,000 fields": HEAD + b"X: y\r\n" * 300_000 + b"\r\nhello",
    "header of 300,000 continuation lines": HEAD + b"X: y\r\n" + b" z\r\n" * 300_000 + b"\r\nhello",
    "header that never ends": b"x" * (30 << 20),
    "part header of 1 MB": encrypted(b"--B\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\nx\r\n--B\r\n\r\ny\r\n"),
    "boundary of 60 kB": HEAD + b"Content-Type: multipart/encrypted; boundary=" + b"B" * 60_000 + b"\r\n\r\n",
    "base64 that is none": encrypted(
        b"--B\r\nContent-Type: application/pgp-encrypted\r\n\r\n--B\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + b"*" * (10 << 20)
        + b"\r\n"
    ),
    "quoted-printable line without an end": encrypted(
        b"--B\r\nContent-Type: application/pgp-encrypted\r\n\r\n"
        b"--B\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=41" * (5 << 20) + b"\r\n"
    ),
    "no closing boundary in 30 MB": encrypted(b"--B\r\n\r\n" + b"-\r\n" * (10 << 20))[:-7],
    "a 1 MB From": HEAD.replace(b"a@example.org", b"<" * 60_000)
    + b"Content-Type: multipart/encrypted; boundary=B\r\n\r\n"
    b"--B\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--B\r\n\r\nx\r\n--B--\r\n",
}

CONTROL = b"--B\r\nContent-Type: application/vnd.raypost+json\r\n\r\n%b\r\n"
ENTITY = b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + CONTROL

HOSTILE_ENTITIES = {
    "nested": nested(3000),
    "100,000 items": ENTITY % b"{}" + b"--B\r\nContent-Transfer-Encoding: binary\r\n\r\nx\r\n" * 100_000 + b"--B--\r\n",
    "deep JSON": ENTITY % (b'{"a":' + b"[" * 2_000_000) + b"--B--\r\n",
    "wide JSON": ENTITY % (b'{"a":"' + b"x" * (20 << 20) + b'"}') + b"--B--\r\n",
    "huge number": ENTITY % (b'{"a":' + b"9" * (7 << 20) + b"}") + b"--B--\r\n",
    "item in an item": ENTITY
    % b"{}"
    + b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\nContent-Transfer-Encoding: binary\r\n\r\n--C\r\n\r\n"
    b"--C--\r\n--B--\r\n",
    "header bomb": ENTITY % b"{}" + b"--B\r\n" + b"X: y\r\n" * 100_000 + b"\r\n\r\n--B--\r\n",
}


def refused(read, mail, target):
    view = memoryview(mail)
    begin = time.process_time()
    with pytest.raises(BadInputError):
        read(view, target)
    assert time.process_time() - begin < TIME_MAX_S
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError):
            read(view, target)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mails_are_refused(name):
    refused(read_outer, HOSTILE[name], io.BytesIO())


@pytest.mark.parametrize("name", HOSTILE_ENTITIES)
def test_hostile_entities_are_refused(name):
    refused(read_entity, HOSTILE_ENTITIES[name], None)


def test_honest_mails_just_below_the_bounds_pass():
    assert read_outer(memoryview(nested(19)), io.BytesIO()) == {"form": "other"}
    assert read_outer(memoryview(nested(1, 400)), io.BytesIO()) == {"form": "other"}
    many_words = HEAD + b"\r\n" + b"a text about Content-Type and multipart/mixed " * 100
    assert read_outer(memoryview(many_words), io.BytesIO()) == {"form": "other"}


def test_a_large_honest_mail_is_read_fast_and_in_flat_memory():
    mail = encrypted(
        b"--B\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--B\r\n\r\n"
        + (b"A" * 64 + b"\r\n") * 500_000
    )
    begin = time.process_time()
    with pathlib.Path("/dev/null").open("wb") as target:
        found = read_outer(memoryview(mail), target)
        assert time.process_time() - begin < TIME_MAX_S
        tracemalloc.start()
        read_outer(memoryview(mail), target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["ciphertext_bytes"] > 30 << 20 and peak < 8 << 20
