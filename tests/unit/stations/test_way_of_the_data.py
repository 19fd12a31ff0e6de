"""A study goes the whole way through the stations: once, complete, receipted; what is lost or doubled on the way heals."""

import random
import shutil
from pathlib import Path

import pytest

from raypost.archive.rearm import order_again, rearm

SIX_FILED = "select count(*) from rp_instance where standing = 'current' and version = 1"


def send_head(neustadt, head, **words) -> None:
    for file in head:
        assert neustadt.receive(file, **words) == 0


def assert_delivered_once(neustadt, ludwigshafen, count: int = 6) -> None:
    assert neustadt.transfer("out").state == "delivered"
    assert ludwigshafen.transfer("in").state == "complete"
    assert ludwigshafen.scalar(SIX_FILED) == count
    assert ludwigshafen.scalar("select count(*) from rp_instance") == count
    assert neustadt.scalar("select array_agg(sha256 order by sha256) from rp_instance") == ludwigshafen.scalar(
        "select array_agg(sha256 order by sha256) from rp_instance"
    )
    for site in (neustadt, ludwigshafen):
        assert (
            site.scalar("select count(*) from rp_message where state in ('planned', 'queued', 'sending', 'verified')")
            == 0
        )
        assert site.scalar("select count(*) from rp_transfer where due is not null") == 0
        for shelf in ("temporary", "mail", "sealed", "assembly", "quarantine"):
            assert not list((site.archive.spool.folder / shelf).iterdir()), shelf


def test_a_study_is_delivered_while_time_passes(neustadt, ludwigshafen, postman, head) -> None:
    send_head(neustadt, head)
    postman.run()
    assert ludwigshafen.scalar("select count(*) from rp_instance") >= 1, "sending starts while the study is arriving"
    assert neustadt.transfer("out").state == "streaming"
    postman.pass_time(40)
    assert_delivered_once(neustadt, ludwigshafen)
    kinds = neustadt.kinds()
    for step in ("received", "packed", "sealed", "receipted", "transfer closed", "transfer delivered"):
        assert step in kinds
    assert neustadt.transfer("out").priority == "emergency"


def test_release_of_the_association_closes_sooner(neustadt, ludwigshafen, postman, head) -> None:
    from raypost.dicom.scp import AssociationEnd

    send_head(neustadt, head)
    postman.run()
    neustadt.intake  # noqa: B018 a fresh station knows no association: the one that received must be told
    intake = neustadt.intake
    intake._cases["a1"] = {1}
    intake.association_ended(AssociationEnd("a1", "CT1", "LUDWIGSHAFEN_N", "127.0.0.1", 6, True))
    postman.pass_time(8)
    assert neustadt.transfer("out").state == "delivered"


def test_what_comes_later_is_a_supplement(neustadt, ludwigshafen, postman, head) -> None:
    send_head(neustadt, head[:4])
    postman.run()
    postman.pass_time(40)
    send_head(neustadt, head[4:])
    postman.run()
    postman.pass_time(40)
    assert neustadt.rows("select supplement, state from rp_transfer where direction = 'out' order by id") == [
        (0, "delivered"),
        (1, "delivered"),
    ]
    assert ludwigshafen.scalar("select count(*) from rp_case") == 1
    assert ludwigshafen.scalar(SIX_FILED) == 6


def test_the_same_instance_again_is_filed_once_and_silent(neustadt, postman, head) -> None:
    send_head(neustadt, head)
    send_head(neustadt, head)
    assert neustadt.scalar("select count(*) from rp_instance") == 6
    assert neustadt.kinds().count("duplicate") == 6


@pytest.mark.parametrize("lost", ["parcel", "manifest", "receipt"])
def test_a_lost_mail_is_sent_again(neustadt, ludwigshafen, postman, head, lost) -> None:
    gone = set()

    def lose(kind, number):
        if kind == lost and (kind, number) not in gone and len(gone) < 3:
            gone.add((kind, number))
            return True
        return False

    postman.lose = lose
    send_head(neustadt, head)
    postman.run()
    postman.pass_time(300)
    assert gone
    assert_delivered_once(neustadt, ludwigshafen)


def test_doubled_mails_are_filed_once(neustadt, ludwigshafen, postman, head) -> None:
    postman.copies = 3
    send_head(neustadt, head)
    postman.run()
    postman.pass_time(60)
    assert_delivered_once(neustadt, ludwigshafen)
    assert ludwigshafen.kinds().count("filed") < 10


@pytest.mark.parametrize("seed", range(4))
def test_any_weather_ends_in_delivered(neustadt, ludwigshafen, postman, head, seed) -> None:
    chance = random.Random(seed)
    postman.lose = lambda kind, number: chance.random() < 0.4
    send_head(neustadt, head)
    postman.run()
    postman.pass_time(4000)
    postman.lose = lambda kind, number: False
    if neustadt.transfer("out").state == "unconfirmed":
        from raypost.archive import transfers

        with neustadt.archive.database.transaction() as tx:
            row = transfers.lock(tx, neustadt.transfer("out").id)
            order_again(tx, row, neustadt.limits, neustadt.clock.now(), "test")
        postman.run()
        postman.pass_time(100)
    assert neustadt.transfer("out").state == "delivered"
    assert ludwigshafen.scalar(SIX_FILED) == 6


def test_silence_ends_with_a_person_told(neustadt, postman, head) -> None:
    postman.lose = lambda kind, number: True
    send_head(neustadt, head)
    postman.run()
    postman.pass_time(200)
    assert neustadt.scalar("select count(*) from rp_event where level = 'alarm' and kind = 'transfer silent'") == 1
    postman.pass_time(20_000)
    assert neustadt.transfer("out").state == "unconfirmed"
    assert neustadt.scalar("select count(*) from rp_event where level = 'alarm' and kind = 'transfer unconfirmed'") == 1


def test_an_instance_larger_than_a_mail_goes_in_slices(neustadt, ludwigshafen, postman, head) -> None:
    neustadt.mail_size_max_bytes = 100_000
    from raypost.transfer.pacing import PacingLimits

    neustadt.pacing = PacingLimits(first_parcel_max_bytes=3_000, parcel_max_bytes=3_000, instances_max=4)
    send_head(neustadt, head[:2])
    postman.run()
    postman.pass_time(60)
    assert_delivered_once(neustadt, ludwigshafen, 2)
    assert neustadt.scalar("select count(*) from rp_message where kind = 'parcel'") > 4


def test_slices_survive_loss_and_doubling(neustadt, ludwigshafen, postman, head) -> None:
    from raypost.transfer.pacing import PacingLimits

    neustadt.pacing = PacingLimits(first_parcel_max_bytes=3_000, parcel_max_bytes=3_000, instances_max=4)
    chance = random.Random(5)
    postman.lose, postman.copies = (lambda kind, number: chance.random() < 0.3), 2
    send_head(neustadt, head[:1])
    postman.run()
    postman.pass_time(600)
    assert_delivered_once(neustadt, ludwigshafen, 1)


def test_a_parcel_the_relay_finds_too_large_goes_in_smaller_ones(neustadt, ludwigshafen, postman, head) -> None:
    from raypost.archive import outbox, relays, transfers

    send_head(neustadt, head)
    neustadt.work()
    postman._accept(neustadt, postman._claim(neustadt))  # the announcement
    with neustadt.archive.database.transaction() as tx:
        message = outbox.claim(tx, "main", "test", neustadt.clock.now())
        transfer = transfers.lock(tx, message.transfer_id)
        relays.note_size_limit(tx, "main", 60_000, neustadt.clock.now())
        assert outbox.note_too_large(tx, message, "test", neustadt.clock.now(), 20_000)
        rearm(tx, transfer, neustadt.limits, neustadt.clock.now())
    neustadt.archive.spool.discard(message.message_file)
    postman.run()
    postman.pass_time(60)
    assert_delivered_once(neustadt, ludwigshafen)
    assert neustadt.scalar("select count(*) from rp_message where kind = 'parcel' and state = 'filed'") > 1
    assert neustadt.scalar("select count(*) from rp_message where state = 'replaced'") == 0, "no number is missing"


def test_a_person_sends_again_and_nothing_is_filed_twice(neustadt, ludwigshafen, postman, head) -> None:
    from raypost.archive import transfers

    send_head(neustadt, head)
    postman.run()
    postman.pass_time(40)
    with neustadt.archive.database.transaction() as tx:
        row = transfers.lock(tx, neustadt.transfer("out").id)
        assert order_again(tx, row, neustadt.limits, neustadt.clock.now(), "test") >= 2
    assert neustadt.transfer("out").state == "closed"
    postman.run()
    postman.pass_time(40)
    assert_delivered_once(neustadt, ludwigshafen)


def test_two_patients_at_once_stay_apart(neustadt, ludwigshafen, postman, head, tmp_path) -> None:
    from datetime import UTC, datetime

    from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study

    spec = HeadCtSpec(
        study_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        seed=77,
        slices=4,
        size_px=128,
        has_localizer=False,
        patient_id="TST000002",
        patient_name="Zweite^Änne",
    )
    other = write_study(head_ct(spec), tmp_path)
    for first, second in zip(head, [*other, *other], strict=False):
        assert neustadt.receive(first) == neustadt.receive(second, association="a2") == 0
    postman.run()
    postman.pass_time(40)
    assert ludwigshafen.rows("select count(*) from rp_instance group by case_id order by 1") == [(4,), (6,)]
    assert ludwigshafen.scalar("select count(*) from rp_patient") == 2


def test_a_receipt_of_another_partner_delivers_nothing(neustadt, ludwigshafen, postman, head) -> None:
    from raypost.archive import transfers

    send_head(neustadt, head)
    neustadt.work()
    transfer = neustadt.transfer("out")
    with neustadt.archive.database.transaction() as tx:
        assert transfers.find_outgoing(tx, transfer.transfer_key, transfer.partner_id) is not None
        assert transfers.find_outgoing(tx, transfer.transfer_key, transfer.partner_id + 99) is None


def test_a_damaged_blob_is_not_sent(neustadt, postman, head) -> None:
    send_head(neustadt, head[:1])
    blob = next(one for one in Path(neustadt.archive.blobs.folder).rglob("*") if one.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    postman.run()
    assert neustadt.scalar("select state from rp_transfer_item") == "refused"
    assert "parcel" not in {kind for _, kind, _ in postman.carried}
    assert neustadt.scalar("select count(*) from rp_event where level = 'alarm'") >= 1


def test_the_disk_is_nearly_full(neustadt, head) -> None:
    import dataclasses

    intake = dataclasses.replace(neustadt.intake, disk_free_min_bytes=1 << 60)
    copy = neustadt.archive.spool.new_file("in")
    shutil.copyfile(head[0], copy)
    from raypost.dicom.storing import Received

    assert intake.receive(Received(copy, "", "", "CT1", "LUDWIGSHAFEN_N", "127.0.0.1", "a1", "")) == 0xA700
    assert neustadt.scalar("select count(*) from rp_instance") == 0
