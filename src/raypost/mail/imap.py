"""Fetches and deletes messages on a relay; waits for new ones (IDLE); knows what IMAPClient does not say."""

from __future__ import annotations

import contextlib
import imaplib
import select
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self

import imapclient
from imapclient.exceptions import IMAPClientError, LoginError
from imapclient.response_parser import parse_fetch_response

from raypost.errors import BadInputError, IntegrityError, LocalProtocolError, LoginRefusedError, UnreachableError
from raypost.mail.collecting_order import Listed
from raypost.mail.envelope_fields import FIELDS, FIELDS_MAX_BYTES, read_fields
from raypost.mail.listing import Survey
from raypost.mail.mime_scan import printable
from raypost.mail.tls import client_context, connection_error, starttls_missing

MAILBOX = "INBOX"
FETCH_RANGE_BYTES = 2 << 20
"""One range of a message at most; a range, not the message, is what is held in memory."""
FETCH_RANGE_FIRST_BYTES = 256 << 10
FETCH_RANGE_MIN_BYTES = 32 << 10
FETCH_RANGE_S = 0.5
"""Between two ranges an urgent message may be fetched, so a range takes about so long at most on a slow line."""
LANDMARKS_MAX = 500
"""In one command, which is 4 kB long then."""
LISTED_OLDEST_MAX = 500
LISTED_NEWEST_MAX = 100
DELETED_AT_ONCE_MAX = 500
CONNECT_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 60.0
WAKE_CHECK_S = 0.25
POLL_INTERVAL_S = 5.0
"""Between two NOOPs where the relay has no IDLE."""
IDLE_MAX_S = 29 * 60.0
"""RFC 2177: a server may log out a client that idles for 30 minutes."""
SERVER_TEXT_LENGTH_MAX = 300

_LISTED_ITEMS = f"(UID RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS ({' '.join(FIELDS)})]<0.{FIELDS_MAX_BYTES}>)"


@dataclass(frozen=True, slots=True)
class ImapAccount:
    """Our mailbox on one relay.

    Args:
        relay: The relay's name in settings and events.
        host: Host name as its certificate says it, or an IP address.
        port: TCP port.
        security: TLS from the first byte, or STARTTLS; there is no third.
        username: Login.
        password: Password; never shown.
        ca_file: Authority to trust instead of the system's.
        timeout_s: How long a command may stay without an answer.
        connect_timeout_s: How long a connection may take.
    """

    relay: str
    host: str
    port: int
    security: Literal["tls", "starttls"]
    username: str
    password: str = field(repr=False)
    ca_file: Path | None = None
    timeout_s: float = COMMAND_TIMEOUT_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S


class ImapMailbox:
    """The inbox of one account over one logged-in connection; a context manager, for one thread.

    Entering raises UnreachableError, LoginRefusedError or SecurityError (certificate, missing STARTTLS). Any method
    raises UnreachableError when the connection is lost; then the mailbox is entered anew.

    Attributes:
        is_lost: The relay failed us, at the log-in or later; errors of others that pass through do not count.
    """

    def __init__(self, account: ImapAccount) -> None:
        self.account = account
        self.uid_validity = 0
        self._where = f"{account.host}:{account.port}"
        self._client: Any = None
        self.is_lost = False
        self._capabilities: frozenset[bytes] = frozenset()
        self._range_bytes = FETCH_RANGE_FIRST_BYTES
        self.fetched_in_s = 0.0
        self._next_uid = 1

    def __enter__(self) -> Self:
        self.is_lost = True  # until we are in
        self.uid_validity = 0
        client = self._client = self._connect()
        # IMAPClient turns imaplib's debugging on, which renders every literal into a log text nobody reads.
        client._imap.debug = 0
        client.normalise_times = False  # INTERNALDATE with its zone, not as a naive local time
        try:
            with self._translated():
                self._log_in(client)
                self._learn_capabilities(client)
                self._select()
        except BaseException:
            self._shut_down()
            raise
        self.is_lost = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None and kind is None:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                self._client.logout()
        self._shut_down()

    def survey(self, step: int) -> Survey:
        """Find where the messages lie, by the IMAP UIDs of every so many-th: two short commands, whatever is there."""
        with self._translated():
            count = self._select()
            newest_uid = self._next_uid - 1
            if not count:
                return Survey((), newest_uid)
            # Sequence numbers are right here: nothing is expunged between a SELECT and the next command.
            # One shortly before the end: the newest few are listed in one short answer, before all others.
            near_end = max(1, count - LISTED_NEWEST_MAX + 1)
            numbers = sorted({*range(1, count + 1, max(step, count // LANDMARKS_MAX)), near_end, count})
            answers = self._fetched(self._open()._imap.fetch(",".join(map(str, numbers)), "(UID)"), by_uid=False)
        landmarks = sorted(one for answer in answers.values() if isinstance(one := answer.get(b"UID"), int))
        return Survey(landmarks, max([newest_uid, *landmarks[-1:]]))

    def list_range(self, first_uid: int, last_uid: int, *, and_newest: bool = False) -> list[Listed]:
        """List the messages of a range of IMAP UIDs, in their order.

        Args:
            first_uid: Lowest, included.
            last_uid: Highest, included; the caller bounds how many messages that can be.
            and_newest: The newest message of all as well, whether in the range or not.
        """
        wanted = f"{first_uid}:{last_uid}" + (",*" if and_newest else "")
        with self._translated():
            answers = self._fetched(self._open()._imap.uid("FETCH", wanted, _LISTED_ITEMS), by_uid=True)
        found = [one for imap_uid, answer in answers.items() if (one := _listed(imap_uid, answer)) is not None]
        return sorted(found, key=lambda one: one.imap_uid)

    def list_messages(self) -> list[Listed]:
        """Return the oldest and the newest messages, at most LISTED_OLDEST_MAX + LISTED_NEWEST_MAX: a short look."""
        with self._translated():
            count = self._select()
            if not count:
                return []
            oldest, newest = min(count, LISTED_OLDEST_MAX), max(1, count - LISTED_NEWEST_MAX + 1)
            wanted = f"1:{count}" if newest <= oldest else f"1:{oldest},{newest}:{count}"
            answers = self._fetched(self._open()._imap.fetch(wanted, _LISTED_ITEMS), by_uid=False)
        found = [_listed(answer.get(b"UID"), answer) for _, answer in sorted(answers.items())]
        return [one for one in found if one is not None]

    def look(self) -> bool:
        """Say whether the relay tells of new messages, without waiting."""
        client = self._open()
        with self._translated():
            is_news = self._news()
            if not is_news:
                client.noop()
                is_news = self._news()
            client._imap.untagged_responses.clear()  # nobody reads the rest, which would grow for ever
            return is_news

    def fetch(
        self, imap_uid: int, target: Path, size_max_bytes: int, between: Callable[[], None] | None = None
    ) -> int | None:
        """Write one message into a file, range by range.

        Args:
            imap_uid: Which message.
            target: The file to write; replaced if it exists. The caller syncs it.
            size_max_bytes: A larger message is not fetched.
            between: Called between two ranges; it may use this mailbox.

        Returns:
            Its size in bytes, or None if it is no longer there. `fetched_in_s` says how long the relay took to give it.

        Raises:
            BadInputError: The message is larger than allowed.
            IntegrityError: The relay gave fewer bytes than it announced.
        """
        written_bytes = announced_bytes = 0
        self.fetched_in_s = 0.0
        with contextlib.ExitStack() as closing:
            out = None
            while True:
                range_bytes, begin = self._range_bytes, monotonic()
                found = self._fetch_range(imap_uid, written_bytes, range_bytes)
                if found is None:
                    return None
                announced_bytes, data = found
                if announced_bytes > size_max_bytes:
                    raise BadInputError(f"A mail of {announced_bytes} bytes is larger than allowed ({size_max_bytes}).")
                out = out or closing.enter_context(target.open("wb"))
                out.write(data)
                written_bytes += len(data)
                if written_bytes > size_max_bytes:
                    raise BadInputError("A mail is longer than the relay announced, and than allowed.")
                passed_s = monotonic() - begin
                self.fetched_in_s += passed_s
                if len(data) != range_bytes:  # shorter: the end; longer: the relay does not know ranges
                    break
                self._adapt_range(passed_s)
                if between is not None:
                    between()
        # Some servers announce a little less than they have; never the other way round.
        if written_bytes < announced_bytes:
            raise IntegrityError(f"The relay announced a mail of {announced_bytes} bytes and gave {written_bytes}.")
        return written_bytes

    def delete(self, imap_uids: Sequence[int]) -> None:
        r"""Remove messages for good: \Deleted, then UID EXPUNGE of exactly these (RFC 4315) where the relay has it.

        Those that are gone already are not an error.
        """
        client = self._open()
        for start in range(0, len(imap_uids), DELETED_AT_ONCE_MAX):
            some = list(imap_uids[start : start + DELETED_AT_ONCE_MAX])
            with self._translated():
                client.add_flags(some, [imapclient.DELETED], silent=True)
                if b"UIDPLUS" in self._capabilities:
                    client.uid_expunge(some)
                else:
                    client.expunge()
                client._imap.untagged_responses.pop("EXPUNGE", None)

    def wait(self, timeout_s: float, wake: threading.Event | None = None) -> bool:
        """Wait until something new may be in the mailbox (IDLE, RFC 2177; NOOP every few seconds without it).

        Args:
            timeout_s: How long at most, below 29 minutes; then the caller lists again and waits anew.
            wake: Ends the wait early when set by another thread.

        Returns:
            True if the relay told of new messages since the last `list_messages`.
        """
        client = self._open()
        deadline = monotonic() + min(timeout_s, IDLE_MAX_S)
        with self._translated():
            # A command after the last listing may have brought the news already; then IDLE would stay silent.
            if self._news():
                return True
            if b"IDLE" not in self._capabilities:
                return self._wait_by_noop(deadline, wake)
            client.idle()
            came = self._wait_idle(deadline, wake)
            client.idle_done()
            return self._news() or came

    def _open(self) -> Any:
        if self._client is None:
            if self.is_lost:
                raise UnreachableError(f"The connection to {self._where} is lost.")
            raise LocalProtocolError("An IMAP mailbox is used outside its context.")
        return self._client

    def _connect(self) -> Any:
        account = self.account
        context = client_context(account.ca_file)
        limits = imapclient.SocketTimeout(account.connect_timeout_s, account.timeout_s)
        is_tls = account.security == "tls"
        try:
            client = imapclient.IMAPClient(account.host, account.port, ssl=is_tls, ssl_context=context, timeout=limits)
        except imaplib.IMAP4.error as error:
            raise UnreachableError(f"{self._where} does not speak IMAP, or hung up.") from error
        except OSError as error:
            raise connection_error(self._where, error) from error
        if not is_tls:
            self._start_tls(client, context)
        return client

    def _start_tls(self, client: Any, context: ssl.SSLContext) -> None:
        try:
            if not client.has_capability("STARTTLS"):
                raise starttls_missing(self._where)
            client.starttls(context)
        except imaplib.IMAP4.error as error:
            client.shutdown()
            raise starttls_missing(self._where) from error
        except OSError as error:
            client.shutdown()
            raise connection_error(self._where, error) from error
        except BaseException:
            client.shutdown()
            raise

    def _log_in(self, client: Any) -> None:
        account = self.account
        try:
            # LOGIN takes ASCII only; PLAIN takes any password.
            if client.has_capability("AUTH=PLAIN"):
                client.plain_login(account.username, account.password)
            else:
                client.login(account.username, account.password)
        except LoginError as error:
            text = _server_text(error)
            if "[UNAVAILABLE]" in text:  # RFC 5530: a subsystem of the relay is down, the password is not at fault
                raise UnreachableError(f"{self._where} cannot check the login now: {text}") from error
            raise LoginRefusedError(
                f"{self._where} refuses the login of {account.username}: {text}", peer_text=text
            ) from error
        except UnicodeError as error:
            raise LoginRefusedError(f"{self._where} takes only plain ASCII passwords.") from error

    def _learn_capabilities(self, client: Any) -> None:
        # The list before login is shorter, and IMAPClient would keep the first one it saw.
        _, data = client._imap.capability()
        self._capabilities = frozenset(b" ".join(one for one in data if one).upper().split())
        client._cached_capabilities = tuple(self._capabilities)

    def _select(self) -> int:
        """Select the inbox anew; learn UIDVALIDITY and UIDNEXT and return how many messages there are."""
        answer = self._open().select_folder(MAILBOX)
        self._news()
        before, self.uid_validity = self.uid_validity, int(answer.get(b"UIDVALIDITY", 0))
        if before not in (0, self.uid_validity):  # the numbers known so far may name other messages now
            raise imaplib.IMAP4.abort("the mailbox was made anew")
        self._next_uid = int(answer.get(b"UIDNEXT", 1))
        return int(answer.get(b"EXISTS", 0))

    def _fetched(self, answer: tuple[str, list[Any]], *, by_uid: bool) -> dict[int, dict[bytes, Any]]:
        """Read the answer to a FETCH of a range, which IMAPClient's own `fetch` cannot ask for."""
        said, data = answer
        if said != "OK":
            raise IMAPClientError(f"FETCH: {data[:1]}")
        found: dict[int, dict[bytes, Any]] = parse_fetch_response(data, self._open().normalise_times, by_uid)
        return found

    def _fetch_range(self, imap_uid: int, offset_bytes: int, range_bytes: int) -> tuple[int, bytes] | None:
        """Return the announced size of a message and one range of it; None when it is not there."""
        items = ["RFC822.SIZE", f"BODY.PEEK[]<{offset_bytes}.{range_bytes}>"]
        with self._translated():
            answer = self._open().fetch([imap_uid], items).get(imap_uid, {})
        announced_bytes = answer.get(b"RFC822.SIZE")
        for name, value in answer.items():
            # The item is BODY[]<offset>; a server that answers the whole message without a range is not asked again.
            if name.startswith(b"BODY[]<") or (offset_bytes == 0 and name == b"BODY[]"):
                is_there = isinstance(value, bytes) and isinstance(announced_bytes, int)
                return (announced_bytes, value) if is_there else None
        return None

    def _adapt_range(self, took_s: float) -> None:
        if took_s > FETCH_RANGE_S:
            self._range_bytes = max(self._range_bytes // 2, FETCH_RANGE_MIN_BYTES)
        elif took_s < FETCH_RANGE_S / 4:
            self._range_bytes = min(self._range_bytes * 2, FETCH_RANGE_BYTES)

    def _news(self) -> bool:
        """Say whether an untagged EXISTS or RECENT came since the last time this was asked."""
        untagged = self._client._imap.untagged_responses
        came = [name for name in ("EXISTS", "RECENT") if untagged.pop(name, None)]
        return "EXISTS" in came

    def _wait_by_noop(self, deadline: float, wake: threading.Event | None) -> bool:
        pause = wake or threading.Event()
        while (left_s := deadline - monotonic()) > 0:
            if pause.wait(min(left_s, POLL_INTERVAL_S)):
                return False
            self._client.noop()
            if self._news():
                return True
        return False

    def _wait_idle(self, deadline: float, wake: threading.Event | None) -> bool:
        """Read what comes during IDLE until something new is told; detect a lost connection.

        IMAPClient's own `idle_check` takes an end of file for silence, and does not see lines that came in one piece
        with the relay's go-ahead.
        """
        connection = self._client.socket()
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        while True:
            while self._has_buffered():
                line = self._client._imap._get_line()
                if line.rstrip().upper().endswith(b" EXISTS"):
                    return True
                if line.upper().startswith(b"* BYE"):
                    raise UnreachableError(f"{self._where} says good-bye.")
            left_s = deadline - monotonic()
            if left_s <= 0 or (wake is not None and wake.is_set()):
                return False
            poller.poll(1000 * min(left_s, WAKE_CHECK_S if wake is not None else left_s))

    def _has_buffered(self) -> bool:
        """Say whether a byte can be read now without waiting."""
        connection = self._client.socket()
        connection.setblocking(False)
        try:
            if not self._client._imap.file.peek(1):
                raise UnreachableError(f"{self._where} closed the connection.")
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            connection.settimeout(self.account.timeout_s)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what IMAPClient, imaplib and the socket raise into our errors; the connection is unusable then."""
        try:
            yield
        except (imaplib.IMAP4.abort, OSError) as error:
            self.is_lost = True
            self._shut_down()
            cause = error if isinstance(error, OSError) else OSError(None, "connection lost")
            raise connection_error(self._where, cause) from error
        except (IMAPClientError, ValueError, KeyError, IndexError) as error:
            # A NO or BAD to a command that cannot fail for another reason, or an answer that is not IMAP.
            self.is_lost = True
            self._shut_down()
            raise UnreachableError(f"{self._where} answers unexpectedly: {_server_text(error)}") from error

    def _shut_down(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                client.shutdown()


def _listed(imap_uid: object, answer: dict[bytes, Any]) -> Listed | None:
    size_bytes = answer.get(b"RFC822.SIZE")
    if not isinstance(imap_uid, int) or not isinstance(size_bytes, int):
        return None  # Expunged between the listing and the answer.
    block = next((value for name, value in answer.items() if name.startswith(b"BODY[HEADER.FIELDS")), None)
    sender, token = read_fields(block if isinstance(block, bytes) else b"")
    taken_at = answer.get(b"INTERNALDATE")
    is_instant = isinstance(taken_at, datetime) and taken_at.tzinfo is not None
    return Listed(imap_uid, size_bytes, token, taken_at if is_instant else None, sender)


def _server_text(error: Exception) -> str:
    text = str(error)
    return printable(text[2:-1] if text.startswith(("b'", 'b"')) else text, SERVER_TEXT_LENGTH_MAX)
