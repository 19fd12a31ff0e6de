"""The embedded relay's faults on order, as the mail package and a process see them."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raypost.errors import UsageError
from raypost.mail.imap import ImapAccount, ImapMailbox
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.smtp import Accepted, Deferred, Refused, SmtpAccount, SmtpSession, TooLarge
from raypost.relay.certificates import make_test_authority
from raypost.relay.faults import DELAY_MAX_S, ORDER_MAX_BYTES, FaultPlan, Faults
from raypost.relay.server import EmbeddedRelay, RelayOptions

ALPHA, BETA = "alpha@raypost.test", "beta@raypost.test"
USERS = {ALPHA: "secret-a", BETA: "secret-b"}
MAIL_BYTES = 3000


@dataclass
class Bench:
    """A relay in a thread of its own."""

    folder: Path
    smtp_port: int = 0
    imap_port: int = 0
    accepted: list[tuple[int, str, str, int]] = field(default_factory=list)
    relay: EmbeddedRelay | None = None

    def order(self, **faults: object) -> None:
        self.relay.faults.order(json.dumps(faults))

    def session(self, address: str = ALPHA) -> SmtpSession:
        ca_file = self.folder / "relay-ca.pem"
        return SmtpSession(
            SmtpAccount("r", "localhost", self.smtp_port, "tls", address, USERS[address], address, ca_file, 10.0)
        )

    def mailbox(self, address: str = BETA) -> ImapMailbox:
        ca_file = self.folder / "relay-ca.pem"
        return ImapMailbox(ImapAccount("r", "localhost", self.imap_port, "tls", address, USERS[address], ca_file, 10.0))

    def listed(self, address: str = BETA) -> list[int]:
        """Return the numbers of the mails that lie in a mailbox."""
        with self.mailbox(address) as mailbox:
            return sorted(one.token.number for one in mailbox.list_messages())

    def mail(self, number: int, size_bytes: int = MAIL_BYTES, to: str = BETA) -> Path:
        armour = self.folder / "armour.asc"
        lines = b"A" * 64 + b"\n"
        armour.write_bytes(
            b"-----BEGIN PGP MESSAGE-----\n\n" + lines * (size_bytes // 65) + b"-----END PGP MESSAGE-----\n"
        )
        headers = OuterHeaders(
            ALPHA, to, datetime.now(UTC), f"<m{number}@raypost.test>", "abcdefghij", "parcel", number
        )
        target = self.folder / f"mail-{number}"
        write_message(headers, armour, f"b{number:020}", target)
        return target

    def submit(self, numbers: range, to: str = BETA) -> list[object]:
        with self.session() as session:
            return [session.submit(to, self.mail(number, to=to)) for number in numbers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    _, certificate, secret_key = make_test_authority(tmp_path, ["localhost"], datetime.now(UTC))
    it, up, loop, stop = Bench(tmp_path), threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        options = RelayOptions(USERS, certificate, secret_key, size_max_bytes=100_000, seed=3)
        async with EmbeddedRelay(options, lambda *one: it.accepted.append(one)) as it.relay:
            it.smtp_port, it.imap_port = it.relay.smtp_port, it.relay.imap_port
            up.set()
            await stop.wait()
        await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    yield it
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def test_dropped_mails_are_accepted_and_kept_nowhere(bench: Bench) -> None:
    bench.order(drop=0.4)
    outcomes = bench.submit(range(1, 31))
    assert all(isinstance(one, Accepted) for one in outcomes)
    kept = [number for number, one in enumerate(bench.accepted, start=1) if one[3] == 1]
    assert bench.listed() == kept and 10 <= len(kept) <= 25
    bench.order(drop=0)
    bench.submit(range(31, 41))
    assert bench.listed() == [*kept, *range(31, 41)], "the order is over"


def test_the_same_seed_loses_the_same_mails() -> None:
    def copies(seed: int, **order: object) -> list[int]:
        plan = FaultPlan(seed)
        plan.order(json.dumps(order))
        return [plan.copies(BETA) for _ in range(50)]

    assert copies(1, drop=0.3, double=0.3) == copies(1, drop=0.3, double=0.3) != copies(2, drop=0.3, double=0.3)
    assert set(copies(1, drop=0.3, double=0.3)) == {0, 1, 2}
    losses = [one == 0 for one in copies(1, drop=0.3, double=0.3)]
    assert losses == [one == 0 for one in copies(1, drop=0.3)], "doubling does not move the losses"


def test_everything_is_swallowed_and_the_relay_says_so(bench: Bench) -> None:
    bench.order(swallow=True)
    assert all(isinstance(one, Accepted) for one in bench.submit(range(1, 4)))
    assert bench.listed() == []
    assert [one[1:] for one in bench.accepted] == [(ALPHA, BETA, 0)] * 3


def test_doubled_mails_lie_there_twice(bench: Bench) -> None:
    bench.order(double=1.0)
    bench.submit(range(1, 3))
    assert bench.listed() == [1, 1, 2, 2]


def test_a_delayed_mail_comes_after_one_that_was_sent_later(bench: Bench) -> None:
    bench.order(delay_s=0.6)
    begin = time.monotonic()
    bench.submit(range(1, 2))
    bench.order(delay_s=0)
    bench.submit(range(2, 3))
    assert time.monotonic() - begin < 0.5, "the 250 does not wait"
    assert bench.listed() == [2]
    with bench.mailbox() as mailbox:
        assert mailbox.wait(5), "a client that idles is told"
        assert [one.token.number for one in mailbox.list_messages()].count(1) == 1


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_a_refusal_with_the_ordered_words_at_the_ordered_command(bench: Bench, stage: str) -> None:
    bench.order(refuse="451 4.3.0 try again later", refuse_at=stage)
    [outcome] = bench.submit(range(1, 2))
    assert isinstance(outcome, Deferred) and "try again later" in outcome.text
    bench.order(refuse="554 5.7.1 not from you")
    [outcome] = bench.submit(range(1, 2))
    assert isinstance(outcome, Refused) and (outcome.reply_code, outcome.enhanced) == (554, "5.7.1")
    assert bench.listed() == [] and bench.accepted == []
    bench.order(refuse="")
    assert isinstance(bench.submit(range(1, 2))[0], Accepted)


def test_a_full_mailbox_speaks_as_postfix_with_dovecot_does(bench: Bench) -> None:
    bench.order(mailbox_full=True)
    [outcome] = bench.submit(range(1, 2))
    assert isinstance(outcome, Deferred) and "5.2.2" in outcome.text
    bench.order(mailbox_full=False)
    assert isinstance(bench.submit(range(1, 2))[0], Accepted)


def test_the_size_limit_changes_in_and_between_sessions(bench: Bench) -> None:
    large = bench.mail(1, 60_000)
    with bench.session() as session:
        assert session.size_max_bytes == 100_000
        assert isinstance(session.submit(BETA, large), Accepted)
        bench.order(size_max_bytes=50_000)
        outcome = session.submit(BETA, large)
        assert isinstance(outcome, TooLarge), "the session is open, the limit is new"
    with bench.session() as session:
        assert session.size_max_bytes == 50_000
        del session._connection.esmtp_features["size"]  # then the client cannot know, and the upload itself is refused
        assert isinstance(session.submit(BETA, large), TooLarge)
    bench.order(size_max_bytes=0)
    with bench.session() as session:
        assert session.size_max_bytes == 100_000


def test_faults_for_one_recipient_spare_the_others(bench: Bench) -> None:
    bench.order(swallow=True, only_to=BETA.upper())
    bench.submit(range(1, 2))
    bench.submit(range(2, 3), to=ALPHA)
    assert (bench.listed(), bench.listed(ALPHA)) == ([], [2])
    bench.order(swallow=False, mailbox_full=True, only_to=ALPHA)
    [there], [here] = bench.submit(range(3, 4)), bench.submit(range(4, 5), to=ALPHA)
    assert isinstance(there, Accepted) and isinstance(here, Deferred)


@pytest.mark.parametrize(
    "order",
    [
        "",
        "drop",
        "[]",
        '{"drop": 1.5}',
        '{"drop": true}',
        '{"drop": "0.2"}',
        '{"drop": NaN}',
        '{"swallow": 1}',
        '{"double": -0.1}',
        '{"lose": 0.2}',
        '{"refuse": "250 fine"}',
        '{"refuse": "451 4.3.0 two\\r\\nlines"}',
        '{"refuse_at": "QUIT"}',
        '{"size_max_bytes": -1}',
        f'{{"delay_s": {DELAY_MAX_S * 2}}}',
        b"\xff",
    ],
)
def test_an_order_that_cannot_be_understood_changes_nothing(order: str | bytes) -> None:
    plan = FaultPlan(1)
    plan.order('{"drop": 0.5}')
    with pytest.raises(UsageError):
        plan.order(order)
    assert plan.now == Faults(drop=0.5)


def test_orders_change_the_faults_of_a_running_process(bench: Bench) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "raypost.relay", "--users-from-stdin", "--faults-from-stdin"),
            *("--cert", bench.folder / "relay.pem", "--key", bench.folder / "relay.key"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def order(line: str) -> dict[str, object]:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        # The first order lies in the pipe already when the passwords are read.
        process.stdin.write(json.dumps(USERS) + '\n{"double": 1.0}\n')
        process.stdin.flush()
        up = json.loads(process.stdout.readline())["up"]
        assert json.loads(process.stdout.readline())["faults"] == Faults(double=1.0).as_json()
        bench.smtp_port, bench.imap_port = up["smtp_port"], up["imap_port"]
        assert "refused_order" in order('{"lose": 1}')
        assert "refused_order" in order('{"refuse": "451 ' + "x" * ORDER_MAX_BYTES + '"}')
        bench.submit(range(1, 2))
        assert json.loads(process.stdout.readline())["copies"] == 2
        assert order('{"double": 0, "swallow": true}')["faults"] == Faults(swallow=True).as_json()
        process.stdin.close()  # no more orders; the relay goes on
        bench.submit(range(2, 3))
        assert json.loads(process.stdout.readline())["copies"] == 0
        assert bench.listed() == [1, 1]
    finally:
        process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()
