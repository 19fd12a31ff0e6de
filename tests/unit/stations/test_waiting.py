"""What waits in a mailbox is known to its sender: no parcel is sent twice because the receiver's line is slow."""

import threading

import pytest

from raypost.archive import contacts, listed, recalls, relays, transfers
from raypost.archive.listed import WaitingParcel
from raypost.archive.tables import RestoreRow
from raypost.mail.imap import ImapAccount
from raypost.mail.tokens import Token
from raypost.stations.collect import Collect, Collecting
from raypost.transfer.pacing import PacingLimits
from tests.unit.stations.test_collect import Mailbox
from tests.unit.stations.test_hello import greet

SMALL = PacingLimits(first_parcel_max_bytes=40_000, parcel_max_bytes=40_000)


def send_without(neustadt, postman, head, number: int) -> None:
    """Send a study of which one parcel does not come."""
    neustadt.pacing = SMALL
    postman.lose = lambda kind, one: (kind, one) == ("parcel", number)
    for file in head:
        assert neustadt.receive(file) == 0
    postman.run()


def note(site, number: int, imap_uid: int = 1) -> frozenset[int]:
    waiting = [WaitingParcel(imap_uid, site.transfer("in").transfer_key, number)]
    with site.archive.database.transaction() as tx:
        return listed.note_waiting(tx, "main", 7, waiting, site.clock.now())


def count_sent(postman, number: int) -> int:
    return postman.carried.count(("neustadt", "parcel", number))


def test_a_parcel_that_waits_is_not_sent_again_until_it_is_gone(neustadt, ludwigshafen, postman, head) -> None:
    send_without(neustadt, postman, head, 2)
    for _ in range(8):
        assert note(ludwigshafen, 2) == {1}
        postman.pass_time(30)
    assert count_sent(postman, 2) == 1
    assert neustadt.scalar("select is_seen from rp_message where kind = 'parcel' and number = 2")
    assert neustadt.transfer().state == "closed"
    postman.lose = lambda kind, number: False
    postman.pass_time(600)
    assert count_sent(postman, 2) == 2, "its mail is gone"
    assert neustadt.transfer().state == "delivered"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == len(head)


def test_one_that_was_fetched_and_not_opened_yet_counts_too(neustadt, ludwigshafen, postman, head) -> None:
    send_without(neustadt, postman, head, 2)
    transfer = ludwigshafen.transfer("in")
    fetched = (
        "insert into rp_collected (relay, uid_validity, imap_uid, state, priority_rank, mail_file, size_bytes, token,"
        " token_number, fetched_at) values ('main', 1, 900, 'fetched', 0, 'x', 1, :token, 2, now()) returning id"
    )
    ludwigshafen.rows(fetched, token=transfer.transfer_key)
    with ludwigshafen.archive.database.transaction() as tx:
        assert listed.parcels_seen(tx, transfer, ludwigshafen.clock.now()) == {2}
    ludwigshafen.rows("update rp_collected set state = 'opened' where imap_uid = 900 returning id")
    with ludwigshafen.archive.database.transaction() as tx:
        assert listed.parcels_seen(tx, transfer, ludwigshafen.clock.now()) == frozenset()


def test_nothing_is_noted_of_transfers_that_are_not_open_here(neustadt, ludwigshafen, postman, head) -> None:
    send_without(neustadt, postman, head, 0)
    postman.pass_time(120)
    assert ludwigshafen.transfer("in").state == "complete"
    assert note(ludwigshafen, 2) == frozenset()
    assert ludwigshafen.scalar("select count(*) from rp_listed_parcel") == 0


def test_the_collector_notes_what_has_to_wait(neustadt, ludwigshafen, postman, head) -> None:
    send_without(neustadt, postman, head, 2)
    key, seen, mailbox = ludwigshafen.transfer("in").transfer_key, [], Mailbox()
    for number in (7, 8, 9):
        imap_uid = mailbox.deliver("parcel", neustadt.partner.address, number, 150_000)
        mailbox.mails[imap_uid] = (b"x" * 150_000, Token(key, "parcel", number), neustadt.partner.address)

    def look(_: int) -> None:
        seen.append([row[0] for row in ludwigshafen.rows("select number from rp_listed_parcel order by number")])
        ludwigshafen.clock.pass_time(0.5)

    mailbox.on_fetch = look
    account = ImapAccount("main", "localhost", 993, "tls", "user", "secret")
    station = Collect(ludwigshafen.archive, ludwigshafen.clock, account, 1 << 20, 1.0)
    assert Collecting(station, mailbox).collect(threading.Event()) == 3
    assert seen == [[], [8, 9], [9]]
    assert ludwigshafen.scalar("select count(*) from rp_listed_parcel") == 0
    assert ludwigshafen.rows("select token_number from rp_collected where token = :key order by 1", key=key) == [
        (7,),
        (8,),
        (9,),
    ]
    with ludwigshafen.archive.database.transaction() as tx:
        assert relays.fetch_rate_bytes_per_s(tx) == 300_000, "150,000 bytes in half a second"


def test_a_hello_says_what_the_line_carries_and_which_mails_are_fetched(neustadt, ludwigshafen, postman, head) -> None:
    with ludwigshafen.archive.database.transaction() as tx:
        relays.note_given(tx, "main", 40_000.0, ludwigshafen.clock.now())
    greet(ludwigshafen, postman)
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    with neustadt.archive.database.transaction() as tx:
        assert contacts.path_bytes_per_s(tx, site_id) == 40_000
        row = contacts.row_of(tx, site_id)
        row.capabilities = {**row.capabilities, "mail_size_max": 100_000}
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(120)
    assert neustadt.transfer().state == "delivered"
    sizes = [row[0] for row in neustadt.rows("select size_bytes from rp_message where kind = 'parcel'")]
    assert len(sizes) > 1 and max(sizes) <= 100_000, "larger ones would not be fetched"


def test_what_the_relay_took_a_moment_ago_is_not_sent_because_an_older_receipt_misses_it(
    neustadt, ludwigshafen, postman, head
) -> None:
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    with neustadt.archive.database.transaction() as tx:
        contacts.note_round_trip(tx, site_id, 59.0)
    send_without(neustadt, postman, head, 2)
    postman.pass_time(50)
    asked = ludwigshafen.rows("select 1 from rp_message where kind = 'receipt' and (body->>'asks')::bool")
    assert asked and count_sent(postman, 2) == 1
    postman.lose = lambda kind, number: False
    postman.pass_time(900)
    assert count_sent(postman, 2) == 2 and neustadt.transfer().state == "delivered"


def test_a_receipt_from_before_a_restore_does_not_count(neustadt, ludwigshafen, postman, head) -> None:
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    with neustadt.archive.database.transaction() as tx:
        contacts.row_of(tx, site_id).restores_heard = 1
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(60)
    assert "receipt outdated" in neustadt.kinds() and neustadt.transfer().state == "closed"


@pytest.mark.parametrize("is_recalled", [True, False])
def test_a_restored_partner_is_told_of_a_recall_again(neustadt, ludwigshafen, postman, head, is_recalled) -> None:
    greet(ludwigshafen, postman)
    backup_at = ludwigshafen.clock.now()
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(60)
    if is_recalled:
        with neustadt.archive.database.transaction() as tx:
            mine = transfers.lock(tx, neustadt.transfer().id)
            recalls.recall(tx, mine, neustadt.clock.now(), who="me", why="wrong patient")
    postman.pass_time(60)
    with ludwigshafen.archive.database.transaction() as tx:
        tx.add(RestoreRow(backup_at=backup_at, restored_at=ludwigshafen.clock.now()))
    neustadt.clock.pass_time(301)
    greet(ludwigshafen, postman)
    postman.run()
    assert postman.carried.count(("neustadt", "recall", 1)) == 2 * is_recalled
    assert postman.carried.count(("neustadt", "manifest", 1)) == 2 - is_recalled
