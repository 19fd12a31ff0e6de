"""Signs of life: exchanged, clocks compared, silence noticed, capabilities heeded, a restore from a backup healed."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from raypost.archive import audit_chain, contacts, openings, relays, standing
from raypost.archive.tables import CaseRow, RelayRow, RestoreRow
from tests.unit.conftest import SetClock


@pytest.fixture
def apart(neustadt, ludwigshafen):
    """The centre's clock is an hour ahead."""
    clock = SetClock()
    clock.pass_time(3600)
    ludwigshafen.clock = clock
    return clock


def greet(site, postman) -> None:
    other = next(one for one in postman.sites.values() if one is not site)
    site.greet.greet(site.scalar("select id from rp_site where name = :name", name=other.partner.name))
    postman.carry()
    other.work()


def contact(site):
    return site.rows("select * from rp_contact where heard_number > 0 or hellos_written > 0")[0]


def test_clocks_an_hour_apart_are_compared(neustadt, ludwigshafen, postman, apart) -> None:
    for _ in range(3):
        greet(neustadt, postman)
        for clock in (neustadt.clock, apart):
            clock.pass_time(301)
        greet(ludwigshafen, postman)
        for clock in (neustadt.clock, apart):
            clock.pass_time(301)
    ours, theirs = contact(neustadt), contact(ludwigshafen)
    assert ours.state == theirs.state == "fresh"
    assert abs(ours.clock_offset_s - 3600) <= ours.clock_uncertainty_s + 0.01 and ours.clock_uncertainty_s < 400
    assert abs(theirs.clock_offset_s + 3600) <= theirs.clock_uncertainty_s + 0.01
    assert ours.capabilities["kinds"] and ours.capabilities["software"].startswith("Raypost")


def test_a_doubled_hello_is_a_sign_of_nothing(neustadt, ludwigshafen, postman) -> None:
    postman.copies = 3
    greet(neustadt, postman)
    assert ludwigshafen.kinds().count("hello heard") == 1


def test_a_silent_partner_is_noticed_and_heard_again(neustadt, ludwigshafen, postman) -> None:
    greet(ludwigshafen, postman)
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    for _ in range(30):
        neustadt.clock.pass_time(30)
        neustadt.greet.greet(site_id)
    assert neustadt.kinds().count("partner silent") == 1
    with neustadt.archive.database.transaction() as tx:
        (one,) = standing.look(tx)["partners"]
    assert one["state"] == "silent" and one["last_heard_at"]
    greet(ludwigshafen, postman)
    assert neustadt.kinds().count("partner heard again") == 1


def test_the_sweep_asks_for_what_is_due(neustadt) -> None:
    neustadt.settle.sweep()
    jobs = "select count(*) from procrastinate_jobs where task_name = 'greet'"
    assert neustadt.scalar(jobs) == 1
    neustadt.settle.sweep()
    assert neustadt.scalar(jobs) == 1


def test_a_hello_goes_by_every_relay(neustadt, ludwigshafen, postman) -> None:
    with neustadt.archive.database.transaction() as tx:
        relays.declare(tx, ["main", "second"], neustadt.clock.now())
        tx.execute(
            sa.text(
                "insert into rp_mailbox (partner_id, relay, address)"
                " select p.id, 'second', 'l@second.test' from rp_partner p join rp_site s on s.id = p.site_id"
                " where s.name = 'ludwigshafen'"
            )
        )
        assert tx.scalar(sa.select(sa.func.count()).select_from(RelayRow)) == 2
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    neustadt.greet.greet(site_id)
    found = neustadt.rows("select relay, number, copy from rp_message where kind = 'hello' order by copy")
    assert [(row.relay, row.number) for row in found] == [("main", 1), ("second", 1)]


def test_a_partner_gets_no_messages_that_it_does_not_know(neustadt, ludwigshafen, postman, head) -> None:
    site_id = ludwigshafen.scalar("select id from rp_site where name = 'neustadt'")
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(60)
    with ludwigshafen.archive.database.transaction() as tx:
        contacts.row_of(tx, site_id).capabilities = {"kinds": ["parcel", "manifest", "receipt"]}
    with ludwigshafen.archive.database.transaction() as tx:
        case = tx.scalars(sa.select(CaseRow)).one()
        assert not openings.open_case(tx, case, ludwigshafen.clock.now(), "Dr. Keller")
    assert ludwigshafen.scalar("select count(*) from rp_message where kind = 'opened'") == 0


def test_what_a_restored_partner_lost_is_sent_again(neustadt, ludwigshafen, postman, head) -> None:
    greet(ludwigshafen, postman)
    backup_at = ludwigshafen.clock.now()
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(60)
    assert neustadt.transfer("out").state == "delivered"
    with ludwigshafen.archive.database.transaction() as tx:  # as a backup from before the study has it
        for table in (
            "rp_event",
            "rp_message",
            "rp_transfer_item",
            "rp_transfer",
            "rp_instance",
            "rp_series",
            "rp_case",
        ):
            tx.execute(sa.text(f"delete from {table}"))
        tx.add(RestoreRow(backup_at=backup_at, restored_at=ludwigshafen.clock.now()))
    neustadt.clock.pass_time(301)
    greet(ludwigshafen, postman)
    postman.run()
    postman.pass_time(300)
    assert neustadt.transfer("out").state == "delivered"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6
    assert neustadt.rows("select fields from rp_event where kind = 'sent again' order by id")[0][0]["why"].startswith(
        "the partner was restored"
    )
    greet(ludwigshafen, postman)
    assert neustadt.transfer("out").state == "delivered", "told once is enough"


def test_old_hellos_do_not_pile_up(neustadt, postman) -> None:
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    for _ in range(5):
        neustadt.greet.greet(site_id)
        neustadt.clock.instant += timedelta(seconds=301)
    assert neustadt.scalar("select count(*) from rp_message where kind = 'hello' and state = 'queued'") == 1


def test_a_partner_that_loses_its_audit_trail_rings_unless_it_was_restored(neustadt, ludwigshafen, postman) -> None:
    def append(site) -> str:
        audit_chain.append(site.archive.database, site.clock.now(), is_sending=False)
        with site.archive.database.transaction() as tx:
            return str(audit_chain.head(tx))

    append(ludwigshafen)
    said = append(ludwigshafen)
    greet(ludwigshafen, postman)
    heard = "select fields->>'audit_head' from rp_event where kind = 'hello heard'"
    assert neustadt.scalar(heard) == said
    ludwigshafen.clock.pass_time(301)
    site_id = neustadt.scalar("select id from rp_site where name = 'ludwigshafen'")
    with neustadt.archive.database.transaction() as tx:
        row = contacts.row_of(tx, site_id)
        row.capabilities = {**row.capabilities, "audit_head": "900000:" + "0" * 64}
    append(ludwigshafen)
    greet(ludwigshafen, postman)
    assert neustadt.rows("select level from rp_event where kind = 'audit went back'") == [("alarm",)]
    ludwigshafen.clock.pass_time(301)
    with neustadt.archive.database.transaction() as tx:
        row = contacts.row_of(tx, site_id)
        row.capabilities = {**row.capabilities, "audit_head": "900000:" + "0" * 64}
    with ludwigshafen.archive.database.transaction() as tx:
        tx.add(RestoreRow(backup_at=ludwigshafen.clock.now(), restored_at=ludwigshafen.clock.now()))
    greet(ludwigshafen, postman)
    assert neustadt.kinds().count("audit went back") == 1
