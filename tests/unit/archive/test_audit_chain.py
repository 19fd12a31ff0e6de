"""The audit trail: every event once, in a chain that shows each change; who saw a patient."""

import dataclasses
import hashlib
import json
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from raypost.archive import audit_chain, audit_reports, events, openings, search
from raypost.archive.audit_chain import Head
from raypost.model.audit import EventKind, Level
from tests.peers.audit_schema import valid


def append(site) -> int:
    """Have a message for every event; return how many events got one."""
    count = 0
    while done := audit_chain.append(site.archive.database, site.clock.now(), is_sending=False):
        count += done
    return count


def verify(site, elsewhere: Head | None = None) -> audit_chain.Verdict:
    with site.archive.database.transaction() as tx:
        return audit_chain.verify(tx, elsewhere)


def record(site, kind: EventKind = EventKind.HELLO_SENT, **fields) -> None:
    with site.archive.database.transaction() as tx:
        events.record(tx, site.clock.now(), kind, **fields)


def tamper(site, sql: str) -> None:
    """Do what the triggers refuse, as somebody who owns the database can."""
    with site.archive.database.transaction() as tx:
        tx.execute(sa.text("set local session_replication_role = replica"))
        tx.execute(sa.text(sql))


@pytest.fixture
def trail(neustadt):
    """A site with ten entries in its trail, and their head."""
    append(neustadt)
    for number in range(10):
        record(neustadt, number=number, relay="main")
    append(neustadt)
    return neustadt


def test_every_event_of_a_transfer_gets_its_message_once(neustadt, ludwigshafen, postman, head) -> None:
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(300)
    assert ludwigshafen.transfer("in").state == "complete"
    for site in (neustadt, ludwigshafen):
        append(site)
        assert append(site) == 0
        told = site.scalar("select sum(events) from rp_audit")
        assert told == site.scalar("select count(*) from rp_event")
        for row in site.rows("select * from rp_audit order by sequence"):
            root = valid(row.message)
            assert root.find("AuditSourceIdentification").get("AuditSourceID") == site.partner.name
        assert verify(site).broken_at is None
        patient = site.scalar("select patient_id from rp_patient")
        uid = site.scalar("select study_instance_uid from rp_case")
        (filed,) = site.rows(
            "select message from rp_audit where kind = any('{received,filed}') order by sequence limit 1"
        )
        assert f'ParticipantObjectID="{uid}"' in filed.message and patient in filed.message
    received = neustadt.rows("select events, message from rp_audit where kind = 'received'")
    assert sum(one.events for one in received) == 6
    assert len(received) == 1, "instances of one study that come in a row are one message"
    assert 'NumberOfInstances="6"' in received[0].message and 'UserID="CT1"' in received[0].message


def test_events_that_commit_late_are_not_missed(trail) -> None:
    with trail.archive.database.transaction() as slow:
        events.record(slow, trail.clock.now(), EventKind.BACKED_UP, damaged=0)
        slow.flush()
        record(trail, EventKind.RESTORED)
        assert append(trail) == 1
    assert append(trail) == 1
    kinds = [row.kind for row in trail.rows("select kind from rp_audit order by sequence desc limit 2")]
    assert kinds == ["backed up", "restored"]


def test_an_event_that_is_rolled_back_leaves_nothing(trail) -> None:
    with pytest.raises(RuntimeError), trail.archive.database.transaction() as tx:
        events.record(tx, trail.clock.now(), EventKind.OPENED, who="x")
        tx.flush()
        raise RuntimeError
    assert append(trail) == 0


def test_several_writers_make_one_chain(trail) -> None:
    before = trail.scalar("select max(sequence) from rp_audit")
    for number in range(1200):
        record(trail, number=number)
    writers = [threading.Thread(target=append, args=(trail,)) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    append(trail)
    assert trail.scalar("select count(*) from rp_audit") == before + 1200
    assert trail.scalar("select count(distinct event_id) from rp_audit") == before + 1200
    assert verify(trail).rows == before + 1200 and verify(trail).broken_at is None


@pytest.mark.parametrize(
    ("sql", "broken_at"),
    [
        ("update rp_audit set message = replace(message, 'Audit', 'AuditX') where sequence = 5", 5),
        ("update rp_audit set who = 'somebody else' where sequence = 5", 5),
        ("update rp_audit set case_id = 99 where sequence = 5", 5),
        ("update rp_audit set at = at + interval '1 microsecond' where sequence = 5", 5),
        ("update rp_audit set hash = repeat('0', 64) where sequence = 5", 5),
        ("delete from rp_audit where sequence = 5", 5),
        ("delete from rp_audit where sequence = 1", 1),
        ("delete from rp_audit where sequence > 8", 9),
        ("delete from rp_audit", 1),
        ("update rp_audit_state set sequence = sequence - 1", None),
        ("delete from rp_audit_state", None),
    ],
)
def test_what_is_changed_is_found(trail, sql, broken_at) -> None:
    last = verify(trail).head.sequence
    tamper(trail, sql)
    assert verify(trail).broken_at == (broken_at or (last - 1 if "- 1" in sql else last))
    assert verify(trail).what


def test_the_hash_is_what_the_page_says(trail) -> None:
    previous = "0" * 64
    for row in trail.rows("select * from rp_audit order by sequence"):
        content = [
            previous,
            row.sequence,
            row.at.isoformat(timespec="microseconds"),
            row.kind,
            row.event_id,
            row.events,
        ]
        content += [row.case_id, row.outcome, row.who, row.place, row.message]
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert row.hash == previous
    with trail.archive.database.transaction() as tx:
        assert audit_chain.head(tx) == Head(row.sequence, previous)


def test_only_a_head_kept_elsewhere_shows_a_chain_written_anew(trail) -> None:
    kept = verify(trail).head
    record(trail)
    append(trail)
    assert verify(trail, kept).broken_at is None and verify(trail, Head(0, "0" * 64)).broken_at is None
    tamper(trail, "insert into rp_audit_due select id from rp_event where id > 1")
    tamper(trail, "delete from rp_audit")
    tamper(trail, "delete from rp_audit_state")
    append(trail)
    assert verify(trail).broken_at is None, "by itself it is in order"
    found = verify(trail, kept)
    assert found.broken_at is not None and "another chain" in found.what
    later = dataclasses.replace(kept, sequence=10_000)
    assert "later" in verify(trail, later).what


def test_rows_are_neither_changed_nor_removed_by_accident(trail) -> None:
    for sql in ("update rp_audit set who = ''", "delete from rp_audit"):
        with pytest.raises(sa.exc.DBAPIError, match="never changed"):
            trail.rows(sql + " returning 1")
    with pytest.raises(sa.exc.DBAPIError, match="never changed"), trail.archive.database.transaction() as tx:
        tx.execute(sa.text("truncate rp_audit"))


def test_no_head_before_the_first_entry(neustadt) -> None:
    with neustadt.archive.database.transaction() as tx:
        assert audit_chain.head(tx) == Head(0, "0" * 64)
    assert verify(neustadt) == audit_chain.Verdict(0, Head(0, "0" * 64))


def test_who_saw_a_study(neustadt, ludwigshafen, postman, head) -> None:
    neustadt.receive(head[0])
    postman.run()
    postman.pass_time(300)
    study_key = ludwigshafen.scalar("select study_key from rp_case")
    with ludwigshafen.archive.database.transaction() as tx:
        openings.open_case(tx, search.case_by_key(tx, study_key), ludwigshafen.clock.now(), "dr.weber")
    for kind in (EventKind.EXPORTED, EventKind.AUDIT_USED):
        record(ludwigshafen, kind, case_id=ludwigshafen.scalar("select id from rp_case"), who="admin")
    postman.run()
    for site in (neustadt, ludwigshafen):
        append(site)

    def _report(site, **options):
        with site.archive.database.transaction() as tx:
            case = tx.scalar(sa.select(search.CaseRow))
            found = audit_reports.who_saw(tx, case, is_whole_patient=options.get("patient", False))
        return [(one["who"], one["what"], one["place"]) for one in found]

    assert _report(ludwigshafen) == [
        ("neustadt", "received", "ludwigshafen"),
        ("dr.weber", "opened", "ludwigshafen"),
        ("admin", "exported", "ludwigshafen"),
        ("admin", "looked up in the audit trail", "ludwigshafen"),
    ]
    assert ("dr.weber", "opened", "ludwigshafen") in _report(neustadt), "by the partner's word"
    assert ("neustadt", "received", "ludwigshafen") in _report(neustadt), "by its receipt"
    assert _report(ludwigshafen, patient=True) == _report(ludwigshafen)


def test_the_list_is_cut_by_study_and_time(trail) -> None:
    since = trail.clock.now() + timedelta(hours=1)
    trail.clock.pass_time(7200)
    record(trail, EventKind.QUARANTINED, level=Level.ALARM, code="RP-500")
    append(trail)
    with trail.archive.database.transaction() as tx:
        (late,) = audit_reports.entries(tx, since=since)
        newest = audit_reports.entries(tx, limit=3)
        assert audit_reports.entries(tx, case_id=1) == []
    assert (late["kind"], late["outcome"]) == ("quarantined", 8)
    assert [one["sequence"] for one in newest] == sorted(one["sequence"] for one in newest) and newest[-1] == late
