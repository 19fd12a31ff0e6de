"""Two jobs that look at the same transfers never wait for each other."""

import dataclasses
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from raypost.archive import openings, overdue, partners, rules, transfers
from raypost.archive.tables import CaseRow
from raypost.model.rules import Rule, RuleAction
from raypost.model.transfer import Priority
from tests.unit.cli.test_transfer_commands import Seat


def open_three(site) -> tuple[int, list[int]]:
    with site.archive.database.transaction() as tx:
        case_id = tx.scalars(sa.text("select id from rp_case")).one()
        case = transfers.lock_case(tx, case_id)
        found = []
        for site_id in tx.scalars(sa.text("select id from rp_site order by id")).all():
            row = transfers.open_outgoing(
                tx,
                case=case,
                site_id=site_id,
                priority=Priority.ROUTINE,
                ordered_by="person:anna",
                now=site.clock.now(),
            )
            found.append(row.id)
    return case_id, found


def test_the_transfers_of_a_case_come_in_the_order_of_their_numbers(neustadt, head) -> None:
    neustadt.receive(head[0], called="RAYPOST")
    case_id, found = open_three(neustadt)
    assert len(found) == 2
    with neustadt.archive.database.transaction() as tx:  # a changed row lies behind the others in the table
        tx.execute(sa.text("update rp_transfer set rounds = 1 where id = :id"), {"id": found[0]})
    with neustadt.archive.database.transaction() as tx:
        tx.execute(sa.text("set local enable_indexscan = off"))
        tx.execute(sa.text("set local enable_bitmapscan = off"))
        assert overdue.streaming_of_case(tx, case_id) == sorted(found)


def test_a_release_waits_for_routing_and_routing_for_it(neustadt, head) -> None:
    """Both lock several transfers; routing in the order of the rules."""
    neustadt.receive(head[0], called="RAYPOST")
    case_id, found = open_three(neustadt)
    with neustadt.archive.database.transaction() as tx:
        transfers.lock_case(tx, case_id)
        transfers.lock(tx, found[1])
        releasing = threading.Thread(target=neustadt.settle.release, args=(case_id,))
        releasing.start()
        releasing.join(1.0)
        assert releasing.is_alive(), "it waits with empty hands"
        tx.execute(sa.text("set local lock_timeout = '2s'"))
        assert transfers.lock(tx, found[0]) is not None, "and does not hold what we want next"
    releasing.join(10)
    assert not releasing.is_alive()


@pytest.fixture
def mannheim(neustadt, keyrings) -> None:
    """A second centre in the address book of the sender."""
    partner = dataclasses.replace(
        neustadt.partner,
        name="mannheim",
        display_name="Mannheim",
        ae_stem="MANNHEIM",
        address="mannheim@raypost.test",
        fingerprint=keyrings["ludwigshafen"][1][::-1],
        is_self=False,
    )
    with neustadt.archive.database.transaction() as tx:
        partners.add_partner(tx, partner, "cert", now=neustadt.clock.now(), who="test")


def check_that_it_waits_for_the_case(site, work: Callable[[], object]) -> None:
    """It must wait with empty hands: whoever has the case, as routing does, gets the transfers as well."""
    (case_id,) = site.rows("select id from rp_case")[0]
    found = [row.id for row in site.rows("select id from rp_transfer where direction = 'out' order by id")]
    assert found
    with site.archive.database.transaction() as tx:
        transfers.lock_case(tx, case_id)
        working = threading.Thread(target=work)
        working.start()
        working.join(1.0)
        assert working.is_alive(), "it needs the case, too"
        tx.execute(sa.text("set local lock_timeout = '2s'"))
        for transfer_id in found:
            assert transfers.lock(tx, transfer_id) is not None
    working.join(20)
    assert not working.is_alive()


def send_head(site, head) -> None:
    for file in head:
        assert site.receive(file, "LUDWIGSHAFEN_N") == 0
    site.work()


def test_a_rule_for_a_silent_centre_takes_the_case_first(neustadt, mannheim, head) -> None:
    with neustadt.archive.database.transaction() as tx:
        rule = Rule("next", RuleAction.REROUTE, "mannheim", partner="ludwigshafen", deadline_s=40.0)
        rules.add_rule(tx, rule, now=neustadt.clock.now(), who="test")
    send_head(neustadt, head)
    silent = neustadt.transfer("out").id
    neustadt.clock.pass_time(41)
    check_that_it_waits_for_the_case(neustadt, lambda: neustadt.settle.check(silent))
    assert [row.state for row in neustadt.rows("select state from rp_transfer order by id")][0] == "rerouted"


def test_a_centre_that_takes_a_case_takes_its_row_first(neustadt, ludwigshafen, postman, head) -> None:
    send_head(neustadt, head)
    postman.run()
    with ludwigshafen.archive.database.transaction() as tx:
        openings.ask_to_take(tx, tx.scalars(sa.select(CaseRow)).one(), ludwigshafen.clock.now(), "Dr. Keller")
    ludwigshafen.work()
    postman.carry()
    (waiting,) = neustadt.rows("select (args->>'collected_id')::int from procrastinate_jobs where task_name = 'open'")
    check_that_it_waits_for_the_case(neustadt, lambda: neustadt.open_mail.open(waiting[0]))
    assert neustadt.scalar("select responsible_site_id from rp_case") is not None


@pytest.mark.parametrize(
    ("words", "state"),
    [(("recall", "--why", "wrong patient"), "recalled"), (("reroute", "--to", "mannheim"), "rerouted")],
)
def test_a_command_about_a_transfer_takes_the_case_first(neustadt, mannheim, head, words, state) -> None:
    send_head(neustadt, head)
    seat = Seat(neustadt)
    command, *options = words
    transfer_key = neustadt.transfer("out").transfer_key
    check_that_it_waits_for_the_case(neustadt, lambda: seat.say("transfer", command, transfer_key, *options))
    assert neustadt.rows("select state from rp_transfer order by id")[0].state == state


def test_routing_takes_transfers_in_their_order_not_in_that_of_the_rules(neustadt, mannheim, head) -> None:
    """As those do who have no case: a relay that is away is left by many transfers at once."""
    send_head(neustadt, head[:1])
    assert neustadt.receive(head[1], "MANNHEIM_N") == 0
    neustadt.work()
    first, second = (row.id for row in neustadt.rows("select id from rp_transfer order by id"))
    with neustadt.archive.database.transaction() as tx:
        for number, name in enumerate(("mannheim", "ludwigshafen")):
            rule = Rule(f"rule-{number}", RuleAction.SEND, name, Priority.EMERGENCY)
            rules.add_rule(tx, rule, now=neustadt.clock.now(), who="test")
    assert neustadt.receive(head[2], "RAYPOST") == 0
    (case_id,) = neustadt.rows("select id from rp_case")[0]
    with neustadt.archive.database.transaction() as tx:
        transfers.lock(tx, first)
        routing = threading.Thread(target=neustadt.route.route, args=(case_id,))
        routing.start()
        routing.join(1.0)
        assert routing.is_alive()
        tx.execute(sa.text("set local lock_timeout = '2s'"))
        assert transfers.lock(tx, second) is not None
    routing.join(20)
    assert neustadt.scalar("select count(*) from rp_instance where routed_at is null") == 0, "nobody had to give way"
