"""What is known of a relay, and by which a partner is reached: rows of a real database."""

import dataclasses
from datetime import timedelta

import pytest

from raypost.archive import moving, partners, relays
from raypost.archive.packing import PlannedMessage
from raypost.errors import LoginRefusedError, UnreachableError
from raypost.model.site import Mailbox
from raypost.model.transfer import MessageKind
from raypost.transfer.failover import FailoverLimits, RelayState

LIMITS = FailoverLimits()


@pytest.fixture
def tx(neustadt):
    """A transaction of a site with accounts on two relays, whose partner has mailboxes on both."""
    with neustadt.archive.database.transaction() as tx:
        now = neustadt.clock.now()
        partner = partners.partner_named(tx, "ludwigshafen")
        boxes = (Mailbox("main", partner.address), Mailbox("reserve", "l@reserve.test"))
        partners.add_partner(tx, dataclasses.replace(partner, mailboxes=boxes), "cert", now=now, who="test")
        relays.declare(tx, ["main", "reserve"], now)
        tx.now, tx.partner = now, partner.site_id
        yield tx


def row(tx, name="main"):
    return tx.get(relays.RelayRow, name)


AWAY = UnreachableError("no")


def keep_out(tx, name, now, error=AWAY):
    relays.kept_us_out(tx, name, error.code, error.what, now, LIMITS, begun_at=now)


def kinds(tx, level="alarm"):
    return [kind for (kind,) in tx.execute(relays.sa.text(f"select kind from rp_event where level = '{level}'"))]


def states(tx):
    return {one.name: one.state for one in relays.of_partner(tx, tx.partner)}


def test_pauses_grow_and_are_forgotten_when_it_takes_a_mail_not_when_it_lets_us_in(tx) -> None:
    waits, now = [], tx.now
    for _ in range(8):
        keep_out(tx, "main", now)
        waits.append((row(tx).due - now).total_seconds())
        now = row(tx).due
        assert relays.due_relays(tx, now) == ["main"]
        assert relays.let_us_in(tx, "main", 1000, now) is True and relays.let_us_in(tx, "main", 1000, now) is False
        now += timedelta(seconds=1)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    relays.note_taken(tx, "main", 100, 1.0, now)
    keep_out(tx, "main", now)
    assert (row(tx).due - now).total_seconds() == 2
    assert relays.let_us_in(tx, "main", 1000, now)
    keep_out(tx, "main", now + relays.FORGIVEN_AFTER * 2)
    assert row(tx).failures == 1


def test_sessions_that_fail_together_count_once_and_one_tries_it(tx) -> None:
    now = tx.now
    relays.kept_us_out(tx, "main", "RP-101", "no", now + timedelta(seconds=5), LIMITS, begun_at=now)
    relays.kept_us_out(tx, "main", "RP-101", "no", now + timedelta(seconds=6), LIMITS, begun_at=now)
    assert row(tx).failures == 1 and kinds(tx, "notice") == ["relay unreachable"]
    assert not relays.may_try(tx, "main", now + timedelta(seconds=6))
    later = row(tx).due
    assert [relays.may_try(tx, "main", later) for _ in range(2)] == [True, False]
    assert relays.may_try(tx, "main", later + relays.PROBE_LASTS), "should the one who tried it have died"
    assert relays.may_try(tx, "reserve", now)


def test_a_wrong_password_is_an_alarm_once_for_each_reason(tx) -> None:
    now = tx.now
    for said in ("535 wrong", "535 wrong", "535 locked"):
        keep_out(tx, "main", now, LoginRefusedError(said))
        assert row(tx).due - now == relays.MEND_WAIT
        now += relays.MEND_WAIT
    assert kinds(tx) == ["relay unreachable"] * 2
    relays.declare(tx, ["main", "reserve"], now)
    assert row(tx).due == now, "after a start, when it may have been mended"


def test_submission_and_collection_are_told_apart(tx) -> None:
    relays.note_unreachable(tx, "main", "RP-101", "imap down", tx.now)
    relays.note_unreachable(tx, "main", "RP-101", "imap still down", tx.now)
    assert states(tx)["main"] is RelayState.WELL and kinds(tx, "notice") == ["relay unreachable"]
    keep_out(tx, "main", tx.now)
    relays.let_us_in(tx, "main", None, tx.now)
    assert not row(tx).is_reachable
    keep_out(tx, "main", tx.now)
    relays.note_reached(tx, "main", None, tx.now)
    assert states(tx)["main"] is RelayState.AWAY and row(tx).due == tx.now, "it is tried at once"


def test_a_learned_limit_has_a_floor_and_an_end(tx) -> None:
    relays.let_us_in(tx, "main", 10_000_000, tx.now)
    relays.note_size_limit(tx, "main", 500_000, tx.now)
    relays.note_size_limit(tx, "main", 900_000, tx.now)
    assert relays.size_max_bytes(tx, "main") == 500_000
    relays.note_size_limit(tx, "main", 10, tx.now)
    assert relays.size_max_bytes(tx, "main") == relays.LEARNED_MIN_BYTES
    relays.let_us_in(tx, "main", 10_000_000, tx.now + relays.LEARNED_LASTS / 2)
    assert relays.size_max_bytes(tx, "main") == relays.LEARNED_MIN_BYTES
    relays.let_us_in(tx, "main", 10_000_000, tx.now + relays.LEARNED_LASTS * 1.1)
    assert relays.size_max_bytes(tx, "main") == 10_000_000


def planned(tx, **words):
    values = dict(
        message_row=1, transfer_id=1, partner_site_id=tx.partner, kind=MessageKind.PARCEL, number=1, attempt=1
    )
    return PlannedMessage(**{**values, **words})


def test_the_way_of_a_message(tx) -> None:
    def way(**words):
        return moving.relay_for(tx, planned(tx, **words), is_late=False)

    assert way() == "main"
    assert way(relay="reserve") == "reserve", "decided when it was planned"
    offered = dict(was_offered=True, relay="main")
    assert way(attempt=2, **offered) == "reserve" and way(attempt=3, was_offered=True, relay="reserve") == "main"
    assert way(attempt=2, relay="main") == "main", "it was only sealed anew"
    assert way(refused_by=frozenset({"main"})) == "reserve"
    assert way(refused_by=frozenset({"main", "reserve"})) == "main", "asked again rather than not sent"
    assert way(copy=1, relay="reserve") == "reserve" and way(copy=1, relay="elsewhere") is None
    keep_out(tx, "reserve", tx.now)
    assert way(attempt=2, **offered) == "main" and way(copy=1, relay="reserve") is None
    assert way(relay="reserve") == "main"
    keep_out(tx, "main", tx.now + timedelta(seconds=1))
    assert way() == "reserve", "of relays that are away the one that went first"
    assert moving.relay_for(tx, planned(tx, partner_site_id=999), is_late=False) is None
    relays.let_us_in(tx, "main", None, tx.now)
    relays.let_us_in(tx, "reserve", None, tx.now)
    late = [moving.relay_for(tx, planned(tx, number=n), is_late=True) for n in (1, 2, 3, 4)]
    assert sorted(set(late)) == ["main", "reserve"], "what is late goes by all in turn"


def test_who_else_could_take_it(tx) -> None:
    assert moving.has_other(tx, tx.partner, "main") and not moving.has_other(tx, tx.partner, "main", ["reserve"])
    keep_out(tx, "reserve", tx.now)
    assert not moving.has_other(tx, tx.partner, "main") and moving.has_other(tx, tx.partner, "main", also_away=True)
    assert (
        relays.others(tx, "main") == [] and relays.others(tx, "reserve") == ["main"] and relays.away(tx) == ["reserve"]
    )


def test_a_relay_that_refuses_is_set_back_for_a_while(tx) -> None:
    assert relays.set_back(tx, "main", LIMITS, tx.now) and not relays.set_back(tx, "main", LIMITS, tx.now)
    assert moving.relay_for(tx, planned(tx), is_late=False) == "reserve"
    assert relays.due_relays(tx, tx.now + timedelta(seconds=LIMITS.suspect_s)) == []
    assert states(tx)["main"] is RelayState.WELL
