"""Rights as a table, and what counts as a person and as a password."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypost.errors import UsageError
from raypost.model.person import (
    DEFAULT_PASSWORDS,
    PASSWORD_LENGTH_MAX,
    PASSWORD_LENGTH_MIN,
    Person,
    check_password,
    is_default_password,
    is_login_name,
    normal_password,
)
from raypost.model.rights import RIGHT_TEXT, RIGHTS, ROLE_TEXT, Right, Role, may, roles_with

GOOD = "grey lamp under seven hats"


@pytest.mark.parametrize(("role", "right"), list(itertools.product(Role, Right)), ids=lambda one: one.value)
def test_a_role_may_what_its_row_says_and_nothing_else(role, right) -> None:
    assert may({role}, right) == (right in RIGHTS[role])
    assert (role in roles_with(right)) == (right in RIGHTS[role])


def test_every_role_and_right_is_explained_and_used() -> None:
    assert set(RIGHTS) == set(ROLE_TEXT) == set(Role)
    assert set(RIGHT_TEXT) == set(Right) == set().union(*RIGHTS.values())


@given(st.sets(st.sampled_from(Role)), st.sampled_from(Right))
def test_several_roles_may_what_one_of_them_may(roles, right) -> None:
    assert may(roles, right) == any(may({one}, right) for one in roles)
    assert not may((), right)


def test_duties_are_apart() -> None:
    """What makes the roles worth having: no row may grow into another's duty unnoticed."""
    patients = {Right.SEE_STUDIES, Right.OPEN_STUDY, Right.TAKE_CASE, Right.EXPORT_STUDY}
    for role in (Role.ADMINISTRATOR, Role.COORDINATOR, Role.AUDITOR):
        assert not RIGHTS[role] & patients, f"{role.value} needs no patient for the work"
    assert roles_with(Right.CHANGE_PEOPLE) == (Role.ADMINISTRATOR,)
    assert roles_with(Right.READ_AUDIT) == (Role.AUDITOR,), "who gives rights does not judge their use"
    assert roles_with(Right.TAKE_CASE) == (Role.PHYSICIAN,)
    changing = {Right.CHANGE_RULES, Right.CHANGE_PARTNERS, Right.CHANGE_KEYS, Right.CHANGE_PEOPLE}
    assert not RIGHTS[Role.AUDITOR] & changing


@pytest.mark.parametrize("name", ["keller", "m.keller", "a", "k-1_x", "a" * 32])
def test_login_names(name) -> None:
    assert is_login_name(name)


@pytest.mark.parametrize(
    "name", ["", "Keller", "1keller", "kel ler", "kel\nler", "keller\n", "a" * 33, "käthe", "a\0", 7]
)
def test_what_is_no_login_name(name) -> None:
    assert not is_login_name(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Keller"},
        {"display_name": ""},
        {"display_name": " Dr. Keller"},
        {"display_name": "Dr.\nKeller"},
        {"display_name": "Dr. \x1b[31mKeller"},
        {"display_name": "x" * 101},
        {"phone": "call me"},
        {"phone": "+49\n621"},
        {"phone": "1" * 60},
    ],
)
def test_a_person_that_cannot_be(wrong) -> None:
    with pytest.raises(UsageError):
        Person(**{"name": "keller", "display_name": "Dr. Keller", "phone": "+49 (0)621 / 503-0"} | wrong)


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short pass",
        "x" * (PASSWORD_LENGTH_MAX + 1),
        "passwordpassword",
        "raypost-raypost",
        "neustadt2026!",
        "Dr. Keller 1",
        "kellerkeller1",
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "a good one\nwith a line",
        "a good one \x00 with nought",
    ],
)
def test_passwords_that_would_be_guessed(password) -> None:
    with pytest.raises(UsageError) as refused:
        check_password(password, ("keller", "Dr. Keller", "Dr.", "Keller", "neustadt"))
    assert len(password) < 8 or password not in f"{refused.value.what} {refused.value.do}", "it is not said aloud"


@pytest.mark.parametrize("password", [GOOD, "vT4#q9Lz!mW2", "weiße möwen über dem neckar", "k" * 4 + "eller neckar"])
def test_passwords_that_are_good(password) -> None:
    check_password(password, ("keller", "Dr. Keller", "neustadt"))
    assert len(normal_password(password)) >= PASSWORD_LENGTH_MIN


def test_a_password_is_the_same_from_every_keyboard() -> None:
    assert normal_password("mo\u0308wen") == normal_password("m\u00f6wen")


@pytest.mark.parametrize(
    "password", [*sorted(DEFAULT_PASSWORDS)[:5], "ChangeMe", " secret ", "neustadt@x.test", "NEUSTADT"]
)
def test_default_passwords(password) -> None:
    assert is_default_password(password, ("neustadt", "neustadt@x.test", ""))


def test_a_password_of_ones_own_is_no_default() -> None:
    assert not is_default_password(GOOD, ("neustadt", ""))
    assert not is_default_password("", ("",)), "an empty file is another fault"
