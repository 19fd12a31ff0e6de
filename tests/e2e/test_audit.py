"""A running site keeps its audit trail by itself: in a chain, at a syslog receiver, whatever is killed."""

import pathlib
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from e2e_sites import House, Pair, make_study, send, until, wait_delivered

from raypost.relay.certificates import make_test_authority
from tests.peers.audit_schema import valid
from tests.peers.syslog_receiver import SyslogReceiver

pytestmark = pytest.mark.slow


def begin_anew(house: House) -> None:
    """End the site as `systemctl restart` does, and start it."""
    assert house.site.process is not None
    house.site.process.send_signal(signal.SIGTERM)
    house.serve_again()


@pytest.fixture
def receiver(pair: Pair, tmp_path: pathlib.Path) -> Iterator[SyslogReceiver]:
    """A receiver that the referrer's raypost.toml names."""
    ca_file, certificate, secret_key = make_test_authority(tmp_path, ["localhost"], datetime.now(UTC))
    config = pair.referrer.site.config
    before = config.read_text()
    with SyslogReceiver(certificate, secret_key) as one:
        section = f'[audit]\nsyslog_host = "localhost"\nsyslog_port = {one.port}\nca_file = "{ca_file}"\n'
        config.write_text(re.sub(r"^\[audit\].*$", "", before, flags=re.MULTILINE) + "\n" + section)
        begin_anew(pair.referrer)
        yield one
        config.write_text(before)
        begin_anew(pair.referrer)


def at_rest(house: House) -> bool:
    return not house.rows(
        "select 1 from rp_audit_due union all select 1 from rp_audit_state where sent_sequence < sequence"
    )


def test_the_trail_of_a_site_whose_worker_is_killed(
    pair: Pair, receiver: SyslogReceiver, tmp_path: pathlib.Path
) -> None:
    study = make_study(tmp_path / "ct", seed=900, slices=12)
    until("messages came", lambda: receiver.messages)
    send(pair.referrer, study, pace_s=0.05)
    pair.referrer.kill("worker")
    wait_delivered(pair, study)
    until("everything is at the receiver", lambda: at_rest(pair.referrer))
    numbers = [int(re.search(rb'sequenceId="(\d+)"', one)[1]) for one in receiver.messages]
    in_order = [one for one, before in zip(numbers, [0, *numbers], strict=False) if one > before]
    rows = pair.referrer.rows("select sequence, kind, message from rp_audit order by sequence")
    assert sorted(set(numbers)) == [row.sequence for row in rows][: len(set(numbers))], "no gap"
    assert in_order[0] == 1 and len(set(numbers)) >= len(rows) - 2, "what came since is under way"
    by_number = {int(re.search(rb'sequenceId="(\d+)"', one)[1]): one for one in receiver.messages}
    for row in rows[: len(by_number)]:
        valid(row.message)
        assert by_number[row.sequence].endswith(b"\xef\xbb\xbf" + row.message.encode())
    kinds = [row.kind for row in rows]
    for kind in ("started", "received", "sent", "transfer delivered"):
        assert kind in kinds
    assert kinds.count("started") >= 2 and kinds.count("stopped") >= 1
    for house in pair.houses:
        assert house.cli("audit", "verify")["good"]
    keys = {one["study_key"] for one in pair.referrer.cli("study", "list") if one["instances"] == 12}
    report = pair.referrer.cli("audit", "who-saw", keys.pop())
    assert ("received", pair.centre.name) in {(one["what"], one["place"]) for one in report}
