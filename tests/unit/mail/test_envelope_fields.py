"""Sender and token before a mail is fetched: who the relay let in, not who a mail says it is from."""

import pytest

from raypost.mail.envelope_fields import read_fields
from raypost.mail.tokens import Token

TOKEN = b"Raypost-Token: abcdefghij; kind=announce; number=1\r\n"


@pytest.mark.parametrize(
    ("block", "sender"),
    [
        (b"Return-Path: <a@x.test>\r\nFrom: b@y.test\r\n", "a@x.test"),
        (b"From: b@y.test\r\nReturn-Path: <A@X.test>\r\n", "a@x.test"),
        (b"Return-Path: <a@x.test>\r\nReturn-Path: <forged@y.test>\r\n", "a@x.test"),
        (b"Return-Path: <>\r\nFrom: b@y.test\r\n", ""),
        (b"Return-Path: nonsense\r\nFrom: b@y.test\r\n", None),
        (b"From: B@y.test\r\n", "b@y.test"),
        (b'From: "a@x.test" <b@y.test>\r\n', "b@y.test"),
        (b"from:\r\n\t<b@y.test>\r\n\r\n", "b@y.test"),
        (b"From: a@x.test, b@y.test\r\n", None),
        (b"From: \xffb@y.test\r\n", None),
        (b"X-From: b@y.test\r\n", None),
        (b"", None),
        (b"Return-Path", None),
        (b"From: <" + b"a" * 5000 + b"@y.test>\r\n", None),
        (b"<" * 5000, None),
    ],
)
def test_sender(block, sender):
    assert read_fields(block) == (sender, None)
    if len(block) < 500:
        assert read_fields(TOKEN + block) == (sender, Token("abcdefghij", "announce", 1))


def test_a_token_said_twice_is_none():
    assert read_fields(TOKEN + TOKEN)[1] is None
    assert read_fields(b"Raypost-Token: abcdefghij;\r\n kind=receipt; number=7\r\n")[1] == Token(
        "abcdefghij", "receipt", 7
    )
