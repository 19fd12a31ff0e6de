"""One damaged file costs one instance: the others of its parcel go, a person is told, nothing counts as delivered."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from raypost.archive import packing, transfers
from raypost.archive.rearm import order_again
from raypost.transfer.pacing import PacingLimits

ITEMS = "select state, count(*) from rp_transfer_item group by 1 order by 1"
ONE_BIG_PARCEL = PacingLimits(first_parcel_max_bytes=6_000_000)
ALARMS = "select fields from rp_event where kind = 'sending refused' and level = 'alarm'"


def spoil(site, sha256: str) -> bytes:
    """Change one byte of a blob; return what it was."""
    blob = Path(site.archive.blobs.path(sha256))
    good = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return good


@pytest.fixture
def six(neustadt, head):
    """Six instances of one transfer, of which the third is damaged; none is packed yet."""
    neustadt.pacing = ONE_BIG_PARCEL
    for file in head:
        assert neustadt.receive(file) == 0
    hashes = [row[0] for row in neustadt.rows("select sha256 from rp_instance order by id")]
    return hashes


def test_only_the_damaged_one_stays(neustadt, ludwigshafen, postman, six) -> None:
    spoil(neustadt, six[2])
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(ITEMS) == [("filed", 5), ("refused", 1)]
    assert neustadt.scalar("select state from rp_transfer_item where sha256 = :one", one=six[2]) == "refused"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 5
    assert ludwigshafen.scalar("select count(*) from rp_transfer_item") == 5, "the manifest names only what can be sent"
    assert ludwigshafen.transfer("in").state == "complete"
    assert neustadt.transfer("out").state == "unconfirmed", "never delivered silently"
    number = neustadt.scalar("select id from rp_instance where sha256 = :one", one=six[2])
    assert [row[0]["instance_numbers"] for row in neustadt.rows(ALARMS)] == [str(number)]
    assert neustadt.scalar("select count(*) from rp_event where kind = 'transfer unconfirmed' and level = 'alarm'") == 1
    assert "transfer delivered" not in neustadt.kinds()


def test_nothing_of_it_can_be_sent(neustadt, ludwigshafen, postman, six) -> None:
    for one in six:
        spoil(neustadt, one)
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(ITEMS) == [("refused", 6)]
    assert neustadt.transfer("out").state == "unconfirmed"
    assert {kind for _, kind, _ in postman.carried} <= {"announce", "receipt"}, "no manifest of nothing"
    assert len(neustadt.rows(ALARMS)) == 2, "one for the parcel, one for the manifest: not one an instance"


def test_a_slice_of_a_damaged_one(neustadt, ludwigshafen, postman, head) -> None:
    neustadt.pacing = PacingLimits(first_parcel_max_bytes=1_000, parcel_max_bytes=1_000, instances_max=4)
    for file in head[:2]:
        neustadt.receive(file)
    neustadt.work()
    postman.carry()  # some slices are on their way
    begun = "select sha256 from rp_transfer_item where 0 < packed_bytes and packed_bytes < size_bytes"
    first = neustadt.scalar(begun)
    second = neustadt.scalar("select sha256 from rp_transfer_item where sha256 <> :first", first=first)
    spoil(neustadt, first)
    postman.run()
    postman.pass_time(60)
    assert neustadt.scalar("select state from rp_transfer_item where sha256 = :one", one=first) == "refused"
    assert neustadt.scalar("select state from rp_transfer_item where sha256 = :one", one=second) == "filed"
    assert ludwigshafen.transfer("in").state == "complete"
    assert neustadt.transfer("out").state == "unconfirmed"
    assert len(neustadt.rows(ALARMS)) == 1, "told once, however many slices it has"


def test_damaged_after_the_manifest_went(neustadt, ludwigshafen, postman, six) -> None:
    postman.lose = lambda kind, number: kind == "parcel"
    postman.run()
    postman.pass_time(35)
    assert ludwigshafen.scalar("select manifest_instances from rp_transfer") == 6
    spoil(neustadt, six[0])
    postman.lose = lambda kind, number: False
    postman.pass_time(600)
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 5
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 0, (
        "no second manifest that contradicts the first"
    )
    assert neustadt.transfer("out").state in ("closed", "unconfirmed"), "its manifest names what never comes"
    assert "transfer delivered" not in neustadt.kinds()
    assert len(neustadt.rows(ALARMS)) == 1


def test_a_damaged_one_that_the_partner_has_stays_filed(neustadt, ludwigshafen, postman, six) -> None:
    postman.run()
    postman.pass_time(60)
    assert neustadt.transfer("out").state == "delivered"
    spoil(neustadt, six[1])
    with neustadt.archive.database.transaction() as tx:
        transfer = neustadt.transfer("out")
        order_again(tx, tx.merge(transfer, load=False), neustadt.limits, neustadt.clock.now(), "anna")
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(ITEMS) == [("filed", 6)]
    assert neustadt.transfer("out").state == "delivered"
    assert len(neustadt.rows(ALARMS)) == 1


def test_it_cannot_be_read_at_all(neustadt, ludwigshafen, postman, six) -> None:
    """As on a failing disk: what stands there is no file that can be read."""
    blob = neustadt.archive.blobs.path(six[2])
    blob.unlink()
    blob.mkdir()
    postman.run()
    postman.pass_time(60)
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 5
    assert neustadt.rows(ITEMS) == [("filed", 5), ("refused", 1)]


def test_copies_for_other_relays_carry_no_damaged_one_either(neustadt, ludwigshafen, postman, six) -> None:
    spoil(neustadt, six[2])
    neustadt.clock.pass_time(1)
    neustadt.settle.sweep()
    neustadt.route.route(1)
    with neustadt.archive.database.transaction() as tx:
        packing.plan_parcels(tx, transfers.lock(tx, 1), ONE_BIG_PARCEL, 6_000_000, neustadt.clock.now())
        tx.execute(
            sa.text(
                "insert into rp_message (transfer_id, partner_id, direction, kind, number, copy, state, planned_at,"
                " priority_rank, attempt, tries, relay, message_id, message_file, size_bytes, said)"
                " select transfer_id, partner_id, direction, kind, number, 1, state, planned_at, 100, 1, 0, 'main', '',"
                " '', 0, '' from rp_message where kind = 'parcel' and copy = 0"
            )
        )
    postman.run()
    postman.pass_time(60)
    assert {row[0] for row in neustadt.rows("select state from rp_message where number = 1 and kind = 'parcel'")} == {
        "replaced"
    }
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 5
    assert len(neustadt.rows(ALARMS)) == 1
