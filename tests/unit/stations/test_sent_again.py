"""A study that the modality sends again is an order: it becomes more urgent, or is sent again if it did not arrive."""

import pytest
import sqlalchemy as sa

from raypost.archive import outbox, transfers
from raypost.archive.rearm import rearm
from raypost.transfer.pacing import PacingLimits

OUT = "select priority, supplement, state from rp_transfer where direction = 'out' order by id"


def send(site, files, called: str) -> None:
    """One association of the modality: the study, then its release."""
    for file in files:
        assert site.receive(file, called=called) == 0
    site.clock.pass_time(1)
    site.work()


def items(site, supplement: int) -> list[tuple]:
    return site.rows(
        "select i.state, count(*) from rp_transfer_item i join rp_transfer t on t.id = i.transfer_id"
        " where t.direction = 'out' and t.supplement = :n group by 1 order by 1",
        n=supplement,
    )


def rings(site) -> list[str]:
    return [
        row[0]
        for row in site.rows("select fields->>'priority' from rp_event where kind = 'announced' and level = 'alarm'")
    ]


def test_a_more_urgent_title_raises_what_is_on_its_way(neustadt, ludwigshafen, postman, head) -> None:
    neustadt.pacing = PacingLimits(first_parcel_max_bytes=10_000, parcel_max_bytes=10_000, in_hand_max=2)
    send(neustadt, head, "LUDWIGSHAFEN_R")
    neustadt.work()
    waiting = "select distinct priority_rank from rp_message where direction = 'out' and kind = 'parcel'"
    assert neustadt.rows(waiting) == [(1,)], "a head CT is read first"
    send(neustadt, head, "LUDWIGSHAFEN_N")
    assert neustadt.rows(OUT) == [("emergency", 0, neustadt.transfer("out").state)], "the same transfer"
    assert neustadt.rows(waiting) == [(101,)]
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("emergency", 0, "delivered")]
    assert ludwigshafen.transfer("in").priority == "emergency"
    assert rings(ludwigshafen) == ["emergency"]
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6


def test_a_packing_job_that_waits_goes_first_then(neustadt, head) -> None:
    for file in head:
        neustadt.receive(file, called="LUDWIGSHAFEN_R")
    neustadt.clock.pass_time(1)
    neustadt.settle.sweep()
    neustadt.route.route(1)
    job = "select priority from procrastinate_jobs where task_name = 'pack' and status = 'todo'"
    assert neustadt.rows(job) == [(0,)]
    for file in head:
        neustadt.receive(file, called="LUDWIGSHAFEN_N")
    neustadt.route.route(1)
    assert neustadt.rows(job) == [(100,)]


def test_a_less_urgent_title_changes_nothing(neustadt, postman, head) -> None:
    send(neustadt, head, "LUDWIGSHAFEN_N")
    send(neustadt, head, "LUDWIGSHAFEN_R")
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("emergency", 0, "delivered")]


def test_what_was_delivered_rings_and_is_not_sent_again(neustadt, ludwigshafen, postman, head) -> None:
    send(neustadt, head, "LUDWIGSHAFEN_R")
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("routine", 0, "delivered")] and rings(ludwigshafen) == []
    carried = len(postman.carried)
    send(neustadt, head, "LUDWIGSHAFEN_N")
    postman.run()
    postman.pass_time(30)
    assert rings(ludwigshafen) == ["emergency"]
    assert ludwigshafen.transfer("in").priority == "emergency"
    assert neustadt.rows(OUT) == [("emergency", 0, "delivered")]
    assert {kind for _, kind, _ in postman.carried[carried:]} <= {"announce", "receipt"}, "kilobytes, not the study"
    send(neustadt, head, "LUDWIGSHAFEN_N")
    postman.run()
    assert rings(ludwigshafen) == ["emergency"], "once"


@pytest.mark.parametrize("called", ["LUDWIGSHAFEN_R", "LUDWIGSHAFEN_N"], ids=["same title", "more urgent title"])
def test_an_unconfirmed_one_is_sent_again(neustadt, ludwigshafen, postman, head, called) -> None:
    postman.lose = lambda kind, number: True
    send(neustadt, head, "LUDWIGSHAFEN_R")
    postman.run()
    postman.pass_time(40)
    with neustadt.archive.database.transaction() as tx:
        tx.execute(sa.text("update rp_transfer set state = 'unconfirmed', due = null, finished_at = now()"))
    postman.lose = lambda kind, number: False
    send(neustadt, head, called)
    postman.run()
    postman.pass_time(60)
    ((priority, supplement, state),) = neustadt.rows(OUT)
    assert (supplement, state) == (0, "delivered")
    assert priority == ("emergency" if called.endswith("_N") else "routine")
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6
    assert neustadt.scalar("select count(*) from rp_event where kind = 'sent again'") >= 1


def test_what_the_relay_refused_is_sent_again(neustadt, ludwigshafen, postman, head) -> None:
    send(neustadt, head, "LUDWIGSHAFEN_N")
    with neustadt.archive.database.transaction() as tx:
        while (message := outbox.claim(tx, "main", "test", neustadt.clock.now())) is not None:
            if message.kind.value == "parcel":
                outbox.note_refused(tx, message, "test", "550 no")
        tx.execute(sa.text("update rp_message set state = 'queued', slot = null where state = 'sending'"))
        transfer = transfers.lock(tx, 1)
        rearm(tx, transfer, neustadt.limits, neustadt.clock.now())
    assert neustadt.scalar("select count(*) from rp_message where state = 'refused'") >= 1
    send(neustadt, head, "LUDWIGSHAFEN_N")
    assert neustadt.scalar("select count(*) from rp_message where state = 'refused'") == 0
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("emergency", 0, "delivered")]
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6


def test_a_damaged_one_is_mended_by_what_comes_again(neustadt, ludwigshafen, postman, head) -> None:
    for file in head:
        neustadt.receive(file, called="LUDWIGSHAFEN_N")
    sha256 = neustadt.scalar("select sha256 from rp_instance order by id offset 5 limit 1")
    blob = neustadt.archive.blobs.path(sha256)
    blob.chmod(0o600)
    blob.write_bytes(b"spoilt")
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("emergency", 0, "unconfirmed")]
    carried = len(postman.carried)
    send(neustadt, head, "LUDWIGSHAFEN_N")
    postman.run()
    postman.pass_time(60)
    assert neustadt.rows(OUT) == [("emergency", 0, "unconfirmed"), ("emergency", 1, "delivered")]
    assert items(neustadt, 1) == [("filed", 1)], "only what did not arrive"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6
    assert sum(kind == "parcel" for _, kind, _ in postman.carried[carried:]) == 1
