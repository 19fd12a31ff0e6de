"""Each message of a mailbox is listed once, in bounded windows, whatever the gaps between its numbers."""

import random
from bisect import bisect_left, bisect_right, insort

import pytest

from raypost.mail import listing
from raypost.mail.collecting_order import Listed
from raypost.mail.listing import Listing, Survey


class Mailbox:
    """Message numbers only; counts what is asked for."""

    def __init__(self, *imap_uids):
        self.imap_uids = sorted(imap_uids)
        self.next_uid = 1 + max([0, *imap_uids])
        self.answers: list[int] = []
        self.surveys = 0

    def deliver(self, *imap_uids):
        for one in imap_uids:
            assert one >= self.next_uid
            insort(self.imap_uids, one)
            self.next_uid = one + 1

    def survey(self, step):
        self.surveys += 1
        landmarks = [*self.imap_uids[::step], *self.imap_uids[-1:]]
        return Survey(sorted({*landmarks}), self.next_uid - 1)

    def list_range(self, first_uid, last_uid, *, and_newest=False):
        assert first_uid <= last_uid
        found = self.imap_uids[bisect_left(self.imap_uids, first_uid) : bisect_right(self.imap_uids, last_uid)]
        found = sorted({*found, *(self.imap_uids[-1:] if and_newest else [])})
        self.answers.append(len(found))
        return [Listed(one, 1, None) for one in found]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(listing, "LISTED_AT_ONCE_MAX", 5)


def uids(listed):
    return [one.imap_uid for one in listed]


def everything(one: Listing):
    found = []
    while not one.is_complete:
        found += uids(one.next_window())
    return found


def test_an_empty_mailbox_then_news():
    mailbox = Mailbox()
    one = Listing(mailbox)
    one.begin()
    assert one.is_complete and one.next_window() == [] and one.news() == []
    mailbox.deliver(1)
    assert uids(one.news()) == [1] and one.news() == []


def test_the_newest_first_then_from_both_ends():
    one = Listing(Mailbox(*range(1, 24)))
    one.begin()
    assert [uids(one.next_window())[0] for _ in range(5)] == [21, 1, 16, 6, 11]
    assert one.is_complete


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 10, 11, 99])
@pytest.mark.parametrize("gap", [1, 7, 100_000])
def test_each_is_listed_once(count, gap):
    mailbox = Mailbox(*range(gap, gap * count + 1, gap))
    one = Listing(mailbox)
    one.begin()
    assert sorted(everything(one)) == mailbox.imap_uids
    assert max(mailbox.answers) <= 6
    assert one.news() == []


def test_many_news_are_listed_in_windows_and_the_newest_first():
    mailbox = Mailbox(*range(1, 8))
    one = Listing(mailbox)
    one.begin()
    everything(one)
    mailbox.deliver(*range(8, 50), 2_000_000_000)
    found = [uids(one.news()), uids(one.next_window())]
    assert found[0] == [8, 9, 10, 11, 12] and found[1][-1] == 2_000_000_000
    assert sorted([*found[0], *found[1], *everything(one)]) == [*range(8, 50), 2_000_000_000]
    assert max(mailbox.answers) <= 6 and mailbox.surveys == 2


def test_a_look_costs_one_short_command_however_full_the_mailbox_is():
    mailbox = Mailbox(*range(1, 10_001))
    one = Listing(mailbox)
    one.begin()
    everything(one)
    mailbox.answers.clear()
    mailbox.deliver(10_001)
    assert uids(one.news()) == [10_001]
    assert mailbox.answers == [1] and mailbox.surveys == 1


@pytest.mark.parametrize("seed", range(40))
def test_deliveries_and_deletions_meanwhile(seed):
    chance = random.Random(seed)
    mailbox = Mailbox(*chance.sample(range(1, 400), 60))
    one, found, gone = Listing(mailbox), [], set()
    one.begin()
    for _ in range(60):
        match chance.randrange(4):
            case 0:
                first = mailbox.next_uid + chance.choice([0, 0, 3, 50])
                mailbox.deliver(*range(first, first + chance.choice([1, 2, 9, 30])))
            case 1:
                found += uids(one.next_window())
            case 2:
                found += uids(one.news())
            case _:
                for imap_uid in chance.sample(mailbox.imap_uids, min(3, len(mailbox.imap_uids))):
                    mailbox.imap_uids.remove(imap_uid)
                    gone.add(imap_uid)
    found += uids(one.news())
    found += everything(one)
    assert len(found) == len({*found}), "listed twice"
    assert {*mailbox.imap_uids} <= {*found} <= {*mailbox.imap_uids} | gone
