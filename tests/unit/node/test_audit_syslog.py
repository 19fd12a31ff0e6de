"""Audit messages reach the syslog receiver in order and none is lost: by TLS, by UDP, through outages and deaths."""

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raypost.archive import audit_chain, audit_spool, events
from raypost.errors import SecurityError, UnreachableError, UsageError
from raypost.model.audit import EventKind
from raypost.node import audit_trail
from raypost.node.audit_trail import AuditTrail
from raypost.node.syslog_client import SyslogReceiver as Client
from raypost.relay.certificates import make_test_authority
from tests.peers.audit_schema import valid
from tests.peers.syslog_receiver import SyslogReceiver


@pytest.fixture(scope="module")
def certificates() -> Iterator[tuple[Path, Path, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="raypost-syslog-"))
    yield make_test_authority(folder, ["localhost"], datetime.now(UTC))
    shutil.rmtree(folder)


@pytest.fixture
def receiver(certificates) -> Iterator[SyslogReceiver]:
    with SyslogReceiver(*certificates[1:]) as one:
        yield one


def client(receiver: SyslogReceiver | int, certificates, **changes) -> Client:
    port = receiver if isinstance(receiver, int) else receiver.port
    return Client(**{"host": "localhost", "port": port, "transport": "tls", "ca_file": certificates[0], **changes})


def record(site, count: int = 1) -> None:
    for number in range(count):
        with site.archive.database.transaction() as tx:
            events.record(tx, site.clock.now(), EventKind.HELLO_HEARD, number=number)


def numbers(messages: list[bytes]) -> list[int]:
    """Return the sequence numbers; every message must be in the form of PS3.15, A.6."""
    found = []
    for one in messages:
        header = re.match(
            rb'<8[45]>1 \d{4}-\d\d-\d\dT[\d:.]+Z \S+ raypost - DICOM\+RFC3881 \[meta sequenceId="(\d+)"\] \xef\xbb\xbf',
            one,
        )
        assert header
        valid(one[header.end() :].decode())
        found.append(int(header[1]))
    return found


def works(site, to: Client, rounds: int = 1) -> AuditTrail:
    trail = AuditTrail(site.archive, site.clock, to)
    for _ in range(rounds):
        trail.work()
        site.clock.pass_time(audit_spool.PAUSE_S + 1)
    return trail


def kinds(site) -> list[str]:
    return [one for one in site.kinds() if one.startswith("syslog")]


def test_everything_comes_in_order_by_tls(neustadt, receiver, certificates) -> None:
    record(neustadt, 20)
    works(neustadt, client(receiver, certificates))
    record(neustadt, 5)
    works(neustadt, client(receiver, certificates), rounds=2)
    count = neustadt.scalar("select max(sequence) from rp_audit")
    assert numbers(receiver.messages) == list(range(1, count + 1)) and count >= 25
    assert receiver.connections == 2 and kinds(neustadt) == []
    texts = [one[0] for one in neustadt.rows("select message from rp_audit order by sequence")]
    assert [one.split(b"\xef\xbb\xbf")[1].decode() for one in receiver.messages] == texts
    assert neustadt.scalar("select send_due from rp_audit_state") is None, "nothing waits"


def test_a_long_trail_goes_in_batches(neustadt, receiver, certificates, monkeypatch) -> None:
    monkeypatch.setattr(audit_trail, "BATCH_MAX", 7)
    record(neustadt, 30)
    works(neustadt, client(receiver, certificates), rounds=8)
    assert numbers(receiver.messages) == list(range(1, len(receiver.messages) + 1)) and receiver.connections >= 5
    assert len(receiver.messages) == neustadt.scalar("select max(sequence) from rp_audit")


def test_a_receiver_that_is_down_is_told_once_and_gets_everything_later(neustadt, certificates) -> None:
    with SyslogReceiver(*certificates[1:]) as gone:
        port = gone.port
    record(neustadt, 5)
    dead = client(port, certificates)
    works(neustadt, dead, rounds=6)
    assert kinds(neustadt) == ["syslog unreachable"]
    failures = neustadt.scalar("select failures from rp_audit_state")
    assert 2 <= failures < 6, "it is tried less and less often"
    record(neustadt, 5)
    neustadt.clock.pass_time(audit_spool.RETRY_MAX_S)
    with SyslogReceiver(*certificates[1:], port=port) as back:
        works(neustadt, dead, rounds=3)
        assert kinds(neustadt) == ["syslog unreachable", "syslog reached"]
        assert numbers(back.messages) == list(range(1, len(back.messages) + 1))
        assert len(back.messages) == neustadt.scalar("select max(sequence) from rp_audit")


def test_killed_between_sending_and_the_cursor(neustadt, receiver, certificates, monkeypatch) -> None:
    record(neustadt, 5)

    class Killed(BaseException):
        pass

    def _die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(audit_spool, "note_sent", _die)
        with pytest.raises(Killed):
            works(neustadt, client(receiver, certificates))
    record(neustadt, 2)
    works(neustadt, client(receiver, certificates), rounds=2)
    found = numbers(receiver.messages)
    count = neustadt.scalar("select max(sequence) from rp_audit")
    assert sorted(set(found)) == list(range(1, count + 1)), "nothing is lost"
    assert found == [*range(1, count - 1), *range(1, count + 1)], "what may have come is sent again, in order"


def test_a_receiver_that_hangs_up_unread_has_nothing(neustadt, receiver, certificates) -> None:
    record(neustadt, 50)
    receiver.is_rude = True
    works(neustadt, client(receiver, certificates))
    assert neustadt.scalar("select sent_sequence from rp_audit_state") == 0
    receiver.is_rude = False
    neustadt.clock.pass_time(60)
    works(neustadt, client(receiver, certificates), rounds=2)
    assert numbers(receiver.messages) == list(range(1, len(receiver.messages) + 1)) and len(receiver.messages) > 50


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_wrong_certificate_gets_nothing_and_is_an_alarm(neustadt, receiver, certificates, tmp_path, wrong) -> None:
    record(neustadt)
    other_authority = make_test_authority(tmp_path, ["localhost"], datetime.now(UTC))[0]
    changes = {"ca_file": other_authority} if wrong == "authority" else {"host": "127.0.0.1"}
    to = client(receiver, certificates, **changes)
    with pytest.raises(SecurityError):
        to.send([b"secret"])
    works(neustadt, to)
    assert receiver.messages == [] and receiver.connections == 2
    (alarm,) = neustadt.rows("select level, fields from rp_event where kind = 'syslog unreachable'")
    assert alarm.level == "alarm" and "certificate" in alarm.fields["what"]


def test_nothing_is_sent_to_who_does_not_speak_tls(certificates, monkeypatch) -> None:
    monkeypatch.setattr("raypost.node.syslog_client.ANSWER_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as plain:
        with pytest.raises(UnreachableError):
            client(plain.getsockname()[1], certificates).send([b"secret"])
        taken, _ = plain.accept()
        with taken:
            assert b"secret" not in taken.recv(65_536)


def test_a_missing_ca_file_is_named(neustadt, receiver, certificates, tmp_path) -> None:
    to = client(receiver, certificates, ca_file=tmp_path / "none.pem")
    with pytest.raises(UsageError, match=r"none\.pem"):
        to.send([b"x"])
    record(neustadt)
    works(neustadt, to)
    assert neustadt.scalar("select level from rp_event where kind = 'syslog unreachable'") == "alarm"


def test_by_udp_a_datagram_each(neustadt, certificates) -> None:
    record(neustadt, 10)
    with SyslogReceiver() as receiver:
        works(neustadt, client(receiver, certificates, host="127.0.0.1", transport="udp"), rounds=2)
        count = neustadt.scalar("select max(sequence) from rp_audit")
        assert numbers(receiver.wait_for(count)) == list(range(1, count + 1))


def test_by_udp_a_port_where_nobody_listens_is_noticed(neustadt, certificates) -> None:
    record(neustadt)
    with SyslogReceiver() as gone:
        port = gone.port
    works(neustadt, client(port, certificates, host="127.0.0.1", transport="udp"))
    assert kinds(neustadt) == ["syslog unreachable"]
    assert neustadt.scalar("select sent_sequence from rp_audit_state") == 0


def test_without_a_receiver_nothing_is_due(neustadt) -> None:
    record(neustadt)
    AuditTrail(neustadt.archive, neustadt.clock, None).work()
    assert neustadt.scalar("select send_due from rp_audit_state") is None
    with neustadt.archive.database.transaction() as tx:
        assert not audit_spool.is_due(tx, neustadt.clock.now())
        assert audit_chain.head(tx).sequence > 0


def test_the_sweep_asks_for_the_job_once(neustadt) -> None:
    neustadt.rows("delete from procrastinate_jobs returning 1")
    record(neustadt)
    for _ in range(3):
        neustadt.settle.sweep()
    assert neustadt.scalar("select count(*) from procrastinate_jobs where task_name = 'audit'") == 1
    AuditTrail(neustadt.archive, neustadt.clock, None).work()
    neustadt.rows("delete from procrastinate_jobs returning 1")
    neustadt.settle.sweep()
    assert neustadt.scalar("select count(*) from procrastinate_jobs where task_name = 'audit'") == 0
