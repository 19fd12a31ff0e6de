"""Commands about persons: who they are, their roles, their passwords."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import typer

from raypost.archive import people, sign_in
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    guarded,
    person,
    settings_of,
    show_table,
)
from raypost.errors import UsageError
from raypost.model.person import PASSWORD_LENGTH_MAX, Person
from raypost.model.rights import Role
from raypost.node.site import opened_site

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Login name, as `raypost user list` shows it.")]
WhyOption = Annotated[str, typer.Option(help="Why; it is kept with the change.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    user = typer.Typer(help="The persons of this site, their roles and passwords.", no_args_is_help=True)
    user.command("add")(user_add)
    user.command("list")(user_list)
    user.command("role")(user_role)
    user.command("disable")(user_disable)
    user.command("enable")(user_enable)
    user.command("password")(user_password)
    app.add_typer(user, name="user")


@guarded
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login name: a-z 0-9 . _ -; never given to another.")],
    role: Annotated[list[Role], typer.Option(help="What the person may do; repeatable.")],
    display_name: Annotated[str, typer.Option(help="As people read it, at partners too; one person's alone.")],
    phone: Annotated[str, typer.Option(help="Telephone number.")] = "",
    why: WhyOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a person. docs/reference/rights.md says what each role may do.

    Example: raypost user add keller --role physician --display-name "Dr. M. Keller" --phone "+49 621 503 1234"
    """
    new = Person(name, display_name.strip(), phone.strip(), frozenset(role))
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        added = people.add_person(tx, new, now=site.clock.now(), who=person(), why=why)
    answer(
        as_json,
        _shape(added),
        lambda: console.print(
            f"{added.display_name} is here now as {_roles(added)}. `raypost user password {name}` sets a password.",
            markup=False,
        ),
    )


@guarded
def user_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the persons of this site, disabled ones too.

    Example: raypost user list
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = people.all_persons(tx)
    rows = [
        (
            one.name,
            one.display_name,
            _roles(one),
            one.phone,
            "set" if one.has_password else "none",
            f"disabled since {one.disabled_at:%Y-%m-%d}" if one.disabled_at else "",
        )
        for one in found
    ]
    columns = ("name", "person", "roles", "telephone", "password", "")
    answer(as_json, [_shape(one) for one in found], lambda: show_table(columns, rows, "There are no persons."))


@guarded
def user_role(
    name: NameArgument,
    add: Annotated[list[Role] | None, typer.Option(help="Give this role; repeatable.")] = None,
    remove: Annotated[list[Role] | None, typer.Option(help="Take this role; repeatable.")] = None,
    why: WhyOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Give roles to a person, or take them. The last active administrator keeps that role.

    Example: raypost user role keller --add coordinator --why "represents us in the network"
    """
    if not add and not remove:
        raise UsageError("name a role with --add or --remove")
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        now = site.clock.now()
        for role in add or ():
            people.give_role(tx, name, role, now=now, who=person(), why=why)
        for role in remove or ():
            people.take_role(tx, name, role, now=now, who=person(), why=why)
        found = people.person_named(tx, name)
    answer(as_json, _shape(found), lambda: console.print(f"{found.display_name}: {_roles(found)}.", markup=False))


@guarded
def user_disable(
    name: NameArgument, why: WhyOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Let a person do nothing here any more. What is written down of the person stays.

    Example: raypost user disable keller --why "left the hospital"
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = people.disable(tx, name, now=site.clock.now(), who=person(), why=why)
    text = f"{found.display_name} may do nothing here any more."
    answer(as_json, _shape(found), lambda: console.print(text, markup=False))


@guarded
def user_enable(
    name: NameArgument, why: WhyOption = "", config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Let a disabled person in again, with the roles and the password of before.

    Example: raypost user enable keller --why "back from leave"
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = people.enable(tx, name, now=site.clock.now(), who=person(), why=why)
    text = f"{found.display_name} may act here again as {_roles(found)}."
    answer(as_json, _shape(found), lambda: console.print(text, markup=False))


@guarded
def user_password(
    name: NameArgument,
    one_time: Annotated[bool, typer.Option("--one-time", help="It must be changed when the person signs in.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Set a person's password: asked for twice, or the first line of standard input. Never an argument.

    Example: raypost user password keller --one-time < password-of-keller
    """
    settings = settings_of(config)
    password = _asked_for(name)
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        sign_in.set_password(tx, name, password, now=site.clock.now(), who=person(), is_one_time=one_time)
    text = f"{name} has a new password" + (", to be changed at the first sign-in." if one_time else ".")
    answer(as_json, {"name": name, "one_time": one_time}, lambda: console.print(text, markup=False))


def _asked_for(name: str) -> str:
    """Return a password that somebody types twice without its being shown, or that stands on standard input.

    Arguments of a command can be read by every user of the machine while it runs.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline(PASSWORD_LENGTH_MAX + 2).rstrip("\r\n")
    password = getpass.getpass(f"New password of {name}: ")
    if getpass.getpass("Once more: ") != password:
        raise UsageError("the two are not the same")
    return password


def _roles(one: Person) -> str:
    return ", ".join(role.value for role in Role if role in one.roles) or "without a role"


def _shape(one: Person) -> dict[str, Any]:
    return {
        "name": one.name,
        "display_name": one.display_name,
        "phone": one.phone,
        "roles": [role.value for role in Role if role in one.roles],
        "has_password": one.has_password,
        "disabled_at": one.disabled_at.isoformat() if one.disabled_at else None,
    }
