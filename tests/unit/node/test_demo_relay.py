"""A relay of the demonstration as a process: faults on order, killed, started again."""

import smtplib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypost.errors import NotNowError, UsageError
from raypost.mail.imap import ImapAccount, ImapMailbox
from raypost.node import demo_process
from raypost.node.demo_relay import DemoRelay

SITES = ["worms", "speyer"]


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[DemoRelay]:
    it = DemoRelay("main", "north.test", tmp_path / "relay", SITES)
    it.start()
    yield it
    demo_process.stop([it.process])


def send(relay: DemoRelay) -> None:
    at, (sender, recipient) = relay.address, map(relay.address.mailbox, SITES)
    context = ssl.create_default_context(cafile=at.ca_file)
    with smtplib.SMTP_SSL(at.host, at.smtp_port, context=context, timeout=5) as client:
        client.login(sender, at.passwords[sender])
        client.sendmail(sender, [recipient], b"A: b\r\n\r\n")


def mailbox(relay: DemoRelay) -> ImapMailbox:
    at, address = relay.address, relay.address.mailbox("speyer")
    return ImapMailbox(
        ImapAccount("main", at.host, at.imap_port, "tls", address, at.passwords[address], at.ca_file, 5.0)
    )


def test_orders_are_in_force_when_the_call_returns(relay: DemoRelay) -> None:
    relay.order(swallow=True)
    send(relay)
    relay.order(swallow=False, double=1.0)
    send(relay)
    with mailbox(relay) as box:
        assert len(box.list_messages()) == 2
    assert [(one.sender, one.recipient, one.copies) for one in relay.carried] == [
        ("worms@north.test", "speyer@north.test", 0),
        ("worms@north.test", "speyer@north.test", 2),
    ]
    with pytest.raises(UsageError):
        relay.order(drop=2.0)


def test_killed_and_started_again_it_is_at_the_same_place_and_empty(relay: DemoRelay) -> None:
    send(relay)
    before = relay.address
    with mailbox(relay) as box:
        old = box.uid_validity
        assert len(box.list_messages()) == 1
    relay.kill()
    assert not relay.is_running
    with pytest.raises(OSError):
        send(relay)
    with pytest.raises(NotNowError):
        relay.order(drop=0.1)
    relay.start()
    assert relay.is_running and relay.address == before
    with mailbox(relay) as box:
        assert box.list_messages() == []
        assert box.uid_validity != old, "numbers of old mails must not be taken for those of new ones"
    send(relay)
    for _ in range(100):  # a thread hears of it
        if len(relay.carried) == 2:
            break
        threading.Event().wait(0.05)
    assert len(relay.carried) == 2
