"""Bounded byte scanning of MIME: header blocks, body parts, transfer encodings. Builds no tree and never recurses."""

from __future__ import annotations

import binascii
import email.message
import email.parser
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raypost.errors import BadInputError

HEADER_MAX_BYTES = 64 * 1024
"""A longer header block is refused; an honest one of ours has under 1 kB, with Received lines under 4 kB."""
MULTIPARTS_MAX = 20
"""Multiparts in one mail, nested or not: stricter than a depth, and countable without parsing."""
PARTS_MAX = 500
CHUNK_BYTES = 1 << 20
FIRST_CHUNK_BYTES = 1 << 12
LINE_MAX_BYTES = 64 * 1024
"""Longest encoded line that quoted-printable decoding waits for; RFC 2045, 6.7 allows 76."""
ONCE = (
    b"from",
    b"to",
    b"subject",
    b"message-id",
    b"date",
    b"content-type",
    b"content-transfer-encoding",
    b"raypost-token",
)
"""Fields allowed once (RFC 5322, 3.6; RFC 2045, 3): of two, the first would win silently."""
IDENTITY_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_MULTIPART = re.compile(rb"(?i)content-type[ \t]*:\s{0,16}multipart/")


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header block and where its body begins."""

    fields: email.message.Message
    body_start: int

    @property
    def content_type(self) -> str:
        """The media type in lower case; text/plain where it says none (RFC 2045, 5.2)."""
        return self.fields.get_content_type()

    @property
    def transfer_encoding(self) -> str:
        """The Content-Transfer-Encoding in lower case, empty where it says none."""
        return self.text("content-transfer-encoding", 40).strip().lower()

    def text(self, name: str, length_max: int) -> str:
        """Return one unfolded field as printable ASCII, at most so long; empty where it is missing."""
        value = self.fields.get(name)
        return "" if value is None else printable(str(value), length_max)


def printable(text: str, length_max: int) -> str:
    """Return the text on one line, without control or non-ASCII characters, cut to a length."""
    flat = " ".join(text[: 4 * length_max].split())
    return "".join(one if " " <= one <= "~" else "?" for one in flat)[:length_max]


def find(source: memoryview, needle: bytes, start: int, end: int) -> int:
    """Return where the needle begins, or -1; copies one chunk at a time, so that memory stays flat."""
    position = start
    chunk_bytes = FIRST_CHUNK_BYTES  # small at first: many small parts must not cost a large copy each
    while position + len(needle) <= end:
        chunk = bytes(source[position : min(position + chunk_bytes, end)])
        found = chunk.find(needle)
        if found >= 0:
            return position + found
        position += max(len(chunk) - len(needle) + 1, 1)
        chunk_bytes = min(2 * chunk_bytes, CHUNK_BYTES)
    return -1


def read_header(source: memoryview, start: int, end: int, header_max_bytes: int = HEADER_MAX_BYTES) -> Header:
    """Parse the header block that begins at `start`, with the standard library, and nothing after it.

    Raises:
        BadInputError: It is too long, or holds a bare CR or NUL (where parsers disagree), or a field twice.
    """
    window = bytes(source[start : min(end, start + header_max_bytes + 4)])
    if window.startswith((b"\r\n", b"\n")):
        return Header(_parsed(b""), start + (2 if window.startswith(b"\r\n") else 1))
    stop = _HEADER_END.search(window)
    if stop is not None:
        head_end, body_start = stop.start(), stop.end()
    else:  # Nothing but a header: the empty line may be missing (RFC 5322, 3.5).
        head_end = body_start = len(window)
    if head_end > header_max_bytes:
        raise BadInputError("A header block is too long.")
    block = window[:head_end].rstrip(b"\r\n") + b"\r\n"
    if _BARE_CR.search(block) or b"\0" in block:
        raise BadInputError("A header block holds a bare CR or NUL.")
    for name in ONCE:
        if len(re.findall(rb"(?im)^" + name + rb"[ \t]*:", block)) > 1:
            raise BadInputError(f"A header block says {name.decode()} twice.")
    return Header(_parsed(block), start + body_start)


def _parsed(block: bytes) -> email.message.Message:
    # compat32 keeps values as they are: the structured parsers of the default policy are slow on hostile addresses.
    return email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(block + b"\r\n")


def boundary_of(header: Header) -> bytes:
    """Return the boundary of a multipart (RFC 2046, 5.1.1).

    Raises:
        BadInputError: There is none, or not one of 1 to 70 printable ASCII characters.
    """
    value = header.fields.get_param("boundary")
    if not isinstance(value, str):
        raise BadInputError("A multipart names no boundary.")
    boundary = str(value).rstrip()
    if not 1 <= len(boundary) <= 70 or not boundary.isascii() or not boundary.isprintable():
        raise BadInputError("A multipart's boundary is not one.")
    return boundary.encode("ascii")


def prescan(source: memoryview, *, multiparts_max: int = MULTIPARTS_MAX, parts_max: int = PARTS_MAX) -> None:
    """Refuse a mail that would keep or break any MIME parser: cheap counts, one pass, no recursion.

    Raises:
        BadInputError: More multiparts or lines that begin with two hyphens than an honest mail has.
    """
    hyphen_lines = 1 if bytes(source[:2]) == b"--" else 0
    multiparts = 0
    overlap = 16  # longer than either needle, so that none is lost between two chunks
    for position in range(0, len(source), CHUNK_BYTES):
        chunk = bytes(source[max(position - 2, 0) : position + CHUNK_BYTES])
        hyphen_lines += chunk.count(b"\n--")
        multiparts += bytes(source[position : position + CHUNK_BYTES + overlap]).lower().count(b"multipart/")
        if hyphen_lines > 2 * parts_max:
            raise BadInputError("A mail has too many parts.")
    if multiparts > multiparts_max and _count_multipart_fields(source, multiparts_max) > multiparts_max:
        raise BadInputError("A mail has too many multiparts inside each other.")


def _count_multipart_fields(source: memoryview, enough: int) -> int:
    count = 0
    for _ in _MULTIPART.finditer(source):
        count += 1
        if count > enough:
            break
    return count


def body_parts(source: memoryview, start: int, boundary: bytes, parts_max: int) -> list[tuple[int, int]]:
    """Return where each body part of a multipart begins and ends, headers included (RFC 2046, 5.1.1).

    The line end before a boundary belongs to the boundary. Preamble and epilogue are skipped.

    Raises:
        BadInputError: The closing boundary is missing, or there are more parts than allowed.
    """
    delimiter = b"--" + boundary
    parts: list[tuple[int, int]] = []
    open_at = -1
    position = start
    while True:
        found = _next_delimiter(source, delimiter, position)
        if found < 0:
            raise BadInputError("A multipart is cut off: its closing boundary is missing.")
        after = found + len(delimiter)
        rest = bytes(source[after : after + 2])
        if open_at >= 0:
            parts.append((open_at, max(_line_end_before(source, found), open_at)))
            if len(parts) > parts_max:
                raise BadInputError("A multipart has too many parts.")
        if rest == b"--":
            return parts
        open_at = position = _line_after(source, after)


def _next_delimiter(source: memoryview, delimiter: bytes, position: int) -> int:
    """Return where the next whole delimiter line begins; a longer boundary with the same beginning is not one."""
    while True:
        found = find(source, delimiter, position, len(source))
        if found < 0:
            return -1
        after = bytes(source[found + len(delimiter) : found + len(delimiter) + 80])
        at_line_start = found == 0 or source[found - 1] == 0x0A
        if at_line_start and re.match(rb"(?:--)?[ \t]*(?:\r?\n|\Z)", after):
            return found
        position = found + 1


def _line_after(source: memoryview, position: int) -> int:
    newline = find(source, b"\n", position, min(len(source), position + LINE_MAX_BYTES))
    return len(source) if newline < 0 else newline + 1


def _line_end_before(source: memoryview, position: int) -> int:
    if bytes(source[max(position - 2, 0) : position]) == b"\r\n":
        return position - 2
    return position - 1


def decode_body(source: memoryview, start: int, end: int, encoding: str, target: BinaryIO) -> int:
    """Write a body without its Content-Transfer-Encoding (RFC 2045, 6) into the target; return the bytes written.

    Raises:
        BadInputError: An unknown encoding, or bytes that are not what the encoding allows.
    """
    written = 0
    for piece in decoded_chunks(source, start, end, encoding):
        target.write(piece)
        written += len(piece)
    return written


def decoded_chunks(source: memoryview, start: int, end: int, encoding: str) -> Iterator[bytes]:
    """Yield a body decoded, a bounded piece at a time; the output is never longer than the input."""
    if encoding in IDENTITY_ENCODINGS:
        for position in range(start, end, CHUNK_BYTES):
            yield bytes(source[position : min(position + CHUNK_BYTES, end)])
    elif encoding == "base64":
        yield from _base64_chunks(source, start, end)
    elif encoding == "quoted-printable":
        yield from _quoted_printable_chunks(source, start, end)
    else:
        raise BadInputError("A body part has an unknown Content-Transfer-Encoding.")


def _base64_chunks(source: memoryview, start: int, end: int) -> Iterator[bytes]:
    carry = b""
    for position in range(start, end, CHUNK_BYTES):
        chunk = bytes(source[position : min(position + CHUNK_BYTES, end)]).translate(None, b" \t\r\n")
        carry += chunk
        whole = len(carry) // 4 * 4
        ready, carry = carry[:whole], carry[whole:]
        if b"=" in ready and position + CHUNK_BYTES < end:
            raise BadInputError("A base64 body ends before its end.")
        yield _from_base64(ready)
    if carry:
        raise BadInputError("A base64 body is cut off.")


def _from_base64(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except binascii.Error as error:
        raise BadInputError("A base64 body is damaged.") from error


def _quoted_printable_chunks(source: memoryview, start: int, end: int) -> Iterator[bytes]:
    carry = b""
    for position in range(start, end, CHUNK_BYTES):
        carry += bytes(source[position : min(position + CHUNK_BYTES, end)])
        cut = carry.rfind(b"\n") + 1
        ready, carry = carry[:cut], carry[cut:]
        if len(carry) > LINE_MAX_BYTES and position + CHUNK_BYTES < end:
            raise BadInputError("A quoted-printable line has no end.")
        yield binascii.a2b_qp(ready)
    yield binascii.a2b_qp(carry)
