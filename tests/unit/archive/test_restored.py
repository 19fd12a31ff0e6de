"""A site restored from a backup goes on: nothing hangs on what the backup has not, nothing is filed twice or lost."""

import dataclasses
import itertools
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from raypost.archive import backup, dump, events, outbox, transfers
from raypost.archive.database import Database, create_database
from raypost.archive.events import Position
from raypost.archive.pg_programs import embedded_programs
from raypost.archive.queue import rescue_jobs
from raypost.archive.rearm import order_again
from raypost.archive.site import Archive
from raypost.model.audit import EventKind
from raypost.stations.dispatch import Dispatch
from raypost.stations.outcomes import Outcomes
from raypost.transfer.pacing import PacingLimits

SMALL = PacingLimits(first_parcel_max_bytes=20_000, parcel_max_bytes=20_000)
"""A parcel or two for each image, so that a study is many messages."""
PARCELS = "select number from rp_message where kind = 'parcel' and direction = :direction"
_numbers = itertools.count()


class Rewinder:
    """Takes a backup of a site's database, and makes the site of it later: other database, other folder, empty spool."""

    def __init__(self, server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.made: list[tuple[str, Database]] = []

    def dump(self, site) -> Path:
        file = self.folder / f"dump-{next(_numbers)}"
        url = site.archive.database.url
        with dump.held_instant(url) as instant:
            dump.write_dump(url, embedded_programs(self.server.binaries), instant.snapshot_id, file, lambda _: None)
        return file

    def restore(self, site, file: Path, postman, damaged: int = 0):
        name = f"restored_{os.getpid()}_{next(_numbers)}"
        create_database(self.server.url(), name)
        url = self.server.url(name)
        dump.load_dump(url, embedded_programs(self.server.binaries), file, lambda _: None)
        folder = self.folder / name
        folder.mkdir()
        shutil.copytree(site.archive.blobs.folder, folder / "blobs")
        archive = Archive.open(Database(url, connections_max=6), folder)
        self.made.append((name, archive.database))
        fresh = dataclasses.replace(site, archive=archive, folder=folder)
        with archive.database.transaction() as tx:
            backup.note_restored(tx, site.clock.now() - timedelta(hours=3), site.clock.now(), damaged=damaged)
        postman.sites[site.partner.name] = fresh
        return fresh

    def close(self) -> None:
        for name, database in self.made:
            database.close()
            dump.drop_database(self.server.url(), name)


@pytest.fixture
def rewinder(server, tmp_path):
    made = Rewinder(server, tmp_path)
    yield made
    made.close()


def submit_lost(site) -> int:
    """Do what station 5 does with messages whose sealed file is gone; return how many."""
    outcomes = Outcomes(site.archive, site.clock, site.limits, site.pacing)
    dispatch = Dispatch(site.archive, site.clock, site.limits, outcomes, {}, 1, 0.0, lambda _: False)
    for count in itertools.count():
        with site.archive.database.transaction() as tx:
            message = outbox.claim(tx, "main", "main:0", site.clock.now())
        if message is None:
            return count
        assert not site.archive.spool.path(message.message_file).exists()
        dispatch._submit(None, "main:0", message)  # no session: nothing is there to be submitted
    raise AssertionError


def filed(site) -> list[tuple]:
    return site.rows("select sop_instance_uid, version, standing from rp_instance order by 1")


def test_a_sender_sends_again_what_lay_sealed_in_the_lost_spool(
    neustadt, ludwigshafen, postman, head, rewinder
) -> None:
    neustadt.pacing = SMALL
    for file in head:
        neustadt.receive(file)
    neustadt.work()
    with neustadt.archive.database.transaction() as tx:
        assert outbox.claim(tx, "main", "main:0", neustadt.clock.now()) is not None  # in a session's hand
    queued = neustadt.scalar("select count(*) from rp_message where state = 'queued'")
    assert queued >= 1 and neustadt.scalar("select count(*) from rp_message where state = 'sending'") == 1
    file = rewinder.dump(neustadt)
    site = rewinder.restore(neustadt, file, postman)
    assert submit_lost(site) == queued + 1
    assert site.scalar("select count(*) from rp_message where state in ('queued', 'sending')") == 0
    postman.run()
    postman.pass_time(60)
    assert site.transfer("out").state == "delivered"
    assert len(filed(ludwigshafen)) == 6 and ludwigshafen.transfer("in").state == "complete"


def test_a_sender_restored_to_before_what_arrived_meanwhile(neustadt, ludwigshafen, postman, head, rewinder) -> None:
    """It gives numbers again that its partner knows, to other images: both have everything in the end, once."""
    neustadt.pacing = SMALL
    for one in head[:2]:
        neustadt.receive(one)
    neustadt.work()
    postman.carry()
    file = rewinder.dump(neustadt)
    for one in head[2:4]:
        neustadt.receive(one)
    postman.run()
    postman.pass_time(3)
    assert len(filed(ludwigshafen)) == 4
    known = set(ludwigshafen.rows(PARCELS, direction="in"))
    site = rewinder.restore(neustadt, file, postman)
    submit_lost(site)
    for one in (head[5], head[4], head[2]):
        site.receive(one)
    before = set(site.rows(PARCELS, direction="out"))
    postman.run()
    postman.pass_time(120)
    assert (set(site.rows(PARCELS, direction="out")) - before) & known, "numbers are given twice"
    assert site.transfer("out").state == "delivered"
    assert len(filed(site)) == 5, "one image came between backup and restore and was not sent again"
    assert len(filed(ludwigshafen)) == 6
    assert {row[1:] for row in filed(ludwigshafen)} == {(1, "current")}, "none twice"


def test_a_receiver_forgets_what_it_had_in_hand(neustadt, ludwigshafen, postman, head, rewinder) -> None:
    neustadt.pacing = SMALL
    for one in head:
        neustadt.receive(one)
    neustadt.work()
    postman.carry()
    assert ludwigshafen.scalar("select count(*) from rp_collected where state = 'fetched'") > 0
    file = rewinder.dump(ludwigshafen)
    postman.run()
    postman.pass_time(60)
    assert neustadt.transfer("out").state == "delivered"
    site = rewinder.restore(ludwigshafen, file, postman)
    assert site.scalar("select count(*) from rp_collected") == 0, "what is at the relay still is fetched anew"
    site.work()
    assert site.scalar("select count(*) from rp_quarantine") == 0
    with neustadt.archive.database.transaction() as tx:
        order_again(tx, transfers.lock(tx, neustadt.transfer("out").id), neustadt.limits, neustadt.clock.now(), "test")
    postman.run()
    postman.pass_time(60)
    assert len(filed(site)) == 6 and site.transfer("in").state == "complete"
    assert neustadt.transfer("out").state == "delivered", "the receipts of a restored site are believed"


def test_slices_in_the_lost_spool_are_asked_for_again(neustadt, ludwigshafen, postman, head, rewinder) -> None:
    neustadt.mail_size_max_bytes = 30_000  # an image does not fit into one mail
    neustadt.receive(head[0])
    neustadt.work()
    parcels = 0
    while parcels < 1:
        postman.carry()
        ludwigshafen.work()
        parcels = ludwigshafen.scalar("select count(*) from rp_message where direction = 'in' and kind = 'parcel'")
        neustadt.work()
    if ludwigshafen.scalar("select count(*) from rp_instance"):
        pytest.fail("the image was to come in several parcels")
    assert list((ludwigshafen.archive.spool.folder / "assembly").iterdir())
    site = rewinder.restore(ludwigshafen, rewinder.dump(ludwigshafen), postman)
    assert site.scalar("select count(*) from rp_message where direction = 'in' and kind = 'parcel'") == 0
    submit_lost(site)
    postman.run()
    postman.pass_time(200)
    assert len(filed(site)) == 1 and neustadt.transfer("out").state == "delivered"


def test_events_stay_in_order_on_a_server_whose_transaction_numbers_are_lower(
    neustadt, head, postman, rewinder
) -> None:
    neustadt.receive(head[0])
    neustadt.work()
    old = neustadt.scalar("select count(*) from rp_event")
    with neustadt.archive.database.transaction() as tx:
        tx.execute(text("update rp_event set xid = cast('99999999' || id as xid8)"))  # of a server that ran for years
    site = rewinder.restore(neustadt, rewinder.dump(neustadt), postman, damaged=2)
    found = events.read_after(site.archive.database, Position())
    assert len(found) == old + 1 and found[-1].kind is EventKind.RESTORED
    assert found[-1].level.value == "alarm" and found[-1].fields["damaged"] == 2
    assert [one.position.event_id for one in found] == sorted(one.position.event_id for one in found)
    site.receive(head[1])
    assert events.read_after(site.archive.database, found[-1].position), "and readers see what happens now"


def test_jobs_of_workers_that_are_no_more_are_done(neustadt, head, postman, rewinder) -> None:
    neustadt.receive(head[0])
    with neustadt.archive.database.transaction() as tx:
        worker = tx.scalar(text("insert into procrastinate_workers default values returning id"))
        tx.execute(text("update procrastinate_jobs set status = 'doing', worker_id = :worker"), {"worker": worker})
    site = rewinder.restore(neustadt, rewinder.dump(neustadt), postman)
    assert site.scalar("select count(*) from procrastinate_workers") == 0
    with site.archive.database.transaction() as tx:
        assert rescue_jobs(tx, 6.0) > 0
    assert site.work() > 0 and site.transfer("out").state in ("announced", "streaming")


def test_the_last_restore_is_known(neustadt, head, postman, rewinder) -> None:
    with neustadt.archive.database.transaction() as tx:
        assert backup.last_restore(tx) is None
    file, now = rewinder.dump(neustadt), neustadt.clock.now()
    site = rewinder.restore(neustadt, file, postman)
    with site.archive.database.transaction() as tx:
        assert backup.last_restore(tx) == (now - timedelta(hours=3), now)
    neustadt.clock.pass_time(60)
    again = rewinder.restore(site, rewinder.dump(site), postman)
    with again.archive.database.transaction() as tx:
        assert backup.last_restore(tx) == (now - timedelta(hours=3, seconds=-60), now + timedelta(seconds=60))
        assert tx.scalar(text("select count(*) from rp_restore")) == 2


def test_a_fetched_mail_whose_file_is_gone_is_noted_and_blocks_nothing(neustadt, ludwigshafen, postman, head) -> None:
    """However it came about: a disk that was mended, a folder that was emptied by hand."""
    neustadt.receive(head[0])
    neustadt.work()
    postman.carry()
    lost = 0
    for (name,) in ludwigshafen.rows("select mail_file from rp_collected where state = 'fetched'"):
        ludwigshafen.archive.spool.path(name).unlink()
        lost += 1
    assert lost
    ludwigshafen.work()
    assert ludwigshafen.rows("select distinct state, due, mail_file from rp_collected") == [("quarantined", None, "")]
    noted = ludwigshafen.rows("select code, quarantine_file from rp_quarantine")
    assert noted == [("RP-400", "")] * lost
    postman.pass_time(400)
    assert len(filed(ludwigshafen)) == 1 and neustadt.transfer("out").state == "delivered"
