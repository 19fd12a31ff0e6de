"""Mailboxes in memory: pymap's dict backend, without its line by line parsing of large mails."""

from __future__ import annotations

import argparse
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time
from typing import Any
from uuid import uuid4

from proxyprotocol.result import ProxyResultLocal
from proxyprotocol.sock import SocketInfo
from pymap.backend.dict import DictBackend, Identity
from pymap.backend.dict.filter import FilterSet
from pymap.backend.dict.mailbox import MailboxData, MailboxSet, Message
from pymap.imap import IMAPServer, IMAPService
from pymap.mime import MessageContent
from pymap.parsing.message import AppendMessage
from pymap.parsing.specials import ExtensionOptions, ObjectId
from pymap.user import Passwords, UserMetadata
from pysasl.hashing import BuiltinHash

HASH_ROUNDS = 1000
"""Passwords live in memory for the length of a demo; more rounds would only slow down every login."""
HEADER_LINES_MAX = 500
"""Lines after a boundary that are looked at one by one; what follows them is body."""
_HEADER_END = re.compile(rb"(?:\A|\n)\r?\n")
_RETURN_PATH = re.compile(rb"^return-path[ \t]*:.*(?:\n[ \t].*)*(?:\n|\Z)", re.IGNORECASE | re.MULTILINE)


class Mailboxes:
    """All mailboxes of the relay, by lower-case address."""

    def __init__(self) -> None:
        self._identities: dict[str, Identity] = {}
        self._backend: Any = None
        self._config: Any = None

    async def open(self, users: Mapping[str, str]) -> None:
        """Make an empty mailbox for every address, with its password."""
        parser = argparse.ArgumentParser()  # pymap takes its configuration from parsed arguments
        IMAPService.add_arguments(parser)
        DictBackend.add_subparser("dict", parser.add_subparsers())
        arguments = parser.parse_args(["--no-tls", "dict"])  # no STARTTLS offer: TLS is around the socket already
        arguments.debug = False
        hashing = BuiltinHash(hash_name="sha256", rounds=HASH_ROUNDS)
        self._backend, self._config = await DictBackend.init(arguments, hash_context=hashing)
        for address, password in users.items():
            identity = Identity(address.lower(), self._backend.login, None, frozenset({"admin"}))
            hashed = await Passwords(self._config).hash_password(password)
            await identity.set(UserMetadata(self._config, address.lower(), password=hashed))
            self._config.set_cache[address.lower()] = (_RelayMailboxSet(), FilterSet())
            self._identities[address.lower()] = identity

    def has(self, address: str) -> bool:
        """Say whether there is a mailbox for this address."""
        return address.lower() in self._identities

    async def deliver(self, address: str, mail: bytes, now: datetime) -> None:
        """Put a mail into a mailbox; clients that idle are told at once."""
        async with self._identities[address.lower()].new_session() as imap_session:
            message = AppendMessage(mail, now, frozenset(), ExtensionOptions.empty())
            await imap_session.append_messages("INBOX", [message])

    async def serve_imap(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Talk IMAP with one client until it leaves."""
        client = SocketInfo.get(writer, ProxyResultLocal(), unique_id=uuid4().bytes)
        await IMAPServer(self._backend.login, self._config)(reader, writer, client)


class _RelayMailboxSet(MailboxSet):
    def __init__(self) -> None:
        super().__init__()
        self._inbox = _RelayMailbox(self._content_cache, self._thread_cache)


class _RelayMailbox(MailboxData):
    async def append(self, append_msg: AppendMessage, *, recent: bool = False) -> Message:
        """Add a mail: as the original does, but parsed coarsely, and without its index of contents and threads."""
        content = coarse_content(append_msg.literal)
        when = append_msg.when or datetime.fromtimestamp(time(), UTC)
        async with self.messages_lock.write_lock():
            self._max_uid += 1
            message = Message(
                self._max_uid,
                when,
                append_msg.flag_set,
                recent=recent,
                content=content,
                email_id=ObjectId.random_email_id(),
                thread_id=ObjectId.random_thread_id(),
            )
            self._messages[self._max_uid] = message
            self._mod_sequences.update([self._max_uid])
            self._updated.set()
            return message


def with_return_path(mail: bytes, sender: str) -> bytes:
    """Return a mail as it is delivered: the envelope sender on top, none that came with it (RFC 5321, 4.4).

    One copy of the mail is made, for all its recipients.
    """
    path = b"Return-Path: <" + sender.encode() + b">\r\n"
    end = _HEADER_END.search(mail)
    header_bytes = end.start() if end else len(mail)
    if _RETURN_PATH.search(mail, 0, header_bytes) is None:
        return path + mail
    # With the line end of its last field, which may be the one that goes.
    header_bytes = end.start() + 1 if end and end.start() else header_bytes
    return b"".join((path, _RETURN_PATH.sub(b"", mail[:header_bytes]), memoryview(mail)[header_bytes:]))


def coarse_content(mail: bytes) -> MessageContent:
    """Parse a mail as pymap does, with each body as one line: one tuple instead of one for every 64 characters."""
    return MessageContent._parse(mail, memoryview(mail), coarse_lines(mail))


def coarse_lines(mail: bytes) -> list[tuple[int, int, int]]:
    """Return (begin, end without line end, begin of the next) of header lines, boundary lines, and whole bodies."""
    lines: list[tuple[int, int, int]] = []
    position = 0
    header_lines_left = HEADER_LINES_MAX
    while True:
        if header_lines_left:
            newline = mail.find(b"\n", position)
            header_lines_left -= 1
        else:
            boundary = mail.find(b"\n--", position)
            newline = boundary if boundary >= 0 else mail.rfind(b"\n", position)
            header_lines_left = HEADER_LINES_MAX
        if newline < 0:
            lines.append((position, len(mail), len(mail)))
            return lines
        end = newline - 1 if newline > position and mail[newline - 1] == 0x0D else newline
        lines.append((position, end, newline + 1))
        if end == position:  # An empty line ends a header.
            header_lines_left = 0 if header_lines_left else HEADER_LINES_MAX
        if mail.startswith(b"--", newline + 1):
            header_lines_left = HEADER_LINES_MAX
        position = newline + 1
