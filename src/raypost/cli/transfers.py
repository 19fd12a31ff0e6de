"""Commands about transfers: send, transfer list/show/resend."""

from __future__ import annotations

from typing import Annotated

import typer

from raypost.archive import damage, search, transfers
from raypost.archive.rearm import order_again
from raypost.cli import sending, transfer_text
from raypost.cli.local_time import minute_text
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
from raypost.node.site import opened_site

TransferKey = Annotated[str, typer.Argument(metavar="KEY", help="As `raypost transfer list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("send")(sending.send)
    transfer = typer.Typer(help="Transfers to and from partners.", no_args_is_help=True)
    transfer.command("list")(transfer_list)
    transfer.command("show")(transfer_show)
    transfer.command("resend")(transfer_resend)
    app.add_typer(transfer, name="transfer")


@guarded
def transfer_list(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest transfers, both ways.

    Example: raypost transfer list --limit 10
    """
    settings = settings_of(config)
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        found = search.transfers(tx, limit=limit)
    goes_to = {one["ordered_by"].removeprefix("reroute:"): one["partner"] for one in found}  # newer, so in the list too
    rows = [
        (
            one["transfer_key"],
            f"{'to' if one['direction'] == 'out' else 'from'} {one['partner']}",
            one["priority"] + (" test" if one["test"] else ""),
            transfer_text.state_words(one, goes_to.get(one["transfer_key"], "")),
            transfer_text.filed_words(one),
            minute_text(one["opened_at"], settings.zone),
        )
        for one in found
    ]
    columns = ("key", "partner", "priority", "state", "filed", "since")
    answer(as_json, found, lambda: show_table(columns, rows, "There are no transfers yet."))


@guarded
def transfer_show(
    transfer_key: TransferKey,
    with_messages: Annotated[bool, typer.Option("--messages", help="Also each mail with its times and sizes.")] = False,
    is_all: Annotated[bool, typer.Option("--all", help="All that happened, not only the newest 1000 events.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show one transfer: how far it is, and its story at both sites, the newest last.

    Example: raypost transfer show n5k7q2xw3m6r4j2m --messages
    """
    settings = settings_of(config)
    with opened_site(settings) as site, site.archive.database.transaction() as tx:
        found = transfer_text.known_of(tx, transfer_key, site.clock.now(), is_all=is_all)
        row = search.transfer_by_key(tx, transfer_key)
        found["why"] = row.why
        found["announced"] = transfer_text.announced_of(row, found["progress"]["filed"])
    answer(as_json, found, lambda: transfer_text.show(found, settings.zone, with_messages=with_messages))


@guarded
def transfer_resend(
    transfer_key: TransferKey, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Send everything of a transfer once more; the receiver files nothing twice.

    Example: raypost transfer resend n5k7q2xw3m6r4j2m
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            row = search.transfer_by_key(tx, transfer_key)
            locked = transfers.lock(tx, row.id)
            if locked is None:
                raise UsageError("the transfer is gone")
            if locked.direction == "out":
                damage.put_back(tx, locked, site.clock.now())  # whoever orders it again may have mended the file
            count = order_again(tx, locked, site.settings.limits_of_transfers(), site.clock.now(), person())
            left_out = damage.count_left_out(tx, locked.id) if locked.direction == "out" else 0
    shape = {"transfer_key": transfer_key, "messages": count, "left_out": left_out}

    def _show() -> None:
        console.print(f"{count} mails are sent again.")
        if left_out:
            console.print(
                f"{left_out} images are not among them: their files are damaged here. Restore them from the backup,"
                " then send the study anew: `raypost send --study KEY --to PARTNER`",
                markup=False,
            )

    answer(as_json, shape, _show)
