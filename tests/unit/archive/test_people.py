"""Persons, roles, the check of rights, and signing in: rows of a real database."""

import itertools
import json
import threading
from datetime import timedelta

import pytest

from raypost.archive import people, sign_in
from raypost.archive.people import UNKNOWN
from raypost.archive.sign_in import SignedIn, SignInRefusal, SignInRefused
from raypost.errors import ForbiddenError, UsageError
from raypost.model.person import Person
from raypost.model.rights import RIGHTS, Right, Role

GOOD, OTHER = "grey lamp under seven hats", "nine boats behind the yellow door"


@pytest.fixture
def site(neustadt):
    """A site with an administrator and a physician."""
    with neustadt.archive.database.transaction() as tx:
        now = neustadt.clock.now()
        people.add_person(tx, Person("anna", "Anna Amt", roles=frozenset({Role.ADMINISTRATOR})), now=now, who="init")
        people.add_person(
            tx, Person("keller", "Dr. Keller", "+49 621 1", frozenset({Role.PHYSICIAN})), now=now, who="anna", why="new"
        )
    return neustadt


@pytest.fixture
def guarded(site):
    """The same; the physician has a password."""
    act(site, sign_in.set_password, "keller", GOOD)
    return site


def act(site, function, *arguments, **words):
    """Call a function in a transaction of its own, at the site's time."""
    with site.archive.database.transaction() as tx:
        return function(tx, *arguments, now=site.clock.now(), who="anna", **words)


def attempt(site, name, password):
    with site.archive.database.transaction() as tx:
        return sign_in.sign_in(tx, name, password, site.clock.now())


def events(site, kind):
    return [row[0] for row in site.rows("select fields from rp_event where kind = :kind order by id", kind=kind)]


def all_text(site):
    return json.dumps([[str(cell) for cell in row] for row in site.rows("select kind, fields from rp_event")])


def test_the_check_is_the_table(site) -> None:
    for role in Role:
        act(site, people.add_person, Person(f"a.{role.value}", f"A {role.value}", roles=frozenset({role})))
    with site.archive.database.transaction() as tx:
        for role, right in itertools.product(Role, Right):
            name = f"a.{role.value}"
            if right in RIGHTS[role]:
                assert people.require(tx, name, right).name == name
                continue
            with pytest.raises(ForbiddenError) as refused:
                people.require(tx, name, right)
            assert right.value in refused.value.what and "raypost user role" in refused.value.do


@pytest.mark.parametrize("name", ["nobody", "Dr. Keller", "", "kel\0ler", "x" * 100_000])
def test_who_is_nobody_may_nothing_and_is_not_written_down(site, name) -> None:
    with pytest.raises(ForbiddenError) as refused, people.noting_refusals(site.archive.database, site.clock.now()):
        with site.archive.database.transaction() as tx:
            people.require(tx, name, Right.SEE_STATE)
    assert refused.value.exit_code == 2
    assert events(site, "right refused") == [{"person": UNKNOWN, "right": "see how the site is"}]


def test_who_is_disabled_may_nothing_and_a_refusal_outlives_the_act_that_was_rolled_back(site) -> None:
    act(site, people.disable, "keller", why="left")
    with (
        pytest.raises(ForbiddenError, match="disabled since"),
        people.noting_refusals(site.archive.database, site.clock.now()),
    ):
        with site.archive.database.transaction() as tx:
            people.add_person(
                tx, Person("late", "Late", roles=frozenset({Role.AUDITOR})), now=site.clock.now(), who="keller"
            )
            people.require(tx, "keller", Right.OPEN_STUDY)
    with site.archive.database.transaction() as tx:
        assert [one.name for one in people.all_persons(tx)] == ["anna", "keller"]
    assert events(site, "right refused") == [{"person": "keller", "right": "open a study"}]
    assert act(site, people.enable, "keller").may(Right.OPEN_STUDY), "with the roles of before"


def test_every_change_is_an_event_with_who_whom_what_and_why_and_no_password(guarded) -> None:
    act(guarded, people.give_role, "keller", Role.COORDINATOR, why="for the network")
    act(guarded, people.take_role, "keller", Role.COORDINATOR, why="done")
    act(guarded, people.disable, "keller", why="left")
    act(guarded, people.enable, "keller", why="back")
    found = [
        (one["change"], one["person"], one["who"], one.get("role"), one.get("why"))
        for one in events(guarded, "person changed")
    ]
    assert found == [
        ("added", "anna", "init", None, None),
        ("role added", "anna", "init", "administrator", None),
        ("added", "keller", "anna", None, "new"),
        ("role added", "keller", "anna", "physician", "new"),
        ("password set", "keller", "anna", None, None),
        ("role added", "keller", "anna", "coordinator", "for the network"),
        ("role removed", "keller", "anna", "coordinator", "done"),
        ("disabled", "keller", "anna", None, "left"),
        ("enabled", "keller", "anna", None, "back"),
    ]
    attempt(guarded, "keller", GOOD), attempt(guarded, "keller", OTHER), attempt(guarded, GOOD, OTHER)
    assert GOOD not in all_text(guarded) and OTHER not in all_text(guarded) and "argon2" not in all_text(guarded)
    rows = guarded.rows(
        "select role, added_by, why, retired_by, retired_why from rp_person_role where retired_at is not null"
    )
    assert [tuple(row) for row in rows] == [("coordinator", "anna", "for the network", "anna", "done")]


def test_the_last_active_administrator_stays(site) -> None:
    for change in (
        lambda: act(site, people.disable, "anna"),
        lambda: act(site, people.take_role, "anna", Role.ADMINISTRATOR),
    ):
        with pytest.raises(UsageError, match="last active administrator"):
            change()
    act(site, people.give_role, "keller", Role.ADMINISTRATOR)
    act(site, people.disable, "keller")
    with pytest.raises(UsageError, match="last active administrator"):
        act(site, people.disable, "anna")
    act(site, people.enable, "keller")
    assert not act(site, people.disable, "anna").is_active


def test_two_administrators_who_disable_each_other_at_once_leave_one(site) -> None:
    act(site, people.give_role, "keller", Role.ADMINISTRATOR)
    together, outcomes = threading.Barrier(2), []

    def _disable(name: str) -> None:
        together.wait(10)
        try:
            outcomes.append(act(site, people.disable, name).name)
        except UsageError:
            outcomes.append("refused")

    threads = [threading.Thread(target=_disable, args=(name,)) for name in ("anna", "keller")]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert len(outcomes) == 2 and outcomes.count("refused") == 1
    assert site.scalar("select count(*) from rp_person where disabled_at is null") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda tx, **it: people.add_person(tx, Person("keller", "Another", roles=frozenset({Role.AUDITOR})), **it),
        lambda tx, **it: people.add_person(tx, Person("weber", "Without role"), **it),
        lambda tx, **it: people.give_role(tx, "keller", Role.PHYSICIAN, **it),
        lambda tx, **it: people.take_role(tx, "keller", Role.AUDITOR, **it),
        lambda tx, **it: people.enable(tx, "keller", **it),
        lambda tx, **it: people.disable(tx, "nobody", **it),
        lambda tx, **it: people.disable(tx, "keller", why="two\nlines", **it),
        lambda tx, **it: people.disable(tx, "keller", why="x" * 501, **it),
        lambda tx, **it: sign_in.set_password(tx, "nobody", GOOD, **it),
        lambda tx, **it: sign_in.set_password(tx, "keller", "Dr. Keller 1", **it),
        lambda tx, **it: sign_in.set_password(tx, "keller", "neustadt neustadt", **it),
    ],
)
def test_what_cannot_be_right_changes_nothing(site, change) -> None:
    before = site.rows("select * from rp_person order by id"), site.rows("select * from rp_person_role order by id")
    count = len(site.kinds())
    with pytest.raises(UsageError):
        act(site, change)
    assert (
        site.rows("select * from rp_person order by id"),
        site.rows("select * from rp_person_role order by id"),
    ) == before
    assert len(site.kinds()) == count


def test_no_more_persons_than_the_bound(site, monkeypatch) -> None:
    monkeypatch.setattr(people, "PERSONS_MAX", 3)
    act(site, people.add_person, Person("third", "Third", roles=frozenset({Role.AUDITOR})))
    with pytest.raises(UsageError, match="3 persons already"):
        act(site, people.add_person, Person("fourth", "Fourth", roles=frozenset({Role.AUDITOR})))


def test_the_name_that_people_read_leads_to_one_person(site) -> None:
    with site.archive.database.transaction() as tx:
        assert people.login_name_of(tx, "Dr. Keller") == people.login_name_of(tx, "keller") == "keller"
        assert people.login_name_of(tx, "Dr. Weber") == "Dr. Weber"
    act(site, people.add_person, Person("mallory", "keller", roles=frozenset({Role.PHYSICIAN})))
    with site.archive.database.transaction() as tx:
        assert people.login_name_of(tx, "keller") == "keller", "nobody acts in a place that is shown under his name"
    with pytest.raises(UsageError, match="somebody else"):
        act(site, people.add_person, Person("keller2", "Dr. Keller", roles=frozenset({Role.PHYSICIAN})))


def test_who_knows_the_password_is_let_in(guarded) -> None:
    found = attempt(guarded, "keller", GOOD)
    assert isinstance(found, SignedIn) and found.person.name == "keller" and not found.must_change_password
    assert found.person.has_password and events(guarded, "user signed in") == [{"person": "keller"}]
    act(guarded, sign_in.set_password, "keller", OTHER, is_one_time=True)
    assert attempt(guarded, "keller", GOOD) == SignInRefused(SignInRefusal.WRONG)
    found = attempt(guarded, "keller", OTHER)
    assert isinstance(found, SignedIn) and found.must_change_password


def test_others_are_told_nothing_and_the_log_says_why(guarded) -> None:
    act(guarded, people.disable, "keller")
    for name in ("keller", "anna", "nobody", "x" * 100_000, "a\0b", "\ud800"):
        assert attempt(guarded, name, GOOD) == SignInRefused(SignInRefusal.WRONG), "all the same"
    found = [(one["person"], one["code"]) for one in events(guarded, "user sign-in refused")]
    wrong = SignInRefusal.WRONG.value
    assert found == [
        ("keller", "the person is disabled"),
        ("anna", "the person has no password"),
        *((UNKNOWN, wrong) for _ in range(4)),
    ]


def test_an_unknown_name_costs_the_same_work_as_a_known_one(guarded, monkeypatch) -> None:
    """Time itself cannot be tested on a busy machine: what takes it can. One hash for each, of one kind and cost."""
    costs, real = [], sign_in._verify

    def _counted(said, phc):
        costs.append(phc.split("$")[1:4])
        return real(said, phc)

    monkeypatch.setattr(sign_in, "_verify", _counted)
    attempt(guarded, "keller", OTHER)
    attempt(guarded, "nobody", OTHER)
    attempt(guarded, "anna", OTHER)
    attempt(guarded, "a\0b", OTHER)
    assert len(costs) == 4 and all(one == costs[0] for one in costs)


def test_guessing_is_bounded_for_a_name_known_or_not_and_ends_with_the_window(guarded, monkeypatch) -> None:
    monkeypatch.setattr(sign_in, "_verify", quick(guarded))
    for name in ("keller", "nobody"):
        for _ in range(sign_in.FAILURES_OF_NAME_MAX):
            assert attempt(guarded, name, OTHER) == SignInRefused(SignInRefusal.WRONG)
        guarded.clock.pass_time(20)
        for _ in range(20):
            assert attempt(guarded, name, GOOD) == SignInRefused(SignInRefusal.TOO_MANY, 40.0), "the right one, too"
    codes = [one["code"] for one in events(guarded, "user sign-in refused")]
    assert codes.count("too many attempts") == 2, "hammering fills no table"
    assert attempt(guarded, "anna", GOOD) == SignInRefused(SignInRefusal.WRONG), "others are not shut out"
    guarded.clock.pass_time(41)
    assert isinstance(attempt(guarded, "keller", GOOD), SignedIn)


def test_a_clock_that_is_set_back_shuts_nobody_out(guarded, monkeypatch) -> None:
    monkeypatch.setattr(sign_in, "_verify", quick(guarded))
    for _ in range(sign_in.FAILURES_OF_NAME_MAX):
        attempt(guarded, "keller", OTHER)
    guarded.clock.instant -= timedelta(days=2)
    assert isinstance(attempt(guarded, "keller", GOOD), SignedIn)


def test_many_names_ring_once_and_write_no_more_than_the_bound(guarded, monkeypatch) -> None:
    monkeypatch.setattr(sign_in, "_verify", quick(guarded))
    for number in range(sign_in.FAILURES_OF_ALL_MAX + 20):
        attempt(guarded, f"guess{number}", OTHER)
    assert len(events(guarded, "user sign-in refused")) == sign_in.FAILURES_OF_ALL_MAX
    assert guarded.scalar("select count(*) from rp_event where kind = 'user sign-in refused' and level = 'alarm'") == 1
    assert isinstance(attempt(guarded, "keller", GOOD), SignedIn), "nobody is kept out by what strangers do"
    assert guarded.scalar("select count(*) from rp_sign_in_failures") <= sign_in.BUCKETS + 1


def test_guesses_at_once_are_counted_one_after_the_other(guarded, monkeypatch) -> None:
    monkeypatch.setattr(sign_in, "_verify", quick(guarded))
    together, found = threading.Barrier(6), []

    def _guess() -> None:
        together.wait(10)
        found.append(attempt(guarded, "keller", OTHER).why)
        found.append(attempt(guarded, "keller", OTHER).why)

    threads = [threading.Thread(target=_guess) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert found.count(SignInRefusal.WRONG) == sign_in.FAILURES_OF_NAME_MAX
    assert len(found) == 12


def quick(site):
    """Compare without the work, so that many attempts fit into a test; the real hash is in the tests above."""

    def _compare(said, phc):
        if said != GOOD.encode() or phc == sign_in.NOBODY:
            raise sign_in.InvalidKey

    return _compare


def test_hashes_are_of_one_cost_each_with_a_salt_of_its_own(guarded) -> None:
    (first,) = guarded.rows("select password_hash from rp_person where name = 'keller'")
    act(guarded, sign_in.set_password, "keller", GOOD)
    (second,) = guarded.rows("select password_hash from rp_person where name = 'keller'")
    assert first != second
    assert first[0].split("$")[:4] == second[0].split("$")[:4] == sign_in.NOBODY.split("$")[:4]
    assert f"m={sign_in.MEMORY_KIB},t={sign_in.ITERATIONS},p={sign_in.LANES}" in first[0]


def test_a_generated_password_can_be_read_aloud_and_used(site) -> None:
    made = {sign_in.new_password() for _ in range(50)}
    assert len(made) == 50 and all(
        len(one) == 27 and set(one) <= set("abcdefghijkmnpqrstuvwxyz23456789-") for one in made
    )
    act(site, sign_in.set_password, "keller", made.pop(), is_one_time=True)
