"""What matters is fetched first, nobody gains more than his own turn by what he writes outside, and nothing is left."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypost.mail import collecting_order
from raypost.mail.collecting_order import (
    BUDGET,
    BULK_EVERY,
    NULL_SENDER,
    STRANGER_RANK,
    STRANGERS_WEIGHT,
    URGENT_SIZE_MAX_BYTES,
    CollectingOrder,
    Listed,
    Standing,
    standing_of,
)
from raypost.mail.tokens import Token

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
A, B, C = (f"{name}@raypost.test" for name in "abc")
SECOND = timedelta(seconds=1)


def mail(imap_uid, kind="announce", sender=A, number=1, size_bytes=3000):
    return Listed(imap_uid, size_bytes, kind and Token("abcdefghij", kind, number), None, sender)


def order_of(*mails, partners=(A, B, C)):
    order = CollectingOrder(partners)
    order.add(mails)
    return order


def drain(order, now=NOW, limit=100_000):
    """Choose until nothing waits; all at one instant, so that budgets do not recover."""
    chosen = []
    while (one := order.choose(now)) is not None:
        chosen.append(one)
        assert len(chosen) <= limit
    return chosen


def uids(chosen):
    return [one.mail.imap_uid for one in chosen]


@pytest.mark.parametrize(
    ("kind", "standing"),
    [
        ("announce", Standing.ALARM),
        ("recall", Standing.ALARM),
        *[
            (kind, Standing.CONTROL)
            for kind in ("manifest", "receipt", "opened", "take", "taken", "recalled", "redirect", "correct")
        ],
        ("of-a-newer-version".replace("-", ""), Standing.CONTROL),
        ("parcel", Standing.FIRST_PARCEL),
        ("hello", Standing.LAST),
        (None, Standing.LAST),
    ],
)
def test_standing(kind, standing):
    assert standing_of(mail(1, kind)) is standing


def test_a_later_or_large_parcel_is_bulk_and_a_large_announcement_is_none():
    assert standing_of(mail(1, "parcel", number=2)) is Standing.PARCEL
    assert standing_of(mail(1, "parcel", size_bytes=URGENT_SIZE_MAX_BYTES + 1)) is Standing.PARCEL
    assert standing_of(mail(1, "announce", size_bytes=URGENT_SIZE_MAX_BYTES + 1)) is Standing.PARCEL


def test_within_a_sender():
    order = order_of(
        mail(1, "hello"),
        mail(2, "parcel", number=3),
        mail(3, "parcel", number=2),
        mail(4, "parcel", number=1),
        mail(5, "receipt"),
        mail(6, "recall"),
    )
    assert uids(drain(order)) == [6, 5, 4, 3, 1, 2], "and a hello has its turn among the parcels"


def test_an_announcement_goes_before_everything_of_everybody():
    order = order_of(
        *(mail(number, "parcel", B, number, 5_000_000) for number in range(2, 50)),
        *(mail(number, "receipt", C) for number in range(100, 120)),
        mail(200, "announce", A),
    )
    assert order.choose(NOW).mail.imap_uid == 200


def test_the_newest_announcement_is_not_behind_a_thousand_older_ones_nor_the_oldest_behind_newer_ones():
    order = order_of(*(mail(number) for number in range(1, 1000)))
    order.add([mail(5000)])
    assert uids([order.choose(NOW), order.choose(NOW)]) == [5000, 1]


@pytest.mark.parametrize("forged_by", ["strangers", "a partner"])
def test_ten_thousand_forged_announcements_stand_before_no_genuine_one(forged_by):
    def sender(number):
        return f"s{number}@evil.test" if forged_by == "strangers" else B

    order = order_of(*(mail(number, "announce", sender(number)) for number in range(1, 10_001)))
    for _ in range(500):  # some were fetched already when it comes
        order.choose(NOW)
    order.add([mail(20_000, "announce", A)])
    first = order.choose(NOW), order.choose(NOW)
    assert 20_000 in uids(first), "only the turn of bulk can be before it"
    [genuine] = [one for one in first if one.mail.imap_uid == 20_000]
    others = drain(order)
    assert len(others) == 10_000 - 500 - 1
    assert all(one.open_rank < genuine.open_rank for one in others)


def test_beyond_the_budget_it_is_bulk_and_a_minute_later_urgent_again():
    order = order_of(*(mail(number) for number in range(1, 201)))
    budget = BUDGET[Standing.ALARM]
    urgent = [order.choose_urgent(NOW) for _ in range(budget)]
    assert all(urgent) and order.choose_urgent(NOW) is None
    bulk_rank = order.choose(NOW).open_rank
    ranks = [one.open_rank for one in urgent]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == budget, "each ranks below the one before"
    assert bulk_rank <= 50 < min(ranks)
    assert order.choose_urgent(NOW + 59 * SECOND) is None
    assert order.choose_urgent(NOW + 60 * SECOND).open_rank == ranks[0]


def test_a_clock_that_is_set_back_gives_the_budget_again():
    order = order_of(*(mail(number) for number in range(1, 201)))
    while order.choose_urgent(NOW):
        pass
    assert order.choose_urgent(NOW - timedelta(days=1)) is not None


def test_the_budget_of_receipts_is_not_that_of_announcements():
    order = order_of(*(mail(number, "receipt") for number in range(1, 200)))
    while order.choose_urgent(NOW):
        pass
    order.add([mail(500, "announce")])
    assert order.choose_urgent(NOW).mail.imap_uid == 500


def test_a_quiet_partner_is_opened_before_a_busy_one():
    order = order_of(*(mail(number, "announce", B) for number in range(1, 4)))
    busy = [order.choose(NOW) for _ in range(3)]
    order.add([mail(10, "announce", A)])
    quiet = order.choose(NOW)
    assert quiet.open_rank == busy[0].open_rank > busy[1].open_rank > busy[2].open_rank


def test_senders_take_turns_by_bytes():
    order = order_of(
        *(mail(number, "parcel", A, number, 10_000_000) for number in range(2, 20)),
        *(mail(number, "parcel", B, number, 1_000_000) for number in range(102, 300)),
    )
    first = [order.choose(NOW).mail for _ in range(22)]
    given = {sender: sum(one.size_bytes for one in first if one.sender == sender) for sender in (A, B)}
    assert abs(given[A] - given[B]) <= 10_000_000


def test_urgent_mails_of_all_senders_take_turns():
    order = order_of(
        *(mail(number, "receipt", A, size_bytes=900_000) for number in range(1, 21)),
        *(mail(number, "receipt", B) for number in range(101, 121)),
    )
    assert {order.choose_urgent(NOW).mail.sender for _ in range(2)} == {A, B}
    assert {order.choose_urgent(NOW).mail.sender for _ in range(18)} == {B}, "one large was as much as many small"


def test_urgent_mails_of_a_partner_that_was_quiet_are_not_paid_for_it():
    order = order_of(*(mail(number, "receipt", B) for number in range(1, 61)))
    for _ in range(30):
        order.choose_urgent(NOW)
    order.add(mail(number, "receipt", A) for number in range(101, 121))
    assert sum(order.choose_urgent(NOW).mail.sender == A for _ in range(20)) <= 11


def test_urgent_mails_leave_a_turn_to_bulk():
    order = order_of(*(mail(number, "receipt", A) for number in range(1, 51)), mail(100, "parcel", C, 2, 30_000_000))
    assert 100 in uids(order.choose(NOW) for _ in range(2 * BULK_EVERY))


def test_strangers_have_a_small_share_but_one():
    order = order_of(
        *(mail(number, "parcel", A, 2, 5000) for number in range(1, 1001)),
        *(mail(number, "announce", f"s{number}@evil.test", 1, 5000) for number in range(2001, 3001)),
    )
    first = [order.choose(NOW) for _ in range(340)]
    strangers = [one for one in first if one.is_strangers]
    assert 340 // (STRANGERS_WEIGHT + 4) <= len(strangers) <= 340 // STRANGERS_WEIGHT + 1
    assert {one.open_rank for one in strangers} == {STRANGER_RANK}
    assert uids(strangers) == sorted(uids(strangers)), "the oldest first"
    assert len(drain(order)) == 2000 - 340, "nothing is left"


def test_a_new_partner_is_not_paid_for_the_time_in_which_it_sent_nothing():
    order = order_of(*(mail(number, "parcel", B, 2) for number in range(1, 1001)))
    for _ in range(500):
        order.choose(NOW)
    order.add(mail(number, "parcel", A, 2) for number in range(2001, 2101))
    assert sum(one.mail.sender == A for one in (order.choose(NOW) for _ in range(40))) <= 21


def test_bounces_have_a_turn_of_their_own_and_are_never_urgent():
    order = order_of(mail(1, "announce", NULL_SENDER), *(mail(n, "announce", f"s{n}@evil.test") for n in range(2, 500)))
    assert order.choose_urgent(NOW) is None
    first = order.choose(NOW)
    assert first.mail.imap_uid == 1 and not first.is_strangers and STRANGER_RANK < first.open_rank < 50


def test_forged_announcements_of_a_partner_do_not_starve_its_own_parcels_and_hellos():
    order = order_of(
        *(mail(number, "announce") for number in range(1, 2001)),
        *(mail(number, "parcel", A, number) for number in range(3002, 3012)),
        mail(4000, "hello"),
    )
    first = uids(order.choose(NOW) for _ in range(120))
    assert {*range(3002, 3012), 4000} <= {*first}


def test_ever_new_transfers_do_not_starve_an_old_one():
    order = order_of(mail(1, "parcel", A, 900))
    for number in range(2, 100):
        order.add([mail(number, "parcel", A, 2)])
        if order.choose(NOW).mail.imap_uid == 1:
            return
    raise AssertionError("a parcel with a high number waits for ever")


def test_an_address_that_becomes_a_partners_is_sorted_anew_and_back():
    order = order_of(mail(1, "announce", "New@Raypost.test".lower()), mail(2, "announce", "x@evil.test"))
    assert order.choose_urgent(NOW) is None
    order.know_partners({"NEW@raypost.test"})
    assert len(order) == 2
    chosen = order.choose_urgent(NOW)
    assert chosen.mail.imap_uid == 1 and not chosen.is_strangers
    order.add([mail(3, "announce", "new@raypost.test")])
    order.know_partners(())
    assert order.choose_urgent(NOW) is None and {one.is_strangers for one in drain(order)} == {True}


def test_what_is_held_is_bounded_and_said(monkeypatch):
    monkeypatch.setattr(collecting_order, "HELD_MAX", 10)
    order = order_of(*(mail(number, "parcel", f"s{number}@evil.test", 2) for number in range(1, 51)))
    assert len(order) == 10 and order.has_forgotten
    order.add([mail(100, "announce", A)])
    assert len(order) == 11, "a full sender takes no room from another"


kinds = st.sampled_from(["announce", "recall", "receipt", "parcel", "hello", None])
senders = st.sampled_from([A, B, C, NULL_SENDER, None, "x@evil.test", "y@evil.test"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(kinds, senders, st.integers(0, 9), st.integers(0, 3_000_000), st.integers(0, 40)), max_size=120)
)
def test_whatever_comes_each_is_chosen_once_and_partners_never_wait_for_more_than_a_turn(plan):
    order, now, expected, chosen = CollectingOrder({A, B, C}), NOW, set(), []
    for number, (kind, sender, parcel, size_bytes, pause) in enumerate(plan, 1):
        order.add([mail(number, kind, sender, parcel, size_bytes)])
        expected.add(number)
        now += pause * SECOND / 10
        if pause % 3 == 0 and (one := order.choose(now)) is not None:
            chosen.append(one)
        assert len(order) == len(expected) - len(chosen)
    chosen += drain(order, now)
    assert sorted(uids(chosen)) == sorted(expected)
    assert all(one.is_strangers == (one.mail.sender not in (A, B, C, NULL_SENDER)) for one in chosen)
    assert all((one.open_rank == STRANGER_RANK) == one.is_strangers for one in chosen)
