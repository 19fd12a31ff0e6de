"""Persons and their roles as rows, and the one place at which a person's right is checked: `require`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from raypost.archive import events
from raypost.archive.database import Database, Transaction
from raypost.archive.tables import PersonRoleRow, PersonRow
from raypost.errors import ForbiddenError, UsageError
from raypost.model.audit import EventKind, Level
from raypost.model.person import Person, is_login_name
from raypost.model.rights import Right, Role, roles_with

PERSONS_MAX = 5000
WHY_LENGTH_MAX = 500
UNKNOWN = "nobody of this site"
"""Stands in an event for a name that is nobody's: what a stranger types into that field may be a password."""


def require(tx: Transaction, who: str, right: Right) -> Person:
    """Return the person with this login name, who must have a right; the one place at which rights are checked.

    Raises:
        ForbiddenError: There is nobody of this name, or the person is disabled, or no role allows it.
    """
    found = _select(tx, PersonRow.name == who) if is_login_name(who) else []
    needed = " or ".join(role.value for role in roles_with(right))
    if not found:
        raise ForbiddenError(
            UNKNOWN,
            right.value,
            f"there is no person {who[:64]!r} at this site",
            do=f"`raypost user list` shows the names; `raypost user add NAME --role ROLE` adds one ({needed}).",
        )
    (person,) = found
    if not person.is_active:
        raise ForbiddenError(
            who,
            right.value,
            f"{who} is disabled since {person.disabled_at:%Y-%m-%d}",
            do=f"`raypost user enable {who}`, if that is right.",
        )
    if not person.may(right):
        raise ForbiddenError(
            who,
            right.value,
            f"{who} may not {right.value}",
            do=f"That takes the role {needed}: `raypost user role {who} --add ROLE`, if that is right.",
        )
    return person


@contextlib.contextmanager
def noting_refusals(database: Database, now: datetime) -> Iterator[None]:
    """Write down a refusal of `require` in the block, in a transaction of its own: that of the act is rolled back."""
    try:
        yield
    except ForbiddenError as error:
        with database.transaction() as tx:
            events.record(tx, now, EventKind.RIGHT_REFUSED, level=Level.NOTICE, person=error.name, right=error.right)
        raise


def add_person(tx: Transaction, person: Person, *, now: datetime, who: str, why: str = "") -> Person:
    """Add a person with roles; without a password yet.

    Raises:
        UsageError: A name is or was somebody's, there is no role, or there are too many persons.
    """
    _lock(tx)
    if not person.roles:
        raise UsageError("a person has at least one role", do=f"--role, one of {', '.join(one.value for one in Role)}.")
    if tx.scalar(sa.select(PersonRow.id).where(PersonRow.name == person.name)):
        raise UsageError(
            f"the login name {person.name!r} is or was somebody's",
            do="Choose another: what is written down of a name must stay that person's. `raypost user enable` lets"
            " somebody in again.",
        )
    if tx.scalar(sa.select(PersonRow.id).where(PersonRow.display_name == person.display_name)):
        raise UsageError(
            f"{person.display_name!r} is what people call somebody else here",
            do="Add what tells the two apart, such as a first name or a department.",
        )
    if (tx.scalar(sa.select(sa.func.count()).select_from(PersonRow)) or 0) >= PERSONS_MAX:
        raise UsageError(f"there are {PERSONS_MAX} persons already")
    row = PersonRow(
        name=person.name,
        display_name=person.display_name,
        phone=person.phone,
        added_at=now,
        added_by=who,
        why=_reason(why),
    )
    tx.add(row)
    tx.flush()
    _note(tx, now, "added", person.name, who, why)
    for role in sorted(person.roles, key=list(Role).index):
        _add_role(tx, row, role, now, who, why)
    return person_named(tx, person.name)


def all_persons(tx: Transaction) -> list[Person]:
    """Return every person, those who are disabled too, by name."""
    return _select(tx, sa.true())


def person_named(tx: Transaction, name: str) -> Person:
    """Return the person with this login name.

    Raises:
        UsageError: There is none.
    """
    found = _select(tx, PersonRow.name == name)
    if not found:
        raise UsageError(f"there is no person {name!r}", do="`raypost user list` shows the names.")
    return found[0]


def login_name_of(tx: Transaction, said: str) -> str:
    """Return the login name of the person that somebody means: by the login name or the whole display name.

    A login name comes first, so that nobody who is displayed as another's login name acts in that one's place. What is
    nobody's is returned as it is: `require` then says that there is no such person.
    """
    if is_login_name(said) and tx.scalar(sa.select(PersonRow.name).where(PersonRow.name == said)):
        return said
    return tx.scalar(sa.select(PersonRow.name).where(PersonRow.display_name == said)) or said


def give_role(tx: Transaction, name: str, role: Role, *, now: datetime, who: str, why: str = "") -> Person:
    """Give a person a role.

    Raises:
        UsageError: There is no such person, or the person has it.
    """
    row = _locked(tx, name)
    if role in person_named(tx, name).roles:
        raise UsageError(f"{name} is {role.value} already")
    _add_role(tx, row, role, now, who, why)
    return person_named(tx, name)


def take_role(tx: Transaction, name: str, role: Role, *, now: datetime, who: str, why: str = "") -> Person:
    """Take a role from a person.

    Raises:
        UsageError: There is no such person or the person does not have it, or nobody could look after persons then.
    """
    row = _locked(tx, name)
    before = person_named(tx, name)
    if role not in before.roles:
        raise UsageError(f"{name} is no {role.value}")
    tx.execute(
        sa.update(PersonRoleRow)
        .where(PersonRoleRow.person_id == row.id, PersonRoleRow.role == role.value, PersonRoleRow.retired_at.is_(None))
        .values(retired_at=now, retired_by=who, retired_why=_reason(why))
    )
    _keep_an_administrator(tx, before)
    _note(tx, now, "role removed", name, who, why, role=role.value)
    return person_named(tx, name)


def disable(tx: Transaction, name: str, *, now: datetime, who: str, why: str = "") -> Person:
    """Let a person do nothing any more; what was written down of the person stays.

    Raises:
        UsageError: There is no such person, or the person is disabled, or is the last administrator.
    """
    row = _locked(tx, name)
    if row.disabled_at is not None:
        raise UsageError(f"{name} is disabled already")
    before = person_named(tx, name)
    row.disabled_at, row.disabled_by = now, who
    tx.flush()
    _keep_an_administrator(tx, before)
    _note(tx, now, "disabled", name, who, why)
    return person_named(tx, name)


def enable(tx: Transaction, name: str, *, now: datetime, who: str, why: str = "") -> Person:
    """Let a disabled person in again, with the roles and the password of before.

    Raises:
        UsageError: There is no such person, or the person is not disabled.
    """
    row = _locked(tx, name)
    if row.disabled_at is None:
        raise UsageError(f"{name} is not disabled")
    row.disabled_at = row.disabled_by = None
    tx.flush()
    _note(tx, now, "enabled", name, who, why)
    return person_named(tx, name)


def _add_role(tx: Transaction, row: PersonRow, role: Role, now: datetime, who: str, why: str) -> None:
    tx.add(PersonRoleRow(person_id=row.id, role=role.value, added_at=now, added_by=who, why=_reason(why)))
    tx.flush()
    _note(tx, now, "role added", row.name, who, why, role=role.value)


def _lock(tx: Transaction) -> None:
    """Change persons one at a time: of two administrators who disable each other at once, one must remain."""
    tx.execute(sa.text("lock table rp_person in share row exclusive mode"))


def _locked(tx: Transaction, name: str) -> PersonRow:
    _lock(tx)
    row = tx.scalar(sa.select(PersonRow).where(PersonRow.name == name).execution_options(populate_existing=True))
    if row is None:
        raise UsageError(f"there is no person {name!r}", do="`raypost user list` shows the names.")
    return row


def _keep_an_administrator(tx: Transaction, before: Person) -> None:
    if before.may(Right.CHANGE_PEOPLE) and not any(one.may(Right.CHANGE_PEOPLE) for one in all_persons(tx)):
        raise UsageError(
            "this is the last active administrator of the site",
            do="Make somebody else administrator first: `raypost user role NAME --add administrator`.",
        )


def _reason(why: str) -> str:
    if len(why) > WHY_LENGTH_MAX or not why.isprintable():
        raise UsageError(f"a reason is one line of at most {WHY_LENGTH_MAX} characters")
    return why.strip()


def _note(tx: Transaction, now: datetime, change: str, name: str, who: str, why: str, **more: str) -> None:
    said: dict[str, Any] = {"change": change, "person": name, "who": who, **more}
    if why.strip():
        said["why"] = _reason(why)
    events.record(tx, now, EventKind.PERSON_CHANGED, level=Level.NOTICE, **said)


def _select(tx: Transaction, condition: sa.ColumnElement[bool]) -> list[Person]:
    roles: dict[int, set[Role]] = {}
    for person_id, role in tx.execute(
        sa.select(PersonRoleRow.person_id, PersonRoleRow.role)
        .join(PersonRow, PersonRow.id == PersonRoleRow.person_id)
        .where(PersonRoleRow.retired_at.is_(None), condition)
    ):
        roles.setdefault(person_id, set()).add(Role(role))
    query = sa.select(PersonRow).where(condition).order_by(PersonRow.name).execution_options(populate_existing=True)
    return [
        Person(
            row.name,
            row.display_name,
            row.phone,
            frozenset(roles.get(row.id, ())),
            row.disabled_at,
            row.password_hash is not None,
        )
        for row in tx.scalars(query)
    ]
