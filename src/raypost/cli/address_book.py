"""Commands about partners and DICOM nodes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raypost.archive import dicom_nodes, partners
from raypost.archive.dicom_nodes import Node
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
from raypost.node.setup import add_partner, own_card
from raypost.node.site import opened_site
from raypost.sealing.certificates import spell_fingerprint

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
WhyOption = Annotated[str, typer.Option(help="Why; it is kept with the change.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    partner = typer.Typer(help="The sites this one exchanges mail with.", no_args_is_help=True)
    partner.command("card")(partner_card)
    partner.command("add")(partner_add)
    partner.command("list")(partner_list)
    partner.command("remove")(partner_remove)
    app.add_typer(partner, name="partner")
    node = typer.Typer(help="DICOM nodes in the house to send on to.", no_args_is_help=True)
    node.command("add")(node_add)
    node.command("list")(node_list)
    node.command("remove")(node_remove)
    node.command("echo")(node_echo)
    app.add_typer(node, name="node")


@guarded
def partner_card(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print this site's card: address and certificate, for a partner to add.

    Example: raypost partner card > neustadt.card
    """
    with opened_site(settings_of(config)) as site:
        sys.stdout.write(own_card(site))


@guarded
def partner_add(
    card: Annotated[Path, typer.Argument(metavar="CARD", help="The partner's card.")],
    fingerprint: Annotated[
        str, typer.Option(help="The FULL fingerprint, as the partner read it to you on the telephone.")
    ],
    why: WhyOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a partner. Without the confirmed fingerprint nothing is accepted from it and nothing is sent to it.

    Example: raypost partner add ludwigshafen.card --fingerprint "1A2B 3C4D … 9F0A"
    """
    with opened_site(settings_of(config)) as site:
        added = add_partner(site, card, fingerprint, person(), why)
    titles = ", ".join(f"{title} ({priority.value})" for title, priority in added.ae_titles().items())

    def _show() -> None:
        console.print(f"{added.display_name} is a partner now.", markup=False)
        console.print(f"Images sent by DICOM to these AE titles go there: {titles}", markup=False)

    answer(as_json, {"name": added.name, "fingerprint": added.fingerprint, "ae_titles": list(added.ae_titles())}, _show)


@guarded
def partner_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the sites of the address book, this one included.

    Example: raypost partner list
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            known = partners.all_partners(tx)
        facts = {one.name: site.keyring.facts(one.fingerprint) for one in known}
    found = [
        {
            "name": one.name,
            "display_name": one.display_name,
            "address": one.address,
            "ae_stem": one.ae_stem,
            "fingerprint": one.fingerprint,
            "self": one.is_self,
            "expires_at": _iso(facts[one.name].usable_until),
        }
        for one in known
    ]
    rows = [
        (
            one["name"],
            one["display_name"],
            one["address"],
            one["ae_stem"],
            str(one["expires_at"] or "")[:10],
            "this site" if one["self"] else "",
        )
        for one in found
    ]
    columns = ("name", "hospital", "address", "AE title", "certificate until", "")

    def _show() -> None:
        show_table(columns, rows, "The address book is empty.")
        for one in found:
            console.print(f"{one['name']}: {spell_fingerprint(str(one['fingerprint']))}", markup=False)

    answer(as_json, found, _show)


def _iso(instant: object) -> str | None:
    return instant.isoformat() if instant is not None and hasattr(instant, "isoformat") else None


@guarded
def partner_remove(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Remove a partner that no rule names: nothing goes there or is accepted from there any more. What was filed stays.

    Example: raypost partner remove ludwigshafen
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        partners.remove_partner(tx, name, now=site.clock.now(), who=person())
    answer(as_json, {"removed": name}, lambda: console.print(f"{name} is no partner any more.", markup=False))


@guarded
def node_add(
    name: NameArgument,
    ae_title: Annotated[str, typer.Option(help="Its AE title.")],
    host: Annotated[str, typer.Option(help="Its host name or address.")],
    port: Annotated[int, typer.Option(help="Its TCP port.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a DICOM node, such as a PACS, that rules can send studies on to, or replace it; what waits for it goes there.

    Example: raypost node add pacs --ae-title PACS --host 10.1.2.3 --port 104
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        node = dicom_nodes.add_node(tx, Node(0, name, ae_title, host, port), now=site.clock.now(), who=person())
    answer(
        as_json,
        {"name": node.name, "ae_title": node.ae_title, "host": node.host, "port": node.port},
        lambda: console.print(
            f"{name} is known. `raypost rule add --forward {name}` sends studies there.", markup=False
        ),
    )


@guarded
def node_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the DICOM nodes.

    Example: raypost node list
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = [
            {"name": one.name, "ae_title": one.ae_title, "host": one.host, "port": one.port}
            for one in dicom_nodes.all_nodes(tx)
        ]
    rows = [tuple(one.values()) for one in found]
    answer(as_json, found, lambda: show_table(("name", "AE title", "host", "port"), rows, "There are no DICOM nodes."))


@guarded
def node_remove(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Remove a DICOM node that no rule names; what waits for it is not sent, and an alarm says how much that was.

    Example: raypost node remove pacs
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        dicom_nodes.remove_node(tx, name, now=site.clock.now(), who=person())
    answer(as_json, {"removed": name}, lambda: console.print(f"{name} is removed.", markup=False))


@guarded
def node_echo(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Ask a DICOM node whether it is there (C-ECHO).

    Example: raypost node echo pacs
    """
    from raypost.dicom.scu import DicomNode, echo  # loaded here alone: it would double the time of every command

    settings = settings_of(config)
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        node = dicom_nodes.node_named(tx, name)
    echo(
        DicomNode(
            name=node.name,
            ae_title=node.ae_title,
            host=node.host,
            port=node.port,
            calling_ae_title=settings.dicom.ae_title,
        )
    )
    answer(as_json, {"answers": True}, lambda: console.print(f"{name} answers.", markup=False))
