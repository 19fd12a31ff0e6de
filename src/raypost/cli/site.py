"""Commands that make and look after this site: init, config, db, check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import migrate
from raypost.archive.database import Database
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    full_name,
    guarded,
    person,
    settings_of,
)
from raypost.errors import UsageError
from raypost.model.person import Person, is_login_name
from raypost.model.rights import Role
from raypost.node.setup import RelayTemplate, Template, make_site
from raypost.node.site import database_url, running_database
from raypost.sealing.certificates import spell_fingerprint
from raypost.settings import Settings

MARKS = {True: "ok  ", False: "FAIL"}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("init")(init)
    app.command("check")(check)
    config = typer.Typer(help="The settings of raypost.toml.", no_args_is_help=True)
    config.command("show")(config_show)
    config.command("check")(config_check)
    config.command("template")(config_template)
    app.add_typer(config, name="config")
    database = typer.Typer(help="The database.", no_args_is_help=True)
    database.command("upgrade")(database_upgrade)
    app.add_typer(database, name="db")


@guarded
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new site.")],
    name: Annotated[str, typer.Option(help="Short name within the network: a-z 0-9 -.")],
    address: Annotated[str, typer.Option(help="Mail address of the site's mailbox.")],
    display_name: Annotated[str, typer.Option(help="The hospital's name as people read it.")] = "",
    ae_stem: Annotated[str, typer.Option(help="AE title for this site at its partners, at most 14 characters.")] = "",
    relay: Annotated[str, typer.Option(help="Host name of the mail relay, for SMTP and IMAP.")] = "mail.example.org",
    calling: Annotated[list[str] | None, typer.Option(help="AE title of a modality that may send; repeatable.")] = None,
    administrator: Annotated[
        str, typer.Option(help="Login name of the first administrator; default: whoever types this.")
    ] = "",
    administrator_password_file: Annotated[
        Path | None, typer.Option(help="Write a one-time password for the administrator into this new file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a site: folder, commented raypost.toml, key, database, first administrator.

    Example: raypost init /srv/raypost --name neustadt --address neustadt@stroke.example --relay mail.stroke.example
    """
    template = Template(
        name=name,
        display_name=display_name or name.title(),
        ae_stem=ae_stem or name.upper()[:14],
        address=address,
        relays=(RelayTemplate(smtp_host=relay, imap_host=relay),),
        calling=tuple(calling or ()),
    )
    first = _administrator(administrator)
    file, fingerprint = make_site(folder, template, first, administrator_password_file)

    def _show() -> None:
        console.print(f"The site {name} is made in {folder}.", markup=False)
        console.print(f"Fingerprint of its certificate: {spell_fingerprint(fingerprint)}", markup=False)
        console.print(
            f"Now: look through {file}, write the relay's password into {folder / 'relay-password'},\n"
            f"give `raypost partner card -c {file} > {name}.card` to your partners and add theirs,\n"
            f"then `raypost serve -c {file}` and `raypost check -c {file}`.",
            markup=False,
        )
        console.print(f"Administrator: {first.name}; `raypost user add -c {file} …` adds others.", markup=False)
        if administrator_password_file is not None:
            console.print(f"One-time password of {first.name}: in {administrator_password_file}", markup=False)

    answer(as_json, {"config": str(file), "fingerprint": fingerprint, "administrator": first.name}, _show)


def _administrator(name: str) -> Person:
    """Return the first administrator: the one who is named, else whoever types the command."""
    login = name or person().lower()
    if not is_login_name(login):
        raise UsageError(f"{login!r} is no login name: a-z 0-9 . _ -", do="Name the administrator: --administrator.")
    return Person(login, full_name(login), roles=frozenset({Role.ADMINISTRATOR}))


@guarded
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    partner: Annotated[
        str, typer.Option(help="Also send a test transfer to this partner and wait for its receipt.")
    ] = "",
    timeout_s: Annotated[float, typer.Option(help="Patience with each test transfer, in seconds.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Test this site end to end and name the fault, if there is one.

    Example: raypost check --partner ludwigshafen
    """
    from raypost.node import check as self_test  # loaded here alone: it would double the time of every command

    settings = settings_of(config)
    findings: list[self_test.Finding] = []
    for finding in self_test.run(settings, partner or None, timeout_s, config):
        findings.append(finding)
        if not as_json:
            console.print(f"{MARKS[finding.is_good]}  {finding.name}: {finding.what}", markup=False)
            if finding.do:
                console.print(f"      → {finding.do}", markup=False)
    is_good = all(one.is_good for one in findings)
    shape = {"good": is_good, "findings": [one.as_json() for one in findings]}
    answer(as_json, shape, lambda: console.print("All is well." if is_good else "Something is wrong, see above."))
    raise typer.Exit(0 if is_good else 1)


@guarded
def config_show(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Print every setting in force.

    Example: raypost config show -c /srv/raypost/raypost.toml
    """
    shape = json.loads(settings_of(config).model_dump_json())

    def _show() -> None:
        for line in _flat("", shape):
            console.print(line, markup=False)

    answer(as_json, shape, _show)


@guarded
def config_check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Say whether raypost.toml can be used.

    Example: raypost config check
    """
    settings: Settings = settings_of(config)
    answer(
        as_json,
        {"good": True, "site": settings.site.name},
        lambda: console.print(f"{config} is in order.", markup=False),
    )


@guarded
def config_template() -> None:
    """Print a commented raypost.toml.

    Example: raypost config template > raypost.toml
    """
    template = Template("neustadt", "Krankenhaus Neustadt", "NEUSTADT", "neustadt@stroke.example")
    console.print(template.text(), markup=False, end="")


@guarded
def database_upgrade(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Bring the database to this version's schema; `raypost serve` does it too.

    Example: raypost db upgrade
    """
    settings = settings_of(config)
    with running_database(settings):
        database = Database(database_url(settings), connections_max=2)
        is_current = migrate.is_current(database)
        database.close()
    answer(as_json, {"current": is_current}, lambda: console.print("The database is up to date."))


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for name, one in value.items() for line in _flat(f"{prefix}.{name}" if prefix else name, one)]
    return [f"{prefix} = {json.dumps(value, ensure_ascii=False)}"]
