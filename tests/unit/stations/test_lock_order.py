"""Two jobs that look at the same transfers never wait for each other."""

import threading

import sqlalchemy as sa

from raypost.archive import overdue, transfers
from raypost.model.transfer import Priority


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
